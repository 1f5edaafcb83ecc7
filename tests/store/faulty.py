"""A store that keeps its contract, and nothing more than its contract.

``MemoryStore`` is kinder than the contract: nothing ever happens between a read and the commit after it. A commit
conflicts only with a real rival and never fails. An index is never out of date. A relay tested against it alone would
come to lean on that, and break on the first store that shares its records with another process. So the relay's tests
run behind this one too. It wraps any store and injects, each with its own probability:

``conflicts``   a commit raises ``Conflict`` although nothing had changed. The relay must reread and try again.
``delays``      an operation yields to the event loop, before or after it is done, so that other tasks come in between.
                A commit that is cancelled while it yields may have taken effect or not.
``failures``    a commit raises ``Failed``, and nothing took effect.
``lost``        a commit raises ``Failed``, and it did take effect.
``stale``       an index answers a question (``ids``, ``due``, ``pending``, ``next_due_at``, ``page``,
                ``usage``, each number of ``admission``, ``usage_from``, ``load_from``, ``ending``; the same arguments
                but for ``now``) as it would have at an earlier moment, no more than ``index_lag`` seconds ago.

``commit_many`` and ``commit_in_order`` have each of these faults at each partition, and let others in between two
partitions. ``claim`` has those of ``due``, of ``commit`` and of ``next_due_at``, and lets anything but another claim in
between.

``get`` and ``commit`` are always true. A stale answer is one of the last ``memory`` true answers to that question, and
at most ``age`` operations of the whole store old. Of ``memory`` answers in a row to one question at least one is true.
So nothing stays hidden from a repeated question. ``next_due_at`` errs only so that a consumer who believes it wakes too
early or asks again: it may give an earlier time than is true, or None, and never does so twice in a row.

With all probabilities at 0, the default, it does nothing at all. Everything random comes from the ``Random`` it gets.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter, deque
from collections.abc import Callable, Container, Sequence
from random import Random
from time import monotonic
from typing import Any, TypeVar

from clawlink.domain.delivery import Delivery
from clawlink.store.base import (
    SKIPPED,
    Absent,
    Admission,
    Batch,
    Conflict,
    Drop,
    Failed,
    Index,
    Page,
    Put,
    R,
    S,
    Store,
    Usage,
    probe,
)

A = TypeVar("A")

_MAX_TURNS = 3
_LAG_SECONDS = 0.1


class FaultyStore:
    """A ``Store`` around another one that injects faults; ``injected`` counts them by name."""

    def __init__(
        self,
        inner: Store,
        random: Random,
        *,
        conflicts: float = 0.0,
        delays: float = 0.0,
        failures: float = 0.0,
        lost: float = 0.0,
        stale: float = 0.0,
        memory: int = 3,
        age: int = 50,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.inner = inner
        self.random = random
        self.conflicts = conflicts
        self.delays = delays
        self.failures = failures
        self.lost = lost
        self.stale = stale
        self.injected: Counter[str] = Counter()
        self._memory = memory
        self._age = age
        self._clock = clock
        self._operations = 0
        self._claims: dict[str, asyncio.Lock] = {}
        self._answers: dict[tuple[Any, ...], deque[tuple[int, float, Any]]] = {}
        self._in_a_row: Counter[tuple[Any, ...]] = Counter()

    @property
    def index_lag(self) -> float:
        return _LAG_SECONDS if self.stale else self.inner.index_lag

    @property
    def partitions_at_once(self) -> int:
        return self.inner.partitions_at_once

    # -- lifecycle ---------------------------------------------------------------------------------------------------

    @property
    def broken(self) -> str | None:
        return self.inner.broken

    async def open(self) -> None:
        await self.inner.open()

    async def migrate(self) -> int:
        return await self.inner.migrate()

    async def health(self) -> str | None:
        return await self.inner.health() or await probe(self)

    async def close(self) -> None:
        await self.inner.close()

    # -- always true -------------------------------------------------------------------------------------------------

    async def get(self, kind: type[R], id: str) -> R | None:
        await self._pause()
        found = await self.inner.get(kind, id)
        await self._pause()
        return found

    async def get_many(self, kind: type[R], ids: Sequence[str]) -> Sequence[R | None]:
        return [await self.get(kind, id) for id in ids]

    async def get_both(
        self, first: tuple[type[R], Sequence[str]], second: tuple[type[S], Sequence[str]]
    ) -> tuple[Sequence[R | None], Sequence[S | None]]:
        return await self.get_many(*first), await self.get_many(*second)

    async def commit(self, partition_key: str, *changes: Put | Drop | Absent) -> None:
        await self._pause()
        if self._strikes("conflicts", self.conflicts):
            raise Conflict(*_named(changes), "is in an injected conflict: nothing has changed")
        if self._strikes("failures", self.failures):
            raise Failed("injected: the commit did not take effect")
        await self.inner.commit(partition_key, *changes)
        if self._strikes("lost", self.lost):
            raise Failed("injected: the commit took effect")
        await self._pause()

    async def commit_many(self, batches: Sequence[Batch]) -> Sequence[Conflict | Failed | None]:
        results: list[Conflict | Failed | None] = []
        for batch in batches:
            try:
                await self.commit(batch.partition_key, *batch.changes)
                results.append(None)
            except (Conflict, Failed) as fault:
                results.append(fault)
        return results

    async def commit_in_order(self, batches: Sequence[Batch]) -> Sequence[Conflict | Failed | None]:
        results: list[Conflict | Failed | None] = []
        for batch in batches:
            results += await self.commit_many([batch])
            if results[-1] is not None:
                break
        return results

    async def claim(
        self,
        mailbox: str,
        now: float,
        limit: int,
        rule: Callable[[Sequence[Delivery]], Sequence[Put]],
        *,
        unless: Index | None = None,
    ) -> float | None:
        async with self._claims.setdefault(mailbox, asyncio.Lock()):
            if unless is not None and (await self.usage(*unless)).count:
                return SKIPPED
            found = await self.due(mailbox, now, limit)
            if not found:
                return await self.next_due_at(mailbox)
            changes = rule(found)
            if changes:
                await self.commit(mailbox, *changes)
        return None

    # -- hints -------------------------------------------------------------------------------------------------------

    async def ids(self, first: str, end: str, limit: int) -> Sequence[str]:
        await self._pause()
        found = self._recall(("ids", first, end, limit), await self.inner.ids(first, end, limit))
        await self._pause()
        return found

    async def page(
        self, kind: type[R], key: str, after: str | None = None, limit: int = 100, *, newest: bool = False
    ) -> Page[R]:
        await self._pause()
        true = await self.inner.page(kind, key, after, limit, newest=newest)
        found = self._recall(("page", kind, key, after, limit, newest), true)
        await self._pause()
        return found

    async def first_of(self, kind: type[R], keys: Sequence[str]) -> Sequence[R | None]:
        return [next(iter((await self.page(kind, key, limit=1)).records), None) for key in keys]

    async def usage(self, kind: type[R], key: str) -> Usage:
        await self._pause()
        found = self._recall(("usage", kind, key), await self.inner.usage(kind, key))
        await self._pause()
        return found

    async def admission(self, mailboxes: Sequence[str] = (), indexes: Sequence[Index] = ()) -> Admission:
        await self._pause()
        true = await self.inner.admission(mailboxes, indexes)
        found = Admission(
            [self._recall(("load", m), used) for m, used in zip(mailboxes, true.mailboxes, strict=True)],
            [self._recall(("usage", *index), used) for index, used in zip(indexes, true.indexes, strict=True)],
            self._recall(("total",), true.total),
            self._recall(("memory",), true.memory),
        )
        await self._pause()
        return found

    async def usage_from(self, kind: type[R], key: str, address: str | None, agent: str) -> tuple[Usage, Usage]:
        await self._pause()
        true = await self.inner.usage_from(kind, key, address, agent)
        found = self._recall(("usage_from", kind, key, address, agent), true)
        await self._pause()
        return found

    async def load_from(self, mailbox: str | None, address: str | None, agent: str) -> tuple[Usage, Usage]:
        await self._pause()
        true = await self.inner.load_from(mailbox, address, agent)
        found = self._recall(("load_from", mailbox, address, agent), true)
        await self._pause()
        return found

    async def memory_from(self, address: str | None, agent: str) -> tuple[int, int]:
        await self._pause()
        found = self._recall(("memory_from", address, agent), await self.inner.memory_from(address, agent))
        await self._pause()
        return found

    async def due(self, mailbox: str, now: float, limit: int) -> Sequence[Delivery]:
        await self._pause()
        found = self._recall(("due", mailbox, limit), await self.inner.due(mailbox, now, limit))
        await self._pause()
        return found

    async def pending(self, mailbox: str, limit: int, but: Container[str] = ()) -> Sequence[Delivery]:
        await self._pause()
        found = self._recall(("pending", mailbox), await self.inner.pending(mailbox, sys.maxsize))
        await self._pause()
        return [d for d in found if d.id not in but][:limit]

    async def ending(self, kind: type[R], now: float, limit: int, but: Container[str] = ()) -> Sequence[R]:
        await self._pause()
        found = self._recall(("ending", kind), await self.inner.ending(kind, now, sys.maxsize))
        await self._pause()
        return [record for record in found if record.id not in but][:limit]

    async def next_due_at(self, mailbox: str) -> float | None:
        await self._pause()
        question = ("next_due_at", mailbox)
        true = await self.inner.next_due_at(mailbox)
        found = true if self._in_a_row[question] else self._recall(question, true)
        if found is not None and true is not None and found > true:
            found = true
        self._in_a_row[question] = int(found != true)
        await self._pause()
        return found

    # -- faults ------------------------------------------------------------------------------------------------------

    def _strikes(self, name: str, probability: float) -> bool:
        if not probability or self.random.random() >= probability:
            return False
        self.injected[name] += 1
        return True

    async def _pause(self) -> None:
        self._operations += 1
        if self._strikes("delays", self.delays):
            for _ in range(self.random.randint(1, _MAX_TURNS)):
                await asyncio.sleep(0)

    def _recall(self, question: tuple[Any, ...], true: A) -> A:
        """Return the true answer or an earlier one, and remember the true one."""
        if not self.stale:
            return true
        answers = self._answers.setdefault(question, deque(maxlen=self._memory))
        now = self._clock()
        answers.append((self._operations, now, true))
        while self._operations - answers[0][0] > self._age or now - answers[0][1] > self.index_lag:
            answers.popleft()
        if len(answers) > 1 and self._in_a_row[question] < self._memory - 1 and self._strikes("stale", self.stale):
            self._in_a_row[question] += 1
            earlier: A = answers[self.random.randrange(len(answers) - 1)][2]
            return earlier
        self._in_a_row[question] = 0
        return true


def _named(changes: Sequence[Put | Drop | Absent]) -> tuple[type[Any], str]:
    """Return the kind and the id of the first record of a commit."""
    for change in changes:
        return (change.kind, change.id) if isinstance(change, Absent) else (type(change.record), change.record.id)
    return Delivery, "none"
