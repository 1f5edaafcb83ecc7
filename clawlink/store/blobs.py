"""Contents in this process's memory, or, above a size, in temporary files of a folder; gone when the process ends.

A temporary file has no name, if the system allows that; otherwise the system deletes it. So it is gone even if the
process was killed.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from clawlink.domain.file import Content
from clawlink.store.bodies import PIECE_BYTES, Body, Ending, InMemory, OnDisk, Slabs, on_disk, unbroken
from clawlink.store.contents import Held, Holds

# Parts of this size stay as they came: copying them would cost more than it saves.
_KEPT_BYTES = 16 * 1024
SPOOL_ABOVE_BYTES = 1024 * 1024
# The bytes of a content beside its own, measured.
_CONTENT_BYTES = 480


class _Held(Held):
    __slots__ = ("body",)

    def __init__(self, body: Body, size: int) -> None:
        super().__init__(size)
        self.body = body


class LocalBlobs(Holds[_Held]):
    """A ``Blobs`` of one process. With ``spool``, contents of more than ``spool_above`` bytes lie in that folder."""

    def __init__(self, spool: str | None = None, *, spool_above: int = SPOOL_ABOVE_BYTES) -> None:
        self._spool = spool
        self._spool_above = spool_above
        super().__init__()
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
        """Free the spare slabs."""
        self.slabs.trim()

    keeps_drafts = False

    def draft(self, name: str | None = None) -> LocalDraft:
        """Return an empty draft."""
        return LocalDraft(self)

    async def resume(self, name: str, size: int) -> LocalDraft | None:
        """Return None: no draft survives."""
        return None

    @contextmanager
    def open(self, content: Content) -> Iterator[Body]:
        """Return a reader of the content. Raises KeyError if it has no hold."""
        name = self.name_of(content)
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

    @staticmethod
    def name_of(content: Content) -> str:
        return content.digest if not content.scope else f"{content.digest} {content.scope}"

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

    def accept(self, content: Content, body: Body) -> Content:
        """Take over a finished draft, or let it go if its content is here already."""
        name = self.name_of(content)
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
        spooled = await asyncio.to_thread(on_disk, str(self._spool), body.parts())
        self.spooled += spooled.size
        body.close()
        return spooled


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
        self.size = 0
        """How many bytes it has."""

    @property
    def digest(self) -> str:
        """The SHA-256 of its bytes, in hexadecimal."""
        return self._hash.hexdigest()

    async def write(self, *pieces: bytes) -> None:
        """Append bytes. Raises OSError if there is no room for them on the disk; the draft is then unchanged."""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
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
        self.size += len(data)
        self._blobs.used += len(data)

    def mark(self) -> _Mark:
        """Return a mark for ``back_to``."""
        return _Mark(self.size, self._hash.copy())

    def back_to(self, mark: _Mark) -> None:
        """Forget the bytes written since ``mark``, which can be used once."""
        self._blobs.used += mark.size - self.size
        self.size = mark.size
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
        body: Body = self._body if not self._gathered else Ending(self._body, b"".join(self._gathered))
        self._gathered = []  # they are the content's from here on
        return self._blobs.accept(Content(self._hash.hexdigest(), self.size, scope), body)

    def discard(self) -> None:
        """Forget it, unless it was kept."""
        if not self._over:
            self._over = True
            self._blobs.used -= self.size
            self._blobs.let_go(self._body)
