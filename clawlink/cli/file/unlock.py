"""``clawlink file unlock``: let the others write a file again."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit
from clawlink.cli.files import add_file_key

if TYPE_CHECKING:
    from clawlink.cli.context import Context


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    add_file_key(parser)
    parser.add_argument("--force", action="store_true", help="end the lock although another agent holds it")


def run(args: Namespace, ctx: Context) -> Exit:
    """Give the lock up."""
    from clawlink.domain.terminal import cell

    done = ctx.client.unlock_file(args.key, force=args.force)
    if ctx.json:
        ctx.out.json(done)
    else:
        ctx.out.line(f"No agent has locked {cell(done.file_key)} now.")
    return Exit.DONE
