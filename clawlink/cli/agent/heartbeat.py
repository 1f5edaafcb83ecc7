"""``clawlink agent heartbeat``: show a sign of life. Polling does so by itself."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context


def add(parser: ArgumentParser) -> None:
    """Add no flags: it takes none of its own."""


def run(args: Namespace, ctx: Context) -> Exit:
    """Tell the relay that this agent is there."""
    from clawlink.cli.render import named
    from clawlink.errors import UnknownAgent

    client = ctx.client
    beat = client.heartbeat()
    if beat.status != "ok" and client._on_forgotten is not None:
        client._on_forgotten()
        beat = client.heartbeat()
    if beat.status != "ok":
        raise UnknownAgent(f"the relay has no agent {client.agent_id}", field="agent_id")
    if ctx.json:
        ctx.out.json(beat)
    else:
        ctx.out.line(f"{named(ctx.me.name, ctx.me.agent_id)} is online on {client.relay}.")
    return Exit.DONE
