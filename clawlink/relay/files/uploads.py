"""Uploads that go on after a cut: the bytes of each, until it is a file.

The words are those of tus 1.0.0. Where contents survive a restart, an upload that is no file yet does so, too, as far
as it was put on the disk: after each part, and in a long part now and then.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import math
from collections.abc import AsyncIterator

import msgspec

from clawlink.domain.agent import Agent
from clawlink.domain.file_write import UPLOADS, UnfinishedUpload, Write
from clawlink.domain.shares import Origin
from clawlink.errors import (
    BadRequest,
    ChecksumMismatch,
    KeyReused,
    OffsetConflict,
    Refused,
    StorageFull,
    UnknownUpload,
)
from clawlink.relay.core import Core
from clawlink.relay.files.quota import SILENT_UPLOAD_SECONDS, Block, FileQuota, new_hash, size_of
from clawlink.relay.files.upload import Checksum, Upload
from clawlink.relay.files.write import Files
from clawlink.relay.ids import derived
from clawlink.relay.limits.shares import Held, Limit
from clawlink.store.base import Conflict, Drop, Failed, Put, Usage

_FIELD = "Upload-Length"
_NOTED_EVERY_BYTES = 16 * 1024 * 1024
_AT_ONCE = 100


class Uploads:
    """All uploads of this relay."""

    def __init__(self, core: Core, files: Files, file_quota: FileQuota) -> None:
        self._core = core
        self._files = files
        self._quota = file_quota
        self._by_id: dict[str, Upload] = {}
        limits = core.limits
        # Up to this many uploads, none is refused for their number.
        self._few = min(limits.max_agent_uploads - 1, core.shares.calm(limits.max_uploads, math.inf).records)
        self.memory = 0
        """The bytes of memory that they take beside their contents."""
        core.memory.count(self)
        file_quota.reclaim = self._reclaim
        file_quota.under_way = self.under_way

    def under_way(self) -> tuple[int, int]:
        """Return how many uploads are not files yet, and how many bytes have come of them."""
        open = [upload for upload in self._by_id.values() if upload.written is None]
        return len(open), sum(upload.offset for upload in open)

    def _reclaim(self, size: int) -> None:
        """Forget silent uploads, those that are silent for longest first, until this many bytes are free."""
        silent_since = self._core.clock() - SILENT_UPLOAD_SECONDS
        silent = [
            upload
            for upload in self._by_id.values()
            if upload.written is None and upload.offset and not upload.lock.locked() and upload.moved_at <= silent_since
        ]
        for upload in sorted(silent, key=lambda upload: upload.moved_at):
            if size <= 0:
                return
            size -= upload.offset
            self._forget(upload)

    @property
    def count(self) -> int:
        """The number of uploads, finished ones included."""
        return len(self._by_id)

    async def create(
        self, owner: Agent, ask: Write, length: int | None, metadata: str, *, key: str | None = None
    ) -> tuple[Upload, bool]:
        """Begin an upload; with an idempotency ``key``, return the upload that was begun with it before, if any.

        Also returns True if it is new. Raises TooLarge, StorageFull, VersionConflict, FileLocked, KeyReused.
        """
        core, origin = self._core, owner.origin
        begun_by = (owner.id, str(owner.registered_at))
        id = core.ids.fresh() if key is None else derived("upload", *begun_by, key, str(core.secret))
        # Whether the last step took effect is not always known; with a key of its own it can be done again.
        upload = Upload(
            id,
            owner,
            msgspec.structs.replace(ask, idempotency_key=id),
            self._quota.buffer(ask.key, _FIELD, origin, name=id),
            length,
            metadata,
        )
        known: Upload | None = None
        try:
            known = self._known(upload)
            if known is None:
                ask = await self._files.require_writable(owner, ask)
                if ask.parties is not None:
                    upload.take_readers(ask.parties)
                if length is not None:
                    await upload.buffer.expect(length)
                if not core.memory.has_plenty(upload.footprint):  # by the count of ``require_writable``
                    await core.memory.require(upload.footprint, origin)
                known = self._known(upload)  # begun meanwhile
            if known is None and len(self._by_id) > self._few:
                await self._require_room(owner, origin)
        except BaseException:
            upload.buffer.discard()
            raise
        if known is not None:
            upload.buffer.discard()
            return known, False
        upload.buffer.rest()
        self._add(upload)
        try:
            if self._quota.keeps_uploads:
                await self._note(upload)
        except BaseException:
            self._forget(upload)
            raise
        return upload, True

    def _add(self, upload: Upload) -> None:
        self._by_id[upload.id] = upload
        self.memory += upload.footprint
        self._extend(upload)

    async def _note(self, upload: Upload) -> None:
        """Put the bytes so far on the disk, and note their number, so that they survive. Raises StorageFull."""
        if upload.written is not None or upload.content is not None:
            return
        await upload.buffer.flush()
        noted = upload.note()
        if self._by_id.get(upload.id) is not upload:  # it was ended meanwhile
            return
        upload.noted = noted  # also if the commit fails, or is cancelled: it may have taken effect
        try:
            try:
                await self._core.commit(noted.partition_key, Put(noted))
            except Conflict:  # so has a commit before this one
                stored = await self._core.store.get(UnfinishedUpload, upload.id)
                upload.noted = msgspec.structs.replace(noted, version=1 if stored is None else stored.version + 1)
                await self._core.commit(noted.partition_key, Put(upload.noted))
        finally:
            if self._by_id.get(upload.id) is not upload:  # its end met no note, or an earlier one
                self._core.begin(self._unnote(upload.id))

    async def _unnote(self, id: str) -> None:
        """Forget the note of an upload. A note that is left after a failure goes at the next start."""
        with contextlib.suppress(Conflict, Failed, StorageFull):
            noted = await self._core.store.get(UnfinishedUpload, id)
            if noted is not None:
                await self._core.commit(noted.partition_key, Drop(noted))

    async def come_back(self) -> None:
        """Take up the uploads that were under way when the relay stopped."""
        found: list[UnfinishedUpload] = []
        after: str | None = None
        while True:
            page = await self._core.store.page(UnfinishedUpload, UPLOADS, after, _AT_ONCE)
            found += page.records
            after = page.after
            if after is None:
                break
        for noted in found:
            owner = await self._core.store.get(Agent, noted.owner)
            buffer = None
            if owner is not None:
                buffer = await self._quota.resume(noted.id, noted.offset, noted.file_key, _FIELD, owner.origin)
            if owner is None or buffer is None:
                await self._unnote(noted.id)
                continue
            ask = msgspec.msgpack.decode(noted.write, type=Write)
            upload = Upload(noted.id, owner, ask, buffer, noted.length, noted.metadata)
            upload.said, upload.noted = noted.said, noted
            self._add(upload)

    def _known(self, upload: Upload) -> Upload | None:
        """Return the upload that was begun before with the same key. Raises KeyReused if it is not the same."""
        known = self._by_id.get(upload.id)
        if known is not None and (known.metadata, known.said) != (upload.metadata, upload.said):
            raise KeyReused(
                "this idempotency key belongs to an earlier upload with another length or other metadata; "
                "use a new key for a new upload",
                field="idempotency_key",
            )
        return known

    async def _require_room(self, owner: Agent, origin: Origin) -> None:
        """Refuse one upload too many, of all or of one agent; those that are finished make room first."""
        limit = self._core.limits.max_agent_uploads
        under_way = [upload for upload in self._by_id.values() if upload.written is None]
        own = sum([upload.owner == owner.id for upload in under_way])
        if own >= limit:
            raise StorageFull(
                f"{limit} uploads of one agent may be under way, and yours are as many; finish or end one, "
                "or start the relay with a higher --max-agent-uploads",
                limit=limit,
                actual=own + 1,
            )
        limit = self._core.limits.max_uploads
        while len(self._by_id) >= limit:
            oldest = next((upload for upload in self._by_id.values() if upload.written is not None), None)
            if oldest is None:
                break
            self._remove(oldest.id)

        async def held() -> Held:
            origins = [upload.buffer.origin for upload in under_way if upload.address == owner.address]
            return Usage(len(origins), 0), Usage(origins.count(origin), 0)

        await self._core.shares.require(
            StorageFull,
            origin,
            held,
            count=Limit(limit, len(under_way), 1),
            holds="the relay has",
            what="uploads under way",
            then="finish or end one, or start the relay with a higher --max-uploads",
        )

    def get(self, id: str) -> Upload:
        """Return an upload. Raises UnknownUpload."""
        upload = self._by_id.get(id)
        if upload is None or self._lapsed(upload):
            raise UnknownUpload(
                f"there is no upload {id!r}; an unfinished one is kept {self._core.limits.upload_ttl:.0f} s "
                "after its last part; begin a new one",
                field="upload_id",
            )
        return upload

    def _lapsed(self, upload: Upload) -> bool:
        """Forget an upload that has not gone on for too long, or whose bytes the disk lost; tell whether it is one."""
        if not upload.buffer.lost and (upload.expires_at > self._core.clock() or upload.lock.locked()):
            return False
        self._forget(upload)
        return True

    async def settle(self, upload: Upload) -> None:
        """End the request that still sends to it, if one does, so that its offset is the last word."""
        if upload.sender is not None:
            upload.sender.cancel()
        async with upload.lock:
            pass

    async def append(
        self,
        upload: Upload,
        owner: Agent,
        offset: int,
        parts: AsyncIterator[Block],
        *,
        size: int | None,
        length: int | None = None,
        checksum: Checksum | None = None,
    ) -> None:
        """Take a part; the last one writes the file. The bytes of a part that breaks off are kept.

        A part with a ``checksum`` is kept only if all of it came and has the checksum. Raises OffsetConflict,
        ChecksumMismatch, TooLarge, StorageFull, and the errors of writing the file.
        """
        if upload.sender is not None:
            upload.sender.cancel()
        async with upload.lock:
            if self._by_id.get(upload.id) is not upload or upload.buffer.lost:
                upload = self.get(upload.id)  # it was ended while this waited
            upload.sender = asyncio.current_task()
            length_before = upload.length
            try:
                if offset != upload.offset:
                    raise OffsetConflict(
                        f"{upload.offset} bytes of this upload have come, and the part begins at {offset}; "
                        f"go on at {upload.offset}",
                        field="Upload-Offset",
                        current=upload.offset,
                    )
                if length is not None and length != upload.length:
                    await self._take_length(upload, length)
                if upload.written is None and upload.content is None:
                    await self._take(upload, offset, parts, size, checksum)
                    if self._quota.keeps_uploads and not upload.complete:
                        await self._note(upload)
                else:
                    came, most = offset, upload.most
                    async for part in parts:
                        came += size_of(part)
                        if came > most:
                            raise upload.too_long(came)
            except Refused:
                if upload.offset == offset:  # neither its bytes nor its length count
                    upload.length = length_before
                raise
            finally:
                upload.buffer.rest()
                upload.sender = None
                self._extend(upload)
        if upload.written is None and upload.complete:
            await self._core.finish(self._write(upload, owner))

    async def complete(self, upload: Upload, owner: Agent) -> None:
        """Write the file if all of it has come and it is not written yet. Raises the refusal of the write."""
        if upload.complete and upload.written is None:
            await self._core.finish(self._write(upload, owner))

    async def _take_length(self, upload: Upload, length: int) -> None:
        if upload.length is not None or length < upload.offset:
            raise BadRequest(
                "the length of an upload is given once, and is not below the bytes that have come",
                field="Upload-Length",
            )
        await upload.buffer.expect(length - upload.offset)
        upload.length = length

    async def _take(
        self, upload: Upload, came: int, parts: AsyncIterator[Block], size: int | None, checksum: Checksum | None
    ) -> None:
        """Take a part of an upload of which this many bytes came before."""
        buffer, most = upload.buffer, upload.most
        if size is not None:
            if came + size > most:
                raise upload.too_long(came + size)
            await buffer.expect(size)
        if checksum is None:
            noted = came
            async for part in parts:
                came += size_of(part)
                if came > most:
                    raise upload.too_long(came)
                await buffer.write(part)
                if self._quota.keeps_uploads and came - noted >= _NOTED_EVERY_BYTES:
                    await self._note(upload)
                    noted = came
            return
        mark = buffer.mark()
        sum = new_hash(checksum.name)
        try:
            async for part in parts:
                came += size_of(part)
                if came > most:
                    raise upload.too_long(came)
                for piece in (part,) if isinstance(part, bytes) else part:
                    sum.update(piece)
                await buffer.write(part)
            if sum.digest() != checksum.digest:
                found = base64.b64encode(sum.digest()).decode()
                raise ChecksumMismatch(
                    f"the part's {checksum.name} is {found}, not what Upload-Checksum says; send it again",
                    field="Upload-Checksum",
                    current=found,
                )
        except BaseException:
            buffer.back_to(mark)
            raise

    async def _write(self, upload: Upload, owner: Agent) -> None:
        """Make the file. If that is refused, the content stays, and an empty part tries again."""
        async with upload.lock:
            if self._by_id.get(upload.id) is not upload:
                raise UnknownUpload(f"the upload {upload.id!r} was ended before it was a file", field="upload_id")
            if upload.written is not None:
                return
            if upload.content is None:
                await upload.buffer.flush()
                upload.content = await self._files.keep(upload.buffer, upload.ask)
            self._quota.hold(upload.content)
            written = await self._files.put_content(owner, upload.ask, upload.content, upload.noted)
            upload.written, upload.readers = written.version, written.readers
            if written.unnoted:
                upload.noted = None
            self._let_go(upload)
            self._extend(upload)

    async def end(self, upload: Upload) -> None:
        """Forget an upload."""
        await self.settle(upload)
        self._forget(upload)

    def _forget(self, upload: Upload) -> None:
        if self._remove(upload.id):
            self._let_go(upload)

    def _remove(self, id: str) -> bool:
        """Take an upload off the list; return False if it is not there."""
        upload = self._by_id.pop(id, None)
        self.memory -= 0 if upload is None else upload.footprint
        return upload is not None

    def _let_go(self, upload: Upload) -> None:
        upload.buffer.discard()
        if upload.content is not None:
            self._quota.release(upload.content)
            upload.content = None
        if upload.noted is not None:
            upload.noted = None
            self._core.begin(self._unnote(upload.id))

    def _extend(self, upload: Upload) -> None:
        limits = self._core.limits
        keep = limits.upload_ttl if upload.written is None else limits.retention
        upload.moved_at = self._core.clock()
        upload.expires_at = upload.moved_at + keep

    def known(self) -> list[Upload]:
        """Return all uploads. For the janitor."""
        return list(self._by_id.values())

    async def look(self, upload: Upload) -> None:
        """Forget an upload without progress for too long, or without its agent. For the janitor."""
        if not self._lapsed(upload) and await self._core.store.get(Agent, upload.owner) is None:
            await self.end(upload)

    def close(self) -> None:
        """Forget all, but for what survives."""
        for upload in list(self._by_id.values()):
            if upload.noted is None:
                self._forget(upload)
