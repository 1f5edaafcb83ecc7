"""``clawlink agent leave``: leave the relay, and forget the identity."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--offline", action="store_true", help="only forget the identity, without telling the relay")


def run(args: Namespace, ctx: Context) -> Exit:
    """Leave the relay, if it still knows the agent; then forget the identity."""
    from clawlink.cli.render import named, plural
    from clawlink.errors import UnknownAgent

    me = ctx.me
    who = named(me.name, me.agent_id)
    dropped = waiting = 0
    if args.offline:
        status, said = "forgotten", f"Forgot {who}; the relay at {me.relay} was not told."
    else:
        try:
            left = ctx.client.leave()
            status, dropped, waiting = left.status, left.dropped, left.waiting
            unread = plural(dropped, "unread message")
            back = plural(waiting, "task goes back to its requester", "tasks go back to their requesters")
            kept = f"{back}, " if waiting else ""
            said = f"{who} has left {me.relay}; {unread} dropped, {kept}and the identity is forgotten."
        except UnknownAgent:
            status = "forgotten"
            said = f"The relay at {me.relay} has no {who} any more; the identity is forgotten."
    ctx.identities.forget(me)
    if ctx.json:
        ctx.out.json({"status": status, "agent_id": me.agent_id, "dropped": dropped, "waiting": waiting})
    else:
        ctx.out.line(said)
    return Exit.DONE
