"""The default store: everything in this process's memory, gone when it ends.

Every method runs without suspending, so nothing changes between a read and the commit that follows it at once.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from itertools import islice
from operator import attrgetter
from typing import Any, cast

from clawlink.domain.delivery import Delivery, State
from clawlink.domain.record import Record
from clawlink.store.base import Conflict, Drop, Page, Put, R, Usage

_rank = attrgetter("rank")
_BUCKET_SECONDS = 1.0
_NOTHING = Usage(0, 0)
_EMPTY: Page[Any] = Page((), None)


class _Index:
    """The ids under one key, in the order they came, and their weight. A dict, because it keeps order and drops fast.

    Each id has the number of its coming; it only grows, so a page can go on after a number whose id is gone. ``listed``
    are the numbers and the ids as lists, made when someone pages, until an id comes or goes: a dict cannot seek.
    """

    __slots__ = ("bytes", "ids", "listed")

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}
        self.listed: tuple[list[int], list[str]] | None = None
        self.bytes = 0


class _Mailbox:
    """The pending deliveries of one mailbox: due ones sorted by rank, the others by when they will be due."""

    __slots__ = ("bytes", "count", "later", "ready")

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self.ready: list[Delivery] = []
        self.later: list[tuple[float, str, int]] = []


class _Kind:
    """All records of one kind, their indexes, and the calendar of when they end; no day in it is before ``earliest``."""

    __slots__ = ("calendar", "earliest", "indexes", "records")

    def __init__(self) -> None:
        self.records: dict[str, Any] = {}
        self.indexes: dict[str, _Index] = {}
        self.calendar: dict[int, set[str]] = {}
        self.earliest = 0


class MemoryStore:
    """A ``Store`` in memory."""

    def __init__(self) -> None:
        self._kinds: dict[type[Any], _Kind] = {}
        self._mailboxes: dict[str, _Mailbox] = {}
        self._total_count = 0
        self._total_bytes = 0
        self._arrivals = 0

    def _kind(self, kind: type[Any]) -> _Kind:
        found = self._kinds.get(kind)
        if found is None:
            found = self._kinds[kind] = _Kind()
        return found

    async def get(self, kind: type[R], id: str) -> R | None:
        found = self._kinds.get(kind)
        return None if found is None else cast("R | None", found.records.get(id))

    async def page(self, kind: type[R], key: str, after: str | None = None, limit: int = 100) -> Page[R]:
        found = self._kind(kind)
        index = found.indexes.get(key)
        return _EMPTY if index is None else _cut(found.records, index, after, limit)

    async def usage(self, kind: type[R], key: str) -> Usage:
        found = self._kind(kind)
        index = found.indexes.get(key)
        return _NOTHING if index is None else Usage(len(index.ids), index.bytes)

    async def load(self, mailbox: str) -> Usage:
        box = self._mailboxes.get(mailbox)
        return _NOTHING if box is None else Usage(box.count, box.bytes)

    async def total(self) -> Usage:
        return Usage(self._total_count, self._total_bytes)

    async def due(self, mailbox: str, now: float, limit: int) -> Sequence[Delivery]:
        box = self._mailboxes.get(mailbox)
        if box is None:
            return ()
        later = box.later
        if later and later[0][0] <= now:
            records = self._kinds[Delivery].records
            while later and later[0][0] <= now:
                d = _filed(records, heappop(later), mailbox)
                if d is not None:
                    _insert(box.ready, d)
        return box.ready[:limit]

    async def pending(self, mailbox: str, limit: int) -> Sequence[Delivery]:
        box = self._mailboxes.get(mailbox)
        if box is None:
            return ()
        records = self._kinds[Delivery].records
        found = {d.id: d for d in box.ready}
        for entry in box.later:
            d = _filed(records, entry, mailbox)
            if d is not None:
                found[d.id] = d
        return list(found.values())[:limit]

    async def next_due_at(self, mailbox: str) -> float | None:
        box = self._mailboxes.get(mailbox)
        if box is None:
            return None
        if box.ready:
            return box.ready[0].visible_at
        records = self._kinds[Delivery].records
        while box.later:
            if _filed(records, box.later[0], mailbox) is not None:
                return box.later[0][0]
            heappop(box.later)
        return None

    async def ending(self, kind: type[R], now: float, limit: int) -> Sequence[R]:
        found = self._kind(kind)
        calendar = found.calendar
        last = int(now // _BUCKET_SECONDS)
        # Day by day from the earliest; only after a long gap is it less work to ask which days there are.
        few = last - found.earliest <= len(calendar)
        days = range(found.earliest, last + 1) if few else sorted(b for b in calendar if b <= last)
        found.earliest = max(found.earliest, next((b for b in days if b in calendar), last + 1))
        ended: list[R] = []
        for bucket in days:
            for id in calendar.get(bucket, ()):
                record = found.records[id]
                if record.ends_at <= now:
                    ended.append(record)
                    if len(ended) == limit:
                        return ended
        return ended

    async def commit(self, home: str, *changes: Put | Drop) -> None:
        for change in changes:
            record = change[0]
            if record.home != home:
                raise ValueError(f"{type(record).__name__} {record.id!r} lives at {record.home!r}, not at {home!r}")
            kind = self._kinds.get(type(record)) or self._kind(type(record))
            stored = kind.records.get(record.id)
            expected = record.version - 1 if type(change) is Put else record.version
            if (0 if stored is None else stored.version) != expected or (
                stored is not None and stored.home != record.home
            ):
                raise Conflict(f"{type(record).__name__} {record.id!r} is not at version {expected}")
        for change in changes:
            self._apply(change[0], keep=type(change) is Put)

    def _apply(self, record: Any, *, keep: bool) -> None:
        kind = self._kinds[type(record)]
        id = record.id
        old = kind.records.get(id)
        new = record if keep else None
        if new is None:
            del kind.records[id]
        else:
            kind.records[id] = new
        self._reindex(kind, id, old, new)
        if type(record) is Delivery:
            self._requeue(old, new)

    def _reindex(self, kind: _Kind, id: str, old: Record | None, new: Record | None) -> None:
        old_keys = () if old is None else old.index_keys
        new_keys = () if new is None else new.index_keys
        if old_keys or new_keys:
            for key in old_keys:
                index = kind.indexes[key]
                index.bytes -= old.weight  # type: ignore[union-attr]
                if key not in new_keys:
                    del index.ids[id]
                    index.listed = None
                    if not index.ids:
                        del kind.indexes[key]
            for key in new_keys:
                found = kind.indexes.get(key)
                if found is None:
                    found = kind.indexes[key] = _Index()
                if key not in old_keys:
                    self._arrivals += 1
                    found.ids[id] = self._arrivals
                    found.listed = None
                found.bytes += new.weight  # type: ignore[union-attr]
        old_end = None if old is None else old.ends_at
        new_end = None if new is None else new.ends_at
        if old_end != new_end:
            if old_end is not None:
                bucket = int(old_end // _BUCKET_SECONDS)
                kind.calendar[bucket].remove(id)
                if not kind.calendar[bucket]:
                    del kind.calendar[bucket]
            if new_end is not None:
                bucket = int(new_end // _BUCKET_SECONDS)
                ids = kind.calendar.get(bucket)
                if ids is None:
                    if bucket < kind.earliest or not kind.calendar:
                        kind.earliest = bucket
                    kind.calendar[bucket] = {id}
                else:
                    ids.add(id)

    def _requeue(self, old: Delivery | None, new: Delivery | None) -> None:
        mailbox = cast("Delivery", old or new).mailbox
        box = self._mailboxes.get(mailbox)
        if box is None:
            box = self._mailboxes[mailbox] = _Mailbox()
        if old is not None:
            if _held(old):
                self._account(box, -1, -len(old.body))
            if old.state is State.PENDING:
                _remove(box.ready, old)
        if new is not None:
            if _held(new):
                self._account(box, 1, len(new.body))
            if new.state is State.PENDING:
                # A new message is due at once unless it was stored to wait; anything else is filed by its time, and
                # `due` moves it over when that has come.
                if new.version == 1 and new.visible_at <= new.stored_at:
                    _insert(box.ready, new)
                else:
                    if len(box.later) > 64 and len(box.later) > 4 * box.count:
                        self._compact(box, mailbox)
                    heappush(box.later, (new.visible_at, new.id, new.version))
        if not box.count:
            del self._mailboxes[mailbox]

    def _account(self, box: _Mailbox, count: int, size: int) -> None:
        box.count += count
        box.bytes += size
        self._total_count += count
        self._total_bytes += size

    def _compact(self, box: _Mailbox, mailbox: str) -> None:
        """Drop what was filed for versions that are gone: leases that were acked or extended before they lapsed."""
        records = self._kinds[Delivery].records
        box.later = [entry for entry in box.later if _filed(records, entry, mailbox) is not None]
        heapify(box.later)


def _filed(records: dict[str, Any], entry: tuple[float, str, int], mailbox: str) -> Delivery | None:
    """Return the delivery that was filed so, unless it has changed since.

    The version alone does not tell: an id may be stored anew after its record was forgotten, and reach it again.
    """
    visible_at, id, version = entry
    d: Delivery | None = records.get(id)
    if d is None or d.version != version or d.visible_at != visible_at:
        return None
    return d if d.state is State.PENDING and d.mailbox == mailbox else None


def _held(d: Delivery) -> bool:
    return d.state is State.PENDING or d.state is State.DEAD


def _insert(ready: list[Delivery], d: Delivery) -> None:
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
    at = bisect_left(ready, d.rank, key=_rank)
    while at < len(ready) and ready[at].rank == d.rank:
        if ready[at] is d:
            del ready[at]
            return
        at += 1


def _cut(records: dict[str, Any], index: _Index, after: str | None, limit: int) -> Page[Any]:
    if after is None or not after.isdecimal():
        start = 0
        chosen = list(islice(index.ids, limit))
    else:
        if index.listed is None:
            index.listed = list(index.ids.values()), list(index.ids)
        numbers, ids = index.listed
        start = bisect_right(numbers, int(after))
        chosen = ids[start : start + limit]
    more = bool(chosen) and start + limit < len(index.ids)
    return Page([records[id] for id in chosen], str(index.ids[chosen[-1]]) if more else None)
