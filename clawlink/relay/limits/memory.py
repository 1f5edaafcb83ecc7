"""How much room everything that the relay keeps may take: one limit over records of all kinds and contents of files.

The room is memory, or with ``--data`` that folder on the disk.

Settled records go first when it is reached, the oldest of the largest kind first; they are history. Then new work is
refused. Acks, heartbeats and reads are never asked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from clawlink.domain.broadcast import Broadcast
from clawlink.domain.delivery import Delivery
from clawlink.domain.file_write import FileWrite
from clawlink.domain.limits import NEW_WORK_SHARE, Limits
from clawlink.domain.record import SETTLED, Record, text_bytes
from clawlink.domain.shares import Level, Origin, Share, Used, unasked, used_up
from clawlink.domain.task import Task
from clawlink.errors import StorageFull
from clawlink.relay.limits import shares
from clawlink.relay.limits.shares import Held
from clawlink.relay.telemetry.stats import Stats
from clawlink.relay.time_slices import Turns
from clawlink.store.base import Admission, Conflict, Drop, Store, Usage

SETTLED_KINDS: tuple[type[Any], ...] = (Delivery, Task, Broadcast, FileWrite)
# This many settled records go at once, so that the next writes find room without a look at the history.
_AT_ONCE = 64
# The bytes of a record beside its content, for choosing the kind that gives most room.
_RECORD_BYTES = 500
_RETRY_SECONDS = 30.0
# New work shares the first of these sixteenths of the limit, and answers the second.
_FOR_NEW, _FOR_ANSWERS = 13, 14
NEW_RECORD_BYTES = 1024
"""Bytes that are asked for a new record beside its content: itself, its index entries, and its task's record."""

_INDEX_BYTES = 350


def size_of(record: Record) -> int:
    """Return about how much memory a new record takes, if nobody else has its index keys."""
    keys = sum(_INDEX_BYTES + text_bytes(key, sent=False) for key in record.index_keys)
    return record.footprint + text_bytes(record.id) + keys


def _estimate(settled: Usage) -> int:
    """Return about how much memory settled records take."""
    return settled.bytes + _RECORD_BYTES * settled.count


async def _nothing(origin: Origin) -> Held:
    return Usage(0, 0), Usage(0, 0)


class Keeper(Protocol):
    """A keeper of something beside the records."""

    @property
    def memory(self) -> int:
        """About how many bytes of memory it takes now."""


class Memory:
    """The room that records take, and the room that is left. It is on the disk if the store is ``on_disk``."""

    def __init__(self, store: Store, limits: Limits, stats: Stats, *, on_disk: bool = False) -> None:
        self._store = store
        self._stats = stats
        self.on_disk = on_disk
        self._beside: list[Keeper] = []
        self._most, self._field = (limits.max_data, "max_data") if on_disk else (limits.max_memory, "max_memory")
        self._room = f"bytes {'on its disk' if on_disk else 'of memory'}"
        self._for_new = int(self._most * NEW_WORK_SHARE)
        self._percent = limits.fair_share
        whole = self._percent == 100
        self._calm = self._for_new if whole else int(self._most * _FOR_NEW / 16 * unasked(self._percent))
        self._records = self._most  # as last read; until then there is no plenty
        self.contents_of: Callable[[Origin], Awaitable[Held]] = _nothing
        """Set by the keeper of contents: tells how many bytes of memory those of an address and of an agent take."""
        self.trim: Callable[[], None] = lambda: None
        """Set by the keeper of contents: frees memory that is only kept for later use."""
        self.history: list[tuple[type[Any], str]] = [(kind, SETTLED) for kind in SETTLED_KINDS]
        """The records that go first, as kind and index key."""

    @property
    def limit(self) -> int:
        """The bytes that all of it may take."""
        return self._most

    @property
    def field(self) -> str:
        """The name of that limit."""
        return self._field

    def count(self, keeper: Keeper) -> None:
        """Count what a keeper of something else takes, too."""
        self._beside.append(keeper)

    async def used(self) -> int:
        """Return about how many bytes of memory are in use."""
        self._records = (await self._store.admission()).memory
        return self._now()

    def _now(self) -> int:
        """Return the bytes in use, with the records as last read."""
        used = self._records
        for keeper in self._beside:
            used += keeper.memory
        return used

    def has_plenty(self, size: int, read: Admission | None = None) -> bool:
        """Return True if neither the limit nor a share of it refuses this size: there is no need to ``require`` it.

        ``read`` is what the store has just said. Without it, what it said last counts: parts of contents come too often
        to ask a store each time, and records do not grow unasked.
        """
        if read is not None:
            self._records = read.memory  # each message comes by here
        used = self._records + size
        for keeper in self._beside:
            used += keeper.memory
        return used <= self._calm

    async def require(self, size: int, origin: Origin, *, answers: bool = False, read: Admission | None = None) -> None:
        """Refuse what would pass the limit or a share of it, once no settled record makes room. Raises StorageFull.

        Part of the limit is kept for what ``answers`` open work. ``read`` is what the store has just said.
        """
        if self.has_plenty(size, read or await self._store.admission()):
            return
        used = self._now()
        allowed = self._most if answers else self._for_new
        if used + size > allowed:
            used = await self._make_room(allowed - size)
        over = await self._over(used, size, origin, answers=answers)
        if over is None:
            return
        new = "" if answers else f" for new work ({self._most} in all)"
        why = ""
        if over.level is not Level.ALL:
            why = f", {over.used} of them for {shares.holder(over)}, {shares.share(over)}"
        raise StorageFull(
            f"the relay has {used} of {allowed} {self._room} in use{new}{why}, and this needs {size} more; "
            "read and answer messages, delete files, have agents leave, or start the relay with a higher "
            f"--{self._field.replace('_', '-')}",
            field=self._field,
            limit=over.most,
            actual=over.used + size,
            retry_after=_RETRY_SECONDS,
            current=shares.told(over, free=True),
        )

    async def _over(self, used: int, size: int, origin: Origin, *, answers: bool) -> Share | None:
        """Return the share that a piece would pass, or the limit; None if it may come. What is settled has no share."""
        most = self._most if answers else self._for_new
        if self._percent == 100:
            return Share(Level.ALL, most, used) if used + size > most else None
        address, agent = await self._store.memory_from(*origin)
        for kind, key in self.history:
            settled = await self._store.usage(kind, key)
            used -= _estimate(settled)
            if settled.count and kind in (Delivery, Task):
                by_address, by_agent = await self._store.usage_from(kind, key, *origin)
                address, agent = address - _estimate(by_address), agent - _estimate(by_agent)
        by_address, by_agent = await self.contents_of(origin)
        address, agent = max(address, 0) + by_address.bytes, max(agent, 0) + by_agent.bytes
        held = Used(max(used, address), address, agent, origin.address is not None)
        # Newcomers with new work have room above what others fill by answers, and newcomers with answers above that.
        limit = self._most * (_FOR_ANSWERS if answers else _FOR_NEW) // 16
        return used_up(limit, held, size, self._percent, most)

    async def has_room(self, size: int, origin: Origin, read: Admission) -> bool:
        """Return True if something of this size may come."""
        if self.has_plenty(size, read):
            return True
        try:
            await self.require(size, origin, read=read)
        except StorageFull:
            return False
        return True

    async def _make_room(self, most: int) -> int:
        """Forget settled records until at most this much memory is in use, or none is left; return what is in use."""
        self.trim()
        turns = Turns()
        while (used := await self.used()) > most:
            if not await self._forget_some(turns):
                break
        return used

    async def _forget_some(self, turns: Turns) -> bool:
        """Forget some of the history; return False if there is none."""
        usages = [(kind, key, await self._store.usage(kind, key)) for kind, key in self.history]
        kind, key, _ = max(usages, key=lambda found: _estimate(found[2]))
        forgotten = 0
        for record in (await self._store.page(kind, key, limit=_AT_ONCE)).records:
            with contextlib.suppress(Conflict):  # it has changed at this moment
                await self._store.commit(record.partition_key, Drop(record))
                forgotten += 1
            await turns.next()
        self._stats.evicted += forgotten
        return forgotten > 0
