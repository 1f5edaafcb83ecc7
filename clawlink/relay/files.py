"""Shared files: write, read, list, delete, lock, and tell the others."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Hashable
from contextlib import ExitStack, asynccontextmanager

import msgspec

from clawlink.domain import file as rules
from clawlink.domain.agent import Agent
from clawlink.domain.delivery import copy_id
from clawlink.domain.file import ABSENT, PRESENT, Content, FileWrite, Lock, SharedFile, Version
from clawlink.domain.limits import MAX_JSON_FILE_BYTES, MAX_KEY_LENGTH
from clawlink.domain.message import FileUpdated, Priority, encode
from clawlink.errors import (
    BadRequest,
    DigestMismatch,
    KeyReused,
    Refused,
    StorageFull,
    StoreUnavailable,
    TooLarge,
    UnknownFile,
)
from clawlink.protocol import replies, requests
from clawlink.relay import waiting
from clawlink.relay.broadcasts import SLICE, everyone
from clawlink.relay.clock import iso, iso_or_none
from clawlink.relay.core import Core, retrying
from clawlink.relay.ids import derived
from clawlink.relay.mailbox import Mailbox
from clawlink.relay.readings import Reading, Readings
from clawlink.relay.storage import Intake, Storage
from clawlink.store.base import Drop, Put, Reader

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_TICK_SECONDS = 5.0


def require_key(key: str) -> None:
    """Refuse keys that an address cannot carry, or that would lead out of a folder when used as a file's name."""
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise BadRequest(
            f"a file key has 1 to {MAX_KEY_LENGTH} characters", field="file_key", limit=MAX_KEY_LENGTH, actual=len(key)
        )
    if _CONTROL.search(key):
        raise BadRequest("a file key may not contain control characters", field="file_key")
    if any(part in (".", "..") for part in re.split(r"[/\\]", key)):
        raise BadRequest("a file key may not have '.' or '..' between slashes", field="file_key")


class Write(msgspec.Struct, frozen=True, kw_only=True):
    """How a version is written. ``digest`` is the SHA-256 in hexadecimal that the content must have, if it is known."""

    key: str
    file_type: str | None = None  # else text or binary, by the content type
    content_type: str
    if_version: int | None = None
    ttl: float | None = None
    burn: bool = False
    force: bool = False
    idempotency_key: str | None = None
    digest: str | None = None
    digest_field: str = "sha256"


class Opened:
    """A version that is being sent: ``at`` is how far, and ``done`` that it went to the end of what was asked for."""

    def __init__(self, body: Reader, reading: Reading | None, start: int) -> None:
        self.reading = reading
        self.at = start
        self.done = False
        self._body = body
        self._start = start

    def sent(self) -> None:
        """Note that all has gone out that was asked for, though it may still be on its way."""
        if self.reading is not None:
            self.reading.sent(self._start, self.at)

    async def read(self, size: int) -> bytes:
        """Return the next bytes, ``size`` at most, and some unless it is at its end."""
        piece = await self._body.read(self.at, size)
        self.at += len(piece)
        return piece


class Files:
    """The shared files."""

    def __init__(self, core: Core, mailbox: Mailbox, storage: Storage) -> None:
        self._core = core
        self._mailbox = mailbox
        self._storage = storage
        self._readings = Readings()

    # -- write -------------------------------------------------------------------------------------------------------

    async def put(
        self, editor: Agent, ask: Write, parts: AsyncIterator[bytes], size: int | None, *, field: str = "body"
    ) -> Version:
        """Write the next version of a file from what comes, and tell the other agents.

        ``size`` is what was said beforehand; what cannot be taken is refused before it has come.
        Raises VersionConflict, FileLocked, TooLarge, StorageFull, DigestMismatch.
        """
        await self.require_writable(editor, ask)
        intake = self._storage.intake(ask.key, field)
        try:
            if size is not None:
                await intake.expect(size)
            await intake.write_all(parts)
            content = self.keep(intake, ask)
        finally:
            intake.discard()
        return await self._core.finish(self.put_content(editor, ask, content))

    async def require_writable(self, editor: Agent, ask: Write) -> None:
        """Refuse what would be refused at the end, before its content comes. Raises VersionConflict, FileLocked."""
        core = self._core
        core.require_working()
        require_key(ask.key)
        if ask.idempotency_key is not None and await core.store.get(FileWrite, _write_id(editor, ask)) is not None:
            return  # a repeat: it is answered as the first was
        now = core.clock()
        old = await core.store.get(SharedFile, ask.key)
        rules.require_unlocked(ask.key, old, editor.id, now, force=ask.force, shown=_lock_info)
        rules.require_revision(ask.key, old, ask.if_version, now)
        if old is None:
            await self._require_place()

    async def _require_place(self) -> None:
        """Refuse one file too many. Raises StorageFull."""
        limit = self._core.limits.max_files
        there = [await self._core.store.usage(SharedFile, key) for key in (PRESENT, ABSENT)]
        count = sum(usage.count for usage in there)
        if count >= limit:
            raise StorageFull(
                f"there may be {limit} files, locks and files deleted lately included, and so many there are; "
                "delete some and wait a while, or start the relay with a higher --max-files",
                limit=limit,
                actual=count + 1,
                current={"free": 0},
            )

    def keep(self, intake: Intake, ask: Write) -> Content:
        """Make what has come a content, held once. Raises DigestMismatch if it is not what was to come."""
        if ask.digest is not None and ask.digest != intake.digest:
            raise DigestMismatch(
                f"the content that arrived has the SHA-256 {intake.digest}, not {ask.digest}; send it again",
                field=ask.digest_field,
                current=intake.digest,
            )
        return intake.keep()

    async def put_content(self, editor: Agent, ask: Write, content: Content) -> Version:
        """Write the next version of a file with a content that is here. It takes the caller's hold, done or not.

        It must not be cancelled; see ``Core.finish``.
        """
        try:
            version, new = await self._put(editor, ask, content)
        except (Refused, StoreUnavailable):  # after any other failure it may have been written
            self._storage.release(content)
            raise
        if new is not None:
            await self._tell(new, editor.id, version.written_at)
        return version

    @retrying
    async def _put(self, editor: Agent, ask: Write, content: Content) -> tuple[Version, SharedFile | None]:
        core = self._core
        now = core.clock()
        old = await core.store.get(SharedFile, ask.key)
        write: FileWrite | None = None
        if ask.idempotency_key is not None:
            id = _write_id(editor, ask)
            before = await core.store.get(FileWrite, id)
            if before is not None:
                done = _as_written(before, content, ask, editor, now)
                self._storage.release(content)
                return done, None
            revision = 1 if old is None else old.revision + 1
            write = FileWrite(
                id=id,
                version=1,
                file_key=ask.key,
                revision=revision,
                content=content,
                ends_at=now + core.limits.retention,
            )
        rules.require_unlocked(ask.key, old, editor.id, now, force=ask.force, shown=_lock_info)
        new = rules.put(
            ask.key,
            old,
            content=content,
            file_type=ask.file_type or ("text" if ask.content_type.startswith("text/") else "binary"),
            content_type=ask.content_type,
            editor=editor.id,
            now=now,
            keep=1 + self._storage.kept(() if old is None else old.versions, core.limits.file_versions - 1),
            if_version=ask.if_version,
            ttl=ask.ttl,
            burn=ask.burn,
        )
        await core.commit(new.home, Put(new), *([] if write is None else [Put(write)]))
        self._release_gone(old, new)
        core.stats.files_written += 1
        return new.newest, new

    async def delete(self, editor: Agent, key: str, if_version: int | None, *, force: bool = False) -> SharedFile:
        """Delete a file with all its versions and tell the other agents.

        Raises UnknownFile, VersionConflict, FileLocked.
        """
        self._core.require_working()
        return await self._core.finish(self._delete(editor, key, if_version, force))

    @retrying
    async def _delete(self, editor: Agent, key: str, if_version: int | None, force: bool) -> SharedFile:
        core = self._core
        now = core.clock()
        old = await core.store.get(SharedFile, key)
        rules.require_unlocked(key, old, editor.id, now, force=force, shown=_lock_info)
        gone = rules.delete(key, old, now=now, keep=core.limits.retention, if_version=if_version)
        await core.commit(gone.home, Put(gone))
        self._release_gone(old, gone)
        await self._tell(gone, editor.id, now)
        return gone

    def _release_gone(self, old: SharedFile | None, new: SharedFile) -> None:
        """Let go of the contents of versions that are no longer kept."""
        kept = {version.revision for version in new.versions}
        for version in () if old is None else old.versions:
            if version.revision not in kept:
                self._storage.release(version.content)

    # -- read --------------------------------------------------------------------------------------------------------

    async def find(self, key: str, revision: int | None = None) -> tuple[SharedFile, Version]:
        """Return a file and one of its versions, the newest unless said otherwise. Raises UnknownFile."""
        now = self._core.clock()
        file = rules.present(await self._core.store.get(SharedFile, key), now)
        if file is None:
            # The sentence is the one ClawLink 1.0.x sends; the code and field are for newer clients.
            raise UnknownFile("file not found", field="file_key")
        if revision is None:
            return file, file.newest
        for version in file.versions:
            if version.revision == revision:
                return file, version
        kept = ", ".join(str(version.revision) for version in reversed(file.versions))
        raise UnknownFile(f"version {revision} of {key!r} is not kept; there are {kept}", field="version")

    @asynccontextmanager
    async def open(self, file: SharedFile, version: Version, reader: Hashable, start: int = 0) -> AsyncIterator[Opened]:
        """Open a version for one reply, from byte ``start`` on.

        Raises BeingRead, UnknownFile if it has gone meanwhile.
        """
        now = self._core.clock
        with ExitStack() as stack:
            try:
                body = stack.enter_context(self._storage.open(version.content))
            except KeyError:
                raise UnknownFile("file not found", field="file_key") from None
            size = version.content.size
            reading = self._readings.begin(file.id, version.revision, size, reader, now()) if file.burn else None
            opened = Opened(body, reading, start)
            try:
                if reading is not None:  # it was found before anyone had it: it may have burned since
                    await self.find(file.id, version.revision)
                yield opened
            finally:
                if reading is not None:
                    reading.end(start, opened.at, now(), done=opened.done)

    async def confirm(self, key: str, reader: Hashable) -> SharedFile:
        """Burn a file that this reader has read. Raises UnknownFile if it is gone, or was not read by it."""
        reading = self._readings.of(key, reader)
        if reading is None or not reading.complete:
            raise UnknownFile(f"there is no file {key!r} that you have read and that is to burn", field="file_key")
        gone = await self._core.finish(self._burn(reading))
        if gone is None:
            raise UnknownFile("file not found", field="file_key")
        return gone

    @retrying
    async def _burn(self, reading: Reading) -> SharedFile | None:
        core = self._core
        now = core.clock()
        old = rules.present(await core.store.get(SharedFile, reading.key), now)
        if old is None or old.revision != reading.revision:
            self._readings.end(reading)
            return None
        gone = rules.delete(reading.key, old, now=now, keep=core.limits.retention)
        await core.commit(gone.home, Put(gone))
        self._readings.end(reading)  # not before: until it is gone, nobody else may begin
        self._release_gone(old, gone)
        await self._tell(gone, reading.reader if isinstance(reading.reader, str) else old.newest.editor, now)
        return gone

    async def content(self, file: SharedFile, opened: Opened) -> replies.FileContent:
        """Return an opened file with its content: text as text, other bytes as base64."""
        size = file.newest.content.size
        parts = []
        while opened.at < size:
            parts.append(await opened.read(size - opened.at))
        content, encoding = _as_text(b"".join(parts))
        facts = msgspec.structs.asdict(_info(file, self._core.clock()))
        return replies.FileContent(**facts, content=content, encoding=encoding)

    async def find_small(self, key: str) -> SharedFile:
        """Return a file that JSON can carry. Raises UnknownFile, TooLarge."""
        file, version = await self.find(key)
        size = version.content.size
        if size > MAX_JSON_FILE_BYTES:
            raise TooLarge(
                f"{key!r} has {size} bytes, and JSON carries {MAX_JSON_FILE_BYTES} at most; read it at /blobs",
                field="file_key",
                limit=MAX_JSON_FILE_BYTES,
                actual=size,
            )
        return file

    async def list(self, ask: requests.ListQuery) -> replies.FileList:
        """List the files without their contents."""
        page = await self._core.store.page(SharedFile, PRESENT, ask.after, ask.limit)
        now = self._core.clock()
        files = [_info(file, now) for file in page.records if rules.present(file, now) is not None]
        return replies.FileList(files, len(files), page.after)

    async def history(self, key: str, since: int | None, wait: float) -> replies.FileHistory:
        """Return the versions of a file that are kept; with ``wait`` once it is at another than ``since``.

        Raises UnknownFile if there is none and nobody waits for one.
        """
        core = self._core
        if not wait:
            file, _ = await self.find(key)
            return _history(key, file, core.clock())
        found: SharedFile | None = None
        with core.watch(key) as signal:

            async def news() -> bool:
                nonlocal found, since
                now = core.clock()
                found = await core.store.get(SharedFile, key)
                at = rules.revision_of(found, now)
                if since is None:
                    since = at
                return at != since

            async def ends_at() -> float | None:
                there = rules.present(found, core.clock())
                return None if there is None else there.ends_at

            await waiting.first(
                signal,
                read=news,
                next_at=ends_at,
                clock=core.clock,
                until=core.clock() + wait,
                over=lambda: core.draining,
                tick=_TICK_SECONDS,
            )
        return _history(key, found, core.clock())

    # -- locks -------------------------------------------------------------------------------------------------------

    async def lock(self, holder: Agent, ask: requests.LockFile) -> replies.FileLocked:
        """Ask the others not to write a file for a while. Raises FileLocked if another agent holds it."""
        self._core.require_working()
        require_key(ask.file_key)
        return await self._core.finish(self._lock(holder, ask))

    @retrying
    async def _lock(self, holder: Agent, ask: requests.LockFile) -> replies.FileLocked:
        core = self._core
        now = core.clock()
        await self.look(ask.file_key)  # the end of a file is told, whoever finds it first
        old = await core.store.get(SharedFile, ask.file_key)
        rules.require_unlocked(ask.file_key, old, holder.id, now, force=ask.force, shown=_lock_info)
        if old is None:
            await self._require_place()
        until = now + ask.seconds
        new = rules.take_lock(
            ask.file_key, old, holder=holder.id, until=until, note=ask.note, now=now, keep=core.limits.retention
        )
        await core.commit(new.home, Put(new))
        self._release_gone(old, new)
        return replies.FileLocked("locked", ask.file_key, holder.id, iso(until), ask.note)

    @retrying
    async def unlock(self, asker: Agent, key: str, *, force: bool) -> replies.FileUnlocked:
        """Give a lock up. It is no error if nobody held it. Raises FileLocked if another agent does."""
        core = self._core
        now = core.clock()
        old = await core.store.get(SharedFile, key)
        rules.require_unlocked(key, old, asker.id, now, force=force, shown=_lock_info)
        if old is not None and old.lock is not None:
            new = rules.drop_lock(old)
            await core.commit(new.home, Put(new))
        return replies.FileUnlocked("unlocked", key)

    # -- what time brings --------------------------------------------------------------------------------------------

    @retrying
    async def look(self, key: str) -> bool:
        """End a file whose time has come, if it has; a marker is forgotten. For the janitor."""
        core = self._core
        now = core.clock()
        old = await core.store.get(SharedFile, key)
        if old is None or old.ends_at is None or old.ends_at > now:
            return False
        new = rules.expire(old, now=now, keep=core.limits.retention)
        if new is None:
            await core.commit(old.home, Drop(old))
            return True
        await core.commit(new.home, Put(new))
        self._release_gone(old, new)
        if not old.deleted:
            await self._tell(new, old.newest.editor, now, but="")
        return True

    async def end_readings(self) -> None:
        """Burn what was read, where its reader had time enough to ask again. For the janitor."""
        for reading in self._readings.over(self._core.clock()):
            if reading.whole:
                await self._burn(reading)
            else:
                self._readings.end(reading)

    async def _tell(self, file: SharedFile, editor: str, now: float, *, but: str | None = None) -> None:
        core = self._core
        id = derived("file", file.id, str(file.revision), str(now))
        body = encode(
            FileUpdated(
                file_key=file.id,
                version=file.revision,
                last_editor=editor,
                timestamp=iso(now),
                queued_at=iso(now),
                message_id=id,
                deleted=file.deleted,
            )
        )
        told = 0
        async for agent in everyone(core, but=editor if but is None else but):
            await self._mailbox.put_notice(
                self._mailbox.new(
                    copy_id(id, agent.id),
                    agent.id,
                    sender=editor,
                    body=body,
                    now=now,
                    level=Priority.LOW.level,
                    merge="file:" + file.id,
                )
            )
            told += 1
            if told % SLICE == 0:
                await asyncio.sleep(0)


def _write_id(editor: Agent, ask: Write) -> str:
    return derived("file", editor.id, ask.key, ask.idempotency_key or "")


def _as_written(before: FileWrite, content: Content, ask: Write, editor: Agent, now: float) -> Version:
    if before.content != content:
        raise KeyReused(
            "this idempotency key belongs to an earlier write with other contents; use a new key for a new write",
            field="idempotency_key",
            current=before.revision,
        )
    return Version(
        revision=before.revision,
        content=content,
        file_type=ask.file_type or "",
        content_type=ask.content_type,
        editor=editor.id,
        written_at=now,
    )


def _as_text(content: bytes) -> tuple[str, str]:
    try:
        return content.decode(), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(content).decode(), "base64"


def _lock_info(lock: Lock | None) -> replies.FileLock | None:
    return None if lock is None else replies.FileLock(lock.holder, iso(lock.until), lock.note)


def _info(file: SharedFile, now: float) -> replies.FileInfo:
    newest = file.versions[0]
    content = newest.content
    return replies.FileInfo(
        file.id,
        newest.file_type,
        newest.editor,
        newest.revision,
        iso(newest.written_at),
        content.size,
        content.digest,
        newest.content_type,
        None if file.ends_at is None else iso_or_none(file.ends_at),
        file.burn,
        None if file.lock is None else _lock_info(rules.locked(file, now)),
    )


def _history(key: str, file: SharedFile | None, now: float) -> replies.FileHistory:
    there = rules.present(file, now)
    return replies.FileHistory(
        file_key=key,
        version=0 if there is None else there.revision,
        deleted=there is None,
        versions=[]
        if there is None
        else [
            replies.FileVersion(
                one.revision,
                one.content.size,
                one.content.digest,
                one.content_type,
                one.file_type,
                one.editor,
                iso(one.written_at),
            )
            for one in there.versions
        ],
        expires_at=None if there is None else iso_or_none(there.ends_at),
        burn_after_read=there is not None and there.burn,
        lock=_lock_info(rules.locked(file, now)),
    )
