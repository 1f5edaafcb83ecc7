"""Where the bytes of contents are: pieces and slabs of memory, or files."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import tempfile
import threading
from bisect import bisect_right
from collections.abc import Coroutine, Iterator
from typing import IO, Any, Protocol, TypeVar

from clawlink.store.contents import LostWrites

T = TypeVar("T")

# Arriving bytes are gathered to pieces of this size. Kept as it comes, a body sent byte by byte would take fifty times
# its size.
PIECE_BYTES = 256 * 1024
# A content that has come to this size goes on in slabs of memory from the system.
_SLABS_FROM_BYTES = 2 * 1024 * 1024
_SLAB_BYTES = 4 * 1024 * 1024
_SPARE_SLABS = 8
# The bytes of each piece of a content beside its own, measured.
_PART_BYTES = 64
# The system is told to write to the disk each time that a file has grown by this much.
_BEGIN_SYNC_BYTES = 1024 * 1024


class Body(Protocol):
    """Where the bytes are."""

    size: int

    @property
    def spooled(self) -> int: ...
    async def append(self, data: bytes) -> None: ...
    async def read(self, start: int, size: int) -> bytes: ...
    def cut(self, size: int) -> None: ...
    def close(self) -> None: ...


class InMemory:
    """Pieces in memory. The start of each is known, its end is the start of the next."""

    __slots__ = ("_memory", "_parts", "_slabs", "_starts", "_unused", "size")

    spooled = 0

    def __init__(self, slabs: Slabs) -> None:
        self._slabs = slabs
        self._parts: list[bytes | mmap.mmap] = []
        self._starts: list[int] = []
        self._memory = 0
        self._unused = 0
        self.size = 0

    def add(self, data: bytes) -> None:
        """Append."""
        if self.size < _SLABS_FROM_BYTES:
            self._begin(data)
            self.size += len(data)
        else:
            self._add_to_slabs(data)
        self._count()

    def _add_to_slabs(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            slab = self._parts[-1]
            used = self.size - self._starts[-1]
            if not isinstance(slab, mmap.mmap) or used == _SLAB_BYTES:
                slab, used = self._slabs.take(), 0
                self._begin(slab)
            size = min(len(view), _SLAB_BYTES - used)
            slab[used : used + size] = view[:size]
            self.size += size
            view = view[size:]

    def _begin(self, part: bytes | mmap.mmap) -> None:
        self._parts.append(part)
        self._starts.append(self.size)
        self._memory += _PART_BYTES + len(part)

    def _end(self) -> None:
        part = self._parts.pop()
        self._starts.pop()
        self._memory -= _PART_BYTES + len(part)
        self._slabs.put_back(part)

    def _count(self) -> None:
        """Tell the slabs how much of the memory of all parts has no bytes of the content."""
        unused = self._memory - self.size
        self._slabs.unused += unused - self._unused
        self._unused = unused

    def parts(self) -> Iterator[bytes]:
        """Give all of it."""
        for at, start in enumerate(self._starts):
            yield self._piece(at, start, self.size)

    async def append(self, data: bytes) -> None:
        self.add(data)

    async def read(self, start: int, size: int) -> bytes:
        at = bisect_right(self._starts, start) - 1
        return self._piece(at, start, start + size) if start < self.size else b""

    def _piece(self, at: int, start: int, end: int) -> bytes:
        """Return the bytes of a part between two positions."""
        part, begin = self._parts[at], self._starts[at]
        end = min(end, self._starts[at + 1] if at + 1 < len(self._starts) else self.size)
        return part if len(part) == end - start and isinstance(part, bytes) else part[start - begin : end - begin]

    def cut(self, size: int) -> None:
        while self._starts and self._starts[-1] >= size:
            self._end()
        self.size = size
        self._count()

    def close(self) -> None:
        while self._parts:
            self._end()
        self._slabs.unused -= self._unused
        self._unused = 0


class Slabs:
    """Memory from the system, in large pages where it has them, which come twenty times as fast as small ones.

    A few are kept for the next use, because the system clears each new one. ``unused`` is the memory in bytes beside
    the contents: the free room of slabs, the spare slabs, and the overhead of pieces.
    """

    def __init__(self) -> None:
        self._spare: list[mmap.mmap] = []
        self.unused = 0

    def take(self) -> mmap.mmap:
        """Return one, with anything in it."""
        if self._spare:
            self.unused -= _SLAB_BYTES
            return self._spare.pop()
        if not hasattr(mmap, "MAP_PRIVATE"):
            return mmap.mmap(-1, _SLAB_BYTES)
        slab = mmap.mmap(-1, _SLAB_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):
                slab.madvise(mmap.MADV_HUGEPAGE)
        return slab

    def put_back(self, part: bytes | mmap.mmap) -> None:
        """Keep an unused slab as a spare one. Drop any other object."""
        if isinstance(part, mmap.mmap) and len(self._spare) < _SPARE_SLABS:
            self._spare.append(part)
            self.unused += _SLAB_BYTES

    def trim(self) -> None:
        """Give the spare ones back to the system."""
        self.unused -= _SLAB_BYTES * len(self._spare)
        self._spare.clear()


class Ending:
    """A body and the last bytes, which have not come to a piece."""

    def __init__(self, body: Body, ending: bytes) -> None:
        self._body = body
        self._ending = ending
        self.size = body.size + len(ending)

    @property
    def spooled(self) -> int:
        return self._body.spooled

    async def append(self, data: bytes) -> None:
        raise AssertionError("a finished content takes no more")

    async def read(self, start: int, size: int) -> bytes:
        if start < self._body.size:
            return await self._body.read(start, size)
        offset = start - self._body.size
        return self._ending[offset : offset + size]

    def cut(self, size: int) -> None:
        raise AssertionError("a finished content stays as it is")

    def close(self) -> None:
        self._body.close()


async def unbroken(work: Coroutine[Any, Any, T]) -> T:
    """Run the call to its end, also when cancelled.

    A thread cannot be cancelled, and would write into an abandoned draft.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        task.exception()
        raise


def on_disk(folder: str, parts: Iterator[bytes]) -> OnDisk:
    """Return a temporary file of a folder with these bytes. Raises OSError."""
    body = OnDisk(tempfile.TemporaryFile(dir=folder, prefix="clawlink-", buffering=0))  # noqa: SIM115 - it stays open
    try:
        for part in parts:
            body.write(part)
    except BaseException:
        body.close()
        raise
    return body


class OnDisk:
    """A file. Reading and writing it takes a thread, since a disk may make one wait."""

    def __init__(self, file: IO[bytes], *, size: int = 0) -> None:
        self._file = file
        self._lock = threading.Lock()  # a position is of the file, not of the reader
        self._begun = size
        """The bytes that the system was told to write to the disk."""
        self.size = size

    @property
    def spooled(self) -> int:
        return self.size

    async def append(self, data: bytes) -> None:
        await asyncio.to_thread(self.write, data)

    async def read(self, start: int, size: int) -> bytes:
        return await asyncio.to_thread(self._read, start, min(size, PIECE_BYTES))

    def fileno(self) -> int:
        """Return the handle of the file."""
        return self._file.fileno()

    def write(self, *pieces: bytes, sum: Any = None) -> None:
        """Append, all or nothing. ``sum`` takes each piece first: the cache of the processor then has it."""
        with self._lock:
            self._file.seek(self.size)
            size = 0
            for piece in pieces:
                if sum is not None:
                    sum.update(piece)
                view = memoryview(piece)
                while view:
                    view = view[self._file.write(view) :]
                size += len(piece)
            self.size += size

    def begin_sync(self) -> None:
        """Have the system write new bytes to the disk now, and do not wait. Linux keeps them for seconds otherwise.

        The next ``sync`` then has less to wait for.
        """
        with self._lock:
            grown = self.size - self._begun
            if grown >= _BEGIN_SYNC_BYTES and hasattr(os, "posix_fadvise"):
                with contextlib.suppress(OSError):
                    os.posix_fadvise(self._file.fileno(), self._begun, grown, os.POSIX_FADV_DONTNEED)
                self._begun = self.size

    def sync(self) -> None:
        """Put the written bytes on the disk. Raises LostWrites."""
        with self._lock:
            sync_file(self._file.fileno())
            self._begun = self.size

    def _read(self, start: int, size: int) -> bytes:
        with self._lock:
            self._file.seek(start)
            return self._file.read(min(size, max(self.size - start, 0)))

    def cut(self, size: int) -> None:
        with self._lock:
            self._file.truncate(size)
            self.size = size
            self._begun = min(self._begun, size)

    def close(self) -> None:
        with self._lock:
            self._file.close()


def sync_file(handle: int) -> None:
    """Put the bytes of an open file, or the names in an open folder, on the disk. Raises LostWrites."""
    try:
        os.fsync(handle)
    except OSError as error:
        raise LostWrites(error.errno, error.strerror) from error


def require_folder(path: str) -> None:
    """Make the folder for temporary files, and write and delete one. Raises OSError if that cannot be done."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    with tempfile.TemporaryFile(dir=path, prefix="clawlink-") as file:
        file.write(b"x")
