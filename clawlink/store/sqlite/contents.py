"""Contents of files below the data folder, each a file named by its SHA-256.

A content comes as a file of another name. This file is written, put on the disk and renamed before the commit of the
record that names it. So a record never names a missing content. A crash may leave contents without a record; they are
put aside for a week when the folder is opened. The holders of a content are counted in memory from the records.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from clawlink.domain.file import Content
from clawlink.store.base import LostWrites
from clawlink.store.blobs import PIECE_BYTES, OnDisk, unbroken
from clawlink.store.sqlite.room import Room, sync_folder

CONTENTS, INCOMING, ORPHANS = "contents", "incoming", "orphans"
# An orphan stays for this long, in case an older database was put in place by mistake.
_ORPHAN_SECONDS = 7 * 86400.0
# The bytes that the disk and the tables take for a content beside its own.
_CONTENT_BYTES = 4096
_SCOPE_HEX = 32
_log = logging.getLogger("clawlink.store")


def file_name(content: Content) -> str:
    """Return the name of a content's file: equal bytes of one scope have one."""
    if not content.scope:
        return content.digest
    scope = hashlib.sha256(content.scope.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{content.digest}-{scope[:_SCOPE_HEX]}"


def draft_name(name: str) -> str:
    """Return the name of a draft's file, whatever the draft is called."""
    return "draft-" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_SCOPE_HEX]


def place_of(name: str) -> str:
    """Return where below the folder of contents the file of this name lies."""
    return os.path.join(name[:2], name)


def listed(folder: Path) -> dict[str, int]:
    """Return the names and sizes of all contents that are there. Raises OSError."""
    found = {}
    for shard in os.scandir(folder / CONTENTS):
        if shard.is_dir():
            found.update({file.name: file.stat().st_size for file in os.scandir(shard.path)})
    return found


class FolderBlobs:
    """A ``Blobs`` below a folder.

    ``held`` are the contents that records hold, each as often as they do, and ``drafts`` the names of drafts to keep.
    ``lazy`` is True if commits are answered before they are on the disk. Contents that they let go of then stay
    until they are: see ``leaving``.
    """

    keeps_drafts = True

    def __init__(
        self,
        folder: Path,
        held: Iterable[Content] = (),
        drafts: Iterable[str] = (),
        *,
        room: Room | None = None,
        lazy: bool = False,
    ) -> None:
        """Open the folder, made if needed, and put contents without a record aside. Raises OSError."""
        self._contents = folder / CONTENTS
        self._incoming = folder / INCOMING
        self._orphans = folder / ORPHANS
        for place in (self._incoming, self._contents, *((self._orphans,) if lazy else ())):
            place.mkdir(mode=0o700, exist_ok=True)
        self._held: dict[str, _Held] = {}
        # Folders with a new name that a crash of the machine could lose: at first those that were made just now.
        self._unsynced: set[Path] = {folder}
        self._lock = threading.Lock()
        self._room = room or Room(folder)
        self._lazy = lazy
        self._leaving: list[Path] = []
        self.used = 0
        self._missing: set[str] = set()
        self.missing: list[Content] = []
        """The contents that records name and that are not there, or not whole."""
        self._open: set[FolderDraft] = set()  # those with an open file
        self._find(folder, held, set(map(draft_name, drafts)))

    def _find(self, folder: Path, contents: Iterable[Content], drafts: set[str]) -> None:
        there = listed(folder)
        for content in contents:
            name = file_name(content)
            held = self._held.get(name)
            if held is None:
                held = self._held[name] = _Held(content.size)
                self.used += content.size
                if there.pop(name, None) != content.size and not self._found_again(name, content.size):
                    self._missing.add(name)
                    self.missing.append(content)
                    _log.error("a content is missing or not whole", extra={"sha256": content.digest})
            held.holds += 1
        self._put_aside(there)
        for left in os.scandir(self._incoming):
            if left.name not in drafts:
                os.unlink(left.path)

    def _found_again(self, name: str, size: int) -> bool:
        """Put an orphan back that a record names after all. Return True if it was there, and whole."""
        orphan, place = self._orphans / name, self._contents / place_of(name)
        if not orphan.is_file() or orphan.stat().st_size != size:
            return False
        place.parent.mkdir(mode=0o700, exist_ok=True)
        os.replace(orphan, place)
        self._unsynced.add(place.parent)
        return True

    def _put_aside(self, orphans: Iterable[str]) -> None:
        """Keep contents that no record names for a week, and remove those from before that."""
        now, count = time.time(), 0
        for orphan in orphans:
            self._orphans.mkdir(mode=0o700, exist_ok=True)
            os.replace(self._contents / place_of(orphan), self._orphans / orphan)
            os.utime(self._orphans / orphan, (now, now))
            count += 1
        if count:
            _log.warning(
                "no file has some contents; they are kept for a week, and come back if an earlier database is restored",
                extra={"count": count, "folder": str(self._orphans)},
            )
        elif self._orphans.is_dir():
            for left in os.scandir(self._orphans):
                if now - left.stat().st_mtime > _ORPHAN_SECONDS:
                    os.unlink(left.path)

    @property
    def memory(self) -> int:
        """About how many bytes of the disk they take."""
        return self.used + _CONTENT_BYTES * len(self._held)

    def memory_for(self, size: int) -> int:
        """Return about how many bytes of the disk a content of this size would take."""
        return _CONTENT_BYTES + size

    def trim(self) -> None:
        """Give nothing back: no memory is kept for later."""

    def draft(self, name: str | None = None) -> FolderDraft:
        """Return an empty draft. With a name, which is an id, it may be resumed."""
        return FolderDraft(self, self._incoming / (secrets.token_hex(16) if name is None else draft_name(name)))

    async def resume(self, name: str, size: int) -> FolderDraft | None:
        """Return the draft of this name with its first ``size`` bytes; None if they are not there."""
        draft = self.draft(name)
        return draft if await unbroken(asyncio.to_thread(draft.resume, size)) else None

    def hold(self, content: Content) -> None:
        """Hold a content that is held already once more."""
        self._held[file_name(content)].holds += 1

    def release(self, content: Content) -> None:
        """Let go of one hold."""
        name = file_name(content)
        self._let_go(name, self._held[name])

    def freeing(self, contents: Iterable[Content]) -> Iterator[int]:
        """Yield for each of these the bytes that would be freed, if one hold of each were released in this order."""
        gone: Counter[str] = Counter()
        for content in contents:
            name = file_name(content)
            gone[name] += 1
            held = self._held.get(name)
            yield 0 if held is None or held.holds != gone[name] else held.size

    @contextmanager
    def open(self, content: Content) -> Iterator[OnDisk]:
        """Return a reader of the content. Raises KeyError if it has no hold, or its file is missing."""
        name = file_name(content)
        held = self._held[name]
        try:
            body = OnDisk(open(self._contents / place_of(name), "rb", buffering=0), size=held.size)  # noqa: SIM115
        except FileNotFoundError:
            _log.error("a content is missing", extra={"sha256": content.digest})
            raise KeyError(name) from None
        held.holds += 1
        try:
            yield body
        finally:
            body.close()
            self._let_go(name, held)

    def close(self) -> None:
        """Forget all holders. The contents stay, and so do drafts with a name."""
        for draft in tuple(self._open):
            draft.rest()
        self._held.clear()
        self.used = 0

    def _let_go(self, name: str, held: _Held) -> None:
        held.holds -= 1
        if held.holds or self._held.get(name) is not held:
            return
        del self._held[name]
        self.used -= held.size
        place = self._contents / place_of(name)
        if self._lazy:  # the record on the disk may still name it: as an orphan it comes back then
            with contextlib.suppress(OSError), self._lock:
                os.replace(place, self._orphans / name)
                self._leaving.append(self._orphans / name)
            return
        # Deleting a large file takes long, and the same content may come again meanwhile: so it loses its name first.
        gone = self._incoming / secrets.token_hex(16)
        try:
            os.rename(place, gone)
        except OSError:
            _unlink(place)
        else:
            threading.Thread(target=_unlink, args=(gone,)).start() if held.size > PIECE_BYTES else _unlink(gone)

    def leaving(self) -> Callable[[], None]:
        """Return what removes the contents that nothing holds now. Call it once all commits so far are on the disk."""
        with self._lock:
            gone, self._leaving = self._leaving, []

        def remove() -> None:
            for path in gone:
                _unlink(path)

        return remove

    def require_room(self) -> None:
        """Refuse more bytes while the reserve of the disk is in use. Raises OSError."""
        if self._room.low:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def opened(self, draft: FolderDraft, *, is_open: bool) -> None:
        """Note whether a draft has an open file."""
        (self._open.add if is_open else self._open.discard)(draft)

    # -- for drafts --------------------------------------------------------------------------------------------------

    def grow(self, size: int) -> None:
        """Count bytes that have come, or gone again."""
        self.used += size

    def accept(self, content: Content, path: Path) -> Content:
        """Take over the file of a finished draft, or let it go if its content is here already. Raises OSError."""
        name = file_name(content)
        held = self._held.get(name)
        if held is None or name in self._missing:
            final = self._contents / place_of(name)
            with contextlib.suppress(FileExistsError):
                final.parent.mkdir(mode=0o700)
                with self._lock:
                    self._unsynced.add(self._contents)
            os.replace(path, final)
            with self._lock:
                self._unsynced.add(final.parent)
            self._missing.discard(name)
        else:
            _unlink(path)
        if held is None:
            held = self._held[name] = _Held(content.size)
        else:
            self.used -= content.size
        held.holds += 1
        return content

    def sync_names(self) -> None:
        """Put the names of new contents on the disk. The store does so before each commit. Raises OSError."""
        if not self._unsynced:
            return
        with self._lock:
            folders, self._unsynced = self._unsynced, set()
        try:
            for folder in folders:
                sync_folder(folder)
        except OSError:
            with self._lock:
                self._unsynced |= folders
            raise


class _Held:
    __slots__ = ("holds", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.holds = 0


class _Mark(NamedTuple):
    size: int
    hash: Any


class FolderDraft:
    """A ``Draft`` that gathers pieces before it writes them to its file."""

    def __init__(self, blobs: FolderBlobs, path: Path) -> None:
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

    async def write(self, data: bytes) -> None:
        """Append bytes. Raises OSError if there is no room for them on the disk; the draft is then unchanged."""
        self._require_intact()
        if self._gathered_bytes + len(data) < PIECE_BYTES:
            self._gathered.append(data)
            self._gathered_bytes += len(data)
            if len(self._gathered) >= 64:  # the list itself must not take more than its bytes
                self._gathered = [b"".join(self._gathered)]
            self._count(data)
        else:
            await unbroken(self._write_to_disk(data))

    async def _write_to_disk(self, data: bytes) -> None:
        await asyncio.to_thread(self._spill, data)
        self._count(data)

    def _count(self, data: bytes) -> None:
        self._synced = False
        self._hash.update(data)
        self.size += len(data)
        self._blobs.grow(len(data))

    def _require_intact(self) -> None:
        if self._lost is not None:
            raise LostWrites(self._lost.errno, self._lost.strerror)

    def _spill(self, data: bytes = b"") -> None:
        """Write the gathered bytes, and more, to the file, all or nothing."""
        self._require_intact()
        self._blobs.require_room()
        if self._body is None:
            self._body = OnDisk(_new_file(self._path))
            self._blobs.opened(self, is_open=True)
        self._body.write(b"".join((*self._gathered, data)))
        self._gathered, self._gathered_bytes = [], 0

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
            _unlink(self._path)
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
                _unlink(self._path)


def _new_file(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0), 0o600), "r+b", 0)


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):  # it goes when the folder is opened next
        path.unlink(missing_ok=True)
