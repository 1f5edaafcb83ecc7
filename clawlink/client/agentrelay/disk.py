"""Files of a folder that several processes share: written whole or not at all, and read only if they are files."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
from pathlib import Path

from clawlink.errors import BadRequest

TEMPORARY = ".new"
_PRIVATE_FOLDER, _OTHERS = 0o700, 0o077
_REPLACE_SECONDS, _PAUSE_SECONDS = 2.0, 0.02
_BINARY: int = getattr(os, "O_BINARY", 0)


def make_private(folder: Path) -> None:
    """Make a folder for its owner only, and close one that is open to others, where the system has such modes."""
    folder.mkdir(parents=True, exist_ok=True, mode=_PRIVATE_FOLDER)
    if os.name == "posix" and stat.S_IMODE(folder.stat().st_mode) & _OTHERS:
        with contextlib.suppress(PermissionError):  # somebody else's, who shares it on purpose
            folder.chmod(_PRIVATE_FOLDER)


def write_whole(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write a file for its owner only; a crash at any moment leaves the old file or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:32]}.", suffix=TEMPORARY)
    try:
        try:
            write_all(handle, data)
            if sync:
                os.fsync(handle)
        finally:
            os.close(handle)
        _replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if sync:
        _sync_folder(path.parent)


def write_all(handle: int, data: bytes) -> None:
    """Write all of it."""
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


def _replace(temporary: str, path: Path) -> None:
    """Put a file in the place of another. Windows refuses while somebody reads that, so it is tried for a while."""
    give_up_at = time.monotonic() + _REPLACE_SECONDS
    while True:
        try:
            return os.replace(temporary, path)
        except PermissionError:
            if os.name != "nt" or time.monotonic() > give_up_at:
                raise
            time.sleep(_PAUSE_SECONDS)


def _sync_folder(folder: Path) -> None:
    """Have a new name survive a power cut, where folders can be opened for that."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_plain(path: Path) -> bytes | None:
    """Read a file; None if there is none. Raises BadRequest for a link or anything else that leads elsewhere."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    except FileNotFoundError:
        return None
    except OSError:
        if path.is_symlink() or path.is_dir():
            raise _no_file(path) from None
        raise
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode) or path.is_symlink():
            raise _no_file(path)
        return file.read()


def _no_file(path: Path) -> BadRequest:
    return BadRequest(f"{path} is a link or no plain file, so it is not read; remove it", field="ptr")
