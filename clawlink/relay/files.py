"""Shared files: write, delete, lock, and tell the others. How they are read is in ``file_reads``."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import msgspec

from clawlink.domain import file as rules
from clawlink.domain.agent import HEARS_OF_FILES, Agent
from clawlink.domain.delivery import copy_id
from clawlink.domain.file import ABSENT, PRESENT, Content, Expected, FileWrite, SharedFile, Version
from clawlink.domain.limits import MAX_KEY_LENGTH
from clawlink.domain.message import FileUpdated, Priority, encode
from clawlink.domain.record import text_bytes
from clawlink.errors import (
    BadRequest,
    DigestMismatch,
    KeyReused,
    Refused,
    StorageFull,
    StoreUnavailable,
)
from clawlink.protocol import replies, requests
from clawlink.relay.arrivals import Arrivals
from clawlink.relay.broadcasts import audience
from clawlink.relay.clock import iso
from clawlink.relay.core import Core, retrying
from clawlink.relay.file_views import lock_info
from clawlink.relay.ids import derived
from clawlink.relay.mailbox import Mailbox
from clawlink.relay.memory import NEW_RECORD_BYTES, size_of
from clawlink.relay.storage import Intake, Storage
from clawlink.store.base import Drop, Put

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


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
    if_version: Expected | int | None = None
    ttl: float | None = None
    burn: bool = False
    force: bool = False
    idempotency_key: str | None = None
    digest: str | None = None
    digest_field: str = "sha256"


class Files:
    """The shared files."""

    def __init__(self, core: Core, mailbox: Mailbox, storage: Storage, arrivals: Arrivals) -> None:
        self._core = core
        self._mailbox = mailbox
        self._storage = storage
        self._arrivals = arrivals

    # -- write -------------------------------------------------------------------------------------------------------

    async def put(
        self, editor: Agent, ask: Write, parts: AsyncIterator[bytes], size: int | None, *, field: str = "body"
    ) -> Version:
        """Write the next version of a file from what comes, and tell the other agents.

        ``size`` is what was said beforehand; what cannot be taken is refused before it has come.
        Raises VersionConflict, FileLocked, TooLarge, StorageFull, DigestMismatch, RateLimited.
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
        self._arrivals.require_file_request(editor)
        self._arrivals.require_copies(editor)
        now = core.clock()
        old = await core.store.get(SharedFile, ask.key)
        rules.require_unlocked(ask.key, old, editor.id, now, force=ask.force, shown=lock_info)
        rules.require_revision(ask.key, old, ask.if_version, now)
        if old is None:
            await self._require_place()
        await core.memory.require(NEW_RECORD_BYTES + text_bytes(ask.key) + _texts(ask))

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
        rules.require_unlocked(ask.key, old, editor.id, now, force=ask.force, shown=lock_info)
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
        await self._require_copies(editor)
        await core.commit(new.home, Put(new), *([] if write is None else [Put(write)]))
        self._release_gone(old, new)
        core.stats.files_written += 1
        return new.newest, new

    async def delete(
        self, editor: Agent, key: str, if_version: Expected | int | None, *, force: bool = False
    ) -> SharedFile:
        """Delete a file with all its versions and tell the other agents.

        Raises UnknownFile, VersionConflict, FileLocked, RateLimited.
        """
        self._core.require_working()
        self._arrivals.require_file_request(editor)
        return await self._core.finish(self._delete(editor, key, if_version, force))

    @retrying
    async def _delete(self, editor: Agent, key: str, if_version: Expected | int | None, force: bool) -> SharedFile:
        core = self._core
        now = core.clock()
        old = await core.store.get(SharedFile, key)
        rules.require_unlocked(key, old, editor.id, now, force=force, shown=lock_info)
        gone = rules.delete(key, old, now=now, keep=core.limits.retention, if_version=if_version)
        await self._require_copies(editor)
        await core.commit(gone.home, Put(gone))
        self._release_gone(old, gone)
        await self._tell(gone, editor.id, now)
        return gone

    @retrying
    async def burn(self, key: str, revision: int, *, reader: str | None) -> SharedFile | None:
        """Delete a file that only one might read, and that was read; None if it has gone or changed meanwhile."""
        core = self._core
        now = core.clock()
        old = rules.present(await core.store.get(SharedFile, key), now)
        if old is None or old.revision != revision:
            return None
        gone = rules.delete(key, old, now=now, keep=core.limits.retention)
        await core.commit(gone.home, Put(gone))
        self._release_gone(old, gone)
        await self._tell(gone, reader or old.newest.editor, now)
        return gone

    def _release_gone(self, old: SharedFile | None, new: SharedFile) -> None:
        """Let go of the contents of versions that are no longer kept."""
        kept = {version.revision for version in new.versions}
        for version in () if old is None else old.versions:
            if version.revision not in kept:
                self._storage.release(version.content)

    # -- locks -------------------------------------------------------------------------------------------------------

    async def lock(self, holder: Agent, ask: requests.LockFile) -> replies.FileLocked:
        """Ask the others not to write a file for a while. Raises FileLocked if another agent holds it."""
        self._core.require_working()
        require_key(ask.file_key)
        self._arrivals.require_file_request(holder)
        return await self._core.finish(self._lock(holder, ask))

    @retrying
    async def _lock(self, holder: Agent, ask: requests.LockFile) -> replies.FileLocked:
        core = self._core
        now = core.clock()
        await self.look(ask.file_key)  # the end of a file is told, whoever finds it first
        old = await core.store.get(SharedFile, ask.file_key)
        rules.require_unlocked(ask.file_key, old, holder.id, now, force=ask.force, shown=lock_info)
        if old is None:
            await self._require_place()
        until = now + ask.seconds
        new = rules.take_lock(
            ask.file_key, old, holder=holder.id, until=until, note=ask.note, now=now, keep=core.limits.retention
        )
        await core.memory.require(size_of(new) - (0 if old is None else size_of(old)))
        await core.commit(new.home, Put(new))
        self._release_gone(old, new)
        return replies.FileLocked("locked", ask.file_key, holder.id, iso(until), ask.note)

    @retrying
    async def unlock(self, asker: Agent, key: str, *, force: bool) -> replies.FileUnlocked:
        """Give a lock up. It is no error if nobody held it. Raises FileLocked if another agent does."""
        core = self._core
        now = core.clock()
        old = await core.store.get(SharedFile, key)
        rules.require_unlocked(key, old, asker.id, now, force=force, shown=lock_info)
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

    async def _require_copies(self, editor: Agent) -> None:
        """Count the notices of a change that comes next. Raises RateLimited, and then counts nothing."""
        told = await self._core.store.usage(Agent, HEARS_OF_FILES)
        self._arrivals.require_copies(editor)
        self._arrivals.count_copies(editor, told.count)

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
        async for agent in audience(core, [HEARS_OF_FILES], but=editor if but is None else but):
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


def _texts(ask: Write) -> int:
    return text_bytes(ask.file_type) + text_bytes(ask.content_type)


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
