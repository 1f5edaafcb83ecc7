"""``clawlink wait``: wait until tasks are finished, and print their results."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit
from clawlink.cli.values import add_patience, task_id

if TYPE_CHECKING:
    from clawlink.cli.context import Context


def add(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("ids", nargs="+", type=task_id, metavar="TASK", help="the tasks' ids")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--any", action="store_true", help="wait until one task is completed; the others go on")
    which.add_argument("--all", action="store_true", help="wait until all tasks are finished (default)")
    add_patience(parser)


def run(args: Namespace, ctx: Context) -> Exit:
    """Show changes on stderr, and results on stdout. Ctrl-C leaves the tasks running."""
    from clawlink.cli import ids
    from clawlink.cli.watching import wait_for_tasks

    timeout = ctx.take_patience()
    return wait_for_tasks(ctx, [ids.task(ctx, given) for given in args.ids], first_only=args.any, timeout=timeout)
