"""``clawlink task answer``: answer a question of a task's assignee, so that the work goes on."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from clawlink.cli.exits import Exit
from clawlink.cli.values import add_idempotency_key, add_quiet, json_value, require_text, task_id

if TYPE_CHECKING:
    from clawlink.cli.context import Context


def add(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("id", type=task_id, metavar="TASK", help="the task's id")
    parser.add_argument("content", metavar="TEXT", help="the answer; - reads standard input")
    parser.add_argument("--content-json", action="store_true", help="send the text as JSON")
    add_idempotency_key(parser)
    add_quiet(parser, "the answer")


def run(args: Namespace, ctx: Context) -> Exit:
    """Store the answer for the assignee."""
    from clawlink.cli import ids
    from clawlink.cli.shared import repeatable, show_recipient, task_named
    from clawlink.client.calls import repeat_key
    from clawlink.domain.terminal import cell

    content: Any = ctx.read(args.content)
    require_text(content, "TEXT", as_json="--content-json")
    if args.content_json:
        content = json_value(content, "TEXT")
    key = repeat_key(args.idempotency_key)
    id = ids.task(ctx, args.id)
    with repeatable(key), task_named(ctx, id):
        done = ctx.client.answer(id, content, key=key)
    if ctx.json:
        ctx.out.json(done)
        return Exit.DONE
    if args.quiet:
        ctx.out.line(cell(done.message_id))
        return Exit.DONE
    show_recipient(ctx, "Answer stored for", done.recipient)
    ctx.out.facts(("task", cell(done.task_id)), ("status", cell(done.task_status)))
    return Exit.DONE
