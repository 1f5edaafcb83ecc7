"""Contents of files that several relays share: small ones on the server, larger ones in a folder of all relays.

A content is kept under its SHA-256 and never changes. Nobody counts its holders: it goes some time after the last file
that names it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from clawlink import private
from clawlink.domain.file import PRESENT, RESTRICTED, Content, SharedFile
from clawlink.store.base import Failed, Full
from clawlink.store.blobs import LocalBlobs
from clawlink.store.contents import Reader
from clawlink.store.valkey.scripts import FORGET_CONTENT, KEEP_CONTENT
from clawlink.store.valkey.server import StoreError
from clawlink.store.valkey.store import ValkeyStore
from clawlink.store.valkey.wire import Wire

ON_SERVER_BYTES = 1024 * 1024
"""Larger contents lie in the folder."""

# A content is kept this long after it came last, for the record that will name it; and this long without a name, for
# those that read it.
_FRESH_SECONDS = 3600.0
_UNNAMED_SECONDS = 600.0
_PIECE_BYTES = 1024 * 1024
_WAIT_SECONDS = 0.05
_TRIES = 200
_PAGE = 500
# The file by which relays know that they have the same folder.
_MARK = "mesh"
_NO_FOLDER = "other relays of this mesh have --blobs; this one can neither read nor take files over 1 MiB without it"


class SharedBlobs:
    """A ``Blobs`` of several relays. ``folder`` is None if no content may be too large for the server."""

    keeps_drafts = False
    memory = 0

    def __init__(self, wire: Wire, store: ValkeyStore, folder: Path | None) -> None:
        self._wire = wire
        self._store = store
        self.folder = folder
        self._drafts = LocalBlobs()
        self._named = 0  # bytes of contents that files name, as last read
        self._since = 0  # bytes that came here since, less those that went
        self._unnamed: dict[str, float] = {}  # since when no file names a content

    @property
    def used(self) -> int:
        return self._drafts.used + max(self._named + self._since, 0)

    def memory_for(self, size: int) -> int:
        return 0

    def trim(self) -> None:
        self._drafts.trim()

    def draft(self, name: str | None = None) -> SharedDraft:
        return SharedDraft(self, self._drafts)

    async def resume(self, name: str, size: int) -> None:
        return None

    def hold(self, content: Content) -> None:
        """Count a content once more: the record that names it holds it."""
        self._since += content.size

    def release(self, content: Content) -> None:
        """Count a content no more: it goes some time after the last record that names it."""
        self._since -= content.size

    def freeing(self, contents: Iterable[Content]) -> Iterator[int]:
        for content in contents:
            yield content.size

    @contextmanager
    def open(self, content: Content) -> Iterator[SharedReader]:
        reader = SharedReader(self, content)
        try:
            yield reader
        finally:
            reader.close()

    def close(self) -> None:
        self._drafts.close()

    # -- the folder --------------------------------------------------------------------------------------------------

    async def join(self, mark: str) -> str | None:
        """Compare the folder's mark with that of the mesh. The first relay with a folder writes it.

        Return a sentence if only other relays have a folder. Raises StoreError, Failed.
        """
        meta = f"{self._store.base}:meta"
        first = await self._wire.call("HGET", meta, "folder") is None
        if self.folder is None:
            return None if first else _NO_FOLDER
        path = self.folder / _MARK
        try:
            found = await asyncio.to_thread(_marked, path, mark if first else None)
        except OSError as error:
            raise StoreError(f"--blobs {self.folder} cannot be used: {error.filename}: {error.strerror}") from None
        if found is None:
            raise StoreError(
                f"--blobs {self.folder} is not the folder of this mesh, for {path} is missing; mount the folder that "
                f"the other relays have, or, if it is lost, write {mark} into that file"
            )
        if found != mark:
            raise StoreError(
                f"--blobs {self.folder} has contents of another mesh, for {path} is not {mark}; give each mesh a "
                "folder of its own, or write that into the file if no other mesh has the folder any more"
            )
        await self._wire.call("HSET", meta, "folder", 1)
        return None

    # -- where they lie ----------------------------------------------------------------------------------------------

    def _key(self, digest: str) -> str:
        return f"{self._store.base}:content:{digest}"

    def _path(self, digest: str) -> Path:
        if self.folder is None:
            raise Failed(f"the content {digest} lies in a folder that this relay does not have; give it --blobs")
        return self.folder / digest[:2] / digest

    async def keep(self, content: Content, body: Reader) -> None:
        """Put a whole content where all relays find it. Raises OSError, Failed."""
        small = content.size <= ON_SERVER_BYTES
        place = "server" if small else "folder"
        try:
            for _ in range(_TRIES):
                if await self._wire.run(KEEP_CONTENT, 1, self._store.base, content.digest, place) == 0:
                    break
                await asyncio.sleep(_WAIT_SECONDS)  # another relay removes it at this moment
            else:
                raise Failed(f"the content {content.digest} is being removed")
            if small:
                pieces = [piece async for piece in _pieces(content, body)]
                await self._wire.call("SET", self._key(content.digest), b"".join(pieces))
            else:
                await self._write(self._path(content.digest), content, body)
        except Full as full:
            raise OSError(str(full)) from full

    async def _write(self, path: Path, content: Content, body: Reader) -> None:
        def begin() -> Any:
            private.make_folder(path.parent)
            return tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False)

        def end() -> None:
            file.flush()
            os.fsync(file.fileno())
            file.close()
            private.replace(file.name, path)
            _sync_folder(path.parent)

        if await asyncio.to_thread(path.is_file):
            return
        file = await asyncio.to_thread(begin)
        try:
            async for piece in _pieces(content, body):
                await asyncio.to_thread(file.write, piece)
            await asyncio.to_thread(end)
        except BaseException:
            file.close()
            with contextlib.suppress(OSError):
                os.unlink(file.name)
            raise

    async def count(self) -> None:
        """Read how much there is. Raises Failed."""
        read = await self._store.admission((), ((SharedFile, PRESENT), (SharedFile, RESTRICTED)))
        self._named, self._since = sum(usage.bytes for usage in read.indexes), 0

    async def sweep(self) -> None:
        """Forget contents that no file has named for a while. One relay at a time does it. Raises Failed, OSError."""
        named: set[str] = set()
        for key in (PRESENT, RESTRICTED):
            after: str | None = None
            while True:
                page = await self._store.page(SharedFile, key, after, _PAGE)
                named.update(version.content.digest for file in page.records for version in file.versions)
                after = page.after
                if after is None:
                    break
        found = await self._wire.call("ZRANGE", f"{self._store.base}:contents", 0, -1)
        now = monotonic()
        unnamed = {digest for word in found if (digest := word.decode()) not in named}
        self._unnamed = {digest: self._unnamed.get(digest, now) for digest in unnamed}
        for digest, since in list(self._unnamed.items()):
            if now - since >= _UNNAMED_SECONDS:
                place = await self._wire.run(FORGET_CONTENT, 1, self._store.base, digest, _FRESH_SECONDS, again=False)
                if place == b"folder":
                    path = self._path(digest)
                    await asyncio.to_thread(path.unlink, missing_ok=True)
                    await self._wire.call("DEL", f"{self._store.base}:going:{digest}")
                if place is not None:
                    del self._unnamed[digest]


class SharedDraft:
    """A ``Draft`` in this process, which ``flush`` puts where all relays find it: it comes once, at the end."""

    def __init__(self, blobs: SharedBlobs, drafts: LocalBlobs) -> None:
        self._blobs = blobs
        self._drafts = drafts
        self._local = drafts.draft()
        self._whole: Content | None = None  # as it is held here until it is kept or discarded

    @property
    def size(self) -> int:
        return self._local.size

    @property
    def digest(self) -> str:
        return self._local.digest

    async def write(self, *pieces: bytes) -> None:
        await self._local.write(*pieces)

    def mark(self) -> Any:
        return self._local.mark()

    def back_to(self, mark: Any) -> None:
        self._local.back_to(mark)

    async def flush(self) -> None:
        await self._local.flush()
        if self._whole is None:
            self._whole = self._local.keep()
        with self._drafts.open(self._whole) as body:
            await self._blobs.keep(self._whole, body)

    def keep(self, scope: str = "") -> Content:
        content = Content(self._local.digest, self._local.size, scope)
        self.discard()
        self._blobs.hold(content)
        return content

    def discard(self) -> None:
        if self._whole is not None:
            self._drafts.release(self._whole)
            self._whole = None
        else:
            self._local.discard()


class SharedReader:
    """A content that is being read."""

    def __init__(self, blobs: SharedBlobs, content: Content) -> None:
        self._blobs = blobs
        self._content = content
        self._bytes: bytes | None = None
        self._file: Any = None

    async def read(self, start: int, size: int) -> bytes:
        """Return some bytes. Raises Failed if the content cannot be reached."""
        digest = self._content.digest
        if self._content.size <= ON_SERVER_BYTES:
            if self._bytes is None:
                self._bytes = await self._blobs._wire.call("GET", self._blobs._key(digest))
            if self._bytes is None:
                raise Failed(f"the content {digest} is missing on the server")
            return self._bytes[start : start + size]
        path = self._blobs._path(digest)
        try:
            if self._file is None:
                self._file = await asyncio.to_thread(path.open, "rb")
            return await asyncio.to_thread(_read_at, self._file, start, size)
        except OSError as error:
            raise Failed(f"{path} cannot be read: {error.strerror or error}") from error

    def close(self) -> None:
        """Let go of its file."""
        if self._file is not None:
            self._file.close()


def _marked(path: Path, mark: str | None) -> str | None:
    """Return the mark of a folder to which this process can write; None if there is none, and none to be written."""
    private.make_folder(path.parent)
    with private.Replacement(path.parent, b"") as new, contextlib.suppress(FileNotFoundError):
        if mark is not None and not path.exists():
            new.fill(mark.encode("ascii"))
            new.put(path)
        return path.read_text("ascii", "replace").strip()
    return None


def _read_at(file: Any, start: int, size: int) -> bytes:
    file.seek(start)
    data: bytes = file.read(size)
    return data


async def _pieces(content: Content, body: Reader) -> AsyncIterator[bytes]:
    at = 0
    while at < content.size:
        piece = await body.read(at, _PIECE_BYTES)
        at += len(piece)
        yield piece


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    at = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(at)
    finally:
        os.close(at)
