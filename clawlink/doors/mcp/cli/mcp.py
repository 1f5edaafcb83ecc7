"""``clawlink mcp``: MCP over standard input and output, as the agent whose identity is kept here."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.client.aio import AsyncClient
    from clawlink.client.identity import Saved


def add(parser: ArgumentParser) -> None:
    """Add nothing: the flags of every command name the relay and the agent."""


def run(args: Namespace, ctx: Context) -> Exit:
    """Serve until standard input ends. Only messages go to standard output."""
    import asyncio

    asyncio.run(_serve(ctx))
    return Exit.DONE


async def _serve(ctx: Context) -> None:
    import asyncio
    import sys
    import threading

    from clawlink.doors.mcp.client.bridge import MAX_LINE_BYTES, Bridge

    out = sys.stdout.buffer

    def write(line: bytes) -> None:
        out.write(line)
        out.flush()

    lines: asyncio.Queue[bytes] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def read() -> None:
        # A thread can wait for standard input on all systems. As a daemon it ends with the process.
        while line := ctx.stdin.readline(MAX_LINE_BYTES):
            loop.call_soon_threadsafe(lines.put_nowait, line)
        loop.call_soon_threadsafe(lines.put_nowait, b"")

    bridge = Bridge(lambda: _client(ctx), write)
    threading.Thread(target=read, daemon=True).start()
    try:
        while line := await lines.get():
            await bridge.hear(line)
    except BrokenPipeError:
        pass  # the client has gone
    finally:
        await bridge.close()


def _client(ctx: Context) -> AsyncClient:
    """Return a client that acts as the chosen identity. Raises NoIdentity or SeveralIdentities."""
    from clawlink.cli.settings import acting
    from clawlink.client.aio import AsyncClient

    me = _session(ctx) or ctx.me
    where = acting(me, ctx.given)
    return AsyncClient(
        where.relay,
        token=where.token,
        agent_id=me.agent_id,
        agent_key=me.agent_key,
        timeout=ctx.timeout,
        ca=where.ca,
    )


def _session(ctx: Context) -> Saved | None:
    """Return the identity of the session whose program started this process, unless a name is given."""
    from clawlink.client.hooks.ancestors import ancestors
    from clawlink.client.hooks.sessions import Sessions
    from clawlink.client.identity import home, of_session

    if ctx.given.named is not None:
        return None
    found = Sessions(home(ctx.environ)).of_processes([process.key for process in ancestors()])
    return None if found is None else of_session(found)
