"""A store that gives back nothing but what its bytes say, as a store on a disk or in another process does."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

from clawlink.domain.delivery import Delivery
from clawlink.store import records
from clawlink.store.base import Absent, Batch, Conflict, Drop, Failed, Index, Page, Put, R
from clawlink.store.memory import MemoryStore


class BytesStore(MemoryStore):
    """A ``MemoryStore`` that encodes each record at its commit, and decodes it each time it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[tuple[type[Any], str], bytes] = {}

    def _commit(self, partition_key: str, changes: Sequence[Put | Drop | Absent]) -> None:
        super()._commit(partition_key, tuple(map(_reread, changes)))
        self._keep(changes)

    async def commit_many(self, batches: Sequence[Batch]) -> Sequence[Conflict | Failed | None]:
        results = await super().commit_many([Batch(b.partition_key, tuple(map(_reread, b.changes))) for b in batches])
        for batch, result in zip(batches, results, strict=True):
            if result is None:
                self._keep(batch.changes)
        return results

    def _keep(self, changes: Sequence[Put | Drop | Absent]) -> None:
        for change in changes:
            if isinstance(change, Put):
                self.bytes[type(change.record), change.record.id] = records.encode(change.record)
            elif isinstance(change, Drop):
                self.bytes.pop((type(change.record), change.record.id), None)

    def _read(self, found: Iterable[Any]) -> list[Any]:
        return [r and records.decode(self.bytes[type(r), r.id]) for r in found]

    async def get(self, kind: type[R], id: str) -> R | None:
        data = self.bytes.get((kind, id))
        record: R | None = None if data is None else records.decode(data)
        return record

    async def get_many(self, kind: type[R], ids: Sequence[str]) -> Sequence[R | None]:
        return [await self.get(kind, id) for id in ids]

    async def page(
        self, kind: type[R], key: str, after: str | None = None, limit: int = 100, *, newest: bool = False
    ) -> Page[R]:
        page = await super().page(kind, key, after, limit, newest=newest)
        return Page(self._read(page.records), page.after)

    async def first_of(self, kind: type[R], keys: Sequence[str]) -> Sequence[R | None]:
        return self._read(await super().first_of(kind, keys))

    async def due(self, mailbox: str, now: float, limit: int) -> Sequence[Delivery]:
        return self._read(await super().due(mailbox, now, limit))

    async def claim(
        self,
        mailbox: str,
        now: float,
        limit: int,
        rule: Callable[[Sequence[Delivery]], Sequence[Put]],
        *,
        unless: Index | None = None,
    ) -> float | None:
        return await super().claim(mailbox, now, limit, lambda found: rule(self._read(found)), unless=unless)

    async def pending(self, mailbox: str, limit: int, but: Container[str] = ()) -> Sequence[Delivery]:
        return self._read(await super().pending(mailbox, limit, but))

    async def ending(self, kind: type[R], now: float, limit: int, but: Container[str] = ()) -> Sequence[R]:
        return self._read(await super().ending(kind, now, limit, but))


def _reread(change: Put | Drop | Absent) -> Put | Drop | Absent:
    return change if isinstance(change, Absent) else type(change)(records.decode(records.encode(change.record)))
