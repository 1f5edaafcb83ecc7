"""``clawlink send``: say something to an agent that is not work."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit
from clawlink.cli.values import add_idempotency_key, add_priority

if TYPE_CHECKING:
    from clawlink.cli.context import Context

NAME = "send"
HELP = "Send a plain message to an agent."


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--to", required=True, metavar="AGENT", help="whom to: a name, or an id")
    parser.add_argument("--content", required=True, metavar="TEXT", help="what to say; - reads standard input")
    parser.add_argument("--reply-to", metavar="ID", help="the message that this answers")
    parser.add_argument("--thread", metavar="NAME", help="the conversation that this belongs to")
    add_priority(parser)
    add_idempotency_key(parser)


def run(args: Namespace, ctx: Context) -> Exit:
    """Store the message for its recipient."""
    from clawlink.cli.commands._shared import show_recipient

    done = ctx.client.send(
        args.to,
        ctx.read(args.content),
        in_reply_to=args.reply_to,
        thread=args.thread,
        priority=args.priority,
        key=args.idempotency_key,
    )
    if ctx.json:
        ctx.out.json(done)
        return Exit.DONE
    show_recipient(ctx, "Sent to", done.recipient)
    ctx.out.facts(("message", done.message_id), ("follow", ctx.command("status", done.message_id)))
    return Exit.DONE
