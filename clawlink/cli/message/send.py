"""``clawlink send``: say something that is not work."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.arguments import add_slot
from clawlink.cli.exits import Exit
from clawlink.cli.files import add_attach
from clawlink.cli.values import add_idempotency_key, add_parent, add_patience, add_priority, add_quiet

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.protocol.replies import Sent


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    add_slot(parser, "AGENT", "--to", kind="agents", help="recipient: a name or an id")
    add_slot(parser, "TEXT", "--content", help="text to send; - reads standard input")
    parser.add_argument("--reply-to", metavar="ID", help="id of the message that this one answers")
    parser.add_argument("--thread", metavar="NAME", help="name of the conversation")
    add_attach(parser)
    add_parent(parser)
    parser.add_argument(
        "--wait",
        nargs="?",
        choices=("acked", "answered"),
        const="acked",
        help="wait until the message is acknowledged (default) or answered; exit code 6 if --timeout comes first",
    )
    add_patience(parser)
    add_priority(parser)
    add_idempotency_key(parser)
    add_quiet(parser, "the message")


def run(args: Namespace, ctx: Context) -> Exit:
    """Store the message for its recipient."""
    from clawlink.cli import ids
    from clawlink.cli.exits import UsageError
    from clawlink.cli.files import attached
    from clawlink.cli.shared import repeatable, show_recipient
    from clawlink.client.calls import repeat_key

    patience = ctx.take_patience() if args.wait is not None else None
    content = ctx.read(args.content)
    if not content.strip() and not args.attach:
        raise UsageError("--content is empty; give a text, or --attach FILE")
    key = repeat_key(args.idempotency_key)
    to = ids.agent(ctx, args.to)
    reply_to = None if args.reply_to is None else ids.message(ctx, args.reply_to)
    if reply_to is not None and (short := ids.too_short(reply_to)):
        ctx.warn(f"{reply_to!r} is taken for a whole id{short}")
    elif reply_to is not None and ids.is_prefix(reply_to):
        ctx.warn(f"{reply_to!r} begins the id of no message of yours, so it is taken for a whole id")
    parent_task = ctx.parent_task
    attachments = attached(args, ctx)
    with repeatable(key):
        done = ctx.client.send(
            to,
            content,
            in_reply_to=reply_to,
            thread=args.thread,
            parent_task=parent_task,
            priority=args.priority,
            attachments=attachments,
            key=key,
        )
    if args.quiet and not ctx.json:
        ctx.out.line(done.message_id)
    elif not ctx.json:
        show_recipient(ctx, "Sent to", done.recipient)
        ctx.out.facts(("message", done.message_id), ("follow", ctx.command("status", done.message_id)))
    elif args.wait is None:
        ctx.out.json(done)
    return Exit.DONE if args.wait is None else _wait(args, ctx, done, patience)


def _wait(args: Namespace, ctx: Context, sent: Sent, patience: float | None) -> Exit:
    """Stay until the message came as far as asked, and say so. With --json, its status takes the place of the reply."""
    from clawlink.cli.shared import tell_away
    from clawlink.client.wait_steps import StillPending, reached

    ctx.out.flush()
    follow = ctx.command("status", sent.message_id)
    try:
        status = ctx.client.wait_message(
            sent.message_id, args.wait, patience, on_away=lambda error: tell_away(ctx, error)
        )
    except KeyboardInterrupt:
        ctx.warn(f"message {sent.message_id} is on its way; see how far it came with: {follow}")
        return Exit.INTERRUPTED
    except StillPending as late:
        raise StillPending(f"{late.message}; see how far it came with: {follow}", current=late.current) from None
    done = reached(status, args.wait)
    if ctx.json:
        ctx.out.json(status)
    elif not args.quiet:
        ctx.out.facts(("state", args.wait if done else f"{status.state}: it will not be {args.wait}"))
    return Exit.DONE if done else Exit.FAILED
