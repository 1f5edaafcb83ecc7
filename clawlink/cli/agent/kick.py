"""``clawlink agent kick``: remove an agent and free its name, as the operator of the relay."""

from __future__ import annotations

import contextlib
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.arguments import completed_by
from clawlink.cli.exits import Exit
from clawlink.cli.operator_access import add_admin_token, as_operator

if TYPE_CHECKING:
    from clawlink.cli.context import Context


def add(parser: ArgumentParser) -> None:
    """Add the arguments."""
    completed_by(parser.add_argument("agent", metavar="AGENT", help="id or name of the agent"), "agents")
    add_admin_token(parser)


def run(args: Namespace, ctx: Context) -> Exit:
    """Tell the relay; where it runs on this account, its admin token is at hand."""
    from clawlink.cli import ids
    from clawlink.cli.render import plural, quoted
    from clawlink.errors import NotAuthenticated

    where, operating = as_operator(args, ctx)
    agent = args.agent
    if ids.is_prefix(agent):
        ctx.connect(where)  # the list of agents takes the token of everyone, which the operator may not have
        with contextlib.suppress(NotAuthenticated):
            agent = ids.agent(ctx, agent)
    gone = ctx.connect(operating).kick(agent)
    if ctx.json:
        ctx.out.json(
            {"status": gone.status, "agent_id": gone.agent_id, "dropped": gone.dropped, "waiting": gone.waiting}
        )
        return Exit.DONE
    waits = f", {plural(gone.waiting, 'task waits', 'tasks wait')} for it to come back" if gone.waiting else ""
    unread = plural(gone.dropped, "unread message")
    who = quoted(args.agent, 40)
    ctx.out.line(f"{who} is removed from {where.relay}, and the name is free; {unread} dropped{waits}.")
    return Exit.DONE
