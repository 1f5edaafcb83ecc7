"""``clawlink file rm``: delete a shared file."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit
from clawlink.cli.files import add_file_key
from clawlink.cli.values import count

if TYPE_CHECKING:
    from clawlink.cli.context import Context


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    add_file_key(parser)
    parser.add_argument("--if-version", type=count, metavar="N", help="delete only if the file is still at version N")
    parser.add_argument("--force", action="store_true", help="delete although another agent holds the lock")


def run(args: Namespace, ctx: Context) -> Exit:
    """Delete it, with all its versions, for everyone on the relay."""
    from clawlink.domain.terminal import cell

    done = ctx.client.delete_file(args.key, if_version=args.if_version, force=args.force)
    if ctx.json:
        ctx.out.json(done)
    else:
        # A deletion has a version of its own, so that a waiting reader hears of it.
        ctx.out.line(f"Deleted {cell(done.file_key)}, which was at version {done.version - 1}.")
    return Exit.DONE
