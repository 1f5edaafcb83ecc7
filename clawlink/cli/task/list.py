"""``clawlink task list``: the tasks that I asked for, and those that I was given."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit
from clawlink.cli.values import STATUSES, count

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.protocol.replies import TaskView

_STATES = ("open", "final", "queued", "delivered", *STATUSES, "cancelled", "expired", "returned")
_LIMIT = 50
# A narrow terminal shows this many characters of an id.
_SHOWN_ID = 8


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--role",
        choices=("requester", "assignee"),
        help="only tasks that you delegated (requester), or were given (assignee)",
    )
    parser.add_argument("--status", choices=_STATES, metavar="S", help=f"only in this state: {', '.join(_STATES)}")
    parser.add_argument(
        "--limit", type=count, default=_LIMIT, metavar="N", help=f"most entries to list (default {_LIMIT})"
    )


def run(args: Namespace, ctx: Context) -> Exit:
    """List them by state, the open ones first, the newest first within each."""
    from clawlink.cli.render import plural
    from clawlink.cli.tasks import HEAD, LEAST, row
    from clawlink.protocol.replies import TaskList

    found, after = _find(args, ctx)
    if ctx.json:
        ctx.out.json(TaskList(found, len(found), after))
        return Exit.DONE
    if not found:
        ctx.out.line("No tasks." if args.role is None and args.status is None else "No task matches.")
        return Exit.DONE
    rows = [row(ctx, task, me=ctx.me.agent_id) for task in found]
    ctx.out.table(HEAD, rows, whole="task", least=LEAST, begins=_SHOWN_ID)
    if after is not None:
        ctx.out.line(f"{plural(len(found), 'task')}; there may be more: --limit N shows more.")
    return Exit.DONE


def _find(args: Namespace, ctx: Context) -> tuple[list[TaskView], str | None]:
    """Return up to ``limit`` tasks, each once: an agent that asks itself has both roles.

    A page may be short before the last.
    """
    from clawlink.domain.limits import MAX_LIST_LENGTH

    me = ctx.me.agent_id
    role = {} if args.role is None else {args.role: me}
    found: dict[str, TaskView] = {}
    after: str | None = None
    while True:
        limit = min(args.limit - len(found), MAX_LIST_LENGTH)
        page = ctx.client.tasks(status=args.status, limit=limit, after=after, **role)
        found |= {task.task_id: task for task in page.tasks}
        after = page.next
        if after is None or len(found) >= args.limit:
            return list(found.values()), after
