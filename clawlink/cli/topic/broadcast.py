"""``clawlink broadcast``: tell every other agent."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.arguments import add_slot
from clawlink.cli.exits import Exit
from clawlink.cli.values import add_idempotency_key, add_parent, add_quiet, lifetime, names

if TYPE_CHECKING:
    from clawlink.cli.context import Context


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    add_slot(parser, "TEXT", "--content", help="text to broadcast; - reads standard input")
    parser.add_argument("--topic", default="general", help="topic of the broadcast (default general)")
    parser.add_argument("--tags", type=names, default=[], metavar="A,B", help="tags, separated by commas")
    parser.add_argument("--ttl", type=lifetime, metavar="S", help="time until the broadcast expires, as 90, 10m or 2h")
    add_parent(parser)
    add_idempotency_key(parser)
    add_quiet(parser, "the broadcast")


def run(args: Namespace, ctx: Context) -> Exit:
    """Store the broadcast in every other agent's mailbox."""
    import shlex

    from clawlink.cli.exits import UsageError
    from clawlink.cli.render import plural
    from clawlink.cli.shared import repeatable
    from clawlink.client.calls import repeat_key

    content = ctx.read(args.content)
    if not content.strip():
        raise UsageError("--content is empty; give a text")
    key = repeat_key(args.idempotency_key)
    parent_task = ctx.parent_task
    with repeatable(key):
        done = ctx.client.broadcast(
            content,
            topic=args.topic,
            tags=args.tags,
            ttl=args.ttl,
            parent_task=parent_task,
            key=key,
        )
    full = plural(done.refused, "mailbox", "mailboxes")
    if ctx.json:
        ctx.out.json(done)
    elif args.quiet:
        ctx.out.line(done.message_id)
    else:
        stored = plural(done.recipients, "mailbox", "mailboxes")
        ctx.out.line(f"Stored in {stored}{f'; {full} had no room' if done.refused else ''}.", style="bold")
        ctx.out.facts(("broadcast", done.message_id), ("follow", ctx.command("status", done.message_id)))
    if done.refused:
        ctx.out.flush()
        ctx.warn(
            f"{full} had no room: broadcasts fill half of a mailbox at most (--max-mailbox-messages and "
            "--max-mailbox-bytes of clawlink serve), and less if the relay is full; their agents find it with: "
            + shlex.join(("clawlink", "topic", "history", args.topic))
        )
    return Exit.OVER_LIMIT if done.refused and not done.recipients else Exit.DONE
