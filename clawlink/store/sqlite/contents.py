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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from clawlink import private
from clawlink.domain.file import Content
from clawlink.store.bodies import PIECE_BYTES, OnDisk, unbroken
from clawlink.store.contents import Held, Holds
from clawlink.store.sqlite.drafts import FolderDraft, remove
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


class FolderBlobs(Holds[Held]):
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
        super().__init__()
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
                held = self._held[name] = Held(content.size)
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
        private.replace(orphan, place)
        self._unsynced.add(place.parent)
        return True

    def _put_aside(self, orphans: Iterable[str]) -> None:
        """Keep contents that no record names for a week, and remove those from before that."""
        now, count = time.time(), 0
        for orphan in orphans:
            self._orphans.mkdir(mode=0o700, exist_ok=True)
            private.replace(self._contents / place_of(orphan), self._orphans / orphan)
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

    @staticmethod
    def name_of(content: Content) -> str:
        return file_name(content)

    def _let_go(self, name: str, held: Held) -> None:
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
            remove(place)
            return
        if held.size > PIECE_BYTES:
            try:
                threading.Thread(target=remove, args=(gone,)).start()
                return
            except RuntimeError:  # the system gives no thread: a pause is better than a full disk
                pass
        remove(gone)

    def leaving(self) -> Callable[[], None]:
        """Return what removes the contents that nothing holds now. Call it once all commits so far are on the disk."""
        with self._lock:
            gone, self._leaving = self._leaving, []

        def remove_all() -> None:
            for path in gone:
                remove(path)

        return remove_all

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
            remove(path)
        if held is None:
            held = self._held[name] = Held(content.size)
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
