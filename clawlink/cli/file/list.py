"""``clawlink file list``: the shared files."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.protocol.file_replies import FileInfo

_HEAD = ("key", "type", "version", "size", "last editor", "written")
# Left out on a narrow terminal, the first one first.
_LEAST = ("type", "written", "last editor", "size", "note")


def add(parser: ArgumentParser) -> None:
    """Add no flags: it takes none of its own."""


def run(args: Namespace, ctx: Context) -> Exit:
    """List all of them, however many pages that takes."""
    from clawlink.cli.files import reader
    from clawlink.domain.limits import MAX_LIST_LENGTH

    client = reader(ctx)
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
        notes = [_note(ctx, file) for file in files]
        rows = [_row(ctx, file) for file in files]
        if any(notes):
            ctx.out.table((*_HEAD, "note"), [(*row, note) for row, note in zip(rows, notes, strict=True)], least=_LEAST)
        else:
            ctx.out.table(_HEAD, rows, least=_LEAST)
    return Exit.DONE


def _row(ctx: Context, file: FileInfo) -> tuple[str, ...]:
    from clawlink.cli.render import ago, size
    from clawlink.domain.terminal import cell

    return (
        cell(file.file_key),
        cell(file.file_type),
        str(file.version),
        size(file.size),
        ctx.agents.named(file.last_editor),
        ago(file.updated_at, ctx.now),
    )


def _note(ctx: Context, file: FileInfo) -> str:
    """Return the file's readers, lock and end as a text."""
    from clawlink.cli.files import ends_line, lock_line, readers_line

    lock = None if file.lock is None else lock_line(ctx, file.lock)
    ends = ends_line(file.expires_at, file.burn_after_read, ctx.now)
    return "; ".join(note for note in (readers_line(ctx, file.owner, file.readers, file.tasks), lock, ends) if note)
