"""The default store: everything in this process's memory, gone when it ends.

Every method runs without suspending, so nothing changes between a read and the commit that follows it at once.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Container, Sequence
from heapq import heappop, heappush
from itertools import chain, islice
from operator import attrgetter
from typing import Any

from clawlink.domain.delivery import DEAD, PENDING, Delivery, by_dead
from clawlink.domain.record import text_bytes
from clawlink.store.base import Absent, Batch, Conflict, Drop, Failed, Page, Put, R, Usage
from clawlink.store.ids import Ids

_rank = attrgetter("rank")
_NOTHING = Usage(0, 0)
# A mailbox's heap keeps entries of leases that were settled before they lapsed; past this many it is cleaned.
_STALE_ENTRIES = 64
_CLEANED_AT_ONCE = 8
# At most this many entries of a heap are moved in one go: a few milliseconds.
_AT_ONCE = 512

# The bytes that the store adds to the footprint of records, measured: an entry in a dict of ids; the place of a record
# in the table of its kind; an index beside its key; a second of the calendar; a mailbox; an entry in its heap; and the
# count of what comes from an agent or an address.
_ENTRY_BYTES = 70
_PLACE_BYTES = 60
_INDEX_BYTES = 290
_SECOND_BYTES = 280
_MAILBOX_BYTES = 320
_LATER_BYTES = 96
_SHARE_BYTES = 190


class _Shares:
    """How many records, and how many bytes, come from each address and from each agent.

    They are counted from the first question on, for most indexes and mailboxes are never asked.
    """

    __slots__ = ("_by_address", "_by_agent")

    def __init__(self) -> None:
        self._by_address: dict[str | None, list[int]] = {}
        self._by_agent: dict[str, list[int]] = {}

    def change(self, origin: tuple[str | None, str], count: int, size: int) -> int:
        """Count records in, or out again. Return by how many bytes memory has grown."""
        address, agent = origin
        return _change(self._by_address, address, count, size) + _change(self._by_agent, agent, count, size)

    def of(self, address: str | None, agent: str) -> tuple[Usage, Usage]:
        """Return what comes from the address, and what comes from the agent."""
        return _usage(self._by_address.get(address)), _usage(self._by_agent.get(agent))

    @property
    def memory(self) -> int:
        return _SHARE_BYTES * (len(self._by_address) + len(self._by_agent))


def _change(table: dict[Any, list[int]], key: str | None, count: int, size: int) -> int:
    share = table.get(key)
    if share is None:
        table[key] = [count, size]
        return _SHARE_BYTES
    share[0] += count
    share[1] += size
    if share[0]:
        return 0
    del table[key]
    return -_SHARE_BYTES


def _usage(share: list[int] | None) -> Usage:
    return _NOTHING if share is None else Usage(share[0], share[1])


class _Index(Ids):
    """The ids under a key, in the order they came, the weight of their records, and where these come from."""

    __slots__ = ("bytes", "shares")

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.shares: _Shares | None = None


class _Kind:
    """All records of one kind, their indexes, and the calendar: which of them end in which second.

    ``seconds`` are the seconds of the calendar, sorted. ``arrivals`` is the last number given to an id under a key.
    ``shared`` counts the indexes that know where their records come from.
    """

    __slots__ = ("arrivals", "calendar", "indexes", "records", "seconds", "shared")

    def __init__(self) -> None:
        self.records: dict[str, Any] = {}
        self.indexes: dict[str, _Index] = {}
        self.calendar: dict[int, Ids] = {}
        self.seconds: list[int] = []
        self.arrivals = 0
        self.shared = 0

    def apply(self, id: str, old: Any, new: Any) -> int:
        """Put ``new`` in the place of ``old``; either may be None. Return by about how many bytes memory has grown."""
        if old is None:
            return self._add(id, new)
        if new is None:
            return self._remove(id, old)
        self.records[id] = new
        grown: int = new.footprint - old.footprint
        old_keys, new_keys = old.index_keys, new.index_keys
        if old_keys or new_keys:
            old_weight = old.weight if old_keys else 0
            new_weight = new.weight if new_keys else 0
            if self.shared and old_keys:
                grown += self._share(old, old_keys, -1, -old_weight)
            if old_keys != new_keys:
                self.arrivals += 1
                for key in old_keys:
                    if key not in new_keys:
                        grown -= self._unindex(id, key, old_weight)
                for key in new_keys:
                    if key not in old_keys:
                        grown += self._index(id, key, new_weight)
            if old_weight != new_weight and old_keys:
                for key in new_keys:
                    if key in old_keys:
                        self.indexes[key].bytes += new_weight - old_weight
            if self.shared and new_keys:
                grown += self._share(new, new_keys, 1, new_weight)
        if old.ends_at != new.ends_at:
            grown -= self._calendar_out(id, old.ends_at)  # first: it may be the same second
            grown += self._calendar_in(id, new.ends_at)
        return grown

    def _add(self, id: str, new: Any) -> int:
        self.records[id] = new
        grown: int = new.footprint + _PLACE_BYTES + text_bytes(id)
        keys = new.index_keys
        if keys:
            weight = new.weight
            self.arrivals += 1
            for key in keys:
                grown += self._index(id, key, weight)
            if self.shared:
                grown += self._share(new, keys, 1, weight)
        return grown + self._calendar_in(id, new.ends_at)

    def _remove(self, id: str, old: Any) -> int:
        del self.records[id]
        shrunk: int = old.footprint + _PLACE_BYTES + text_bytes(id)
        keys = old.index_keys
        if keys:
            weight = old.weight
            if self.shared:
                shrunk -= self._share(old, keys, -1, -weight)
            for key in keys:
                shrunk += self._unindex(id, key, weight)
        return -shrunk - self._calendar_out(id, old.ends_at)

    def _index(self, id: str, key: str, weight: int) -> int:
        """Add an id to an index. Return by how many bytes memory has grown."""
        index = self.indexes.get(key)
        if index is None:
            index = self.indexes[key] = _Index()
            index.bytes = weight
            index.add(id, self.arrivals)
            return _ENTRY_BYTES + _INDEX_BYTES + text_bytes(key, sent=False)
        index.bytes += weight
        index.add(id, self.arrivals)
        return _ENTRY_BYTES

    def _unindex(self, id: str, key: str, weight: int) -> int:
        """Remove an id from an index. Return by how many bytes memory has shrunk."""
        index = self.indexes[key]
        index.bytes -= weight
        index.remove(id)
        if index:
            return _ENTRY_BYTES
        del self.indexes[key]
        self.shared -= index.shares is not None
        return _ENTRY_BYTES + _INDEX_BYTES + text_bytes(key, sent=False)

    def _share(self, record: Any, keys: tuple[str, ...], count: int, size: int) -> int:
        """Count a record in or out where shares are known. Return by how many bytes memory has grown."""
        grown = 0
        for key in keys:
            index = self.indexes[key]
            if index.shares is not None:
                grown += index.shares.change(record.origin, count, size)
        return grown

    def shares(self, key: str) -> tuple[_Shares, int]:
        """Return where the records of an index come from, and by how many bytes memory has grown for that."""
        index = self.indexes.get(key)
        if index is None:
            return _Shares(), 0
        if index.shares is not None:
            return index.shares, 0
        index.shares = _Shares()
        self.shared += 1
        for id in index:
            record = self.records[id]
            index.shares.change(record.origin, 1, record.weight)
        return index.shares, index.shares.memory

    def page(self, key: str, after: str | None, limit: int, *, newest: bool) -> Page[Any]:
        """Return the records under ``key`` that came after the number ``after``, or before it, ``newest`` first."""
        index = self.indexes.get(key)
        if index is None:
            return Page((), None)
        if after is None or not after.isdecimal():
            ids = list(islice(reversed(index) if newest else index, limit + 1))
        else:
            ids = index.after(int(after), limit + 1, newest=newest)
        records = [self.records[id] for id in ids[:limit]]
        if len(ids) <= limit or not records:
            return Page(records, None)
        return Page(records, str(index.number(ids[limit - 1])))

    def _calendar_in(self, id: str, ends_at: float | None) -> int:
        """Add an id to the calendar. Return by how many bytes memory has grown."""
        if ends_at is None:
            return 0
        second = int(ends_at)
        ids = self.calendar.get(second)
        if ids is not None:
            ids.add(id, 0)
            return _ENTRY_BYTES
        ids = self.calendar[second] = Ids()
        ids.add(id, 0)
        insort(self.seconds, second)
        return _ENTRY_BYTES + _SECOND_BYTES

    def _calendar_out(self, id: str, ends_at: float | None) -> int:
        """Remove an id from the calendar. Return by how many bytes memory has shrunk."""
        if ends_at is None:
            return 0
        second = int(ends_at)
        ids = self.calendar[second]
        ids.remove(id)
        if ids:
            return _ENTRY_BYTES
        del self.calendar[second]
        del self.seconds[bisect_left(self.seconds, second)]
        return _ENTRY_BYTES + _SECOND_BYTES


class _Mailbox:
    """The messages of a mailbox: those that are due sorted by rank, the others in heaps by the time they are due.

    ``older`` is a heap that had too many stale entries. Its entries move to ``later``, some at each commit.
    """

    __slots__ = ("bytes", "count", "later", "older", "ready", "shares")

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self.shares: _Shares | None = None
        self.ready: list[Delivery] = []
        self.later: list[tuple[float, str, int]] = []
        self.older: list[tuple[float, str, int]] = []


class MemoryStore:
    """A ``Store`` in memory."""

    index_lag = 0.0
    homes_at_once = 32  # a fraction of a millisecond

    def __init__(self) -> None:
        self._deliveries = _Kind()
        self._kinds: dict[type[Any], _Kind] = {Delivery: self._deliveries}
        self._mailboxes: dict[str, _Mailbox] = {}
        self._held_count = 0
        self._held_bytes = 0
        self._held_shares: _Shares | None = None
        self._memory = 0

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

    async def get_many(self, kind: type[R], ids: Sequence[str]) -> Sequence[R | None]:
        records = self._kind(kind).records
        return [records.get(id) for id in ids]

    async def page(
        self, kind: type[R], key: str, after: str | None = None, limit: int = 100, *, newest: bool = False
    ) -> Page[R]:
        return self._kind(kind).page(key, after, limit, newest=newest)

    async def first(self, kind: type[R], key: str, limit: int) -> Sequence[R]:
        found = self._kind(kind)
        index = found.indexes.get(key)
        return () if index is None else [found.records[id] for id in islice(index, limit)]

    async def first_of(self, kind: type[R], keys: Sequence[str]) -> Sequence[R | None]:
        found = self._kind(kind)
        indexes = [found.indexes.get(key) for key in keys]
        return [None if index is None else found.records[next(iter(index))] for index in indexes]

    async def usage(self, kind: type[R], key: str) -> Usage:
        found = self._kinds.get(kind)
        index = None if found is None else found.indexes.get(key)
        return _NOTHING if index is None else Usage(len(index), index.bytes)

    async def usage_from(self, kind: type[R], key: str, address: str | None, agent: str) -> tuple[Usage, Usage]:
        shares, grown = self._kind(kind).shares(key)
        self._memory += grown
        return shares.of(address, agent)

    async def load(self, mailbox: str) -> Usage:
        box = self._mailboxes.get(mailbox)
        return _NOTHING if box is None else Usage(box.count, box.bytes)

    async def loads(self, mailboxes: Sequence[str]) -> Sequence[Usage]:
        boxes = map(self._mailboxes.get, mailboxes)
        return [_NOTHING if box is None else Usage(box.count, box.bytes) for box in boxes]

    async def total(self) -> Usage:
        return Usage(self._held_count, self._held_bytes)

    async def load_from(self, mailbox: str | None, address: str | None, agent: str) -> tuple[Usage, Usage]:
        if mailbox is None:
            if self._held_shares is None:
                self._held_shares = self._shares_of(*self._mailboxes)
            return self._held_shares.of(address, agent)
        box = self._mailboxes.get(mailbox)
        if box is None:
            return _NOTHING, _NOTHING
        if box.shares is None:
            box.shares = self._shares_of(mailbox)
        return box.shares.of(address, agent)

    async def memory(self) -> int:
        return self._memory

    async def due(self, mailbox: str, now: float, limit: int) -> Sequence[Delivery]:
        box = self._mailboxes.get(mailbox)
        if box is None:
            return ()
        for _ in range(_AT_ONCE):
            heap = box.older if box.older and (not box.later or box.older[0] < box.later[0]) else box.later
            if not heap or heap[0][0] > now:
                break
            d = self._filed(heappop(heap), mailbox)
            self._memory -= _LATER_BYTES
            if d is not None:
                _insert(box.ready, d)
        return box.ready[:limit]

    async def pending(self, mailbox: str, limit: int, but: Container[str] = ()) -> Sequence[Delivery]:
        box = self._mailboxes.get(mailbox)
        return () if box is None else self._pending(mailbox, box, limit, but)

    def _pending(self, mailbox: str, box: _Mailbox, limit: int, but: Container[str] = ()) -> list[Delivery]:
        found: dict[str, Delivery] = {}
        for d in box.ready:
            if len(found) >= limit:
                break
            if d.id not in but:
                found[d.id] = d
        for entry in chain(box.later, box.older):
            if len(found) >= limit:
                break
            if entry[1] not in but and (filed := self._filed(entry, mailbox)) is not None:
                found[filed.id] = filed
        return list(found.values())

    def _shares_of(self, *mailboxes: str) -> _Shares:
        """Count where the messages of mailboxes come from."""
        shares = _Shares()
        for mailbox in mailboxes:
            box = self._mailboxes[mailbox]
            dead = self._deliveries.indexes.get(by_dead(mailbox), ())
            for d in (*self._pending(mailbox, box, box.count), *map(self._deliveries.records.__getitem__, dead)):
                self._memory += shares.change(d.origin, 1, len(d.body))
        return shares

    async def next_due_at(self, mailbox: str) -> float | None:
        box = self._mailboxes.get(mailbox)
        if box is None:
            return None
        if box.ready:
            return box.ready[0].visible_at
        for heap in (box.later, box.older):
            for _ in range(_AT_ONCE):
                if not heap or self._filed(heap[0], mailbox) is not None:
                    break
                heappop(heap)
                self._memory -= _LATER_BYTES
        # Too early, if there are more that were settled: then ask again.
        return min((heap[0][0] for heap in (box.later, box.older) if heap), default=None)

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
        self._commit(home, changes)

    async def commit_many(self, batches: Sequence[Batch]) -> Sequence[Conflict | Failed | None]:
        results: list[Conflict | Failed | None] = []
        for batch in batches:
            try:
                self._commit(batch.home, batch.changes)
                results.append(None)
            except Conflict as conflict:
                results.append(conflict.with_traceback(None))
        return results

    def _commit(self, home: str, changes: tuple[Put | Drop | Absent, ...]) -> None:
        accepted = []
        for change in changes:
            if isinstance(change, Absent):
                if change.id in self._kind(change.kind).records:
                    raise Conflict(change.kind, change.id, "exists")
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
                raise Conflict(type(record), id, f"is not at version {follows}")
            accepted.append((kind, id, old, new))
        for kind, id, old, new in accepted:
            self._memory += kind.apply(id, old, new)
            if kind is self._deliveries:
                self._queue(home, old, new)

    def _queue(self, mailbox: str, old: Delivery | None, new: Delivery | None) -> None:
        """Move a delivery within its mailbox, or in or out of it."""
        box = self._mailboxes.get(mailbox)
        if box is None:
            box = self._mailboxes[mailbox] = _Mailbox()
            self._memory += _MAILBOX_BYTES
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
            if box.shares is not None or self._held_shares is not None:
                d: Any = new if old is None else old
                for shares in (box.shares, self._held_shares):
                    if shares is not None:
                        self._memory += shares.change(d.origin, count, size)
        if not box.count:
            del self._mailboxes[mailbox]
            self._memory -= _MAILBOX_BYTES + _LATER_BYTES * (len(box.later) + len(box.older))

    def _file(self, box: _Mailbox, d: Delivery) -> None:
        # A new message is due at once unless it was stored to wait. Anything else is filed by its time, and `due` moves
        # it over when that has come.
        if d.version == 1 and d.visible_at <= d.stored_at:
            _insert(box.ready, d)
            return
        heappush(box.later, (d.visible_at, d.id, d.version))
        self._memory += _LATER_BYTES
        for _ in range(min(_CLEANED_AT_ONCE, len(box.older))):
            entry = box.older.pop()  # the last of a heap: the others stay a heap
            if self._filed(entry, d.mailbox) is not None:
                heappush(box.later, entry)
            else:
                self._memory -= _LATER_BYTES
        if not box.older and len(box.later) > _STALE_ENTRIES and len(box.later) > 4 * box.count:
            box.older, box.later = box.later, []

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
