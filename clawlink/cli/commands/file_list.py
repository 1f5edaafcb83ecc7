"""``clawlink file-list``: the shared files."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.protocol.replies import FileInfo

NAME = "file-list"
HELP = "List shared files."


def add(parser: ArgumentParser) -> None:
    """Add no flags: it takes none of its own."""


def run(args: Namespace, ctx: Context) -> Exit:
    """List all of them, however many pages that takes."""
    from clawlink.cli.render import ago, cell, size
    from clawlink.domain.limits import MAX_LIST_LENGTH

    client = ctx.visitor
    files: list[FileInfo] = []
    after: str | None = None
    while True:
        page = client.list_files(limit=MAX_LIST_LENGTH, after=after)
        files += page.files
        after = page.next
        if after is None:
            break
    if ctx.json:
        ctx.out.json({"files": files, "count": len(files)})
    elif not files:
        ctx.out.line("No shared files.")
    else:
        now = ctx.now
        ctx.out.table(
            ("key", "type", "version", "size", "last editor", "written"),
            [
                (
                    cell(file.file_key),
                    cell(file.file_type),
                    str(file.version),
                    size(file.size),
                    cell(file.last_editor),
                    ago(file.updated_at, now),
                )
                for file in files
            ],
        )
    return Exit.DONE
