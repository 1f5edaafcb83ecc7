"""Contents in this process's memory, or, above a size, in temporary files of a folder; gone when the process ends.

A temporary file has no name, if the system allows that; otherwise the system deletes it. So it is gone even if the
process was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import mmap
import os
import tempfile
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple, Protocol, TypeVar

from clawlink.domain.file import Content
from clawlink.store.base import LostWrites

T = TypeVar("T")

# Arriving bytes are gathered to pieces of this size. Kept as it comes, a body sent byte by byte would take fifty times
# its size.
PIECE_BYTES = 256 * 1024
# Parts of this size stay as they came: copying them would cost more than it saves.
_KEPT_BYTES = 16 * 1024
# A content that has come to this size goes on in slabs of memory from the system.
_SLABS_FROM_BYTES = 2 * 1024 * 1024
_SLAB_BYTES = 4 * 1024 * 1024
_SPARE_SLABS = 8
SPOOL_ABOVE_BYTES = 1024 * 1024
# The bytes of a content beside its own, and of each of its pieces, measured.
_CONTENT_BYTES = 480
_PART_BYTES = 64


class LocalBlobs:
    """A ``Blobs`` of one process. With ``spool``, contents of more than ``spool_above`` bytes lie in that folder."""

    def __init__(self, spool: str | None = None, *, spool_above: int = SPOOL_ABOVE_BYTES) -> None:
        self._spool = spool
        self._spool_above = spool_above
        self._held: dict[str, _Held] = {}
        self.slabs = Slabs()
        self.used = 0
        self.spooled = 0  # the part of these on the disk

    @property
    def memory(self) -> int:
        """The approximate bytes of memory that they take, with partly filled and spare slabs."""
        return self.used - self.spooled + self.slabs.unused + _CONTENT_BYTES * len(self._held)

    def memory_for(self, size: int) -> int:
        """Return about how many bytes of memory a content of this size would take."""
        return _CONTENT_BYTES + (min(size, self._spool_above) if self.spools(size) else size)

    def trim(self) -> None:
        """Give back the spare slabs."""
        self.slabs.trim()

    keeps_drafts = False

    def draft(self, name: str | None = None) -> LocalDraft:
        """Return an empty draft."""
        return LocalDraft(self)

    async def resume(self, name: str, size: int) -> LocalDraft | None:
        """Return None: no draft survives."""
        return None

    def hold(self, content: Content) -> None:
        """Hold a content that is held already once more."""
        self._held[_name(content)].holds += 1

    def release(self, content: Content) -> None:
        """Let go of one hold."""
        name = _name(content)
        self._let_go(name, self._held[name])

    def freeing(self, contents: Iterable[Content]) -> Iterator[int]:
        """Yield for each of these the bytes that would be freed, if one hold of each were released in this order."""
        gone: Counter[str] = Counter()
        for content in contents:
            name = _name(content)
            gone[name] += 1
            held = self._held.get(name)
            yield 0 if held is None or held.holds != gone[name] else held.size

    @contextmanager
    def open(self, content: Content) -> Iterator[Body]:
        """Return a reader of the content. Raises KeyError if it has no hold."""
        name = _name(content)
        held = self._held[name]
        held.holds += 1
        try:
            yield held.body
        finally:
            self._let_go(name, held)

    def close(self) -> None:
        """Forget everything, also on the disk."""
        for held in self._held.values():
            held.body.close()
        self._held.clear()
        self.used = self.spooled = 0

    def _let_go(self, name: str, held: _Held) -> None:
        held.holds -= 1
        if not held.holds and self._held.get(name) is held:
            del self._held[name]
            self.used -= held.size
            self.let_go(held.body)

    def let_go(self, body: Body) -> None:
        """Forget a content without a hold."""
        self.spooled -= body.spooled
        body.close()

    # -- for drafts --------------------------------------------------------------------------------------------------

    def grow(self, size: int) -> None:
        """Count bytes that have come, or gone again."""
        self.used += size

    def accept(self, content: Content, body: Body) -> Content:
        """Take over a finished draft, or let it go if its content is here already."""
        name = _name(content)
        held = self._held.get(name)
        if held is None:
            held = self._held[name] = _Held(body, content.size)
        else:
            self.used -= content.size
            self.let_go(body)
        held.holds += 1
        return content

    def spools(self, size: int) -> bool:
        """Return True if a draft of this size goes on in a file."""
        return self._spool is not None and size > self._spool_above

    async def on_disk(self, body: InMemory) -> OnDisk:
        """Return a file with the bytes so far. Raises OSError."""
        spooled = await asyncio.to_thread(_on_disk, str(self._spool), body.parts())
        self.spooled += spooled.size
        body.close()
        return spooled


def _name(content: Content) -> str:
    """Return the name under which a content is held: equal bytes of one scope have one."""
    return content.digest if not content.scope else f"{content.digest} {content.scope}"


class Body(Protocol):
    """Where the bytes are."""

    size: int

    @property
    def spooled(self) -> int: ...
    async def append(self, data: bytes) -> None: ...
    async def read(self, start: int, size: int) -> bytes: ...
    def cut(self, size: int) -> None: ...
    def close(self) -> None: ...


class _Held:
    __slots__ = ("body", "holds", "size")

    def __init__(self, body: Body, size: int) -> None:
        self.body = body
        self.size = size
        self.holds = 0


class _Mark(NamedTuple):
    size: int
    hash: Any


class LocalDraft:
    """A ``Draft`` that gathers pieces before it puts them where they stay."""

    def __init__(self, blobs: LocalBlobs) -> None:
        self._blobs = blobs
        self._body: Body = InMemory(blobs.slabs)
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._hash = hashlib.sha256()
        self._over = False

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self._body.size + self._gathered_bytes

    @property
    def digest(self) -> str:
        """The SHA-256 of its bytes, in hexadecimal."""
        return self._hash.hexdigest()

    async def write(self, data: bytes) -> None:
        """Append bytes. Raises OSError if there is no room for them on the disk; the draft is then unchanged."""
        if len(data) < _KEPT_BYTES and self._gathered_bytes + len(data) < PIECE_BYTES:
            self._gathered.append(data)
            self._gathered_bytes += len(data)
            if len(self._gathered) >= 64:  # the list itself must not take more than its bytes
                self._gathered = [b"".join(self._gathered)]
            self._count(data)
        elif isinstance(self._body, InMemory) and not self._blobs.spools(self._body.size):
            if self._gathered:
                self._body.add(b"".join(self._gathered))
                self._gathered, self._gathered_bytes = [], 0
            self._body.add(data)
            self._count(data)
        else:
            await unbroken(self._write_to_disk(data))

    async def _write_to_disk(self, data: bytes) -> None:
        if isinstance(self._body, InMemory):
            self._body = await self._blobs.on_disk(self._body)
        before = self._body.spooled
        await self._body.append(b"".join((*self._gathered, data)))
        self._blobs.spooled += self._body.spooled - before
        self._gathered, self._gathered_bytes = [], 0
        self._count(data)

    def _count(self, data: bytes) -> None:
        self._hash.update(data)
        self._blobs.grow(len(data))

    def mark(self) -> _Mark:
        """Return a mark for ``back_to``."""
        return _Mark(self.size, self._hash.copy())

    def back_to(self, mark: _Mark) -> None:
        """Forget the bytes written since ``mark``, which can be used once."""
        self._blobs.grow(mark.size - self.size)
        self._hash = mark.hash
        if mark.size <= self._body.size:
            self._gathered, self._gathered_bytes = [], 0
            before = self._body.spooled
            self._body.cut(mark.size)
            self._blobs.spooled += self._body.spooled - before
        else:
            left = mark.size - self._body.size
            self._gathered, self._gathered_bytes = [b"".join(self._gathered)[:left]], left

    async def flush(self) -> None:
        """Put its bytes in their final place. Raises OSError if there is no room on the disk."""
        in_memory = isinstance(self._body, InMemory)
        if self._blobs.spools(self.size) if in_memory else self._gathered:
            await unbroken(self._write_to_disk(b""))

    def keep(self, scope: str = "") -> Content:
        """Make it a content of this scope, with one hold. It takes no more bytes."""
        if self._over:
            raise AssertionError("a draft is kept or discarded, and only once")
        self._over = True
        body: Body = self._body if not self._gathered else _Ending(self._body, b"".join(self._gathered))
        self._gathered = []  # they are the content's from here on; the size stays known
        return self._blobs.accept(Content(self._hash.hexdigest(), self.size, scope), body)

    def discard(self) -> None:
        """Forget it, unless it was kept."""
        if not self._over:
            self._over = True
            self._blobs.grow(-self.size)
            self._blobs.let_go(self._body)


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
        self._slabs.give_back(part)

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

    def give_back(self, part: bytes | mmap.mmap) -> None:
        """Take an unused slab back. Drop any other object."""
        if isinstance(part, mmap.mmap) and len(self._spare) < _SPARE_SLABS:
            self._spare.append(part)
            self.unused += _SLAB_BYTES

    def trim(self) -> None:
        """Give the spare ones back to the system."""
        self.unused -= _SLAB_BYTES * len(self._spare)
        self._spare.clear()


class _Ending:
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


def _on_disk(folder: str, parts: Iterator[bytes]) -> OnDisk:
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

    def write(self, data: bytes) -> None:
        """Append, all or nothing."""
        with self._lock:
            self._file.seek(self.size)
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
            self.size += len(data)

    def sync(self) -> None:
        """Put the written bytes on the disk. Raises LostWrites."""
        with self._lock:
            sync_file(self._file.fileno())

    def _read(self, start: int, size: int) -> bytes:
        with self._lock:
            self._file.seek(start)
            return self._file.read(min(size, max(self.size - start, 0)))

    def cut(self, size: int) -> None:
        with self._lock:
            self._file.truncate(size)
            self.size = size

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
