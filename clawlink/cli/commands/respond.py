"""``clawlink respond``: report on a task, or answer it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from clawlink.cli.exits import Exit
from clawlink.cli.values import STATUSES, add_idempotency_key, json_value

if TYPE_CHECKING:
    from clawlink.cli.context import Context

NAME = "respond"
HELP = "Report on a task, or answer it."


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--msg-id", required=True, metavar="ID", help="the task's id, as poll shows it")
    parser.add_argument("--result", metavar="TEXT", help="the answer, or the news; - reads standard input")
    parser.add_argument("--result-json", action="store_true", help="the result is JSON, and is sent as such")
    parser.add_argument("--status", choices=STATUSES, default="completed", help="default: completed")
    parser.add_argument("--to", metavar="AGENT", help="the requester; known to the relay, so it may be left out")
    add_idempotency_key(parser)


def run(args: Namespace, ctx: Context) -> Exit:
    """Send the response to whoever asked."""
    from clawlink.cli.commands._shared import show_recipient
    from clawlink.cli.exits import UsageError
    from clawlink.cli.render import cell

    if args.result is None and args.status != "in_progress":
        raise UsageError(
            f"say what came of it: --result TEXT (only --status in_progress goes without, not {args.status})"
        )
    result: Any = None if args.result is None else ctx.read(args.result)
    if args.result_json and result is not None:
        result = json_value(result, "--result")
    done = ctx.client.respond(args.msg_id, result, status=args.status, to=args.to, key=args.idempotency_key)
    if ctx.json:
        ctx.out.json(done)
        return Exit.DONE
    if done.recipient is None:
        ctx.out.line("The requester has left the relay: the response is kept with the task, and nobody will get it.")
    else:
        show_recipient(ctx, "Response stored for", done.recipient)
    ctx.out.facts(("task", cell(done.message_id)), ("status", done.task_status), ("response", done.response_id))
    return Exit.DONE
