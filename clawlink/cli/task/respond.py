"""``clawlink respond``: report on a task, or answer it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from clawlink.cli.arguments import add_slot, completed_by
from clawlink.cli.exits import Exit
from clawlink.cli.files import add_attach
from clawlink.cli.values import (
    STATUSES,
    add_idempotency_key,
    add_quiet,
    json_value,
    note,
    percent,
    require_text,
    task_id,
)

if TYPE_CHECKING:
    from clawlink.cli.context import Context


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    add_slot(parser, "TASK", "--msg-id", type=task_id, help="the task's id, as poll shows it")
    add_slot(parser, "TEXT", "--result", required=False, help="the answer, or a report; - reads standard input")
    parser.add_argument("--result-json", action="store_true", help="send the result as JSON")
    parser.add_argument(
        "--status",
        metavar="|".join(STATUSES),
        help="state of the task (default: completed, or in_progress with --progress and no --result); "
        "an agent without a key may give any word",
    )
    parser.add_argument("--progress", type=percent, metavar="N", help="progress in percent")
    parser.add_argument("--note", type=note, metavar="TEXT", help="one line about the progress")
    parser.add_argument(
        "--receipt",
        metavar="R",
        help="receipt from poll --no-ack; refused if the task was claimed again since",
    )
    to = parser.add_argument("--to", metavar="AGENT", help="the requester; may be left out, because the relay knows it")
    completed_by(to, "agents")
    add_attach(parser)
    add_idempotency_key(parser)
    add_quiet(parser, "the response")


def run(args: Namespace, ctx: Context) -> Exit:
    """Send the response to the requester."""
    from clawlink.cli import ids
    from clawlink.cli.exits import UsageError
    from clawlink.cli.files import attached
    from clawlink.cli.shared import repeatable, show_recipient
    from clawlink.client.calls import repeat_key
    from clawlink.domain.terminal import cell

    bare = args.result is None
    status = args.status or ("in_progress" if bare and args.progress is not None else "completed")
    if status not in STATUSES and (ctx.me.agent_key is not None or args.receipt is not None):
        raise UsageError(
            f"--status is one of {', '.join(STATUSES)}, not {status!r}; "
            "only an agent without a key may give another word, and only without --receipt"
        )
    if bare and not args.attach and status != "in_progress":
        raise UsageError(
            f"give the result: --result TEXT, or --attach FILE (only --status in_progress goes without, not {status})"
        )
    result: Any = None if args.result is None else ctx.read(args.result)
    # A command may have no output, but a question without a text is none.
    if result is not None and not args.attach and (args.result != "-" or status == "input_required"):
        require_text(result, "TEXT or --result", as_json="--result-json")
    if args.result_json and result is not None:
        result = json_value(result, "--result")
    key = repeat_key(args.idempotency_key)
    id = ids.task(ctx, args.msg_id)
    to = None if args.to is None else ids.agent(ctx, args.to)
    attachments = attached(args, ctx)
    with repeatable(key):
        done = ctx.client.respond(
            id,
            result,
            status=status,
            progress=args.progress,
            note=args.note,
            receipt=args.receipt,
            to=to,
            attachments=attachments,
            key=key,
        )
    if ctx.json:
        ctx.out.json(done)
        return Exit.DONE
    if args.quiet:
        ctx.out.line(done.response_id)
        return Exit.DONE
    if done.recipient is None:
        ctx.out.line("The requester has left the relay: the response is kept with the task, and no agent will get it.")
    else:
        show_recipient(ctx, "Response stored for", done.recipient)
    ctx.out.facts(
        ("task", cell(done.message_id)),
        ("status", done.task_status or "passed on: no such task is known"),
        ("response", done.response_id),
    )
    return Exit.DONE
