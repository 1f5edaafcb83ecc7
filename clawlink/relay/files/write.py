"""Shared files: write, delete, lock, and tell the others. How they are read is in ``read``."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

import msgspec

from clawlink.domain import file as rules
from clawlink.domain import file_access
from clawlink.domain.agent import HEARS_OF_FILES, Agent
from clawlink.domain.file import ABSENT, PRESENT, RESTRICTED, Content, Expected, SharedFile
from clawlink.domain.file_write import (
    FileWrite,
    UnfinishedUpload,
    Write,
    Written,
    as_written,
    require_key,
    require_readers,
)
from clawlink.domain.readers import Access, Party, party
from clawlink.domain.record import texts_bytes
from clawlink.domain.shares import Origin
from clawlink.domain.task import FINAL
from clawlink.errors import (
    DigestMismatch,
    Refused,
    StorageFull,
    StoreUnavailable,
    UnknownAgent,
)
from clawlink.protocol import file_replies, file_requests
from clawlink.relay.agents.agents import Agents
from clawlink.relay.core import Core, no_room_on_disk, retrying
from clawlink.relay.files.notices import FileNotices
from clawlink.relay.files.quota import Block, FileQuota, UploadBuffer
from clawlink.relay.files.views import lock_info
from clawlink.relay.ids import derived
from clawlink.relay.limits.memory import NEW_RECORD_BYTES, size_of
from clawlink.relay.limits.shares import Limit
from clawlink.relay.mailbox.admission import Admission
from clawlink.relay.mailbox.mailbox import Mailbox
from clawlink.relay.tasks.reads import read_task
from clawlink.relay.time_slices import SLICE, Turns
from clawlink.store import base
from clawlink.store.base import Batch, Drop, Full, Put

# Where files, locks and files deleted lately are listed.
_PLACES = [(SharedFile, key) for key in (PRESENT, RESTRICTED, ABSENT)]
_PLACES_AND_HEARERS: list[base.Index] = [*_PLACES, (Agent, HEARS_OF_FILES)]


class Files:
    """The shared files."""

    def __init__(
        self, core: Core, agents: Agents, mailbox: Mailbox, file_quota: FileQuota, admission: Admission
    ) -> None:
        self._core = core
        self._agents = agents
        self._notices = FileNotices(core, mailbox, admission)
        self._quota = file_quota
        self._admission = admission
        # Up to this many files, none is refused for their number.
        self._few = core.shares.calm(core.limits.max_files, math.inf).records

    # -- write -------------------------------------------------------------------------------------------------------

    async def put(
        self, editor: Agent, ask: Write, parts: AsyncIterator[Block], size: int | None, *, field: str = "body"
    ) -> Written:
        """Write the next version of a file from the incoming bytes, and tell the other agents.

        ``size`` is the announced size in bytes, so that a too large content is refused before it has come. Raises
        VersionConflict, FileLocked, TooLarge, StorageFull, DigestMismatch, RateLimited, NotAllowed.
        """
        ask = await self.require_writable(editor, ask)
        buffer = self._quota.buffer(ask.key, field, editor.origin)
        try:
            if size is not None:
                await buffer.expect(size)
            await buffer.write_all(parts)
            content = await self.keep(buffer, ask)
        finally:
            buffer.discard()
        return await self._core.finish(self.put_content(editor, ask, content))

    async def require_writable(self, editor: Agent, ask: Write) -> Write:
        """Raise the refusals of ``put`` before the content comes.

        Return the write with the agents that its readers mean now.
        """
        core = self._core
        core.require_working()
        require_key(ask.key)
        if ask.idempotency_key is not None and await core.store.get(FileWrite, _write_id(editor, ask)) is not None:
            return ask  # a repeat: it is answered as the first was
        self._admission.require_file_request(editor)
        self._admission.require_copies(editor)
        now = core.clock()
        old = await core.store.get(SharedFile, ask.key)
        ask, access = await self._admitted(editor, old, ask, now)
        rules.require_revision(ask.key, old, ask.if_version, now)
        read = await self._require_room(editor) if old is None else await core.store.admission()
        size = NEW_RECORD_BYTES + texts_bytes(ask.key, ask.file_type, ask.content_type)
        if access is not None:
            size += access.footprint
        if not core.memory.has_plenty(size, read):
            await core.memory.require(size, editor.origin, read=read)
        return ask

    async def _admitted(
        self, editor: Agent, old: SharedFile | None, ask: Write, now: float
    ) -> tuple[Write, Access | None]:
        """Return the write with the agents that its readers mean, and the access to the file after it.

        Raises NotAllowed, UnknownAgent, AmbiguousName, BadRequest, FileLocked.
        """
        if old is not None:
            file_access.require_admitted(ask.key, old, editor)
        if ask.readers is None:
            access = None if old is None else old.access
        else:
            if ask.parties is None and not ask.opens:
                ask = msgspec.structs.replace(ask, parties=await self._parties(ask.readers))
            access = file_access.access_after(ask.key, old, editor, ask.parties, now, opens=ask.opens)
        if old is not None:
            await self._require_unlocked(ask.key, old, editor, now, force=ask.force)
        return ask, access

    async def _require_unlocked(
        self, key: str, file: SharedFile | None, editor: Agent, now: float, *, force: bool
    ) -> None:
        """Refuse a write while another agent holds the lock, unless it is forced. Raises FileLocked."""
        lock = None if force else rules.lock_of_others(file, editor, now)
        if lock is not None:
            holder = await self._agents.called(lock.holder)
            raise rules.refusal_of_lock(key, lock, holder, now, shown=lock_info(lock, self._core.time))

    async def _parties(self, named: tuple[str, ...]) -> tuple[Party, ...]:
        """Return the agents that readers are named by. Raises UnknownAgent, AmbiguousName, BadRequest."""
        require_readers(named, most=self._core.limits.max_readers)
        return tuple([party(await self._agents.resolve(one, field="readers")) for one in named])

    async def _require_room(self, editor: Agent) -> base.Admission:
        """Refuse a file too many, of all or of an agent's share. Raises StorageFull.

        Return what the store said; the last index tells how many agents hear of files.
        """
        read = await self._core.store.admission((), _PLACES_AND_HEARERS)
        present, restricted, absent, _ = read.indexes
        count = present.count + restricted.count + absent.count
        if count > self._few:
            await self._require_share(editor.origin, count)
        return read

    async def _require_share(self, origin: Origin, count: int) -> None:
        """Refuse one file more than this many, if that passes the limit or a share of it. Raises StorageFull."""
        shares = self._core.shares
        await shares.require(
            StorageFull,
            origin,
            lambda: shares.under(origin, *_PLACES),
            count=Limit(self._core.limits.max_files, count, 1),
            holds="the relay has",
            what="files, locks and files deleted lately",
            then="delete some and wait a while, or start the relay with a higher --max-files",
        )

    async def keep(self, buffer: UploadBuffer, ask: Write) -> Content:
        """Make the incoming bytes a content with one hold.

        Raises DigestMismatch if they do not have the announced digest.
        """
        if ask.digest is not None and ask.digest != buffer.digest:
            raise DigestMismatch(
                f"the content that arrived has the SHA-256 {buffer.digest}, not {ask.digest}; send it again",
                field=ask.digest_field,
                current=buffer.digest,
            )
        old = None if ask.readers is not None else await self._core.store.get(SharedFile, ask.key)
        apart = not ask.opens if ask.readers is not None else old is not None and old.access is not None
        return await buffer.keep(ask.key if apart else "")

    async def put_content(
        self, editor: Agent, ask: Write, content: Content, noted: UnfinishedUpload | None = None
    ) -> Written:
        """Write the next version of a file with a content that is here. It takes the caller's hold, done or not.

        It must not be cancelled; see ``Core.finish``. ``noted`` is the record of the upload that becomes the file: it
        goes with the same step, unless it has changed.
        """
        try:
            written, new = await self._put(editor, ask, content, noted)
        except (Refused, StoreUnavailable):  # after any other failure it may have been written
            self._quota.release(content)
            raise
        if new is not None:
            await self._notices.tell(new, editor.id, written.version.written_at)
        return written

    @retrying
    async def _put(
        self, editor: Agent, ask: Write, content: Content, noted: UnfinishedUpload | None
    ) -> tuple[Written, SharedFile | None]:
        core = self._core
        now = core.clock()
        write: FileWrite | None = None
        if ask.idempotency_key is None:
            old = await core.store.get(SharedFile, ask.key)
        else:
            id = _write_id(editor, ask)
            (old,), (before,) = await core.store.get_both((SharedFile, (ask.key,)), (FileWrite, (id,)))
            if before is not None:
                done = as_written(before, content, ask, editor.id, now)
                self._quota.release(content)
                return Written(done, before.read_by), None
            revision = 1 if old is None else old.revision + 1
            write = FileWrite(
                id=id,
                version=1,
                file_key=ask.key,
                revision=revision,
                content=content,
                ends_at=now + core.limits.retention,
                readers=ask.readers,
            )
        ask, access = await self._admitted(editor, old, ask, now)
        kept, hearers = 0, None
        if old is None:  # a content may take its time, and others come first meanwhile
            hearers = (await self._require_room(editor)).indexes[-1]
        else:
            by_share = await self._quota.kept_by_share(editor.origin, old, content.size)
            kept = min(self._quota.kept(old.versions, core.limits.file_versions - 1), by_share)
        new = rules.put(
            ask.key,
            old,
            content=content,
            file_type=ask.file_type or ("text" if ask.content_type.startswith("text/") else "binary"),
            content_type=ask.content_type,
            editor=editor.id,
            editor_key=editor.key_hash,
            address=editor.address,
            now=now,
            keep=1 + kept,
            if_version=ask.if_version,
            ttl=ask.ttl,
            burn=ask.burn,
            access=access,
        )
        await self._notices.require_copies(editor, new, hearers)
        if access is not None and not party(editor).is_(await core.store.get(Agent, editor.id)):
            raise UnknownAgent(  # no agent that could use the file would be left
                f"agent {editor.id!r} has left the relay while it wrote; register it again", field="agent_id"
            )
        read_by = None if access is None else access.reader_ids
        if write is not None:
            write = msgspec.structs.replace(write, read_by=read_by)
        changes = (Put(new),) if write is None else (Put(new), Put(write))
        unnoted = False
        if noted is None:
            await core.commit(new.partition_key, *changes)
        else:
            unnoted = await self._commit_before(
                Batch(new.partition_key, changes), Batch(noted.partition_key, (Drop(noted),))
            )
        self._release_gone(old, new)
        core.stats.files_written += 1
        return Written(new.newest, read_by, unnoted), new

    async def _commit_before(self, first: Batch, then: Batch) -> bool:
        """Commit ``first``, and in the same step ``then`` if it follows what is stored.

        Return True if ``then`` took effect. Raises as ``Core.commit``.
        """
        result, *rest = await self._core.commit_in_order(first, then)
        if isinstance(result, Full):
            raise no_room_on_disk() from result
        if result is not None:
            raise result
        return rest == [None]

    async def delete(
        self, editor: Agent, key: str, if_version: Expected | int | None, *, force: bool = False
    ) -> SharedFile:
        """Delete a file with all its versions and tell the other agents.

        Raises UnknownFile, VersionConflict, FileLocked, RateLimited.
        """
        self._core.require_working()
        self._admission.require_file_request(editor)
        return await self._core.finish(self._delete(editor, key, if_version, force))

    @retrying
    async def _delete(self, editor: Agent, key: str, if_version: Expected | int | None, force: bool) -> SharedFile:
        core = self._core
        now = core.clock()
        old = await core.store.get(SharedFile, key)
        if file_access.hidden(old, editor):
            old = None  # the answer is that to a file that is not there
        await self._require_unlocked(key, old, editor, now, force=force)
        gone = rules.delete(key, old, now=now, keep=core.limits.retention, if_version=if_version, origin=editor.origin)
        await self._notices.require_copies(editor, gone)
        await core.commit(gone.partition_key, Put(gone))
        self._release_gone(old, gone)
        await self._notices.tell(gone, editor.id, now)
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
        await core.commit(gone.partition_key, Put(gone))
        self._release_gone(old, gone)
        await self._notices.tell(gone, reader or old.newest.editor, now)
        return gone

    def _release_gone(self, old: SharedFile | None, new: SharedFile) -> None:
        """Release the contents of versions that are no longer kept."""
        if old is None:
            return
        kept = {version.revision for version in new.versions}
        for version in old.versions:
            if version.revision not in kept:
                self._quota.release(version.content)

    # -- locks -------------------------------------------------------------------------------------------------------

    async def lock(self, holder: Agent, ask: file_requests.LockFile) -> file_replies.FileLocked:
        """Ask the others not to write a file for a while. Raises FileLocked if another agent holds it."""
        self._core.require_working()
        require_key(ask.file_key)
        self._admission.require_file_request(holder)
        return await self._core.finish(self._lock(holder, ask))

    @retrying
    async def _lock(self, holder: Agent, ask: file_requests.LockFile) -> file_replies.FileLocked:
        core = self._core
        now = core.clock()
        await self.look(ask.file_key)  # the end of a file is told by the first that finds it
        old = await core.store.get(SharedFile, ask.file_key)
        file_access.require_admitted(ask.file_key, old, holder)
        await self._require_unlocked(ask.file_key, old, holder, now, force=ask.force)
        if old is None:
            await self._require_room(holder)
        until = now + ask.seconds
        new = rules.take_lock(
            ask.file_key,
            old,
            holder=holder.id,
            holder_key=holder.key_hash,
            address=holder.address,
            until=until,
            note=ask.note,
            now=now,
            keep=core.limits.retention,
        )
        await core.memory.require(size_of(new) - (0 if old is None else size_of(old)), holder.origin)
        await core.commit(new.partition_key, Put(new))
        self._release_gone(old, new)
        return file_replies.FileLocked("locked", ask.file_key, holder.id, core.time.iso(until), ask.note)

    @retrying
    async def unlock(self, asker: Agent, key: str, ask: file_requests.UnlockQuery) -> file_replies.FileUnlocked:
        """Give a lock up, if there is one. Raises FileLocked if another agent holds it."""
        core = self._core
        now = core.clock()
        old = await core.store.get(SharedFile, key)
        if file_access.hidden(old, asker):
            old = None
        await self._require_unlocked(key, old, asker, now, force=ask.force)
        if old is not None and old.lock is not None:
            new = rules.drop_lock(old)
            await core.commit(new.partition_key, Put(new))
        return file_replies.FileUnlocked("unlocked", key)

    # -- upkeep ------------------------------------------------------------------------------------------------------

    @retrying
    async def look(self, key: str) -> bool:
        """End a file whose time is over; forget a marker. For the janitor."""
        core = self._core
        now = core.clock()
        old = await core.store.get(SharedFile, key)
        if old is None or old.ends_at is None or old.ends_at > now:
            return False
        new = rules.expire(old, now=now, keep=core.limits.retention)
        if new is None:
            await core.commit(old.partition_key, Drop(old))
            return True
        await core.commit(new.partition_key, Put(new))
        self._release_gone(old, new)
        if not old.deleted:
            await self._notices.tell(new, old.newest.editor, now, but="")
        return True

    # -- readers -----------------------------------------------------------------------------------------------------

    async def forget_unreadable(self, gone: Agent) -> None:
        """Delete the files for readers of an agent that has left, where it was the last agent that could see them."""
        store, turns = self._core.store, Turns()
        after: str | None = None
        while True:
            page = await store.page(SharedFile, rules.by_reader(gone.id), after, SLICE)
            for file in page.records:
                await turns.next()
                await self._forget_unreadable(file.id)
            after = page.after
            if after is None:
                return

    @retrying
    async def _forget_unreadable(self, key: str) -> None:
        core = self._core
        now = core.clock()
        file = rules.present(await core.store.get(SharedFile, key), now)
        if file is None or file.access is None:
            return
        for one in file.access.parties:
            if one.is_(await core.store.get(Agent, one.agent_id)):
                return
        tasks = [(await read_task(core.store, id))[0] for id in file.access.tasks]
        needed = [task.expires_at for task in tasks if task is not None and task.state not in FINAL]
        if needed:  # the agent with the task may need it
            ends_at = max(needed) if file.ends_at is None else min(max(needed), file.ends_at)
            left = msgspec.structs.replace(file, version=file.version + 1, ends_at=ends_at)
        else:
            left = rules.delete(key, file, now=now, keep=core.limits.retention)
        await core.commit(left.partition_key, Put(left))
        self._release_gone(file, left)


def _write_id(editor: Agent, ask: Write) -> str:
    return derived("file", editor.id, str(editor.registered_at), ask.key, ask.idempotency_key or "")
