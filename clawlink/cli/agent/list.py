"""``clawlink discover``: the agents and their capabilities."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.arguments import completed_by
from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.protocol.replies import Discovered


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--capability", metavar="C", help="only agents that can do this")
    completed_by(parser.add_argument("--name", help="only agents of this name"), "agents")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--status", choices=("online", "stale", "all"), default="online", help="default: online")
    which.add_argument(
        "--all", action="store_const", dest="status", const="all", help="list stale agents too; as --status all"
    )


def run(args: Namespace, ctx: Context) -> Exit:
    """List the agents that match."""
    found = ctx.visitor.discover(capability=args.capability, name=args.name, status=args.status)
    if ctx.json:
        ctx.out.json(found)
    else:
        _show(ctx, found, filtered=bool(args.capability or args.name or args.status == "stale"))
    return Exit.DONE


def _show(ctx: Context, found: Discovered, *, filtered: bool) -> None:
    from clawlink.cli.render import epoch, plural, reached
    from clawlink.domain.terminal import cell

    if not found.agents:
        ctx.out.line("No agent matches." if filtered else "No agent is online; --all lists stale ones too.")
        return
    now = epoch(found.server_time) or ctx.now
    ctx.out.table(
        ("name", "id", "can do", "machine", "status", "load"),
        [
            (
                cell(agent.name) + (" (a person)" if agent.person is True else ""),
                cell(agent.agent_id),
                cell(", ".join(agent.capabilities)) or "-",
                cell(agent.machine) or "-",
                reached(agent, now),
                f"{plural(agent.load.mailbox, 'message')}, {plural(agent.load.open_tasks, 'task')}",
            )
            for agent in found.agents
        ],
        whole="id",
        least=("machine", "load", "id"),
    )
