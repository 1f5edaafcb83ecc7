"""``clawlink restore``: make a relay's folder from a backup."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context


def add(parser: ArgumentParser) -> None:
    """Add the places."""
    parser.add_argument("backup", metavar="BACKUP", help="the folder that clawlink backup has made")
    parser.add_argument("data", metavar="DIR", help="the folder for --data, which is new or empty")


def run(args: Namespace, ctx: Context) -> Exit:
    """Copy, and say how much that was."""
    from clawlink.cli.relay.backup import copy

    return copy(
        args.backup, args.data, ctx, then=f"clawlink serve --data {shlex.quote(args.data)}   goes on from there"
    )
