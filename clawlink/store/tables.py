"""The tables of the store in memory: the records of a kind, their indexes, and the second in which each ends."""

from __future__ import annotations

import math
import sys
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from clawlink.domain.record import text_bytes
from clawlink.store.base import Page, Usage, number_of
from clawlink.store.ids import PIECE, Ids, SortedIds

NOTHING = Usage(0, 0)

# The bytes that a table adds to the footprint of records, measured: an entry in a dict of ids; the places of a record;
# an index beside its key; a second of the calendar; and the count of records from an agent or an address.
ENTRY_BYTES = 70
PLACE_BYTES = 72
INDEX_BYTES = 290
SECOND_BYTES = 280
SHARE_BYTES = 210
# This many ids are sorted in two milliseconds among a million others, and sooner among fewer.
_SORTED_AT_ONCE = 256
# The second of records that never end.
_NEVER = sys.maxsize


class _Share:
    """The records that come from an agent, or from an address, which the shares of its agents know."""

    __slots__ = ("address", "bytes", "count")

    def __init__(self, address: _Share | None = None) -> None:
        self.address = address
        self.count = 0
        self.bytes = 0


class Shares:
    """How many records, and how many bytes, come from each address and from each agent at it.

    Those of an index or a mailbox are counted from the first question on, for most are never asked.
    """

    __slots__ = ("_by_address", "_by_agent")

    def __init__(self) -> None:
        self._by_address: dict[str | None, _Share] = {}
        self._by_agent: dict[tuple[str | None, str], _Share] = {}

    def change(self, origin: tuple[str | None, str], count: int, size: int) -> int:
        """Count records in, or out again. Return by how many bytes memory has grown."""
        share = self._by_agent.get(origin)
        if share is None:
            return self._begin(origin, count, size)
        share.count += count
        share.bytes += size
        address: Any = share.address
        address.count += count
        address.bytes += size
        return 0 if share.count else -self._end(origin, address)

    def _begin(self, origin: tuple[str | None, str], count: int, size: int) -> int:
        """Count the first records of an agent. Return by how many bytes memory has grown."""
        address, grown = self._by_address.get(origin[0]), SHARE_BYTES
        if address is None:
            address = self._by_address[origin[0]] = _Share()
            grown += SHARE_BYTES
        share = self._by_agent[origin] = _Share(address)
        share.count += count
        share.bytes += size
        address.count += count
        address.bytes += size
        return grown

    def _end(self, origin: tuple[str | None, str], address: _Share) -> int:
        """Forget an agent without records. Return by how many bytes memory has shrunk."""
        del self._by_agent[origin]
        if address.count:
            return SHARE_BYTES
        del self._by_address[origin[0]]
        return 2 * SHARE_BYTES

    def of(self, address: str | None, agent: str) -> tuple[Usage, Usage]:
        """Return the usage of the address, and the usage of the agent at it."""
        return _usage(self._by_address.get(address)), _usage(self._by_agent.get((address, agent)))

    @property
    def memory(self) -> int:
        return SHARE_BYTES * (len(self._by_address) + len(self._by_agent))


def _usage(share: _Share | None) -> Usage:
    return NOTHING if share is None else Usage(share.count, share.bytes)


class _Origin:
    """The memory of all records from an agent, or from an address, and those of their messages that mailboxes hold."""

    __slots__ = ("address", "bytes", "held_bytes", "held_count")

    def __init__(self, address: _Origin | None = None) -> None:
        self.address = address
        self.bytes = 0
        self.held_count = 0
        self.held_bytes = 0


class Origins:
    """The memory that all records take, and the messages that mailboxes hold, by agents and addresses."""

    def __init__(self) -> None:
        self._by_address: dict[str | None, _Origin] = {}
        self._by_agent: dict[tuple[str | None, str], _Origin] = {}

    def enter(self, origin: tuple[str | None, str], size: int, held: int, count: int = 1) -> int:
        """Count new messages that take ``size``, with ``held`` in mailboxes. Return by how much memory has grown.

        It does what ``change`` and ``hold`` do, in one step.
        """
        mine, grown = self._by_agent.get(origin), 0
        if mine is None:
            mine, grown = self._begin(origin)
        mine.bytes += size
        mine.held_count += count
        mine.held_bytes += held
        address: Any = mine.address
        address.bytes += size
        address.held_count += count
        address.held_bytes += held
        return grown if mine.bytes else grown - self._end(origin, address)

    def change(self, origin: tuple[str | None, str], size: int) -> int:
        """Count memory of records in, or out again. Return by how much memory has grown."""
        mine, grown = self._by_agent.get(origin), 0
        if mine is None:
            mine, grown = self._begin(origin)
        mine.bytes += size
        address: Any = mine.address
        address.bytes += size
        return grown if mine.bytes else grown - self._end(origin, address)

    def hold(self, origin: tuple[str | None, str], count: int, size: int) -> None:
        """Count messages into mailboxes, or out again, while they are counted among the records."""
        mine = self._by_agent[origin]
        mine.held_count += count
        mine.held_bytes += size
        address: Any = mine.address
        address.held_count += count
        address.held_bytes += size

    def _begin(self, origin: tuple[str | None, str]) -> tuple[_Origin, int]:
        """Return a new count of an agent, and by how many bytes memory has grown."""
        address, grown = self._by_address.get(origin[0]), SHARE_BYTES
        if address is None:
            address = self._by_address[origin[0]] = _Origin()
            grown += SHARE_BYTES
        mine = self._by_agent[origin] = _Origin(address)
        return mine, grown

    def _end(self, origin: tuple[str | None, str], address: _Origin) -> int:
        """Forget an agent without records: each takes some memory. Return by how many bytes memory has shrunk."""
        del self._by_agent[origin]
        if address.bytes:
            return SHARE_BYTES
        del self._by_address[origin[0]]
        return 2 * SHARE_BYTES

    @property
    def memory(self) -> int:
        return SHARE_BYTES * (len(self._by_address) + len(self._by_agent))

    def memory_of(self, address: str | None, agent: str) -> tuple[int, int]:
        """Return the bytes that records from the address take, and those from the agent at it."""
        all, mine = self._by_address.get(address), self._by_agent.get((address, agent))
        return 0 if all is None else all.bytes, 0 if mine is None else mine.bytes

    def held_of(self, address: str | None, agent: str) -> tuple[Usage, Usage]:
        """Return what mailboxes hold from the address, and from the agent at it."""
        return _held(self._by_address.get(address)), _held(self._by_agent.get((address, agent)))


def _held(origin: _Origin | None) -> Usage:
    return NOTHING if origin is None else Usage(origin.held_count, origin.held_bytes)


class Index(Ids):
    """The ids under a key, in the order they came, the weight of their records, and where these come from."""

    __slots__ = ("bytes", "shares")

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.shares: Shares | None = None


class Table:
    """All records of one kind, their indexes, and the calendar: which of them end in which second, or never.

    ``sorted_ids`` are the ids of all records, but for those that ``unsorted`` will give. They are kept from the first
    question on, for most relays are never asked. ``seconds`` are the seconds of the calendar, sorted. ``arrivals`` is
    the last number given to an id under a key. ``shared`` counts the indexes that know where their records come from.
    """

    __slots__ = ("arrivals", "calendar", "indexes", "records", "seconds", "shared", "sorted_ids", "unsorted")

    def __init__(self) -> None:
        self.records: dict[str, Any] = {}
        self.sorted_ids: SortedIds | None = None
        self.unsorted: Iterator[list[str]] | None = None
        self.indexes: dict[str, Index] = {}
        self.calendar: dict[int, Ids] = {}
        self.seconds: list[int] = []
        self.arrivals = 0
        self.shared = 0

    def replace(self, id: str, old: Any, new: Any, old_weight: int, new_weight: int) -> int:
        """Put ``new`` in the place of ``old``, each of its weight.

        Return by about how many bytes memory has grown, without the footprints of the two. So do ``add`` and
        ``remove``.
        """
        self.records[id] = new
        grown = 0
        old_keys, new_keys = old.index_keys, new.index_keys
        if old_keys or new_keys:
            if self.shared and old_keys:
                grown += self._share(old, old_keys, -1, -old_weight)
            if old_keys != new_keys:
                gone = [key for key in old_keys if key not in new_keys] if old_keys and new_keys else old_keys
                if gone:
                    grown -= self._unindex(id, gone, old_weight)
                come = [key for key in new_keys if key not in old_keys] if old_keys else new_keys
                if come:
                    grown += self._index(id, come, new_weight)
            if old_weight != new_weight and old_keys:
                for key in new_keys:
                    if key in old_keys:
                        self.indexes[key].bytes += new_weight - old_weight
            if self.shared and new_keys:
                grown += self._share(new, new_keys, 1, new_weight)
        before, after = old.ends_at, new.ends_at
        if before != after and (before is None or after is None or int(before) != int(after)):
            grown += self._calendar_in(id, after) - self._calendar_out(id, before)
            if self.unsorted is not None and self.sorted_ids is not None:
                self.sorted_ids.add(id)  # it may have moved to a second that is sorted already
        return grown

    def add(self, id: str, new: Any, weight: int) -> int:
        """Add a record of this weight."""
        self.records[id] = new
        if self.sorted_ids is not None:
            self.sorted_ids.add(id)
        grown = PLACE_BYTES + text_bytes(id) + self._calendar_in(id, new.ends_at)
        keys = new.index_keys
        if keys:
            grown += self._index(id, keys, weight)
            if self.shared:
                grown += self._share(new, keys, 1, weight)
        return grown

    def add_copies(self, copies: Sequence[Any], ends_at: float) -> int | None:
        """Add records that have no index keys and end at one time. Add none, and return None, if an id is not new."""
        ids = [copy.id for copy in copies]
        known = dict.fromkeys(ids, 0)
        if len(known) < len(ids) or not known.keys().isdisjoint(self.records.keys()):
            return None
        self.records.update(zip(ids, copies, strict=True))
        if self.sorted_ids is not None:
            for id in ids:
                self.sorted_ids.add(id)
        ends = self.calendar.get(int(ends_at))
        if ends is None or len(ends.last) + len(ids) > PIECE:
            grown = sum([self._calendar_in(id, ends_at) for id in ids])
        else:
            ends.last.update(known)
            grown = ENTRY_BYTES * len(ids)
        return grown + PLACE_BYTES * len(ids) + sum(map(text_bytes, ids))

    def remove(self, id: str, old: Any) -> int:
        """Remove a record."""
        del self.records[id]
        if self.sorted_ids is not None:
            self.sorted_ids.remove(id)
        shrunk = PLACE_BYTES + text_bytes(id) + self._calendar_out(id, old.ends_at)
        keys = old.index_keys
        if keys:
            weight = old.weight
            if self.shared:
                shrunk -= self._share(old, keys, -1, -weight)
            shrunk += self._unindex(id, keys, weight)
        return -shrunk

    def sort_some(self) -> SortedIds | None:
        """Return the sorted ids; None once a few more of them are sorted, and the others are left for the next call."""
        if self.sorted_ids is None:
            self.sorted_ids, self.unsorted = SortedIds(), self._parts()
        if self.unsorted is None:
            return self.sorted_ids
        part = next(self.unsorted, None)
        if part is None:
            self.unsorted = None
            return self.sorted_ids
        for id in part:
            if id in self.records:
                self.sorted_ids.add(id)
        return None

    def _parts(self) -> Iterator[list[str]]:
        """Give all ids in parts, by the calendar: it has each once, in pieces, so that nothing large is copied.

        Records may come, go and change meanwhile.
        """
        part: list[str] = []
        second: float = -math.inf
        while (at := bisect_right(self.seconds, second)) < len(self.seconds):
            second = self.seconds[at]
            for piece in self.calendar[self.seconds[at]].pieces():
                ids = list(piece)
                for start in range(0, len(ids), _SORTED_AT_ONCE):
                    part += ids[start : start + _SORTED_AT_ONCE]
                    if len(part) >= _SORTED_AT_ONCE:
                        yield part
                        part = []
        yield part

    def _index(self, id: str, keys: Sequence[str], weight: int) -> int:
        """Add an id to indexes. Return by how many bytes memory has grown."""
        self.arrivals = number = self.arrivals + 1
        indexes = self.indexes
        grown = ENTRY_BYTES * len(keys)
        for key in keys:
            index = indexes.get(key)
            if index is None:
                index = indexes[key] = Index()
                grown += INDEX_BYTES + text_bytes(key, sent=False)
            index.bytes += weight
            last = index.last
            if len(last) < PIECE:
                last[id] = number
            else:
                index.add(id, number)
        return grown

    def _unindex(self, id: str, keys: Sequence[str], weight: int) -> int:
        """Remove an id from indexes. Return by how many bytes memory has shrunk."""
        shrunk = ENTRY_BYTES * len(keys)
        for key in keys:
            index = self.indexes[key]
            index.bytes -= weight
            if index.last.pop(id, None) is None:
                index.remove(id)
            if not index.last and not index:
                del self.indexes[key]
                self.shared -= index.shares is not None
                shrunk += INDEX_BYTES + text_bytes(key, sent=False)
        return shrunk

    def _share(self, record: Any, keys: tuple[str, ...], count: int, size: int) -> int:
        """Count a record in or out where shares are known. Return by how many bytes memory has grown."""
        grown = 0
        for key in keys:
            index = self.indexes[key]
            if index.shares is not None:
                grown += index.shares.change(record.origin, count, size)
        return grown

    def shares(self, key: str) -> tuple[Shares, int]:
        """Return where the records of an index come from, and by how many bytes memory has grown for that."""
        index = self.indexes.get(key)
        if index is None:
            return Shares(), 0
        if index.shares is not None:
            return index.shares, 0
        index.shares = Shares()
        self.shared += 1
        for id in index:
            record = self.records[id]
            index.shares.change(record.origin, 1, record.weight)
        return index.shares, index.shares.memory

    def page(self, key: str, after: str | None, limit: int, *, newest: bool) -> Page[Any]:
        """Return the records under ``key`` that came after the number ``after``, or before it, ``newest`` first."""
        beyond = None if after is None else number_of(after)
        index = self.indexes.get(key)
        if index is None:
            return Page((), None)
        if beyond is None:
            ids = list(islice(reversed(index) if newest else index, limit + 1))
        else:
            ids = index.after(beyond, limit + 1, newest=newest)
        records = list(map(self.records.__getitem__, ids[:limit]))
        if len(ids) <= limit or not records:
            return Page(records, None)
        return Page(records, str(index.number(ids[limit - 1])))

    def _calendar_in(self, id: str, ends_at: float | None) -> int:
        """Add an id to the calendar. Return by how many bytes memory has grown."""
        second = _NEVER if ends_at is None else int(ends_at)
        ids = self.calendar.get(second)
        if ids is not None:
            last = ids.last
            if len(last) < PIECE:
                last[id] = 0
            else:
                ids.add(id, 0)
            return ENTRY_BYTES
        ids = self.calendar[second] = Ids()
        ids.last[id] = 0
        insort(self.seconds, second)
        return ENTRY_BYTES + SECOND_BYTES

    def _calendar_out(self, id: str, ends_at: float | None) -> int:
        """Remove an id from the calendar. Return by how many bytes memory has shrunk."""
        second = _NEVER if ends_at is None else int(ends_at)
        ids = self.calendar[second]
        if ids.last.pop(id, None) is None:
            ids.remove(id)
        if ids.last or ids:
            return ENTRY_BYTES
        del self.calendar[second]
        del self.seconds[bisect_left(self.seconds, second)]
        return ENTRY_BYTES + SECOND_BYTES
