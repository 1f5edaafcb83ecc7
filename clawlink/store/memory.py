"""The default store: everything in this process's memory, gone when it ends.

Every method runs without suspending, so nothing changes between a read and the commit that follows it at once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from heapq import heapify, heappop, heappush
from operator import attrgetter
from typing import Any, cast

from clawlink.domain.delivery import DEAD, PENDING, Delivery
from clawlink.store.base import Conflict, Drop, Page, Put, R, Usage

_rank = attrgetter("rank")
_NOTHING = Usage(0, 0)
# A mailbox's heap keeps entries of leases that were settled before they lapsed; past this many it is cleaned.
_STALE_ENTRIES = 64


class _Index:
    """The ids under one key, in the order they came, and their weight. A dict keeps order and drops fast."""

    __slots__ = ("bytes", "ids")

    def __init__(self) -> None:
        self.ids: dict[str, None] = {}
        self.bytes = 0


class _Kind:
    """All records of one kind, their indexes, and the calendar: which of them end in which second."""

    __slots__ = ("calendar", "indexes", "records")

    def __init__(self) -> None:
        self.records: dict[str, Any] = {}
        self.indexes: dict[str, _Index] = {}
        self.calendar: dict[int, set[str]] = {}

    def apply(self, id: str, old: Any, new: Any) -> None:
        """Put ``new`` in the place of ``old``; either may be None."""
        if new is None:
            del self.records[id]
            new_keys, new_end = (), None
        else:
            self.records[id] = new
            new_keys, new_end = new.index_keys, new.ends_at
        old_keys, old_end = ((), None) if old is None else (old.index_keys, old.ends_at)
        if old_keys:
            self._unindex(id, old_keys, old.weight, new_keys)
        if new_keys:
            weight = new.weight
            for key in new_keys:
                index = self.indexes.get(key)
                if index is None:
                    index = self.indexes[key] = _Index()
                index.ids[id] = None
                index.bytes += weight
        if old_end != new_end:
            if old_end is not None:
                self._uncalendar(id, int(old_end))
            if new_end is not None:
                ids = self.calendar.get(int(new_end))
                if ids is None:
                    self.calendar[int(new_end)] = {id}
                else:
                    ids.add(id)

    def _unindex(self, id: str, keys: Collection[str], weight: int, kept: Collection[str]) -> None:
        for key in keys:
            index = self.indexes[key]
            index.bytes -= weight
            if key not in kept:
                del index.ids[id]
                if not index.ids:
                    del self.indexes[key]

    def _uncalendar(self, id: str, second: int) -> None:
        ids = self.calendar[second]
        ids.remove(id)
        if not ids:
            del self.calendar[second]


class _Mailbox:
    """What one mailbox holds: the due ones sorted by rank, the others by when they will be due."""

    __slots__ = ("bytes", "count", "later", "ready")

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self.ready: list[Delivery] = []
        self.later: list[tuple[float, str, int]] = []


class MemoryStore:
    """A ``Store`` in memory."""

    def __init__(self) -> None:
        self._deliveries = _Kind()
        self._kinds: dict[type[Any], _Kind] = {Delivery: self._deliveries}
        self._mailboxes: dict[str, _Mailbox] = {}
        self._held_count = 0
        self._held_bytes = 0

    def _kind(self, kind: type[Any]) -> _Kind:
        found = self._kinds.get(kind)
        if found is None:
            found = self._kinds[kind] = _Kind()
        return found

    # -- read --------------------------------------------------------------------------------------------------------

    async def get(self, kind: type[R], id: str) -> R | None:
        found = self._kinds.get(kind)
        return None if found is None else cast("R | None", found.records.get(id))

    async def page(self, kind: type[R], key: str, after: str | None = None, limit: int = 100) -> Page[R]:
        found = self._kind(kind)
        index = found.indexes.get(key)
        return _cut(found.records, () if index is None else index.ids, after, limit)

    async def usage(self, kind: type[R], key: str) -> Usage:
        index = self._kind(kind).indexes.get(key)
        return _NOTHING if index is None else Usage(len(index.ids), index.bytes)

    async def load(self, mailbox: str) -> Usage:
        box = self._mailboxes.get(mailbox)
        return _NOTHING if box is None else Usage(box.count, box.bytes)

    async def total(self) -> Usage:
        return Usage(self._held_count, self._held_bytes)

    async def due(self, mailbox: str, now: float, limit: int) -> Sequence[Delivery]:
        box = self._mailboxes.get(mailbox)
        if box is None:
            return ()
        later = box.later
        while later and later[0][0] <= now:
            _, id, version = heappop(later)
            if self._is_current(id, version):
                _insert(box.ready, self._deliveries.records[id])
        return box.ready[:limit]

    async def pending(self, mailbox: str, limit: int) -> Sequence[Delivery]:
        box = self._mailboxes.get(mailbox)
        if box is None:
            return ()
        records = self._deliveries.records
        waiting = (records[id] for _, id, version in box.later if self._is_current(id, version))
        return [*box.ready, *waiting][:limit]

    async def next_due_at(self, mailbox: str) -> float | None:
        box = self._mailboxes.get(mailbox)
        if box is None:
            return None
        if box.ready:
            return box.ready[0].visible_at
        while box.later:
            visible_at, id, version = box.later[0]
            if self._is_current(id, version):
                return visible_at
            heappop(box.later)
        return None

    async def ending(self, kind: type[R], now: float, limit: int) -> Sequence[R]:
        found = self._kind(kind)
        last = int(now)
        ended: list[R] = []
        for second in sorted(second for second in found.calendar if second <= last):
            for id in found.calendar[second]:
                record = found.records[id]
                if record.ends_at <= now:
                    ended.append(record)
                    if len(ended) == limit:
                        return ended
        return ended

    # -- write -------------------------------------------------------------------------------------------------------

    async def commit(self, home: str, *changes: Put | Drop) -> None:
        accepted = []
        for change in changes:
            record: Any = change.record
            kind = self._kinds.get(type(record)) or self._kind(type(record))
            old = kind.records.get(record.id)
            if record.home != home:
                raise ValueError(f"{type(record).__name__} {record.id!r} lives at {record.home!r}, not at {home!r}")
            new = record if type(change) is Put else None
            follows = record.version if new is None else record.version - 1
            if (0 if old is None else old.version) != follows or (old is not None and old.home != home):
                raise Conflict(f"{type(record).__name__} {record.id!r} is not at version {follows}")
            accepted.append((kind, record.id, old, new))
        for kind, id, old, new in accepted:
            kind.apply(id, old, new)
            if kind is self._deliveries:
                self._queue(old, new)

    def _queue(self, old: Delivery | None, new: Delivery | None) -> None:
        """Move a delivery within its mailbox, or in or out of it."""
        mailbox = cast("Delivery", new or old).mailbox
        box = self._mailboxes.get(mailbox)
        if box is None:
            box = self._mailboxes[mailbox] = _Mailbox()
        if old is not None:
            state = old.state
            if state is PENDING:
                _remove(box.ready, old)
            if state is PENDING or state is DEAD:
                self._count(box, -1, -len(old.body))
        if new is not None:
            state = new.state
            if state is PENDING or state is DEAD:
                self._count(box, 1, len(new.body))
            if state is PENDING:
                # A new message is due at once unless it was stored to wait. Anything else is filed by its time, and
                # `due` moves it over when that has come.
                if new.version == 1 and new.visible_at <= new.stored_at:
                    _insert(box.ready, new)
                else:
                    heappush(box.later, (new.visible_at, new.id, new.version))
                    if len(box.later) > _STALE_ENTRIES and len(box.later) > 4 * box.count:
                        box.later = [entry for entry in box.later if self._is_current(entry[1], entry[2])]
                        heapify(box.later)
        if not box.count:
            del self._mailboxes[mailbox]

    def _count(self, box: _Mailbox, count: int, size: int) -> None:
        box.count += count
        box.bytes += size
        self._held_count += count
        self._held_bytes += size

    def _is_current(self, id: str, version: int) -> bool:
        record = self._deliveries.records.get(id)
        return record is not None and record.version == version


def _insert(ready: list[Delivery], d: Delivery) -> None:
    if not ready or ready[-1].rank < d.rank:
        ready.append(d)
    else:
        ready.insert(bisect_left(ready, d.rank, key=_rank), d)


def _remove(ready: list[Delivery], d: Delivery) -> None:
    """Take out a delivery that is due; one that is filed for later is not here, and its entry there just grows stale."""
    if ready and ready[0] is d:
        del ready[0]
        return
    at = bisect_left(ready, d.rank, key=_rank)
    while at < len(ready) and ready[at].rank == d.rank:
        if ready[at] is d:
            del ready[at]
            return
        at += 1


def _cut(records: dict[str, Any], ids: Collection[str], after: str | None, limit: int) -> Page[Any]:
    found: list[Any] = []
    skipping = after is not None and after in ids
    for id in ids:
        if skipping:
            skipping = id != after
            continue
        if len(found) == limit:
            return Page(found, found[-1].id)
        found.append(records[id])
    return Page(found, None)
