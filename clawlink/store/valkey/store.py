"""The ``Store`` over a Valkey or Redis server, which several relays share.

All keys of a mesh have one hash tag, so a commit is one script, and indexes and counts change with the records. On a
cluster a mesh lives on one of its masters. Nothing is kept in this process: what ``get`` says is the server's answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Callable, Container, Sequence
from itertools import accumulate
from typing import Any

from clawlink.domain.delivery import Delivery
from clawlink.store import fence, records
from clawlink.store.base import (
    Absent,
    Admission,
    Batch,
    Conflict,
    Drop,
    Failed,
    Fenced,
    Index,
    Page,
    Put,
    R,
    S,
    Usage,
    number_of,
    probe,
    together,
)
from clawlink.store.claims import Claims
from clawlink.store.valkey import scripts
from clawlink.store.valkey.facts import ends_of, facts_of
from clawlink.store.valkey.server import StoreError, require_fit
from clawlink.store.valkey.wire import Wire

LAYOUT = 2
"""The version of the keys. A relay refuses a mesh with another."""

# Records that one read asks for; others have their turn after it.
_SLICE = 32
_MOST_NUMBER = 2**53
_NO_FENCE = ("", "")
_NOTHING = Usage(0, 0)
_two_numbers = struct.Struct(">dd").unpack


class ValkeyStore:
    """A ``Store`` on a server that it reaches by a ``Wire``. ``mesh`` is the prefix of its keys."""

    index_lag = 0.0
    partitions_at_once = 32
    broken: str | None = None  # a server that is away may come back, but not a mesh that became another

    def __init__(self, wire: Wire, mesh: str = "clawlink") -> None:
        self._wire = wire
        self.server = ""
        """The name and version of the server."""
        self.base = f"{{{mesh}}}"
        self._claims = Claims(self)
        self._names: dict[type[Any], str] = {}

    def _kind(self, kind: type[Any]) -> str:
        name = self._names.get(kind)
        if name is None:
            name = self._names[kind] = records.kinds()[kind].name
        return name

    # -- lifecycle ---------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        shown = self._wire.primary.shown
        try:
            await self._wire.open()
            self.server = require_fit(self._wire.primary.facts, shown, self._wire.replicas)
            await self.migrate()
        except Failed as failed:
            await self.close()
            raise StoreError(f"--store {shown} cannot be used: {failed}") from None
        except BaseException:
            await self.close()
            raise

    async def migrate(self) -> int:
        """Compare the layout of the keys. No release had another one, so there are no steps."""
        meta = f"{self.base}:meta"
        await self._wire.call("HSETNX", meta, "layout", LAYOUT)
        layout = int(await self._wire.call("HGET", meta, "layout"))
        if layout != LAYOUT:
            raise StoreError(
                f"--store {self._wire.primary.shown} has keys of layout {layout} under {self.base}, and this version "
                f"of ClawLink has layout {LAYOUT}; use the version that wrote them, or another --store-prefix"
            )
        return 0

    async def health(self) -> str | None:
        return await probe(self)

    async def close(self) -> None:
        await self._wire.close()

    # -- records -----------------------------------------------------------------------------------------------------

    def get(self, kind: type[R], id: str) -> Awaitable[R | None]:
        return _one(self._wire.begin("HGET", f"{self.base}:r:{self._kind(kind)}", id, again=True))

    def get_many(self, kind: type[R], ids: Sequence[str]) -> Awaitable[Sequence[R | None]]:
        return _found(self._asked(kind, ids))

    def get_both(
        self, first: tuple[type[R], Sequence[str]], second: tuple[type[S], Sequence[str]]
    ) -> Awaitable[tuple[Sequence[R | None], Sequence[S | None]]]:
        return together(_found(self._asked(*first)), _found(self._asked(*second)))

    def _asked(self, kind: type[Any], ids: Sequence[str]) -> list[asyncio.Future[Any]]:
        """Ask for records, some with each command."""
        key = f"{self.base}:r:{self._kind(kind)}"
        return [
            self._wire.begin("HMGET", key, *ids[start : start + _SLICE], again=True)
            for start in range(0, len(ids), _SLICE)
        ]

    async def _load(self, kind: type[R], ids: Sequence[Any]) -> list[R]:
        """Return records in the order of their ids. Those that have gone are left out."""
        return [record for record in await self.get_many(kind, ids) if record is not None]

    async def ids(self, first: str, end: str, limit: int) -> Sequence[str]:
        span = (f"[{first}", f"({end}", "BYLEX", "LIMIT", 0, limit)
        asked = [
            self._wire.begin("ZRANGE", f"{self.base}:o:{kind.name}", *span, again=True)
            for kind in records.kinds().values()
        ]
        found = {id.decode() for ids in await asyncio.gather(*asked) for id in ids}
        return sorted(found)[:limit]

    # -- indexes -----------------------------------------------------------------------------------------------------

    def page(
        self, kind: type[R], key: str, after: str | None = None, limit: int = 100, *, newest: bool = False
    ) -> Awaitable[Page[R]]:
        place = number_of(after)
        beyond = None if place is None else f"({min(place, _MOST_NUMBER)}"
        if 0 < limit <= _SLICE:
            start = beyond or ("+inf" if newest else "-inf")
            words = (self._kind(kind), key, start, "newest" if newest else "oldest", limit)
            return _page(self._wire.run(scripts.PAGE, 1, self.base, *words))
        index = f"{self.base}:i:{self._kind(kind)}:{key}"
        span: tuple[str, ...]
        if newest:
            span = ("ZRANGE", index, beyond or "+inf", "-inf", "BYSCORE", "REV")
        else:
            span = ("ZRANGE", index, beyond or "-inf", "+inf", "BYSCORE")
        numbered = self._wire.begin(*span, "LIMIT", 0, limit + 1, "WITHSCORES", again=True)
        return self._long_page(kind, numbered, limit)

    async def _long_page(self, kind: type[R], numbered: asyncio.Future[Any], limit: int) -> Page[R]:
        found = await numbered
        ids, numbers = found[::2], found[1::2]
        listed = await self._load(kind, ids[:limit])
        return Page(listed, str(int(numbers[limit - 1])) if len(ids) > limit > 0 else None)

    async def first_of(self, kind: type[R], keys: Sequence[str]) -> Sequence[R | None]:
        if not keys:
            return []
        found = await self._wire.run(scripts.FIRST, 1, self.base, self._kind(kind), *keys)
        return [None if data is None else _decoded(data) for data in found]

    def _counts(self, *scopes: str) -> asyncio.Future[Any]:
        return self._wire.begin("HMGET", f"{self.base}:n", *scopes, again=True)

    def _scope(self, kind: type[Any], key: str) -> str:
        return f"i{self._kind(kind)}:{key}"

    def usage(self, kind: type[R], key: str) -> Awaitable[Usage]:
        return _usage(self._counts(self._scope(kind, key)))

    async def _from(self, scope: str, address: str | None, agent: str) -> tuple[Usage, Usage]:
        by_address, by_agent = ends_of(address, agent)
        found = await self._wire.run(scripts.FROM, 1, self.base, scope + by_address, scope + by_agent)
        of_address, of_agent = _usages(found)
        return of_address, of_agent

    async def usage_from(self, kind: type[R], key: str, address: str | None, agent: str) -> tuple[Usage, Usage]:
        return await self._from(self._scope(kind, key), address, agent)

    def admission(self, mailboxes: Sequence[str] = (), indexes: Sequence[Index] = ()) -> Awaitable[Admission]:
        """Count as ``Store.admission``. ``memory`` is about how many bytes of the server all records take."""
        boxes, scopes = [f"m{mailbox}" for mailbox in mailboxes], [self._scope(*index) for index in indexes]
        return _admission(self._counts(*boxes, *scopes, "t", "c"), len(boxes))

    async def load_from(self, mailbox: str | None, address: str | None, agent: str) -> tuple[Usage, Usage]:
        return await self._from("t" if mailbox is None else f"m{mailbox}", address, agent)

    async def memory_from(self, address: str | None, agent: str) -> tuple[int, int]:
        by_address, by_agent = await self._from("c", address, agent)
        return by_address.bytes, by_agent.bytes

    # -- mailboxes ---------------------------------------------------------------------------------------------------

    async def due(self, mailbox: str, now: float, limit: int) -> Sequence[Delivery]:
        found, _ = await self._due(mailbox, now, limit)
        return found

    async def _due(
        self, mailbox: str, now: float, limit: int, unless: Index | None = None
    ) -> tuple[list[Delivery], float | None]:
        """Return what is due; if nothing is, when the next will be, and ``SKIPPED`` for ``unless`` of a claim."""
        if limit <= 0:
            return [], None
        scope = "" if unless is None else self._scope(*unless)
        next_at, *found = [scripts.MORE]
        while next_at == scripts.MORE:
            next_at, *found = await self._wire.run(scripts.DUE, 1, self.base, mailbox, repr(now), limit, scope)
        return [_decoded(data) for data in found], None if next_at is None else float(next_at)

    async def pending(self, mailbox: str, limit: int, but: Container[str] = ()) -> Sequence[Delivery]:
        ids: list[Any] = []
        for place in ("q", "l"):
            ids += await self._some(f"{self.base}:{place}:{mailbox}", (), limit - len(ids), but)
        return await self._load(Delivery, ids)

    async def next_due_at(self, mailbox: str) -> float | None:
        found = await self._wire.run(scripts.NEXT_DUE, 1, self.base, mailbox)
        return None if found is None else float(found)

    async def ending(self, kind: type[R], now: float, limit: int, but: Container[str] = ()) -> Sequence[R]:
        ids = await self._some(f"{self.base}:e:{self._kind(kind)}", ("-inf", repr(now)), limit, but)
        return await self._load(kind, ids)

    async def _some(self, set: str, span: tuple[str, ...], limit: int, but: Container[str]) -> list[Any]:
        """Return the first ids of a sorted set, or of a span of its scores, without the unwanted ones."""
        found: list[Any] = []
        start = 0
        while limit > 0:
            if span:
                ids = await self._wire.call("ZRANGEBYSCORE", set, *span, "LIMIT", start, limit)
            else:
                ids = await self._wire.call("ZRANGE", set, start, start + limit - 1)
            wanted = [id for id in ids if id.decode() not in but] if but else ids
            found += wanted[: limit - len(found)]
            if len(ids) < limit or len(found) >= limit:
                break
            start += len(ids)
        return found

    # -- commits -----------------------------------------------------------------------------------------------------

    async def claim(
        self,
        mailbox: str,
        now: float,
        limit: int,
        rule: Callable[[Sequence[Delivery]], Sequence[Put]],
        *,
        unless: Index | None = None,
    ) -> float | None:
        return await self._claims.claim(mailbox, lambda: self._due(mailbox, now, limit, unless), rule)

    async def commit(self, partition_key: str, *changes: Put | Drop | Absent) -> None:
        (result,) = await self._commit((Batch(partition_key, changes),))
        if result is not None:
            raise result

    async def commit_many(self, batches: Sequence[Batch]) -> Sequence[Conflict | Failed | None]:
        return [result for (result,) in await _all_of([self._commit((batch,)) for batch in batches])]

    async def commit_in_order(self, batches: Sequence[Batch]) -> Sequence[Conflict | Failed | None]:
        return await self._commit(batches)

    def _words(self, partition_key: str, changes: Sequence[Put | Drop | Absent]) -> list[Any]:
        words: list[Any] = [partition_key, len(changes)]
        for change in changes:
            if isinstance(change, Absent):
                words += ("A", self._kind(change.kind), change.id, 0)
                continue
            record: Any = change.record
            if record.partition_key != partition_key:
                raise ValueError(
                    f"{type(record).__name__} {record.id!r} lives at {record.partition_key!r}, not at {partition_key!r}"
                )
            kind = self._kind(type(record))
            if isinstance(change, Put):
                data = records.encode(record)
                words += ("P", kind, record.id, record.version - 1, facts_of(record, len(data)), data)
            else:
                words += ("D", kind, record.id, record.version)
        return words

    async def _commit(self, batches: Sequence[Batch]) -> list[Conflict | Failed | None]:
        """Commit partitions in order. Return a result for each, up to the first that did not take effect."""
        changes = [change for batch in batches for change in batch.changes]
        done: list[Conflict | Failed | None] = [None] * len(batches)
        if not changes:
            return done
        creates = any(isinstance(change, Put) and change.record.version == 1 for change in changes)
        script = scripts.CREATE if creates else scripts.CHANGE
        words = [word for batch in batches for word in self._words(batch.partition_key, batch.changes)]
        try:
            at = await self._wire.commit(script, 1, self.base, *(fence.current() or _NO_FENCE), *words)
        except Failed as failed:
            return [failed]
        if at == 0:
            return done
        if at == scripts.FENCED:
            return [Fenced("another relay has the lease behind which this commit stood, or none")]
        ends = accumulate(len(batch.changes) for batch in batches)
        before = sum(end < at for end in ends)
        return [*done[:before], _conflict(changes[at - 1])]


async def _one(answer: asyncio.Future[Any]) -> Any:
    data = await answer
    return None if data is None else _decoded(data)


async def _page(answer: asyncio.Future[Any]) -> Page[Any]:
    number, *data = await answer
    return Page([_decoded(one) for one in data], None if number is None else str(int(number)))


async def _usage(answer: asyncio.Future[Any]) -> Usage:
    (usage,) = _usages(await answer)
    return usage


async def _admission(answer: asyncio.Future[Any], mailboxes: int) -> Admission:
    *found, total, memory = _usages(await answer)
    return Admission(found[:mailboxes], found[mailboxes:], total, memory.bytes)


def _usages(counts: Sequence[bytes | None]) -> list[Usage]:
    return [_NOTHING if count is None else Usage(*map(int, _two_numbers(count))) for count in counts]


async def _found(asked: Sequence[asyncio.Future[Any]]) -> list[Any]:
    """Return the records of several answers. Others have their turn after each."""
    found: list[Any] = []
    for answer in asked:
        if found:
            await asyncio.sleep(0)
        found += [None if data is None else _decoded(data) for data in await answer]
    return found


async def _decided(answer: asyncio.Future[Any]) -> None:
    """Wait for an answer, however often the waiter is cancelled."""
    while not answer.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([answer])


async def _all_of(work: Sequence[Any]) -> list[Any]:
    """Return all results. If the caller is cancelled, all are decided first."""
    together = asyncio.gather(*work)
    try:
        return await asyncio.shield(together)
    except asyncio.CancelledError:
        await _decided(together)
        raise


def _conflict(change: Put | Drop | Absent) -> Conflict:
    if isinstance(change, Absent):
        return Conflict(change.kind, change.id, "exists")
    record = change.record
    follows = record.version - 1 if isinstance(change, Put) else record.version
    return Conflict(type(record), record.id, f"is not at version {follows}")


def _decoded(data: bytes) -> Any:
    try:
        return records.decode(data)
    except ValueError as error:
        raise Failed(f"a record cannot be read: {error}") from error
