"""Upkeep holds the event loop for a few records at a time, however many there are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Container, Sequence
from typing import Any

import pytest

from clawlink.domain import delivery_steps
from clawlink.domain.agent import Agent
from clawlink.domain.broadcast import Knowledge
from clawlink.domain.delivery import Delivery, State
from clawlink.domain.file_write import Write
from clawlink.domain.pool import pool_for
from clawlink.protocol import requests
from clawlink.relay import time_slices
from clawlink.store.base import Absent, Batch, Conflict, Drop, Failed, Page, Put
from clawlink.store.memory import MemoryStore
from tests.relay.scene import Scene, receipt_of

MANY = 1_000
# A slice has 32 records, and the largest page of a read 256. For each record a step reads and writes a few others.
MOST_IN_ONE_PIECE = 600


class Touched(MemoryStore):
    """Counts the records that are read, listed and changed."""

    def __init__(self) -> None:
        super().__init__()
        self.touched = 0

    async def get(self, kind: type[Any], id: str) -> Any:
        self.touched += 1
        return await super().get(kind, id)

    async def page(
        self, kind: type[Any], key: str, after: str | None = None, limit: int = 100, *, newest: bool = False
    ) -> Page[Any]:
        found = await super().page(kind, key, after, limit, newest=newest)
        self.touched += len(found.records)
        return found

    async def due(self, mailbox: str, now: float, limit: int) -> Sequence[Delivery]:
        found = await super().due(mailbox, now, limit)
        self.touched += 1 + len(found)
        return found

    async def pending(self, mailbox: str, limit: int, but: Container[str] = ()) -> Sequence[Delivery]:
        found = await super().pending(mailbox, limit, but)
        self.touched += 1 + len(found)
        return found

    async def next_due_at(self, mailbox: str) -> float | None:
        self.touched += 1
        return await super().next_due_at(mailbox)

    async def ending(self, kind: type[Any], now: float, limit: int, but: Container[str] = ()) -> Sequence[Any]:
        found = await super().ending(kind, now, limit, but)
        self.touched += len(found)
        return found

    async def get_many(self, kind: type[Any], ids: Sequence[str]) -> Sequence[Any]:
        self.touched += len(ids)
        return await super().get_many(kind, ids)

    async def get_both(
        self, first: tuple[type[Any], Sequence[str]], second: tuple[type[Any], Sequence[str]]
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        return await self.get_many(*first), await self.get_many(*second)

    async def first_of(self, kind: type[Any], keys: Sequence[str]) -> Sequence[Any]:
        self.touched += len(keys)
        return await super().first_of(kind, keys)

    async def commit(self, partition_key: str, *changes: Put | Drop | Absent) -> None:
        self.touched += len(changes)
        await super().commit(partition_key, *changes)

    async def commit_many(self, batches: Sequence[Batch]) -> Sequence[Conflict | Failed | None]:
        self.touched += sum(len(batch.changes) for batch in batches)
        return await super().commit_many(batches)


async def most_in_one_piece(store: Touched, work: Awaitable[object]) -> tuple[int, int]:
    """Do it, and return how many records it touched at most while nobody else had a turn, and how many in all."""
    going_on = asyncio.ensure_future(work)
    most = total = store.touched = 0
    while not going_on.done():
        await asyncio.sleep(0)
        most, total, store.touched = max(most, store.touched), total + store.touched, 0
    await going_on
    return most, total


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Return a scene in which turns end by count alone: on a busy machine they end sooner by time."""
    monkeypatch.setattr(time_slices, "TURN_SECONDS", 60.0)
    return Scene(store=Touched(), max_pools=MANY, rate_agent=0, rate_pair=0)


def settled(n: int) -> Delivery:
    now = 1_000_000.0
    return Delivery(f"d{n}", 1, f"box{n % 7}", "s", n, b"x", now, now, now + 60, State.ACKED)


async def tasks_of_a_silent_worker(scene: Scene) -> None:
    await scene.register("req", "w")
    for n in range(MANY):
        await scene.delegate(to_agent="w", task=f"task {n}")
    taken = await scene.take("w")
    assert len(taken) == MANY
    await scene.relay.acks.ack("w", [receipt_of(d) for d in taken])


async def dead_letters(scene: Scene) -> None:
    await scene.register("req", "w")
    for n in range(MANY):
        await scene.send("req", "w", f"text {n}")
    for d in await scene.store.pending("w", MANY):
        await scene.store.commit("w", Put(delivery_steps.bury(d, now=scene.now, keep=9000.0)))


async def test_upkeep_touches_a_page_and_a_slice_at_most_between_two_turns_of_others(scene: Scene) -> None:
    store: Any = scene.store
    sweep = scene.relay.janitor.sweep

    for n in range(MANY):
        await store.commit(f"box{n % 7}", Put(settled(n)))
    scene.now += 61
    pieces = {"settled messages end": await most_in_one_piece(store, sweep())}

    for n in range(2 * MANY):
        k = Knowledge(f"k{n}", 1, "a", b"x", "t", (), scene.now, scene.now + 60)
        await store.commit(k.partition_key, Put(k))
    scene.now += 61
    pieces["broadcasts end"] = await most_in_one_piece(store, sweep())

    await tasks_of_a_silent_worker(scene)
    scene.now += 200
    pieces["tasks are taken back"] = await most_in_one_piece(store, sweep())
    pieces["an agent leaves with its tasks"] = await most_in_one_piece(store, scene.leave("w"))

    body = (await scene.store.pending("w", 1))[0].body
    scene.now += scene.relay.limits.return_after + 1
    pieces["tasks are returned"] = await most_in_one_piece(store, sweep())

    await scene.register("box")
    for n in range(MANY):
        await scene.send("req", "box", f"text {n}")
    pieces["an agent leaves with its mail"] = await most_in_one_piece(store, scene.leave("box"))

    for n in range(MANY):
        pool = pool_for(["go", f"skill{n}"], ())
        d = Delivery(f"t{n}", 1, pool.id, "req", n, body, scene.now, scene.now, scene.now + 9000, is_task=True)
        await store.commit(pool.id, Put(pool.used(scene.now)), Put(d))
    pieces["pools with work"] = await most_in_one_piece(store, sweep())

    for n in range(MANY):
        ask = requests.Register(agent_id=f"a{n}", name=f"a{n}")
        await scene.relay.agents.register(ask, machine="", agent_key=None, seen=False)
    scene.now += 90_000
    for _ in range(2 + MANY // 200):
        pieces["silent agents are forgotten"] = max(
            pieces.get("silent agents are forgotten", (0, 0)), await most_in_one_piece(store, sweep())
        )
    assert await store.get(Agent, "a7") is None

    await scene.register("up", "req")
    for n in range(100):
        ask_file = Write(key=f"f{n}", content_type="text/plain")
        await scene.relay.uploads.create(await scene.agent("up"), ask_file, 10, f"m{n}")
    scene.now += 90_000
    pieces["uploads lapse"] = await most_in_one_piece(store, sweep())
    assert scene.relay.uploads.count == 0

    await dead_letters(scene)
    redriving = scene.relay.mailbox.redrive("w", None, MANY)
    pieces["dead letters are put back"] = await most_in_one_piece(store, redriving)

    too_long = {what: piece for what, (piece, _) in pieces.items() if piece > MOST_IN_ONE_PIECE}
    assert not too_long, pieces
    nothing_done = {what: total for what, (_, total) in pieces.items() if total < 100}
    assert not nothing_done, pieces
