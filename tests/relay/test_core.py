"""The core that all parts of the relay share: a commit wakes watches, and a conflict is tried again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, nullcontext
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery
from clawlink.domain.file_write import Write
from clawlink.domain.limits import PRESENCE_AUDIENCE
from clawlink.errors import StoreUnavailable
from clawlink.protocol import requests
from clawlink.relay.core import TRIES, pause_after
from clawlink.relay.time_slices import SLICE
from clawlink.store.base import Batch, Conflict, Failed, Put
from clawlink.store.memory import MemoryStore
from tests.relay.mailbox.test_consumer import turns
from tests.relay.scene import Scene, receipt_of
from tests.relay.test_wait_loop import parts
from tests.store import contract
from tests.store.faulty import FaultyStore


class Counting(MemoryStore):
    """A store that counts what it is asked, and fails commits as told."""

    def __init__(self) -> None:
        super().__init__()
        self.gets: Counter[type[Any]] = Counter()
        self.dues = 0
        self.commits = 0
        self.total_commits = 0
        self.fails: type[Exception] | None = None

    async def get(self, kind: Any, id: str) -> Any:
        self.gets[kind] += 1
        return await super().get(kind, id)

    async def due(self, mailbox: str, now: float, limit: int) -> Any:
        self.dues += 1
        return await super().due(mailbox, now, limit)

    async def commit(self, partition_key: str, *changes: Any) -> None:
        if self.fails is not None:
            raise self.fails(Agent, "b", "as told") if self.fails is Conflict else self.fails("as told")
        self.commits += 1
        self.total_commits += 1
        await super().commit(partition_key, *changes)

    async def commit_many(self, batches: Sequence[Batch]) -> Sequence[Conflict | Failed | None]:
        self.commits += len(batches)
        self.total_commits += len(batches)
        return await super().commit_many(batches)


@pytest.fixture
def store() -> Counting:
    return Counting()


@pytest.fixture
def scene(store: Counting) -> Scene:
    return Scene(store=store)


async def test_a_commit_of_many_partitions_wakes_each_partition_whose_records_may_have_changed() -> None:
    scene = Scene(store=FaultyStore(MemoryStore(), Random(3), conflicts=0.3, failures=0.3, lost=0.3))
    core = scene.relay.core
    partitions = [f"box{n}" for n in range(20)]
    with ExitStack() as listening:
        signals = [listening.enter_context(core.signals.listen(partition_key)) for partition_key in partitions]
        results = await core.commit_many(
            [
                Batch(partition_key, (Put(contract.delivery(partition_key, partition_key)),))
                for partition_key in partitions
            ]
        )
    assert {type(result) for result in results} == {type(None), Conflict, Failed}
    assert [signal.given for signal in signals] == [not isinstance(result, Conflict) for result in results]


async def test_commits_in_order_wake_each_partition_whose_records_may_have_changed() -> None:
    """Nothing behind a conflict has changed. Behind any other failure nobody knows."""
    scene = Scene(store=FaultyStore(MemoryStore(), Random(7), conflicts=0.2, failures=0.2, lost=0.2))
    core = scene.relay.core
    seen = set()
    for n in range(60):
        names = [f"{n}-{part}" for part in ("outward", "own")]
        with core.signals.listen(names[0]) as outward, core.signals.listen(names[1]) as own:
            results = await core.commit_in_order(
                *[Batch(name, (Put(contract.delivery(name, name)),)) for name in names]
            )
        kinds = tuple(type(result) for result in results)
        seen.add(kinds)
        stored = [d is not None for d in await scene.store.get_many(Delivery, names)]
        assert stored[0] or not stored[1]
        expected = {
            (type(None), type(None)): [True, True], (type(None), Conflict): [True, False],
            (type(None), Failed): [True, True], (Conflict,): [False, False], (Failed,): [True, True],
        }[kinds]  # fmt: skip
        assert [outward.given, own.given] == expected, kinds
    assert len(seen) == 5


@pytest.mark.both_loops
async def test_a_sign_of_life_does_not_wake_the_agents_own_poll(scene: Scene, store: Counting) -> None:
    await scene.register("a", "b")
    await scene.read("b")
    waiting = asyncio.create_task(scene.take("b", wait=10))
    await turns()
    looked = store.dues
    for show in (scene.relay.agents.touch, scene.relay.agents.beat):
        scene.now += 5
        await show("b")
        await turns()
        agent = await store.get(Agent, "b")
        assert agent is not None
        assert agent.last_heartbeat == scene.now, show
        assert store.dues == looked, show
    id = await scene.send("a", "b")
    assert [d.id for d in await waiting] == [id]


async def test_a_commit_wakes_unless_nothing_has_changed(scene: Scene, store: Counting) -> None:
    await scene.register("b")
    agent = await store.get(Agent, "b")
    assert agent is not None
    core = scene.relay.core
    for fails, wakes in ((Conflict, False), (Failed, True), (ConnectionResetError, True), (None, True)):
        store.fails = fails
        with core.signals.listen("b") as signal, core.watch("b") as watch:
            with pytest.raises(fails) if fails else nullcontext():
                await core.commit("b", Put(replace(agent, version=agent.version + 1)))
            assert (signal.given, watch.signal.given, watch.changed) == (wakes, wakes, {"b"} if wakes else set()), fails


async def test_a_conflict_is_tried_again_after_growing_pauses_and_not_for_ever(
    scene: Scene, store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.register("b")
    store.fails = Conflict
    scene.now += 5
    pauses: list[float] = []

    async def rest(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("clawlink.relay.core.asyncio.sleep", rest)
    with pytest.raises(StoreUnavailable) as refused:
        await scene.relay.agents.touch("b")
    assert refused.value.retry_after is not None
    assert scene.relay.stats.conflicts == TRIES == len(pauses) + 1
    for number, pause in enumerate(pauses, 1):
        assert pause_after(number, 0.0) <= pause <= pause_after(number, 1.0), number
    longest = [pause_after(number, 1.0) for number in range(1, TRIES)]
    assert longest == sorted(longest)
    assert longest[:2] == [0.0, 0.001]
    assert 0.5 < sum(pause_after(number, 0.0) for number in range(1, TRIES)) < sum(longest) < 2


async def test_to_follow_a_broadcast_costs_the_same_for_an_ack_however_many_heard_it() -> None:
    costs = []
    for crowd in (50, 400):
        store = Counting()
        scene = Scene(store=store)
        ids = [f"a{n}" for n in range(crowd)]
        await scene.register("boss", *ids)
        sent = await scene.broadcast("boss", "hear")
        receipts = {}
        for id in ids:
            receipts[id] = [receipt_of(d) for d in await scene.take(id) if d.id.startswith(sent.message_id)]
        ask = requests.MessageQuery(agent_id="boss", wait=60, until="acked")
        waiting = asyncio.create_task(scene.relay.messages.status(await scene.agent("boss"), sent.message_id, ask))
        await turns()
        before = store.gets[Delivery]
        for id in ids[:40]:
            await scene.relay.acks.ack(id, receipts[id])
            await turns(3)
        costs.append(store.gets[Delivery] - before)
        for id in ids[40:]:
            await scene.relay.acks.ack(id, receipts[id])
        status = await asyncio.wait_for(waiting, 30)
        assert (status.recipients, status.counts) == (crowd, {"acked": crowd})
    assert costs[0] == costs[1] <= 3 * 40


async def test_what_goes_to_many_goes_in_slices() -> None:
    store = Counting()
    scene = Scene(store=store, forget_after=1e9)
    me, *crowd = [f"a{n}" for n in range(PRESENCE_AUDIENCE)]
    await scene.register(me, *crowd, notices=True)
    agent = await scene.agent(me)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            store.commits = 0
            await asyncio.sleep(0)
            most = max(most, store.commits)

    async def write() -> None:
        await scene.relay.files.put(agent, Write(key="k", content_type="text/plain", ttl=5.0), parts(), 4)

    deeds: dict[str, Callable[[], Awaitable[Any]]] = {
        "a file is written": write,
        "a file is written again": write,
        "a file ends": lambda: scene.let_pass(6),
        "a file is written anew": write,
        "a file is deleted": lambda: scene.relay.files.delete(agent, "k", None),
        "a broadcast": lambda: scene.broadcast(me, "hear"),
        "an agent leaves": lambda: scene.leave(crowd[0]),
    }
    for name, do in deeds.items():
        most, before = 0, store.total_commits
        watching = asyncio.create_task(watch())
        await do()
        watching.cancel()
        assert store.total_commits - before >= PRESENCE_AUDIENCE - 2, name
        assert most <= SLICE + 4, (name, most)
