"""Copies of a data folder, also while a relay uses it: a backup, and the way back."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from clawlink.domain.file import Content, SharedFile
from clawlink.store import records
from clawlink.store.sqlite.contents import CONTENTS, file_name, place_of
from clawlink.store.sqlite.database import NAME, DataFolderError, connect, require_ours, said
from clawlink.store.sqlite.room import sync_folder

# The relay's own secrets, which a restored relay needs to be the same one.
SECRETS = ("secret", "token", "admin-token")
# A file may be deleted between the copy of its record and that of its content: then both are copied again.
_ROUNDS = 10
_PIECE_BYTES = 1 << 20


class Copied(NamedTuple):
    """A copy: its size, and the source's contents that are missing or do not have their digest."""

    records: int
    contents: int
    bytes: int
    damaged: tuple[str, ...]


def copy_folder(source: Path, target: Path) -> Copied:
    """Copy a data folder to a new or empty folder, in one step at the end. Raises DataFolderError."""
    if not (source / NAME).is_file():
        raise DataFolderError(f"{source} is no data folder of ClawLink: it has no {NAME}")
    target = target.resolve()
    if os.path.ismount(target):
        raise DataFolderError(f"{target} is where a disk begins, so it cannot be replaced; name a new folder in it")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataFolderError(f"{target} is there already and is not empty; name a folder that is new or empty")
    partial = target.parent / f".{target.name}.{secrets.token_hex(4)}"
    try:
        partial.mkdir(mode=0o700, parents=True)
        copied = _copy(source, partial)
        if target.exists():
            target.rmdir()
        partial.rename(target)
        sync_folder(target.parent)
    except sqlite3.Error as error:
        raise DataFolderError(said(source / NAME, error)) from None
    except OSError as error:
        raise DataFolderError(f"{source} cannot be copied to {target}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return copied


def _copy(source: Path, target: Path) -> Copied:
    contents = target / CONTENTS
    contents.mkdir(mode=0o700)
    for _ in range(_ROUNDS):
        count, wanted = _copy_records(source / NAME, target / NAME)
        damaged = [name for name in wanted if not _copy_content(source / CONTENTS, contents, name)]
        if not damaged:
            break
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
    target.unlink(missing_ok=True)
    reading = connect(source, reads_only=True)
    writing = sqlite3.connect(os.fspath(target), isolation_level=None)
    try:
        require_ours(reading, source)
        reading.backup(writing)  # in one step: a source that changes meanwhile would make it begin again
        writing.execute("PRAGMA journal_mode = DELETE")  # else a reader has to write beside it, on any medium
        (found,) = writing.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise DataFolderError(
                f"the database {source} is damaged ({found}), and was not copied; see: clawlink doctor --data "
                f"{source.parent}"
            )
        (count,) = writing.execute("SELECT count(*) FROM record").fetchone()
        wanted = {file_name(content): content for content in held_contents(writing)}
    finally:
        writing.close()
        reading.close()
    os.chmod(target, 0o600)
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
