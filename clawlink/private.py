"""Files that are replaced in one step: a crash leaves the old file or the new one."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

UNFINISHED = ".new"
_MAY_BE_IN_USE = os.name == "nt"
_REPLACE_SECONDS, _PAUSE_SECONDS = 2.0, 0.02


class Replacement:
    """A file on the disk for its owner only, not yet in its place. Without ``put`` it is removed at the end.

    A lack of room shows before anything changes. Its name begins with a dot and ends with ``UNFINISHED``.
    """

    def __init__(self, folder: Path, data: bytes) -> None:
        """Write the data to a new file in the folder. Raises OSError."""
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".", suffix=UNFINISHED)
        self._temporary: Path | None = Path(temporary)
        try:
            _write(handle, data)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Replacement:
        return self

    def __exit__(self, *_: object) -> None:
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                self._temporary.unlink()

    @property
    def in_place(self) -> bool:
        """Return True once it is where it belongs."""
        return self._temporary is None

    def fill(self, data: bytes) -> None:
        """Write other data into the room of the first. Raises OSError."""
        if self._temporary is not None:
            _write(os.open(self._temporary, os.O_RDWR | getattr(os, "O_BINARY", 0)), data)

    def put(self, path: Path) -> None:
        """Move it to its place, once. Raises OSError."""
        if self._temporary is not None:
            replace(self._temporary, path)
            self._temporary = None
            with contextlib.suppress(OSError):  # it is in its place, and no failure any more
                sync_folder(path.parent)


def make_folder(folder: Path, mode: int = 0o700) -> None:
    """Make a folder, for its owner only unless ``mode`` says more, and what is missing above it. Raises OSError.

    Other accounts can write to none of these, whatever the umask: they could put other files in the place of ours.
    """
    try:
        folder.mkdir(mode, exist_ok=True)
    except FileNotFoundError:
        if folder.parent == folder:
            raise
        make_folder(folder.parent, 0o755)
        folder.mkdir(mode, exist_ok=True)


def write(path: Path, data: bytes) -> None:
    """Write a file, or replace it, for its owner only. Its folder is there. Raises OSError."""
    with Replacement(path.parent, data) as new:
        new.put(path)


def replace(temporary: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Put a file in the place of another. Windows refuses while a process reads that, so it is tried for 2 s."""
    give_up_at = time.monotonic() + _REPLACE_SECONDS
    while True:
        try:
            return os.replace(temporary, path)
        except PermissionError:
            if not _may_try_again(give_up_at):
                raise
        time.sleep(_PAUSE_SECONDS)


async def patiently(move: Callable[[], T]) -> T:
    """Do what moves a file, and try it as long as ``replace`` does. The event loop goes on between the tries."""
    import asyncio  # takes most of the start of a command, which does not need it here

    give_up_at = time.monotonic() + _REPLACE_SECONDS
    while True:
        try:
            return move()
        except PermissionError:
            if not _may_try_again(give_up_at):
                raise
        await asyncio.sleep(_PAUSE_SECONDS)


def _may_try_again(give_up_at: float) -> bool:
    return _MAY_BE_IN_USE and time.monotonic() <= give_up_at


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Put the names in a folder on the disk. Windows does so by itself. Raises OSError."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_all(handle: int, data: bytes) -> None:
    """Write all of the data, in as many steps as the system takes. Raises OSError."""
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


def _write(handle: int, data: bytes) -> None:
    """Write the whole content of an open file to the disk, and close it."""
    try:
        write_all(handle, data)
        os.ftruncate(handle, len(data))
        os.fsync(handle)
    finally:
        os.close(handle)
