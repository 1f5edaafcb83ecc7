"""``clawlink message redrive``: put dead letters back into the mailbox."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--id", action="append", metavar="ID", help="id of a dead letter; repeat the flag for more")
    which.add_argument("--all", action="store_true", help="all dead letters")


def run(args: Namespace, ctx: Context) -> Exit:
    """Put the named letters back, or all. An unknown letter is an error, raised after the others are back."""
    from clawlink.cli import ids
    from clawlink.cli.render import plural
    from clawlink.domain.limits import MAX_LIST_LENGTH
    from clawlink.errors import UnknownMessage

    client = ctx.client
    wanted = [] if args.all else [ids.dead_letter(ctx, given) for given in args.id]
    back: list[str] = []
    while True:
        done = client.redrive(None if args.all else wanted)
        back += done.message_ids
        if not args.all or done.count < MAX_LIST_LENGTH:  # the relay takes this many at a time
            break
    missing = [id for id in wanted if id not in back]
    if missing and not back:
        pass  # nothing was done, and the error says so
    elif ctx.json:
        ctx.out.json({"message_ids": back, "count": len(back)})
    elif not back:
        ctx.out.line("You have no dead letters, so none is put back.")
    else:
        ctx.out.line(f"{plural(len(back), 'message')} put back; see them with: {ctx.command('poll')}")
    if missing:
        told = ", ".join(f"{id}{ids.too_short(id)}" for id in missing)
        raise UnknownMessage(f"no dead letter of yours: {told}; list them with: {ctx.command('dead-letters')}")
    return Exit.DONE
