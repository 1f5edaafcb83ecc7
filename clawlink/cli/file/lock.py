"""``clawlink file lock``: ask the others not to write a file for a while."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit
from clawlink.cli.files import add_file_key
from clawlink.cli.values import lock_span, note

if TYPE_CHECKING:
    from clawlink.cli.context import Context

_SECONDS = 600.0


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    add_file_key(parser)
    parser.add_argument(
        "--for",
        dest="seconds",
        type=lock_span,
        default=_SECONDS,
        metavar="S",
        help="time until the lock ends: 90, 30m, 2h (default 10m); a repeat renews it",
    )
    parser.add_argument("--note", type=note, metavar="TEXT", help="reason, shown in the list")
    parser.add_argument("--force", action="store_true", help="take the lock although another agent holds it")


def run(args: Namespace, ctx: Context) -> Exit:
    """Take the lock, or have it longer."""
    from clawlink.cli.render import duration
    from clawlink.domain.terminal import cell

    done = ctx.client.lock_file(args.key, seconds=args.seconds, note=args.note, force=args.force)
    if ctx.json:
        ctx.out.json(done)
        return Exit.DONE
    ctx.out.line(
        f"Locked {cell(done.file_key)} for {duration(args.seconds)}: others' writes are refused.", style="bold"
    )
    ctx.out.facts(("until", cell(done.until)), ("unlock", ctx.command("file-unlock", key=done.file_key)))
    return Exit.DONE
