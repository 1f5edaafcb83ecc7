"""The default store: everything in this process's memory, gone when it ends.

Every method runs without suspending, so nothing changes between a read and the commit that follows it at once.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Container, Sequence
from heapq import heapify, heappop, heappush
from itertools import islice
from operator import attrgetter
from typing import Any, cast

from clawlink.domain.delivery import DEAD, PENDING, Delivery
from clawlink.store.base import Absent, Conflict, Drop, Page, Put, R, Usage

_rank = attrgetter("rank")
_NOTHING = Usage(0, 0)
# A mailbox's heap keeps entries of leases that were settled before they lapsed; past this many it is cleaned.
_STALE_ENTRIES = 64
# So many entries of a heap are looked at in one go: a few milliseconds where each of them has become due.
_AT_ONCE = 512


class _Index:
    """The ids under one key, in the order they came, and their weight. A dict keeps order and drops fast.

    Once a page of it was cut short, each id has a number too. Numbers only grow, so a page can go on after one whose id
    has gone. A dict cannot seek, though: ``listed`` are the numbers and ids as lists. Ids that have gone stay there
    until they are half of it.
    """

    __slots__ = ("bytes", "ids", "listed", "numbers")

    def __init__(self) -> None:
        self.ids: dict[str, None] = {}
        self.bytes = 0
        self.numbers: dict[str, int] | None = None
        self.listed: tuple[list[int], list[str]] | None = None


class _Kind:
    """All records of one kind, their indexes, and the calendar: which of them end in which second.

    ``seconds`` are the seconds of the calendar, sorted. ``arrivals`` is the last number given to an id under a key.
    Dicts of ids to nothing stand where sets would do: they take half the memory.
    """

    __slots__ = ("arrivals", "calendar", "indexes", "records", "seconds")

    def __init__(self) -> None:
        self.records: dict[str, Any] = {}
        self.indexes: dict[str, _Index] = {}
        self.calendar: dict[int, dict[str, None]] = {}
        self.seconds: list[int] = []
        self.arrivals = 0

    def apply(self, id: str, old: Any, new: Any) -> None:
        """Put ``new`` in the place of ``old``; either may be None."""
        if new is None:
            del self.records[id]
            new_keys, new_end = (), None
        else:
            self.records[id] = new
            new_keys, new_end = new.index_keys, new.ends_at
        old_keys, old_end = ((), None) if old is None else (old.index_keys, old.ends_at)
        if old_keys or new_keys:
            old_weight = old.weight if old_keys else 0
            new_weight = new.weight if new_keys else 0
            if old_keys != new_keys:
                for key in old_keys:
                    if key not in new_keys:
                        self._unindex(id, key, old_weight)
                for key in new_keys:
                    if key not in old_keys:
                        self._index(id, key, new_weight)
            if old_weight != new_weight and old_keys:
                for key in new_keys:
                    if key in old_keys:
                        self.indexes[key].bytes += new_weight - old_weight
        if old_end != new_end:
            if old_end is not None:
                self._uncalendar(id, int(old_end))
            if new_end is not None:
                ids = self.calendar.get(int(new_end))
                if ids is None:
                    self.calendar[int(new_end)] = {id: None}
                    insort(self.seconds, int(new_end))
                else:
                    ids[id] = None

    def _index(self, id: str, key: str, weight: int) -> None:
        index = self.indexes.get(key)
        if index is None:
            index = self.indexes[key] = _Index()
        index.bytes += weight
        index.ids[id] = None
        if index.numbers is not None:
            self._number(index, id)

    def _unindex(self, id: str, key: str, weight: int) -> None:
        index = self.indexes[key]
        index.bytes -= weight
        del index.ids[id]
        if index.numbers is not None:
            del index.numbers[id]
        if not index.ids:
            del self.indexes[key]

    def _number(self, index: _Index, *ids: str) -> None:
        if index.numbers is None:
            index.numbers = {}
        numbers = range(self.arrivals + 1, self.arrivals + len(ids) + 1)
        index.numbers.update(zip(ids, numbers, strict=True))
        self.arrivals += len(ids)
        if index.listed is not None:
            index.listed[0].extend(numbers)
            index.listed[1].extend(ids)

    def page(self, key: str, after: str | None, limit: int, *, newest: bool) -> Page[Any]:
        """Return the records under ``key`` that came after the number ``after``, or before it, ``newest`` first."""
        index = self.indexes.get(key)
        if index is None:
            return Page((), None)
        if after is None or not after.isdecimal():
            ids = list(islice(reversed(index.ids) if newest else index.ids, limit + 1))
        else:
            ids = self._after(index, int(after), limit + 1, newest=newest)
        records = [self.records[id] for id in ids[:limit]]
        if len(ids) <= limit or not records:
            return Page(records, None)
        if index.numbers is None:
            self._number(index, *index.ids)
        return Page(records, str(cast("dict[str, int]", index.numbers)[ids[limit - 1]]))

    def _after(self, index: _Index, number: int, limit: int, *, newest: bool) -> list[str]:
        """Return up to ``limit`` ids after a number, or before it, the ``newest`` first."""
        if index.numbers is None:
            self._number(index, *index.ids)
        current = cast("dict[str, int]", index.numbers)
        if index.listed is None or len(index.listed[0]) > 2 * len(current) + _STALE_ENTRIES:
            index.listed = list(current.values()), list(current)
        numbers, ids = index.listed
        if newest:
            places = range(bisect_left(numbers, number) - 1, -1, -1)
        else:
            places = range(bisect_right(numbers, number), len(numbers))
        there = (ids[place] for place in places if current.get(ids[place]) == numbers[place])
        return list(islice(there, limit))

    def _uncalendar(self, id: str, second: int) -> None:
        ids = self.calendar[second]
        del ids[id]
        if not ids:
            del self.calendar[second]
            del self.seconds[bisect_left(self.seconds, second)]


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

    index_lag = 0.0

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
        record: R | None = None if found is None else found.records.get(id)
        return record

    async def page(
        self, kind: type[R], key: str, after: str | None = None, limit: int = 100, *, newest: bool = False
    ) -> Page[R]:
        return self._kind(kind).page(key, after, limit, newest=newest)

    async def first(self, kind: type[R], key: str, limit: int) -> Sequence[R]:
        found = self._kind(kind)
        index = found.indexes.get(key)
        return () if index is None else [found.records[id] for id in islice(index.ids, limit)]

    async def usage(self, kind: type[R], key: str) -> Usage:
        found = self._kinds.get(kind)
        index = None if found is None else found.indexes.get(key)
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
        for _ in range(_AT_ONCE):
            if not later or later[0][0] > now:
                break
            d = self._filed(heappop(later), mailbox)
            if d is not None:
                _insert(box.ready, d)
        return box.ready[:limit]

    async def pending(self, mailbox: str, limit: int, but: Container[str] = ()) -> Sequence[Delivery]:
        box = self._mailboxes.get(mailbox)
        if box is None:
            return ()
        found: dict[str, Delivery] = {}
        for d in box.ready:
            if len(found) >= limit:
                break
            if d.id not in but:
                found[d.id] = d
        for entry in box.later:
            if len(found) >= limit:
                break
            if entry[1] not in but and (filed := self._filed(entry, mailbox)) is not None:
                found[filed.id] = filed
        return list(found.values())

    async def next_due_at(self, mailbox: str) -> float | None:
        box = self._mailboxes.get(mailbox)
        if box is None:
            return None
        if box.ready:
            return box.ready[0].visible_at
        later = box.later
        for _ in range(_AT_ONCE):
            if not later:
                return None
            if self._filed(later[0], mailbox) is not None:
                break
            heappop(later)
        return later[0][0] if later else None  # too early, if there are more that were settled: then ask again

    async def ending(self, kind: type[R], now: float, limit: int, but: Container[str] = ()) -> Sequence[R]:
        found = self._kind(kind)
        last = int(now)
        ended: list[R] = []
        for second in found.seconds:
            if second > last:
                break
            for id in found.calendar[second]:
                record = found.records[id]
                if record.ends_at <= now and id not in but:
                    ended.append(record)
                    if len(ended) == limit:
                        return ended
        return ended

    # -- write -------------------------------------------------------------------------------------------------------

    async def commit(self, home: str, *changes: Put | Drop | Absent) -> None:
        accepted = []
        for change in changes:
            if isinstance(change, Absent):
                if change.id in self._kind(change.kind).records:
                    raise Conflict(f"{change.kind.__name__} {change.id!r} exists")
                continue
            record: Any = change.record
            id = record.id
            kind = self._kinds.get(type(record)) or self._kind(type(record))
            old = kind.records.get(id)
            if record.home != home:
                raise ValueError(f"{type(record).__name__} {id!r} lives at {record.home!r}, not at {home!r}")
            new = record if type(change) is Put else None
            follows = record.version if new is None else record.version - 1
            if follows if old is None else old.version != follows or old.home != home:
                raise Conflict(f"{type(record).__name__} {id!r} is not at version {follows}")
            accepted.append((kind, id, old, new))
        for kind, id, old, new in accepted:
            kind.apply(id, old, new)
            if kind is self._deliveries:
                self._queue(home, old, new)

    def _queue(self, mailbox: str, old: Delivery | None, new: Delivery | None) -> None:
        """Move a delivery within its mailbox, or in or out of it."""
        box = self._mailboxes.get(mailbox)
        if box is None:
            box = self._mailboxes[mailbox] = _Mailbox()
        count = size = 0
        if old is not None:
            before = old.state
            if before is PENDING:
                _remove(box.ready, old)
            if before is PENDING or before is DEAD:
                count, size = -1, -len(old.body)
        if new is not None:
            after = new.state
            if after is PENDING:
                self._file(box, new)
            if after is PENDING or after is DEAD:
                count, size = count + 1, size + len(new.body)
        if count or size:
            box.count += count
            box.bytes += size
            self._held_count += count
            self._held_bytes += size
        if not box.count:
            del self._mailboxes[mailbox]

    def _file(self, box: _Mailbox, d: Delivery) -> None:
        # A new message is due at once unless it was stored to wait. Anything else is filed by its time, and `due` moves
        # it over when that has come.
        if d.version == 1 and d.visible_at <= d.stored_at:
            _insert(box.ready, d)
            return
        heappush(box.later, (d.visible_at, d.id, d.version))
        if len(box.later) > _STALE_ENTRIES and len(box.later) > 4 * box.count:
            box.later = [entry for entry in box.later if self._filed(entry, d.mailbox) is not None]
            heapify(box.later)

    def _filed(self, entry: tuple[float, str, int], mailbox: str) -> Delivery | None:
        """Return the delivery that was filed so, unless it has changed since.

        The version alone does not tell: an id may be stored anew after its record was forgotten, and reach it again.
        """
        visible_at, id, version = entry
        d: Delivery | None = self._deliveries.records.get(id)
        if d is None or d.version != version or d.visible_at != visible_at:
            return None
        return d if d.state is PENDING and d.mailbox == mailbox else None


def _insert(ready: list[Delivery], d: Delivery) -> None:
    """Put in a delivery that is due, at its place, unless it is there: an id stored anew may have been filed twice."""
    if not ready or ready[-1].rank < d.rank:
        ready.append(d)
        return
    at = bisect_left(ready, d.rank, key=_rank)
    while at < len(ready) and ready[at].rank == d.rank:
        if ready[at] is d:
            return
        at += 1
    ready.insert(at, d)


def _remove(ready: list[Delivery], d: Delivery) -> None:
    """Take out a delivery that is due; one filed for later is not here, and its entry there just grows stale."""
    if not ready or d.rank < ready[0].rank:
        return
    if ready[0] is d:
        del ready[0]
        return
    at = bisect_left(ready, d.rank, key=_rank)
    while at < len(ready) and ready[at].rank == d.rank:
        if ready[at] is d:
            del ready[at]
            return
        at += 1
