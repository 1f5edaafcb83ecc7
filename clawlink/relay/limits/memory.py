"""How much room everything that the relay keeps may take: one limit over records of all kinds and contents of files.

The room is memory, or with ``--data`` that folder on the disk.

Settled records go first when it is reached, the oldest of the largest kind first; they are history. Then new work is
refused. Acks, heartbeats and reads are never asked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from clawlink.domain.broadcast import Broadcast
from clawlink.domain.delivery import Delivery
from clawlink.domain.file import FileWrite
from clawlink.domain.limits import NEW_WORK_SHARE, Limits
from clawlink.domain.record import SETTLED, Record, text_bytes
from clawlink.domain.task import Task
from clawlink.errors import StorageFull
from clawlink.relay.telemetry.stats import Stats
from clawlink.relay.time_slices import Turns
from clawlink.store.base import Conflict, Drop, Store

SETTLED_KINDS: tuple[type[Any], ...] = (Delivery, Task, Broadcast, FileWrite)
# This many settled records go at once, so that the next writes find room without a look at the history.
_AT_ONCE = 64
# The bytes of a record beside its content, for choosing the kind that gives most room.
_RECORD_BYTES = 500
_RETRY_SECONDS = 30.0
NEW_RECORD_BYTES = 1024
"""Bytes that are asked for a new record beside its content: itself, its index entries, and its task's record."""

_INDEX_BYTES = 350


def size_of(record: Record) -> int:
    """Return about how much memory a new record takes, if nobody else has its index keys."""
    keys = sum(_INDEX_BYTES + text_bytes(key, sent=False) for key in record.index_keys)
    return record.footprint + text_bytes(record.id) + keys


class Memory:
    """The room that records take, and the room that is left. It is on the disk if the store is ``on_disk``."""

    def __init__(self, store: Store, limits: Limits, stats: Stats, *, on_disk: bool = False) -> None:
        self._store = store
        self._stats = stats
        self._beside: list[Callable[[], int]] = []
        self._most, self._field = (limits.max_data, "max_data") if on_disk else (limits.max_memory, "max_memory")
        self._room = f"bytes {'on its disk' if on_disk else 'of memory'}"
        self._for_new = int(self._most * NEW_WORK_SHARE)
        self._records = self._most  # as last read; until then there is no plenty
        self.trim: Callable[[], None] = lambda: None
        """Set by the keeper of contents: gives back what is only kept for what may come."""
        self.history: list[tuple[type[Any], str]] = [(kind, SETTLED) for kind in SETTLED_KINDS]
        """The records that go first, as kind and index key."""

    def count(self, used: Callable[[], int]) -> None:
        """Count what ``used`` returns, too."""
        self._beside.append(used)

    async def used(self) -> int:
        """Return about how many bytes of memory are in use."""
        self._records = await self._store.memory()
        return self._now()

    def _now(self) -> int:
        """Return what is in use, with the records as last read."""
        used = self._records
        for beside in self._beside:
            used += beside()
        return used

    def has_plenty(self, size: int) -> bool:
        """Return True if there is room by what was known when something was last asked for: no need to ask then.

        For parts of contents, which come too often to ask a store each time. Records do not grow unasked.
        """
        return self._now() + size <= self._for_new

    async def require(self, size: int, *, answers: bool = False) -> None:
        """Refuse what would pass the limit, once no settled record is left to make room. Raises StorageFull.

        Part of the limit is kept for what ``answers`` open work.
        """
        most = self._most
        allowed = most if answers else self._for_new
        self._records = await self._store.memory()  # not by ``used``: each message comes by here
        if self._now() + size <= allowed:
            return
        used = await self._make_room(allowed - size)
        if used + size > allowed:
            new = "" if answers else f" for new work ({most} in all)"
            raise StorageFull(
                f"the relay has {used} of {allowed} {self._room} in use{new}, and this needs {size} more; "
                "read and answer messages, delete files, have agents leave, or start the relay with a higher "
                f"--{self._field.replace('_', '-')}",
                field=self._field,
                limit=allowed,
                actual=used + size,
                retry_after=_RETRY_SECONDS,
                current={"free": max(allowed - used, 0)},
            )

    async def has_room(self, size: int) -> bool:
        """Return True if something of this size may come."""
        try:
            await self.require(size)
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
        kind, key, _ = max(usages, key=lambda found: found[2].bytes + _RECORD_BYTES * found[2].count)
        forgotten = 0
        for record in await self._store.first(kind, key, _AT_ONCE):
            with contextlib.suppress(Conflict):  # it has changed at this moment
                await self._store.commit(record.partition_key, Drop(record))
                forgotten += 1
            await turns.next()
        self._stats.evicted += forgotten
        return forgotten > 0
