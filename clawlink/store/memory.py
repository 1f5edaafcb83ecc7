"""The default store: everything in this process's memory, gone when it ends.

Every method runs without suspending, so nothing changes between a read and the commit that follows it at once.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Container, Sequence
from itertools import chain
from typing import Any

from msgspec.structs import replace

from clawlink.domain.delivery import DEAD, PENDING, Delivery, by_dead, stays_in_place, takes_as_much
from clawlink.domain.task import Task
from clawlink.store.base import SKIPPED, Absent, Admission, Batch, Conflict, Drop, Failed, Index, Page, Put, R, S, Usage
from clawlink.store.mailbox import LATER_BYTES, MAILBOX_BYTES, Mailbox
from clawlink.store.tables import NOTHING, Origins, Shares, Table

# The kinds whose records keep their origin for life.
_CONSTANT = (Delivery, Task)


class MemoryStore:
    """A ``Store`` in memory."""

    index_lag = 0.0
    partitions_at_once = 32  # a fraction of a millisecond
    broken: str | None = None

    def __init__(self) -> None:
        self._deliveries = Table()
        self._kinds: defaultdict[type[Any], Table] = defaultdict(Table, {Delivery: self._deliveries})
        self._mailboxes: dict[str, Mailbox] = {}
        self._held_count = 0
        self._held_bytes = 0
        self._memory = 0
        self._origins = Origins()

    # -- lifecycle ---------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Do nothing: a store in memory is there once it is made."""

    async def migrate(self) -> int:
        return 0

    async def health(self) -> str | None:
        return None

    async def close(self) -> None:
        """Do nothing: the records go with this process."""

    # -- read --------------------------------------------------------------------------------------------------------

    async def get(self, kind: type[R], id: str) -> R | None:
        record: R | None = self._kinds[kind].records.get(id)
        return record

    async def get_many(self, kind: type[R], ids: Sequence[str]) -> Sequence[R | None]:
        return list(map(self._kinds[kind].records.get, ids))

    async def get_both(
        self, first: tuple[type[R], Sequence[str]], second: tuple[type[S], Sequence[str]]
    ) -> tuple[Sequence[R | None], Sequence[S | None]]:
        (kind, ids), (other, others) = first, second
        return list(map(self._kinds[kind].records.get, ids)), list(map(self._kinds[other].records.get, others))

    async def ids(self, first: str, end: str, limit: int) -> Sequence[str]:
        for table in list(self._kinds.values()):
            more = table.sort_some() is None
            while more:
                await asyncio.sleep(0)  # others have their turn
                more = table.sort_some() is None
        of_each = [ids.between(first, end, limit) for t in self._kinds.values() if (ids := t.sort_some()) is not None]
        return sorted(set(chain.from_iterable(of_each)))[:limit]

    async def page(
        self, kind: type[R], key: str, after: str | None = None, limit: int = 100, *, newest: bool = False
    ) -> Page[R]:
        return self._kinds[kind].page(key, after, limit, newest=newest)

    async def first_of(self, kind: type[R], keys: Sequence[str]) -> Sequence[R | None]:
        found = self._kinds[kind]
        first: list[R | None] = []
        for key in keys:
            index = found.indexes.get(key)
            first.append(None if index is None else found.records[next(iter(index))])
        return first

    async def usage(self, kind: type[R], key: str) -> Usage:
        index = self._kinds[kind].indexes.get(key)
        return NOTHING if index is None else Usage(index.earlier + len(index.last), index.bytes)

    async def usage_from(self, kind: type[R], key: str, address: str | None, agent: str) -> tuple[Usage, Usage]:
        shares, grown = self._kinds[kind].shares(key)
        self._memory += grown
        return shares.of(address, agent)

    async def admission(self, mailboxes: Sequence[str] = (), indexes: Sequence[Index] = ()) -> Admission:
        held: list[Usage] = []
        for id in mailboxes:
            box = self._mailboxes.get(id)
            held.append(NOTHING if box is None else Usage(box.count, box.bytes))
        found: list[Usage] = []
        for kind, key in indexes:
            index = self._kinds[kind].indexes.get(key)
            found.append(NOTHING if index is None else Usage(index.earlier + len(index.last), index.bytes))
        return Admission(held, found, Usage(self._held_count, self._held_bytes), self._memory)

    async def load_from(self, mailbox: str | None, address: str | None, agent: str) -> tuple[Usage, Usage]:
        if mailbox is None:
            return self._origins.held_of(address, agent)
        box = self._mailboxes.get(mailbox)
        if box is None:
            return NOTHING, NOTHING
        if box.shares is None:
            box.shares = self._shares_of(mailbox, box)
        return box.shares.of(address, agent)

    async def memory_from(self, address: str | None, agent: str) -> tuple[int, int]:
        return self._origins.memory_of(address, agent)

    async def due(self, mailbox: str, now: float, limit: int) -> Sequence[Delivery]:
        if self._ripen(mailbox, now):
            await self._ripen_rest(mailbox, now)
        box = self._mailboxes.get(mailbox)
        return () if box is None else box.ready[:limit]

    async def _ripen_rest(self, mailbox: str, now: float) -> None:
        more = True
        while more:
            await asyncio.sleep(0)  # others have their turn
            more = self._ripen(mailbox, now)

    def _ripen(self, mailbox: str, now: float) -> bool:
        """Let some deliveries whose time has come take their places. Return True if there may be more."""
        box = self._mailboxes.get(mailbox)
        if box is None or not (box.later or box.older):
            return False
        grown, more = box.ripen(now)
        self._memory += grown
        return more

    async def pending(self, mailbox: str, limit: int, but: Container[str] = ()) -> Sequence[Delivery]:
        box = self._mailboxes.get(mailbox)
        return () if box is None else box.pending(limit, but)

    def _shares_of(self, mailbox: str, box: Mailbox) -> Shares:
        """Count where the messages of a mailbox come from."""
        shares = Shares()
        dead = self._deliveries.indexes.get(by_dead(mailbox), ())
        for d in (*box.pending(box.count), *map(self._deliveries.records.__getitem__, dead)):
            self._memory += shares.change(d.origin, 1, len(d.body))
        return shares

    async def next_due_at(self, mailbox: str) -> float | None:
        box = self._mailboxes.get(mailbox)
        if box is None:
            return None
        if box.ready:
            return box.ready[0].visible_at
        soonest, grown = box.next_due_at()
        self._memory += grown
        return soonest

    async def ending(self, kind: type[R], now: float, limit: int, but: Container[str] = ()) -> Sequence[R]:
        found = self._kinds[kind]
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

    async def claim(
        self,
        mailbox: str,
        now: float,
        limit: int,
        rule: Callable[[Sequence[Delivery]], Sequence[Put]],
        *,
        unless: Index | None = None,
    ) -> float | None:
        if unless is not None and unless[1] in self._kinds[unless[0]].indexes:  # those without records are gone
            return SKIPPED
        if self._ripen(mailbox, now):
            await self._ripen_rest(mailbox, now)
        box = self._mailboxes.get(mailbox)
        if box is None or not box.ready:
            return await self.next_due_at(mailbox)
        found = box.ready[:limit]
        changes = rule(found)
        if changes:
            self._commit(mailbox, changes)
        return None

    async def commit(self, partition_key: str, *changes: Put | Drop | Absent) -> None:
        self._commit(partition_key, changes)

    async def commit_many(self, batches: Sequence[Batch]) -> Sequence[Conflict | Failed | None]:
        if len(batches) > 1 and self._add_copies(batches):
            return [None] * len(batches)
        results: list[Conflict | Failed | None] = []
        for batch in batches:
            try:
                self._commit(batch.partition_key, batch.changes)
                results.append(None)
            except Conflict as conflict:
                results.append(conflict.with_traceback(None))
        return results

    async def commit_in_order(self, batches: Sequence[Batch]) -> Sequence[Conflict | Failed | None]:
        results: list[Conflict | Failed | None] = []
        for batch in batches:
            try:
                await self.commit(batch.partition_key, *batch.changes)
                results.append(None)
            except (Conflict, Failed) as error:
                return [*results, error.with_traceback(None)]
        return results

    def _commit(self, partition_key: str, changes: Sequence[Put | Drop | Absent]) -> None:
        if len(changes) == 1 and type(only := changes[0]) is Put:  # as most commits are
            record: Any = only.record
            id, version, table = record.id, record.version, self._kinds[type(record)]
            old = table.records.get(id)
            if record.partition_key == partition_key:
                if old is None and version == 1:
                    self._add(table, id, record)
                    return
                if old is not None and old.version == version - 1 and old.partition_key == partition_key:
                    self._replace(table, id, old, record)
                    return
        accepted: list[tuple[Table, str, Any, Any]] = []
        for change in changes:
            if isinstance(change, Absent):
                if change.id in self._kinds[change.kind].records:
                    raise Conflict(change.kind, change.id, "exists")
                continue
            record = change.record
            id = record.id
            kind = self._kinds[type(record)]
            old = kind.records.get(id)
            if record.partition_key != partition_key:
                raise ValueError(
                    f"{type(record).__name__} {id!r} lives at {record.partition_key!r}, not at {partition_key!r}"
                )
            new = record if type(change) is Put else None
            follows = record.version - (new is not None)
            if follows if old is None else old.version != follows or old.partition_key != partition_key:
                raise Conflict(type(record), id, f"is not at version {follows}")
            accepted.append((kind, id, old, new))
        for kind, id, old, new in accepted:
            if old is None:
                self._add(kind, id, new)
            elif new is not None:
                self._replace(kind, id, old, new)
            else:
                if kind is self._deliveries:
                    self._queue(partition_key, old, None)
                size = old.footprint
                self._memory += kind.remove(id, old) - size + self._count(old, -size)

    def _replace(self, table: Table, id: str, old: Any, new: Any) -> None:
        """Put a record in the place of another."""
        if table is self._deliveries:
            self._queue(new.mailbox, old, new)
            if new.state is PENDING and stays_in_place(old, new):
                table.records[id] = new
                return
            weights = len(old.body), len(new.body)
            size = 0 if takes_as_much(old, new) else new.footprint - old.footprint
        else:
            weights = old.weight, new.weight
            size = new.footprint - old.footprint
        more = size + table.replace(id, old, new, *weights)
        if size or type(new) not in _CONSTANT:
            more += self._move(old, new, size)
        self._memory += more

    def _add(self, table: Table, id: str, new: Any) -> None:
        """Add a record that is not there."""
        size, weight = new.footprint, len(new.body) if table is self._deliveries else new.weight
        more = size + table.add(id, new, weight)
        if table is not self._deliveries or ((state := new.state) is not PENDING and state is not DEAD):
            self._memory += more + self._count(new, size)
            return
        # As ``_queue`` does for a delivery that changes, with fewer questions.
        mailbox, origin = new.mailbox, new.origin
        box = self._mailboxes.get(mailbox) or self._made(mailbox)
        box.count += 1
        box.bytes += weight
        self._held_count += 1
        self._held_bytes += weight
        more += self._origins.enter(origin, size, weight)
        if box.shares is not None:
            more += box.shares.change(origin, 1, weight)
        self._memory += more
        if state is PENDING:
            ready = box.ready
            if new.visible_at <= new.stored_at and (not ready or ready[-1].sort_key < new.sort_key):
                ready.append(new)  # the last of all, as most new messages are
            else:
                self._memory += box.file(new)

    def _add_copies(self, batches: Sequence[Batch]) -> bool:
        """Add new copies of one message, which differ in id, mailbox and place alone. Return False for other changes.

        All that is the same for each is counted once, as ``_add`` counts it.
        """
        copies = _copies(batches)
        if not copies:
            return False
        first, many, boxes = copies[0], len(copies), self._mailboxes
        size, weight, origin = first.footprint, first.weight, first.origin
        grown = self._deliveries.add_copies(copies, first.ends_at)
        if grown is None:
            return False
        more = grown + size * many + self._origins.enter(origin, size * many, weight * many, many)
        self._held_count += many
        self._held_bytes += weight * many
        for d in copies:
            box = boxes.get(d.mailbox) or self._made(d.mailbox)
            box.count += 1
            box.bytes += weight
            if box.shares is not None:
                more += box.shares.change(origin, 1, weight)
            ready = box.ready
            if not ready or ready[-1].sort_key < d.sort_key:
                ready.append(d)
            else:
                self._memory += box.file(d)
        self._memory += more
        return True

    def _count(self, record: Any, size: int) -> int:
        """Count the memory of a record in or out for its origin. Return by how many bytes that makes memory grow."""
        origin = getattr(record, "origin", None)
        return 0 if origin is None else self._origins.change(origin, size)

    def _move(self, old: Any, new: Any, larger: int) -> int:
        """Count the memory of a changed record, which is ``larger`` now, for its origin, which may have changed too.

        Return by how many bytes that makes memory grow.
        """
        before = getattr(old, "origin", None)
        if before is not None and before == getattr(new, "origin", None):
            return self._origins.change(before, larger)
        return self._count(old, -old.footprint) + self._count(new, new.footprint)

    def _made(self, mailbox: str) -> Mailbox:
        box = self._mailboxes[mailbox] = Mailbox(mailbox, self._deliveries.records)
        self._memory += MAILBOX_BYTES
        return box

    def _queue(self, mailbox: str, old: Delivery, new: Delivery | None) -> None:
        """Move a delivery within its mailbox, or in or out of it."""
        box = self._mailboxes.get(mailbox) or self._made(mailbox)
        before, after = old.state, None if new is None else new.state
        if before is PENDING and (ready := box.ready):
            if ready[0] is old:  # as mostly
                del ready[0]
            else:
                box.remove(old)
        if new is not None and after is PENDING:
            self._memory += box.file(new)
            if before is PENDING and old.body is new.body:
                return
        count = size = 0
        if before is PENDING or before is DEAD:
            count, size = -1, -len(old.body)
        if new is not None and (after is PENDING or after is DEAD):
            count, size = count + 1, size + len(new.body)
        if count or size:
            box.count += count
            box.bytes += size
            self._held_count += count
            self._held_bytes += size
            self._origins.hold(old.origin, count, size)
            if box.shares is not None:
                self._memory += box.shares.change(old.origin, count, size)
        if not box.count:
            del self._mailboxes[mailbox]
            self._memory -= MAILBOX_BYTES + LATER_BYTES * (len(box.later) + len(box.older))


def _copies(batches: Sequence[Batch]) -> list[Delivery]:
    """Return the deliveries that these batches add, if they are new copies of one message; otherwise none."""
    copies: list[Delivery] = []
    for batch in batches:
        put = batch.changes[0]
        if type(put) is not Put or len(batch.changes) > 1:
            return []
        d: Any = put.record
        if type(d) is not Delivery or d.version != 1 or d.mailbox != batch.partition_key:
            return []
        copies.append(d)
    if not copies:
        return []
    first = copies[0]
    if first.state is not PENDING or first.is_task or first.merge is not None or first.visible_at > first.stored_at:
        return []
    same = [replace(d, id=first.id, mailbox=first.mailbox, sort_key=first.sort_key) for d in copies]
    return copies if same.count(first) == len(copies) else []
