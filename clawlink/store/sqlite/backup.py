"""Copies of a data folder, also while a relay uses it: a backup, and the way back."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from clawlink import private
from clawlink.domain.file import Content, SharedFile
from clawlink.store import records
from clawlink.store.sqlite.contents import CONTENTS, file_name, place_of
from clawlink.store.sqlite.database import NAME, DataFolderError, connect, require_ours, require_whole, said
from clawlink.store.sqlite.room import sync_folder

# The relay's own secrets, which a restored relay needs to be the same one.
SECRETS = ("secret", "token", "admin-token")
# The name of the database in a copy until all of it is there.
UNFINISHED = NAME + ".unfinished"
# A new disk has it.
_IGNORED = {"lost+found"}
# A file may be deleted between the copy of its record and that of its content: then both are copied again. A content
# that is missing in two rounds is damaged.
_ROUNDS = 50
_PIECE_BYTES = 1 << 20


class Copied(NamedTuple):
    """A copy: its size, and the source's contents that are missing or do not have their digest."""

    records: int
    contents: int
    bytes: int
    damaged: tuple[str, ...]


def copy_folder(source: Path, target: Path) -> Copied:
    """Copy a data folder to a new or empty folder, which may be where a disk begins. Raises DataFolderError.

    The database gets its name last. So a copy that was broken off is known as one.
    """
    require_finished(source)
    if not (source / NAME).is_file():
        raise DataFolderError(f"{source} is no data folder of ClawLink: it has no {NAME}")
    target = target.resolve()
    new = _take(target)
    try:
        copied = _copy(source, target)
        private.replace(target / UNFINISHED, target / NAME)
        sync_folder(target)
        sync_folder(target.parent)
    except BaseException as error:
        _empty(target, new=new)
        if isinstance(error, sqlite3.Error):
            raise DataFolderError(said(source / NAME, error)) from None
        if isinstance(error, OSError):
            raise DataFolderError(f"{source} cannot be copied to {target}: {error.strerror or error}") from None
        raise
    return copied


def require_finished(folder: Path) -> None:
    """Refuse a copy that was broken off. Raises DataFolderError."""
    if (folder / UNFINISHED).exists():
        raise DataFolderError(
            f"{folder} is a copy that was broken off before it was whole; delete all that is in it, and copy again"
        )


def _take(target: Path) -> bool:
    """Begin a copy in a folder. Return True if it was made for that. Raises DataFolderError."""
    try:
        new = not target.exists()
        private.make_folder(target)
        require_finished(target)
        if set(os.listdir(target)) - _IGNORED:
            raise DataFolderError(f"{target} is there already and is not empty; name a folder that is new or empty")
        os.close(os.open(target / UNFINISHED, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except (FileExistsError, NotADirectoryError):
        raise DataFolderError(
            f"{target} is there already and is not empty; name a folder that is new or empty"
        ) from None
    except OSError as error:
        raise DataFolderError(f"{target} cannot be written: {error.strerror or error}") from None
    with contextlib.suppress(OSError):  # a disk without modes
        target.chmod(0o700)
    return new


def _empty(target: Path, *, new: bool) -> None:
    """Remove what came of a copy; last of all what tells that it was broken off."""
    if new:
        shutil.rmtree(target, ignore_errors=True)
        return
    shutil.rmtree(target / CONTENTS, ignore_errors=True)
    for name in (*SECRETS, UNFINISHED):
        with contextlib.suppress(OSError):
            (target / name).unlink()


def _copy(source: Path, target: Path) -> Copied:
    contents = target / CONTENTS
    contents.mkdir(mode=0o700)
    before: set[str] = set()
    for _ in range(_ROUNDS):
        count, wanted = _copy_records(source / NAME, target / UNFINISHED)
        damaged = [name for name in wanted if not _copy_content(source / CONTENTS, contents, name)]
        if before.issuperset(damaged):
            break
        before = set(damaged)
    for name in set(_names(contents)) - set(wanted):  # of a round before
        (contents / place_of(name)).unlink()
    for name in SECRETS:
        if (source / name).is_file():
            _copy_file(source / name, target / name)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    for folder in (*contents.iterdir(), contents, target):
        sync_folder(folder)
    return Copied(count, len(wanted) - len(damaged), size, tuple(damaged))


def _copy_records(source: Path, target: Path) -> tuple[int, dict[str, Content]]:
    """Copy the current database; return the number of its records, and the contents of its files."""
    reading = connect(source, reads_only=True)
    writing = sqlite3.connect(os.fspath(target), isolation_level=None)
    try:
        require_ours(reading, source)
        reading.backup(writing)  # in one step: a source that changes meanwhile would make it begin again
        writing.execute("PRAGMA journal_mode = DELETE")  # else a reader has to write beside it, on any medium
        require_whole(writing, source)
        (count,) = writing.execute("SELECT count(*) FROM record").fetchone()
        wanted = {file_name(content): content for content in held_contents(writing)}
    finally:
        writing.close()
        reading.close()
    with open(target, "r+b") as file:
        os.fsync(file.fileno())
    return count, wanted


def held_contents(db: sqlite3.Connection) -> Iterator[Content]:
    """Give the contents that the files of a database hold. Raises DataFolderError for a record that cannot be read."""
    name = records.kinds()[SharedFile].name
    rows = db.execute("SELECT data FROM record WHERE kind = (SELECT number FROM kind WHERE name = ?)", (name,))
    for (data,) in rows:
        try:
            file: SharedFile = records.decode(data)
        except (ValueError, msgspec.MsgspecError) as error:
            raise DataFolderError(f"the record of a file cannot be read: {error}") from None
        for version in file.versions:
            yield version.content


def _copy_content(source: Path, target: Path, name: str) -> bool:
    """Copy a content if it is not there yet. Return False if it is missing, or does not have its digest."""
    final = target / place_of(name)
    if final.exists():
        return True
    final.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        digest = _copy_file(source / place_of(name), final)
    except FileNotFoundError:
        return False
    if digest != name.partition("-")[0]:
        final.unlink()
        return False
    return True


def _copy_file(source: Path, target: Path) -> str:
    """Copy a file for its owner alone, down to the disk; return its SHA-256."""
    digest = hashlib.sha256()
    with open(source, "rb") as reading:
        handle = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o600)
        with os.fdopen(handle, "wb") as writing:
            while piece := reading.read(_PIECE_BYTES):
                digest.update(piece)
                writing.write(piece)
            writing.flush()
            os.fsync(writing.fileno())
    return digest.hexdigest()


def _names(contents: Path) -> Iterator[str]:
    for shard in contents.iterdir():
        yield from (file.name for file in shard.iterdir())
