"""Room on the disk: which failures mean that there is none, and a reserve for work that makes room again."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

from clawlink.store.bodies import sync_file
from clawlink.store.contents import LostWrites

RESERVE = "reserve"
RESERVE_BYTES = 16 * 1024 * 1024
# No room, none left of a quota, and a file that may not grow.
NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_NOT_SUPPORTED = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}
PROBE = "probe"
# A disk without room for these bytes is full.
_PROBE_BYTES = 64 * 1024
_PIECE_BYTES = 1024 * 1024
# How often a reserve that was used is looked after.
_AGAIN_SECONDS = 0.5
# The primary codes of SQLite, and its extended codes of a failed fsync.
_FULL, _IOERR = 13, 10
_FSYNC, _DIR_FSYNC = _IOERR | 4 << 8, _IOERR | 5 << 8


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk. Windows does so by itself. Raises OSError, LostWrites."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        sync_file(handle)
    finally:
        os.close(handle)


def is_full(error: Exception) -> bool:
    """Return True if the failure itself says that there was no room."""
    if isinstance(error, OSError):
        return error.errno in NO_ROOM and not isinstance(error, LostWrites)
    code = getattr(error, "sqlite_errorcode", None)
    return "disk is full" in str(error) if code is None else code & 0xFF == _FULL


def is_io_error(error: sqlite3.Error) -> bool:
    """Return True if the disk failed, or had no room: see ``Room.is_full``."""
    code = getattr(error, "sqlite_errorcode", None)
    return "disk I/O error" in str(error) if code is None else code & 0xFF == _IOERR


def note_code(db: sqlite3.Connection, error: Exception) -> None:
    """Note SQLite's code in its last error, before the connection does anything else. Python 3.10 leaves it out."""
    if sys.version_info >= (3, 11) or not isinstance(error, sqlite3.Error) or os.name != "posix":
        return
    if sys.implementation.name != "cpython" or hasattr(error, "sqlite_errorcode"):
        return
    import _sqlite3
    import ctypes  # only for an error

    with contextlib.suppress(AttributeError, OSError):  # it is built in without its library: the code stays unknown
        ask = ctypes.CDLL(_sqlite3.__file__).sqlite3_extended_errcode
        ask.argtypes, ask.restype = (ctypes.c_void_p,), ctypes.c_int
        # A connection of Python 3.10 is the head of an object, and then the handle of SQLite.
        handle = ctypes.c_void_p.from_address(id(db) + object.__basicsize__)
        if code := ask(handle):
            vars(error)["sqlite_errorcode"] = code


class Room:
    """The room below a folder. A file of ``reserve`` bytes keeps some of it free."""

    def __init__(self, folder: Path, *, reserve: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._file = folder / RESERVE
        self._bytes = reserve
        self._clock = clock
        self._looked_at = 0.0
        self.low = False
        """True while the reserve is in use. Then only work that makes room may go on."""

    def is_full(self, error: Exception) -> bool:
        """Return True if a failure comes from a disk without room.

        SQLite calls a quota that is used up, and a file that may not grow, an error of the disk. So the disk is asked.
        A failed fsync is never that: nobody knows what is on the disk. Without a code it is not told from the others.
        """
        if is_full(error):
            return True
        code = getattr(error, "sqlite_errorcode", None)
        if not isinstance(error, sqlite3.Error) or code is None or code & 0xFF != _IOERR:
            return False
        return code not in (_FSYNC, _DIR_FSYNC) and self.refuses()

    def refuses(self) -> bool:
        """Return True if the disk has no room for a few pages more, or no file may be as large as the largest here."""
        probe = self._folder / PROBE
        try:
            largest = max((entry.stat().st_size for entry in os.scandir(self._folder) if entry.is_file()), default=0)
            handle = os.open(probe, os.O_CREAT | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o600)
            try:
                if os.name == "posix":  # Windows would write all the bytes before
                    os.lseek(handle, largest, os.SEEK_SET)
                _write(handle, _PROBE_BYTES)
            finally:
                os.close(handle)
        except OSError as error:
            return error.errno in NO_ROOM
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()
        return False

    def keep(self) -> bool:
        """Have the reserve again if there is room for it. Return True if it is there."""
        now = self._clock()
        if self.low and now - self._looked_at < _AGAIN_SECONDS:
            return False
        self._looked_at = now
        try:
            self._fill()
            self.low = False
        except OSError:
            self.spend()
        return not self.low

    def make_way(self) -> None:
        """Give the reserve away if the disk is full: without a few pages not even the log can be read."""
        if self._file.exists() and self.refuses():
            self.spend()

    def spend(self) -> bool:
        """Give the reserve to work that makes room. Return False if there is none."""
        if not self._bytes:
            return False
        was_low, self.low = self.low, True
        self._looked_at = self._clock()
        try:
            os.truncate(self._file, 0)
        except OSError:
            return False
        return not was_low

    def _fill(self) -> None:
        if not self._bytes:
            return
        with contextlib.suppress(FileNotFoundError):
            if self._file.stat().st_size == self._bytes:
                return
        handle = os.open(self._file, os.O_CREAT | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                try:
                    os.posix_fallocate(handle, 0, self._bytes)
                    return
                except OSError as error:
                    if error.errno not in _NOT_SUPPORTED:
                        raise
            os.ftruncate(handle, 0)
            _write(handle, self._bytes)
        finally:
            os.close(handle)


def _write(handle: int, size: int) -> None:
    """Write bytes that no disk can make shorter."""
    while size > 0:
        size -= os.write(handle, os.urandom(min(size, _PIECE_BYTES)))
