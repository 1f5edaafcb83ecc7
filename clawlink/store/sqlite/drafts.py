"""A content on its way into the data folder: pieces that are gathered, and then a file."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from clawlink.domain.file import Content
from clawlink.store.bodies import PIECE_BYTES, OnDisk, unbroken
from clawlink.store.contents import LostWrites

_log = logging.getLogger("clawlink.store")


class Keeper(Protocol):
    """The keeper of finished drafts."""

    def grow(self, size: int) -> None:
        """Count bytes that have come, or gone again."""

    def require_room(self) -> None:
        """Refuse more bytes while the reserve of the disk is in use. Raises OSError."""

    def opened(self, draft: FolderDraft, *, is_open: bool) -> None:
        """Note whether a draft has an open file."""

    def accept(self, content: Content, path: Path) -> Content:
        """Take over the file of a finished draft. Raises OSError."""


class _Mark(NamedTuple):
    size: int
    hash: Any


class FolderDraft:
    """A ``Draft`` that gathers pieces before it writes them to its file."""

    def __init__(self, blobs: Keeper, path: Path) -> None:
        self._blobs = blobs
        self._path = path
        self._body: OnDisk | None = None
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._hash = hashlib.sha256()
        self._synced = False
        self._lost: LostWrites | None = None
        self._over = False
        self.size = 0

    @property
    def digest(self) -> str:
        """The SHA-256 of its bytes, in hexadecimal."""
        return self._hash.hexdigest()

    async def write(self, *pieces: bytes) -> None:
        """Append bytes. Raises OSError if there is no room for them on the disk; the draft is then unchanged."""
        self._require_intact()
        size = sum(map(len, pieces))
        if self._gathered_bytes + size < PIECE_BYTES:
            self._gathered += pieces
            self._gathered_bytes += size
            for piece in pieces:
                self._hash.update(piece)
            if len(self._gathered) >= 64:  # the list itself must not take more than its bytes
                self._gathered = [b"".join(self._gathered)]
            self._count(size)
        else:
            await unbroken(self._write_to_disk(pieces, size))

    async def _write_to_disk(self, pieces: tuple[bytes, ...], size: int) -> None:
        await asyncio.to_thread(self._spill, pieces)
        self._count(size)

    def _count(self, size: int) -> None:
        self._synced = False
        self.size += size
        self._blobs.grow(size)

    def _require_intact(self) -> None:
        if self._lost is not None:
            raise LostWrites(self._lost.errno, self._lost.strerror)

    def _spill(self, pieces: tuple[bytes, ...] = ()) -> None:
        """Write the gathered bytes to the file, then more, which are hashed here: large ones would hold the loop."""
        self._require_intact()
        self._blobs.require_room()
        if self._body is None:
            self._body = OnDisk(_new_file(self._path))
            self._blobs.opened(self, is_open=True)
        if self._gathered:
            self._body.write(b"".join(self._gathered))
            self._gathered, self._gathered_bytes = [], 0
        if pieces:
            hash = self._hash.copy()
            self._body.write(*pieces, sum=hash)
            self._hash = hash
            self._body.begin_sync()

    def mark(self) -> _Mark:
        """Return a mark for ``back_to``."""
        return _Mark(self.size, self._hash.copy())

    def back_to(self, mark: _Mark) -> None:
        """Forget the bytes written since ``mark``, which can be used once."""
        self._blobs.grow(mark.size - self.size)
        self._hash, self.size, self._synced = mark.hash, mark.size, False
        written = 0 if self._body is None else self._body.size
        left = max(mark.size - written, 0)
        self._gathered, self._gathered_bytes = [b"".join(self._gathered)[:left]], left
        if self._body is not None and mark.size < written:
            self._body.cut(mark.size)

    async def flush(self) -> None:
        """Put its bytes on the disk. Raises OSError if there is no room, LostWrites."""
        if not self._synced:
            await unbroken(asyncio.to_thread(self._sync))

    def _sync(self) -> None:
        self._spill()
        if self._body is not None:
            try:
                self._body.sync()
            except LostWrites as error:  # the bytes are not here any more: only their sender has them
                self._lost = error
                _log.error("the disk lost bytes of a content", extra={"reason": str(error)})
                raise
        self._synced = True

    def resume(self, size: int) -> bool:
        """Take its file as an earlier process left it, cut to ``size``. Return False if that is not there."""
        try:
            file = open(self._path, "r+b", buffering=0)  # noqa: SIM115 - it stays open
        except FileNotFoundError:
            return False
        there = 0
        while there < size and (piece := file.read(min(PIECE_BYTES, size - there))):
            self._hash.update(piece)
            there += len(piece)
        self._body = OnDisk(file, size=there)
        if there < size:
            self._body.close()
            remove(self._path)
            return False
        self._body.cut(size)
        self._blobs.opened(self, is_open=True)
        self.size = size
        self._blobs.grow(size)
        return True

    def rest(self) -> None:
        """Close its file, which stays."""
        if self._body is not None:
            self._body.close()
        self._blobs.opened(self, is_open=False)

    def keep(self, scope: str = "") -> Content:
        """Make it a content of this scope, with one hold. It takes no more bytes. Raises OSError; it stays then."""
        if self._over:
            raise AssertionError("a draft is kept or discarded, and only once")
        if not self._synced:
            self._sync()
        self.rest()  # Windows renames no open file
        content = self._blobs.accept(Content(self._hash.hexdigest(), self.size, scope), self._path)
        self._over = True
        return content

    def discard(self) -> None:
        """Forget it, unless it was kept."""
        if not self._over:
            self._over = True
            self._blobs.grow(-self.size)
            if self._body is not None:
                self.rest()
                remove(self._path)


def _new_file(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0), 0o600), "r+b", 0)


def remove(path: Path) -> None:
    """Remove a file. If that fails, it goes when the folder is opened next."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
