"""``clawlink mcp``: MCP over standard input and output, as the agent whose identity is kept here."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, BinaryIO

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.client.aio import AsyncClient
    from clawlink.client.hooks.run import Where


def add(parser: ArgumentParser) -> None:
    """Add the argument. The flags of every command name the relay and the agent."""
    parser.add_argument(
        "--host",
        choices=("openclaw",),
        metavar="PROGRAM",
        help="openclaw: act as the one agent of its gateway, which is made if need be",
    )


def run(args: Namespace, ctx: Context) -> Exit:
    """Serve until standard input ends. Only messages go to standard output."""
    from clawlink.loop_run import run

    run(_serve(ctx, args.host))
    return Exit.DONE


async def _serve(ctx: Context, host: str | None) -> None:
    import asyncio
    import contextlib
    import sys
    import threading

    from clawlink.doors.mcp.client.bridge import MAX_LINE_BYTES, Bridge
    from clawlink.errors import ClawLinkError

    out = sys.stdout.buffer

    def write(line: bytes) -> None:
        out.write(line)
        out.flush()

    lines: asyncio.Queue[bytes] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def read() -> None:
        # A thread can wait for standard input on all systems. As a daemon it ends with the process.
        try:
            with _buffer_of_its_own(ctx.stdin) as stdin:
                while line := stdin.readline(MAX_LINE_BYTES):
                    loop.call_soon_threadsafe(lines.put_nowait, line)
        finally:
            loop.call_soon_threadsafe(lines.put_nowait, b"")

    acting = _Acting(ctx, host)
    bridge = Bridge(acting.client, write)
    threading.Thread(target=read, daemon=True).start()
    if host is not None:  # others see its agent before it calls a tool
        with contextlib.suppress(ClawLinkError):
            await bridge.open(None)
    try:
        while line := await lines.get():
            await bridge.hear(line)
    except BrokenPipeError:
        pass  # the client has gone
    finally:
        await bridge.close()


def _buffer_of_its_own(stdin: BinaryIO) -> BinaryIO:
    """Return another reader of standard input.

    At its end, the interpreter takes the lock of ``sys.stdin``, and aborts if a thread has it.
    """
    try:
        number = stdin.fileno()
    except OSError:  # a program that runs the command inside itself gave bytes
        return stdin
    return open(number, "rb", closefd=False)


class _Acting:
    """Finds the agent of each call: a session may end, and another begin, while this process lasts."""

    def __init__(self, ctx: Context, host: str | None) -> None:
        from clawlink.client.hooks.ancestors import ancestors

        self._ctx = ctx
        self._host = host
        self._begins = True
        self._above = [process.key for process in ancestors()]
        self._clients: dict[tuple[str, str, str | None], AsyncClient] = {}

    def client(self, session: str | None) -> AsyncClient:
        """Return a client that acts as the agent of a call. Raises NoIdentity, SeveralIdentities, RelayUnreachable.

        A name on the command line comes first, then the session, then the variable and the kept identities.
        """
        import contextlib

        from clawlink.cli.settings import acting
        from clawlink.client.aio import AsyncClient
        from clawlink.client.hooks.acting import of_call, of_gateway
        from clawlink.client.hooks.sessions import Sessions
        from clawlink.client.identity import NoIdentity, SeveralIdentities, home, of_session

        ctx = self._ctx
        sessions = Sessions(home(ctx.environ))
        found = None
        if not ctx.given.insisted and self._host is not None:
            found = of_gateway(sessions, self._where, ctx.timeout, begins=self._begins)
            self._begins = False
        elif not ctx.given.insisted:
            found = of_call(sessions, self._above, session)
        me = (None if found is None else of_session(found)) or ctx.me
        if ctx.given.insisted:  # the program that wakes agents reaches it by the session
            with contextlib.suppress(NoIdentity, SeveralIdentities, OSError):
                if (found := of_call(sessions, self._above, session)) is not None:
                    sessions.act(found, me.agent_id)
        where = acting(me, ctx.given)
        key = (where.relay, me.agent_id, me.agent_key)
        if key not in self._clients:
            self._clients[key] = AsyncClient(
                where.relay,
                token=where.token,
                agent_id=me.agent_id,
                agent_key=me.agent_key,
                timeout=ctx.timeout,
                ca=where.ca,
            )
        return self._clients[key]

    def _where(self) -> Where:
        """Return the relay for a new agent, as for any command that acts as no agent."""
        from clawlink.cli.settings import visiting
        from clawlink.client.hooks.run import Where

        ctx = self._ctx
        where = visiting(ctx.given._replace(named=None, insisted=False), ctx.identities)
        return Where(where.relay, where.token, where.ca)
