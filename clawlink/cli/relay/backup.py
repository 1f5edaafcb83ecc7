"""``clawlink backup``: copy the folder of a relay that may be running."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context


def add(parser: ArgumentParser) -> None:
    """Add the places."""
    parser.add_argument("data", metavar="DIR", help="the folder of --data")
    parser.add_argument("target", metavar="TARGET", help="the folder of the copy, which is new or empty")


def run(args: Namespace, ctx: Context) -> Exit:
    """Copy, and say how much that was."""
    return copy(args.data, args.target, ctx, then=f"clawlink restore {shlex.quote(args.target)} DIR   puts it back")


def copy(source: str, target: str, ctx: Context, *, then: str) -> Exit:
    """Copy a data folder and show the result."""
    from pathlib import Path

    from clawlink.store.sqlite.backup import copy_folder

    copied = copy_folder(Path(source), Path(target))
    if ctx.json:
        ctx.out.json(copied._asdict())
    else:
        ctx.out.line(f"{copied.records} records and {copied.contents} contents, {copied.bytes} bytes: {target}")
        ctx.out.line(then)
    if copied.damaged:
        ctx.err.line(
            f"clawlink: {len(copied.damaged)} contents of files are missing or damaged in {source}, and not in the "
            f"copy; see: clawlink doctor --data {shlex.quote(source)}"
        )
        return Exit.FAILED
    return Exit.DONE
