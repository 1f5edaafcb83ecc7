"""Where bytes come from and go to on this machine: whole or not at all, and never anywhere but the place asked for.

All of it blocks; in an event loop it is done in a thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, NamedTuple, Protocol, runtime_checkable

from clawlink.client.files.whole import flush_all, read_some, write_all
from clawlink.errors import BadRequest, TooLarge
from clawlink.private import replace, sync_folder

if sys.platform != "win32":
    import fcntl

_CHUNK_BYTES = 1024 * 1024
# A part without a write for this many seconds is the leftover of a killed process.
_STALE_SECONDS = 24 * 3600.0
_SHA256 = re.compile("[0-9a-f]{64}")
# The digits of a content's SHA-256 in the name of its part.
_DIGITS = 12
_NO_LIMITS: Mapping[str, int] = {}
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class Held(NamedTuple):
    """The bytes that are there already: how many, and their digest."""

    size: int
    digest: hashlib._Hash


@runtime_checkable
class Sink(Protocol):
    """The target of a download."""

    def write(self, data: bytes) -> object:
        """Take the next bytes."""

    def restart(self) -> bool:
        """Forget the written bytes; return False if that is impossible."""

    def keep(self) -> None:
        """Make the written bytes the result."""

    def drop(self) -> None:
        """Leave nothing behind, unless it was kept."""


class AtomicFile:
    """A file that is written beside its place. ``keep`` puts it there whole.

    A link's target is written, not the link. A path that is no plain file, such as a device or a pipe, is written
    directly. Errors name the path that the caller gave. ``resume`` goes on with what a killed process has left.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._asked = os.fspath(path)
        self.path = os.path.realpath(path)
        self._temporary: str | None = None
        self._file: IO[bytes] | None = None
        self._locked = False
        self._plain = not os.path.exists(self.path) or os.path.isfile(self.path)
        if os.path.isdir(self.path):
            raise IsADirectoryError(21, "that is a folder; name the file to write in it", os.fspath(path))

    def write(self, data: bytes) -> None:
        """Write the next bytes."""
        with naming(self._asked):
            write_all(self._open(), data)

    def resume(self, sha256: str, size: int) -> Held:
        """Go on with the part of this content that a killed process has left, and return what it holds.

        The part is locked while it is written. Without locks, or while another process has it, it begins again. The
        caller compares the SHA-256 of the whole: a part may have lost bytes with the power of its machine.
        """
        held = Held(0, hashlib.sha256())
        if not self._plain or self._file is not None or _SHA256.fullmatch(sha256) is None:
            return held
        with naming(self._asked):
            folder, beside = self._beside()
            self._lock(os.path.join(folder, f"{beside}.{sha256[:_DIGITS]}.part"))
            if self._file is None:
                return held
            if os.fstat(self._file.fileno()).st_size > size:
                self._file.truncate(0)
            done = 0
            while piece := self._file.read(_CHUNK_BYTES):
                held.digest.update(piece)
                done += len(piece)
            return held._replace(size=done)

    def _lock(self, path: str) -> None:
        """Open a part by its name and lock it, if it is this account's own and no other process has it."""
        if sys.platform == "win32":
            return
        try:
            number = os.open(path, os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o666)
        except OSError:  # a part under a random name may still be made, or says why not
            return
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            own = os.fstat(number)
            alone = stat.S_ISREG(own.st_mode) and own.st_nlink == 1 and own.st_uid == os.geteuid()
            # Another process may have put the file in its place, or removed it, before the lock.
            free = alone and os.path.samestat(own, os.stat(path, follow_symlinks=False))
        except BlockingIOError:  # another process has it
            free = False
        except OSError:  # a file system without locks: no part has this name there
            free = False
            if not os.fstat(number).st_size:
                with contextlib.suppress(OSError):
                    os.unlink(path)
        if not free:
            os.close(number)
            return
        self._temporary, self._locked = path, True
        self._file = os.fdopen(number, "r+b")

    def restart(self) -> bool:
        """Begin again. A path that is no plain file cannot take its bytes back."""
        if not self._plain:
            return False
        with naming(self._asked):
            file = self._open()
            file.seek(0)
            file.truncate()
        return True

    def keep(self) -> None:
        """Put it in its place, once it is on the disk."""
        with naming(self._asked):
            self._keep()

    def _keep(self) -> None:
        file = self._open()
        file.flush()
        if self._temporary is None:
            self.drop()
            return
        os.fsync(file.fileno())
        if not self._locked:
            file.close()
        with contextlib.suppress(OSError):  # an existing file keeps its mode
            os.chmod(self._temporary, stat.S_IMODE(os.stat(self.path).st_mode))
        replace(self._temporary, self.path)
        file.close()  # the lock ends once no part has that name
        self._temporary = self._file = None
        with contextlib.suppress(OSError):  # it is in its place, and no failure any more
            sync_folder(os.path.dirname(self.path))

    def drop(self) -> None:
        """Close the file, and remove it unless it is in its place."""
        if self._file is not None and not self._locked:  # Windows removes no open file
            with contextlib.suppress(OSError):
                self._file.close()
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._temporary = self._file = None

    def _beside(self) -> tuple[str, str]:
        """Return the folder of parts and the beginning of their names, without parts that are old."""
        folder, name = os.path.split(self.path)
        beside = f".{name[:100]}"
        sweep(folder, beside)
        return folder, beside

    def _open(self) -> IO[bytes]:
        if self._file is None:
            if self._plain:
                folder, beside = self._beside()
                temporary = os.path.join(folder, part_of(beside))
                self._temporary = temporary  # first: an interrupt may come as soon as the file is there
                made = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o666)
                self._file = os.fdopen(made, "wb")
            else:
                self._file = open(self.path, "wb")  # noqa: SIM115 - it is closed by keep and drop
        return self._file


def part_of(name: str) -> str:
    """Return the name of a part while it is written."""
    return f"{name}.{secrets.token_hex(6)}.part"


def sweep(folder: str, name: str) -> None:
    """Remove parts of the same target that killed processes left a day ago or more."""
    ours = re.compile(rf"{re.escape(name)}\.[0-9a-f]{{12}}\.part")
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if ours.fullmatch(entry.name) is None:
                continue
            with contextlib.suppress(OSError):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime < _STALE_SECONDS:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Let the system's errors name the path that the caller gave, not the part."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, path) from error


class Flow:
    """A file object that is written directly; it cannot always take its bytes back."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._began = file.tell() if _seekable(file) else None

    def write(self, data: bytes) -> None:
        """Write the next bytes."""
        write_all(self._file, data)

    def restart(self) -> bool:
        """Begin again where it began, if the object can."""
        if self._began is None:
            return False
        self._file.seek(self._began)
        self._file.truncate()
        return True

    def keep(self) -> None:
        """Flush buffers. The object stays open, because it belongs to the caller."""
        flush_all(self._file)

    def drop(self) -> None:
        """Do nothing, because the bytes belong to the caller."""


class Measure(NamedTuple):
    """How much there is to read, and its SHA-256."""

    size: int
    sha256: str


class Source:
    """Bytes to send: a file, a folder (as a tar), or a file object that is open for reading bytes.

    A source that can be read twice can be measured first, and read again from any offset. ``name`` is its name here,
    and ``content_type`` its media type, if known.
    """

    def __init__(self, given: Any) -> None:
        self.own = isinstance(given, str | os.PathLike)
        self.name: str | None = None
        self._file: Any = given
        if self.own:
            self.name = os.path.basename(os.path.abspath(given))
            self._file = _opened(given)
        self.content_type: str | None = getattr(self._file, "content_type", None)
        if self.content_type is not None and self.name is not None:
            self.name += ".tar"
        if not callable(getattr(self._file, "read", None)):
            raise BadRequest("give the path of a file, or a file object that is open for reading bytes", field="source")
        self.again = _seekable(self._file)
        self._began = self._file.tell() if self.again else 0

    def read(self, size: int) -> bytes:
        """Read this many bytes; fewer only at the end."""
        pieces = []
        while size > 0:
            piece = read_some(self._file, size)
            if isinstance(piece, str):
                raise BadRequest("the source gives text; open it for reading bytes", field="source")
            if not piece:
                break
            pieces.append(bytes(piece))
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    @property
    def size(self) -> int | None:
        """How many bytes there are, where that is known without reading them. It is read from its beginning next."""
        if not self.again or self.content_type is not None:  # a folder is known only once it is packed
            return None
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(self._began)
        return size - self._began if isinstance(size, int) else None

    def measure(
        self, moved: Callable[[int], object] = lambda read: None, *, limits: Mapping[str, int] = _NO_LIMITS
    ) -> Measure:
        """Read all of it, and return its size in bytes. The next read starts at the beginning.

        Raises TooLarge as soon as it exceeds one of the ``limits``, in bytes by the flags of a relay.
        """
        digest = hashlib.sha256()
        size = 0
        self.seek(0)
        while piece := read_some(self._file, _CHUNK_BYTES):
            digest.update(piece)
            size += len(piece)
            if any(size > limit for limit in limits.values()):
                raise too_large(size, limits)
            moved(size)
        self.seek(0)
        return Measure(size, digest.hexdigest())

    def seek(self, offset: int) -> None:
        """Go on from there, counted from where it began."""
        self._file.seek(self._began + offset)

    def kept(self) -> Source:
        """Return a source of the same bytes that can be read again; this one is over."""
        copy = Source(tempfile.TemporaryFile())  # noqa: SIM115 - it is closed with the source
        copy.own, copy.name, copy.content_type = True, self.name, self.content_type
        try:
            while piece := read_some(self._file, _CHUNK_BYTES):
                write_all(copy._file, piece)
        finally:
            self.close()
        return copy

    def close(self) -> None:
        """Close the file if it was opened here."""
        if self.own:
            self._file.close()


def too_large(size: int, limits: Mapping[str, int]) -> TooLarge:
    """Return the error for a file that exceeds one of the ``limits`` of the relay, in bytes by their flags."""
    most = min(limits.values())
    flags = " and ".join(flag for flag, limit in limits.items() if limit < size)
    return TooLarge(
        f"a file may have {most} bytes at this relay, and this one has {size} or more; "
        f"share it in parts, or start the relay with a higher {flags}",
        limit=most,
        actual=size,
    )


def _opened(path: str | os.PathLike[str]) -> Any:
    """Open a file or a folder. A path without an end, or one that blocks its reader, is refused before it is opened."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        from clawlink.client.files.folders import Packed

        return Packed(path)
    if not stat.S_ISREG(mode):
        what = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise BadRequest(
            f"{os.fspath(path)!r} is {what}, and no file or folder; what it gives can be sent as standard input or as "
            "an open file object",
            field="source",
        )
    return open(path, "rb")


def _seekable(file: Any) -> bool:
    seekable = getattr(file, "seekable", None)
    try:
        return bool(seekable is not None and seekable() and file.tell() >= 0)
    except OSError:
        return False
