"""A mailbox of the store in memory: the messages that are due, and those that wait for their time.

What makes entries come or go returns by how many bytes memory has grown.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Mapping
from heapq import heappop, heappush
from itertools import chain
from operator import attrgetter

from msgspec import Struct

from clawlink.domain.delivery import PENDING, Delivery
from clawlink.store.tables import Shares

_sort_key = attrgetter("sort_key")
# A heap keeps entries of leases that were settled before they lapsed; past this many it is cleaned.
_STALE_ENTRIES = 64
_CLEANED_AT_ONCE = 8
# At most this many entries of a heap are moved in one go: a few milliseconds.
_AT_ONCE = 512

# The bytes that a mailbox takes, and an entry in its heap, measured; `clawlink.store.tables` has those of tables.
MAILBOX_BYTES = 336
LATER_BYTES = 96


class Mailbox(Struct, eq=False):
    """The messages of a mailbox: those that are due by their sort keys, the others in heaps by the time they are due.

    ``older`` is a heap that had too many stale entries. Its entries move to ``later``, some at each commit.
    ``count`` and ``bytes`` are those of the pending messages and dead letters, which the store counts.
    ``records`` are all deliveries of the store, by their ids.
    """

    id: str
    records: Mapping[str, Delivery]
    count: int = 0
    bytes: int = 0
    shares: Shares | None = None
    ready: list[Delivery] = []
    later: list[tuple[float, str, int]] = []
    older: list[tuple[float, str, int]] = []

    def file(self, d: Delivery) -> int:
        """Take a pending delivery in.

        A new message is due at once unless it was stored to wait. Anything else is filed by its time, and ``ripen``
        moves it over when that has come.
        """
        if d.version == 1 and d.visible_at <= d.stored_at:
            self._insert(d)
            return 0
        heappush(self.later, (d.visible_at, d.id, d.version))
        if self.older:
            return LATER_BYTES + self._clean()
        if len(self.later) > _STALE_ENTRIES and len(self.later) > 4 * self.count:
            self.older, self.later = self.later, []
        return LATER_BYTES

    def remove(self, d: Delivery) -> None:
        """Take out a due delivery; one filed for later is not among these, and its entry there just grows stale."""
        ready = self.ready
        if d.sort_key < ready[0].sort_key:
            return
        at = bisect_left(ready, d.sort_key, key=_sort_key)
        while at < len(ready) and ready[at].sort_key == d.sort_key:
            if ready[at] is d:
                del ready[at]
                return
            at += 1

    def ripen(self, now: float) -> tuple[int, bool]:
        """Let some deliveries whose time has come take their places. Also return True if there may be more."""
        for passed in range(_AT_ONCE):
            heap = self.older if self.older and (not self.later or self.older[0] < self.later[0]) else self.later
            if not heap or heap[0][0] > now:
                return -LATER_BYTES * passed, False
            d = self._filed(heappop(heap))
            if d is not None:
                self._insert(d)
        return -LATER_BYTES * _AT_ONCE, True

    def next_due_at(self) -> tuple[float | None, int]:
        """Return when the next delivery that is filed for later is due, and by how many bytes memory has grown.

        The time is too early if there are many entries of settled leases before: then ask again.
        """
        soonest, gone = None, 0
        for heap in (self.later, self.older) if self.older else (self.later,):
            for _ in range(_AT_ONCE):
                if not heap or self._filed(heap[0]) is not None:
                    break
                heappop(heap)
                gone += 1
            if heap and (soonest is None or heap[0][0] < soonest):
                soonest = heap[0][0]
        return soonest, -LATER_BYTES * gone

    def pending(self, limit: int, but: Container[str] = ()) -> list[Delivery]:
        """Return some pending deliveries, each once, without those of the ids ``but``."""
        found: dict[str, Delivery] = {}
        for d in self.ready:
            if len(found) >= limit:
                break
            if d.id not in but:
                found[d.id] = d
        for entry in chain(self.later, self.older):
            if len(found) >= limit:
                break
            if entry[1] not in but and (filed := self._filed(entry)) is not None:
                found[filed.id] = filed
        return list(found.values())

    def _clean(self) -> int:
        """Move some entries of the older heap, and forget the stale ones among them."""
        grown = 0
        for _ in range(min(_CLEANED_AT_ONCE, len(self.older))):
            entry = self.older.pop()  # the last of a heap: the others stay a heap
            if self._filed(entry) is not None:
                heappush(self.later, entry)
            else:
                grown -= LATER_BYTES
        return grown

    def _filed(self, entry: tuple[float, str, int]) -> Delivery | None:
        """Return the delivery that was filed so, unless it has changed since.

        The version alone does not tell: an id may be stored again after its record was forgotten, and reach it again.
        """
        visible_at, id, version = entry
        d = self.records.get(id)
        if d is None or d.version != version or d.visible_at != visible_at:
            return None
        return d if d.state is PENDING and d.mailbox == self.id else None

    def _insert(self, d: Delivery) -> None:
        """Put a due delivery at its place, unless it is there: an id that is stored again may be filed twice."""
        ready = self.ready
        if not ready or ready[-1].sort_key < d.sort_key:
            ready.append(d)
            return
        at = bisect_left(ready, d.sort_key, key=_sort_key)
        while at < len(ready) and ready[at].sort_key == d.sort_key:
            if ready[at] is d:
                return
            at += 1
        ready.insert(at, d)
