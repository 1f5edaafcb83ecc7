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


def make_private(folder: Path, *, may_be_link: bool = False) -> None:
    """Make a folder for its owner only, and close one that is open to others, where the system has such modes.

    Raises BadRequest for a symbolic link that is not allowed.
    """
    if not may_be_link:
        require_no_link(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=_PRIVATE_FOLDER)
    if os.name == "posix" and stat.S_IMODE(folder.stat().st_mode) & _OTHERS:
        with contextlib.suppress(PermissionError):  # it belongs to another account, which shares it on purpose
            folder.chmod(_PRIVATE_FOLDER)


def require_no_link(folder: Path) -> None:
    """Refuse a folder that is a link, or a junction on Windows. Raises BadRequest."""
    is_junction = getattr(os.path, "isjunction", lambda _: False)  # from Python 3.12
    if folder.is_symlink() or is_junction(folder):
        raise BadRequest(f"{folder} is a link, and links are not followed here; put a folder in its place")


class Written:
    """A file that is on the disk for its owner only, and not in its place yet. Left alone, it is removed.

    So a crash at any moment leaves the old file or the new one, and a lack of room shows before anything changes.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        self._path = path
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:32]}.", suffix=TEMPORARY)
        self._temporary: str | None = temporary
        try:
            try:
                write_all(handle, data)
                os.fsync(handle)
            finally:
                os.close(handle)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Written:
        return self

    def __exit__(self, *_: object) -> None:
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)

    @property
    def in_place(self) -> bool:
        """Tell whether it is where it belongs."""
        return self._temporary is None

    def put(self) -> None:
        """Put it in its place."""
        if self._temporary is not None:
            _replace(self._temporary, self._path)
            self._temporary = None
            _sync_folder(self._path.parent)


def overwrite(path: Path, data: bytes) -> None:
    """Write a small file that may be torn, for its owner only and not through a link."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0) | _BINARY
    handle = os.open(path, flags, 0o600)
    try:
        write_all(handle, data)
    finally:
        os.close(handle)


def write_all(handle: int, data: bytes) -> None:
    """Write all of it."""
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


def _replace(temporary: str, path: Path) -> None:
    """Put a file in the place of another.

    Windows refuses this while a process reads the file, so it is tried for a while.
    """
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
