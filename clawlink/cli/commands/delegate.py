"""``clawlink delegate``: ask another agent to do something."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit
from clawlink.cli.values import add_idempotency_key, add_priority, json_object

if TYPE_CHECKING:
    from clawlink.cli.context import Context

NAME = "delegate"
HELP = "Delegate a task to an agent."


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--to", required=True, metavar="AGENT", help="who is to do it: a name, or an id")
    parser.add_argument("--task", required=True, metavar="TEXT", help="what to do; - reads standard input")
    parser.add_argument(
        "--context", metavar="JSON", help="what they need to know, as a JSON object; - reads standard input"
    )
    add_priority(parser)
    add_idempotency_key(parser)


def run(args: Namespace, ctx: Context) -> Exit:
    """Store the task for its assignee, and say how to see what becomes of it."""
    from clawlink.cli.commands._shared import show_recipient
    from clawlink.cli.exits import UsageError

    if args.task == "-" and args.context == "-":
        raise UsageError("--task and --context cannot both read standard input; give one of them as text")
    context = None if args.context is None else json_object(ctx.read(args.context), "--context")
    done = ctx.client.delegate(
        args.to, ctx.read(args.task), context=context, priority=args.priority, key=args.idempotency_key
    )
    if ctx.json:
        ctx.out.json(done)
        return Exit.DONE
    show_recipient(ctx, "Delegated to", done.recipient)
    ctx.out.facts(("task", done.message_id), ("follow", ctx.command("status", done.message_id)))
    return Exit.DONE
