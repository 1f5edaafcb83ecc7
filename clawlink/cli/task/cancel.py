"""``clawlink task cancel``: take tasks back for good."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit
from clawlink.cli.values import note, task_id

if TYPE_CHECKING:
    from clawlink.cli.context import Context


def add(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("ids", nargs="+", type=task_id, metavar="TASK", help="ids of tasks that you delegated")
    parser.add_argument("--note", type=note, metavar="TEXT", help="reason, for the assignee")


def run(args: Namespace, ctx: Context) -> Exit:
    """Withdraw each task from its mailbox, or tell its assignee. An error comes after the others are done."""
    from clawlink.cli import ids
    from clawlink.cli.shared import task_named
    from clawlink.domain.terminal import cell
    from clawlink.errors import ClawLinkError

    failed: ClawLinkError | None = None
    for id in dict.fromkeys([ids.task(ctx, given) for given in args.ids]):
        try:
            with task_named(ctx, id):
                done = ctx.client.cancel(id, note=args.note)
        except ClawLinkError as error:
            if failed is not None:
                ctx.warn(failed.message)
            failed = error
            continue
        if ctx.json:
            ctx.out.json(done, one_line=len(args.ids) > 1)
        else:
            told = "no agent had fetched it" if done.withdrawn else "the agent that has it is told"
            ctx.out.line(f"Cancelled task {cell(done.task_id)}; {told}.")
    if failed is not None:
        raise failed
    return Exit.DONE
