"""Room for files: contents on their way in, held to the ceilings."""

from __future__ import annotations

import hashlib
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from clawlink import private
from clawlink.domain import file as rules
from clawlink.domain.file import PRESENT, RESTRICTED, Content, SharedFile, Version, by_heir, by_heir_address
from clawlink.domain.limits import MIB
from clawlink.domain.shares import Origin
from clawlink.errors import StorageFull, StoreUnavailable, TooLarge
from clawlink.relay.core import Core
from clawlink.relay.limits.shares import Held, Limit
from clawlink.relay.telemetry.refusal_log import RefusalLog
from clawlink.store.base import Usage
from clawlink.store.contents import Blobs, Draft, LostWrites, Reader

# An upload without progress for this many seconds gives its room to others, once there is too little.
SILENT_UPLOAD_SECONDS = 120.0
_LOST_RETRY_SECONDS = 1.0
# The files with versions of others that a look at a share reads. Versions in further files count for their heir.
_MOST_INHERITED = 300

Block = bytes | tuple[bytes, ...]
"""Bytes, or pieces of bytes: joining megabytes costs as much as writing them."""


def size_of(block: Block) -> int:
    """Return the size of a block in bytes."""
    return len(block) if isinstance(block, bytes) else sum(map(len, block))


class FileQuota:
    """The contents of all files, and the room for more."""

    def __init__(self, core: Core, blobs: Blobs, refusal_log: RefusalLog) -> None:
        self._core = core
        self._blobs = blobs
        self.refusal_log = refusal_log
        # Set by the keeper of uploads: frees this many bytes of silent uploads, if it can, and returns the bytes under
        # way.
        self.reclaim: Callable[[int], None] = lambda size: None
        self.under_way: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.open: Callable[[Content], AbstractContextManager[Reader]] = blobs.open
        self.hold: Callable[[Content], None] = blobs.hold
        self.release: Callable[[Content], None] = blobs.release
        self.keeps_uploads = blobs.keeps_drafts
        """True if what has come of an upload survives a restart."""
        self.most = core.limits.max_file_bytes
        """The largest size of a file in bytes."""
        core.memory.count(blobs)
        core.memory.trim = blobs.trim
        if blobs.memory_for(MIB) >= MIB:
            core.memory.contents_of = lambda origin: self._held_by(origin, but=None, replaced=None)
        self._replaced: set[str] = set()  # files whose stored versions make room for the new one
        self._coming: set[UploadBuffer] = set()
        self._calm = core.shares.calm(math.inf, core.limits.max_files_bytes)

    @property
    def used(self) -> int:
        """How many bytes there are, uploads under way included."""
        return self._blobs.used

    @property
    def free(self) -> int:
        """How many bytes may still come."""
        return max(self._core.limits.max_files_bytes - self._blobs.used, 0)

    @property
    def over(self) -> bool:
        """Return True if a writer replaces a file and has passed the ceiling for it."""
        return self._blobs.used > self._core.shares.bound(self._core.limits.max_files_bytes)

    def has_plenty(self, more: int) -> bool:
        """Return True if neither the room for contents nor the memory refuses more bytes to anybody."""
        # Bytes of a content take no more memory than they are.
        return self._blobs.used + more <= self._calm.size and self._core.memory.has_plenty(more)

    async def require_memory(self, size: int, more: int, writer: Origin) -> None:
        """Refuse ``more`` bytes of a content that has ``size`` if there is no memory. Raises StorageFull."""
        memory = self._core.memory
        growth = self._blobs.memory_for(size + more) - self._blobs.memory_for(size)
        if growth > 0 and not memory.has_plenty(growth):
            await memory.require(growth, writer)

    def close(self) -> None:
        """Forget everything."""
        self._blobs.close()

    async def resume(self, name: str, size: int, key: str, field: str, writer: Origin) -> UploadBuffer | None:
        """Return the bytes of an upload that came before a restart; None if they are not there."""
        draft = await self._blobs.resume(name, size)
        if draft is None:
            return None
        buffer = UploadBuffer(self, draft, key, field, writer)
        self._coming.add(buffer)
        return buffer

    def buffer(self, key: str, field: str, writer: Origin, *, name: str | None = None) -> UploadBuffer:
        """Return a buffer for a content of ``key``; ``field`` is the request's field with it.

        A buffer with a ``name`` may be resumed after a restart.
        """
        buffer = UploadBuffer(self, self._blobs.draft(name), key, field, writer)
        self._coming.add(buffer)
        return buffer

    def arrived(self, buffer: UploadBuffer) -> None:
        """Note that an intake is at its end."""
        self._coming.discard(buffer)

    def contended(self, more: int) -> bool:
        """Return True if the room is so full that each writer is held to its share."""
        return self._blobs.used + more > self._calm.size

    async def require_room(self, buffer: UploadBuffer, more: int, replacing: int) -> None:
        """Refuse more of a content than there is room for, or than its writer may have. Raises StorageFull.

        Versions of the same file do not count: they can go for the one that comes. ``replacing`` bytes may pass all
        limits until then. A writer may always replace its own file by one that is no larger.
        """
        limit, shares = self._core.limits.max_files_bytes, self._core.shares
        old = await self._core.store.get(SharedFile, buffer.key)
        replaced = 0 if old is None else old.weight
        before = max(self.used - buffer.size - replaced, 0)
        uploads, bytes = self.under_way()
        silent = f"; an upload that is silent for {SILENT_UPLOAD_SECONDS:g} s makes room" if bytes else ""
        await shares.require(
            StorageFull,
            buffer.origin,
            lambda: self._held_by(buffer.origin, but=buffer, replaced=old),
            bytes=Limit(limit, before, buffer.size + more, shares.bound(limit) + replacing - replaced),
            fair=not (
                old is not None
                and old.counts_for == buffer.origin.agent
                and buffer.size + more <= replaced - old.of_others[1]
            ),
            holds="the relay holds",
            what=f"files ({bytes} of them in {uploads} uploads under way)" if bytes else "files",
            then=f"delete files{silent}, or start the relay with a higher --max-files-bytes",
        )

    async def _held_by(self, origin: Origin, *, but: UploadBuffer | None, replaced: SharedFile | None) -> Held:
        """Return the usage of an address and an agent by all files and uploads, without a replaced file.

        Versions that others wrote are not theirs, although the files count for them.
        """
        address, agent = await self._core.shares.under(origin, (SharedFile, PRESENT), (SharedFile, RESTRICTED))
        of_address, of_agent = address.bytes, agent.bytes
        but_id = None if replaced is None else replaced.id
        if origin.address is not None:
            for file in (
                await self._core.store.page(SharedFile, by_heir_address(origin.address), limit=_MOST_INHERITED)
            ).records:
                of_address -= file.of_others[0] * (file.id != but_id)
        for file in (await self._core.store.page(SharedFile, by_heir(origin.agent), limit=_MOST_INHERITED)).records:
            of_agent -= file.of_others[1] * (file.id != but_id and file.address == origin.address)
        for other in self._coming:
            if other is not but:
                of_address += other.size * (other.origin.address == origin.address)
                of_agent += other.size * (other.origin == origin)
        if replaced is not None and replaced.address == origin.address:
            of_address -= replaced.weight
            of_agent -= replaced.weight * (replaced.counts_for == origin.agent)
        return Usage(0, max(of_address, 0)), Usage(0, max(of_agent, 0))

    async def kept_by_share(self, writer: Origin, old: SharedFile, size: int) -> int:
        """Return the number of versions that the writer's share has room for, beside a new one of ``size`` bytes."""
        if not old.versions or not self.contended(0):
            return len(old.versions)
        held = await self._held_by(writer, but=None, replaced=old)
        limit = Limit(self._core.limits.max_files_bytes, max(self.used - old.weight - size, 0), size)
        kept = 0
        for count, version in enumerate(old.versions, 1):
            kept += version.content.size * (version.origin == writer)
            if not self._core.shares.allow(held, writer, limit, kept):
                return count - 1
        return len(old.versions)

    def kept(self, versions: tuple[Version, ...], most: int) -> int:
        """Return the number of versions of a file that may stay beside a new one, at most ``most``."""
        count, _ = self._oldest(versions, self.used - self._core.limits.max_files_bytes)
        return min(most, len(versions) - count)

    def _oldest(self, versions: tuple[Version, ...], enough: int) -> tuple[int, int]:
        """Return how many of the oldest versions are to go for ``enough`` bytes, and how many bytes they free.

        A content that others have too, or that is being read, frees none. All go if they are not enough.
        """
        count = freed = 0
        for size in self._blobs.freeing(version.content for version in reversed(versions)):
            if freed >= enough:
                break
            count, freed = count + 1, freed + size
        return count, freed

    async def replaces(self, key: str) -> int:
        """Return the bytes by which a writer of ``key`` may pass the ceiling, until its file is written.

        They are those of the versions that may go for it. Only a single writer at a time has them.

        A caller that gets more than 0 must call ``replaced`` in the end.
        """
        file = rules.present(await self._core.store.get(SharedFile, key), self._core.clock())
        if file is None or key in self._replaced:
            return 0
        size = sum(self._blobs.freeing(version.content for version in reversed(file.versions)))
        if size:
            self._replaced.add(key)
        return size

    def replaced(self, key: str) -> None:
        """Note that a writer that was to replace a file is done."""
        self._replaced.discard(key)


class UploadBuffer:
    """A content that comes in parts. It must come to ``keep`` or ``discard``."""

    def __init__(self, file_quota: FileQuota, draft: Draft, key: str, field: str, origin: Origin) -> None:
        self._quota = file_quota
        self.draft = draft
        self.key = key
        self.origin = origin
        self._field = field
        self._replacing: int | None = None
        self.lost = False
        """True once the disk lost bytes of it. It takes no more."""

    @property
    def size(self) -> int:
        """The bytes that have come."""
        return self.draft.size

    @property
    def digest(self) -> str:
        """The SHA-256 of the bytes so far, in hexadecimal."""
        return self.draft.digest

    async def expect(self, size: int) -> None:
        """Refuse more bytes before they come. Raises TooLarge, StorageFull."""
        quota, came = self._quota, self.draft.size
        if came + size > quota.most:
            raise self._too_large(came + size)
        if quota.has_plenty(size):
            return
        if quota.contended(size):
            await self._require_room(size)
        await quota.require_memory(came, size, self.origin)

    def _too_large(self, size: int) -> TooLarge:
        """Return the refusal of a file that is too large by itself."""
        limit = self._quota.most
        return TooLarge(
            f"a file may have {limit} bytes, and {self.key!r} has {size}{' or more' if self._field == 'body' else ''}; "
            "share it in parts, or start the relay with a higher --max-file-bytes",
            field=self._field,
            limit=limit,
            actual=size,
        )

    async def _require_room(self, size: int) -> None:
        """Make room where there is little, or refuse. Raises StorageFull."""
        missing = size - self._quota.free
        if missing > 0:
            self._quota.reclaim(missing)
        if size > self._quota.free and self._replacing is None:
            self._replacing = await self._quota.replaces(self.key)
        await self._quota.require_room(self, size, self._replacing or 0)

    async def write(self, part: Block) -> None:
        """Take a part. Raises TooLarge, StorageFull."""
        await self.expect(size_of(part))
        try:
            await self.draft.write(*((part,) if isinstance(part, bytes) else part))
        except OSError as error:
            raise self._refusal(error) from error

    async def write_all(self, parts: AsyncIterator[Block]) -> None:
        """Take all parts."""
        async for part in parts:
            await self.write(part)
        await self.flush()

    async def flush(self) -> None:
        """Put the bytes in their final place. Raises StorageFull, StoreUnavailable."""
        try:
            await self.draft.flush()
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> StorageFull | StoreUnavailable:
        """Return the error for a failure of the disk."""
        why = error.strerror or str(error)
        self._quota.refusal_log.disk(why)
        if isinstance(error, LostWrites):
            self.lost = True
            return StoreUnavailable(
                f"the disk of the relay failed ({why}), and no byte of {self.key!r} is kept; "
                "send it again from its beginning",
                retry_after=_LOST_RETRY_SECONDS,
            )
        return StorageFull(
            f"the relay could not write {self.key!r} to its disk ({why}); delete files, or make room on it",
            current={"free": 0},
        )

    def mark(self) -> Any:
        """Return a mark for ``back_to``."""
        return self.draft.mark()

    def back_to(self, mark: Any) -> None:
        """Forget the bytes since ``mark``."""
        self.draft.back_to(mark)

    async def keep(self, scope: str = "") -> Content:
        """Make it a content of this scope, held once. Raises StorageFull, StoreUnavailable."""
        try:
            content = await private.patiently(partial(self.draft.keep, scope))
        except OSError as error:
            raise self._refusal(error) from error
        self._quota.arrived(self)
        return content

    def rest(self) -> None:
        """Note that nothing comes for a while: unless it has gone over the ceiling, others may do so meanwhile."""
        if self._replacing is not None and not self._quota.over:
            self._end_replacing()

    def discard(self) -> None:
        """Forget it, unless it was kept."""
        self._quota.arrived(self)
        self.draft.discard()
        if self._replacing is not None:
            self._end_replacing()

    def _end_replacing(self) -> None:
        if self._replacing:
            self._quota.replaced(self.key)
        self._replacing = None


def new_hash(name: str) -> Any:
    """Return a hash by its name, for checking only."""
    return hashlib.new(name, usedforsecurity=False)
