"""Files of a folder that several processes share: for their owner only, and read only if they are files."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from clawlink import private
from clawlink.errors import BadRequest

_PRIVATE_FOLDER, _OTHERS = 0o700, 0o077
_BINARY: int = getattr(os, "O_BINARY", 0)


def make_private(folder: Path, *, may_be_link: bool = False) -> None:
    """Make a folder for its owner only, and close one that is open to others, where the system has such modes.

    Raises BadRequest for a symbolic link that is not allowed.
    """
    if not may_be_link:
        require_no_link(folder)
    private.make_folder(folder)
    if os.name == "posix" and stat.S_IMODE(folder.stat().st_mode) & _OTHERS:
        with contextlib.suppress(PermissionError):  # it belongs to another account, which shares it on purpose
            folder.chmod(_PRIVATE_FOLDER)


def require_no_link(folder: Path) -> None:
    """Refuse a folder that is a link, or a junction on Windows. Raises BadRequest."""
    is_junction = getattr(os.path, "isjunction", lambda _: False)  # from Python 3.12
    if folder.is_symlink() or is_junction(folder):
        raise BadRequest(f"{folder} is a link, and links are not followed here; put a folder in its place")


def overwrite(path: Path, data: bytes) -> None:
    """Write a small file that may be torn, for its owner only and not through a link."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0) | _BINARY
    handle = os.open(path, flags, 0o600)
    try:
        private.write_all(handle, data)
    finally:
        os.close(handle)


def read_plain(path: Path) -> bytes | None:
    """Read a file; None if there is none. Raises BadRequest for a link or anything else that leads elsewhere."""
    try:
        handle = open_plain(path)
    except FileNotFoundError:
        return None
    with os.fdopen(handle, "rb") as file:
        return file.read()


def open_plain(path: Path) -> int:
    """Open a file to read, and return its descriptor. Raises BadRequest for a link, a pipe or a folder, OSError."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    except FileNotFoundError:
        raise
    except OSError:
        if path.is_symlink() or path.is_dir():
            raise _no_file(path) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode) or path.is_symlink():
        os.close(handle)
        raise _no_file(path)
    return handle


def _no_file(path: Path) -> BadRequest:
    return BadRequest(f"{path} is a link or no plain file, so it is not read; remove it", field="ptr")
