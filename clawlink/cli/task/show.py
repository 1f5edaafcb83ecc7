"""``clawlink task``: one task, with all that happened to it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit
from clawlink.cli.values import task_id

if TYPE_CHECKING:
    from clawlink.cli.context import Context


def add(parser: ArgumentParser) -> None:
    """Add the argument."""
    parser.add_argument("id", type=task_id, metavar="TASK", help="id of a task that you delegated or were given")


def run(args: Namespace, ctx: Context) -> Exit:
    """Show the task, its assignee, each step, and the words of both sides."""
    from clawlink.cli import ids
    from clawlink.cli.tasks import show_task

    task = ctx.client.task(ids.task(ctx, args.id))
    if ctx.json:
        ctx.out.json(task)
    else:
        show_task(ctx, task, me=ctx.me.agent_id)
    return Exit.DONE
