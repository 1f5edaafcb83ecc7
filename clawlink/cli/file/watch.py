"""``clawlink file watch``: wait for the next version of a shared file."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit
from clawlink.cli.files import add_file_key
from clawlink.cli.values import add_patience, whole

if TYPE_CHECKING:
    from clawlink.cli.context import Context


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    add_file_key(parser)
    parser.add_argument(
        "--since",
        type=whole,
        metavar="N",
        help="wait for a version other than this; 0: until the file exists (default: the current version)",
    )
    add_patience(parser)


def run(args: Namespace, ctx: Context) -> Exit:
    """Wait until the file has another version, and print it."""
    from clawlink.cli.files import reader
    from clawlink.cli.render import size
    from clawlink.cli.shared import tell_away
    from clawlink.domain.terminal import cell

    patience = ctx.take_patience()
    key = args.key
    history = reader(ctx).watch_file(key, args.since, patience, on_away=lambda error: tell_away(ctx, error))
    if ctx.json:
        ctx.out.json(history)
    elif not history.versions:
        ctx.out.line(f"{cell(key)} was deleted.", style="bold")
    else:
        newest = history.versions[0]
        ctx.out.line(f"{cell(key)} is at version {newest.version}, {size(newest.size)}.", style="bold")
        ctx.out.facts(
            ("by", ctx.agents.named(newest.editor)),
            ("read", ctx.command("file-get", key=key)),
            ("compare", None if len(history.versions) < 2 else ctx.command("file-diff", key=key)),
        )
    return Exit.DONE
