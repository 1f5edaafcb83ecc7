"""The overview counts what there is, of all agents, and gives other work its turn meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clawlink.domain.limits import Limits
from clawlink.protocol.admin import Overview, OverviewQuery
from clawlink.relay.admin import overview
from clawlink.relay.relay import Relay
from clawlink.relay.time_slices import SLICE
from clawlink.store.base import Put
from clawlink.store.memory import MemoryStore
from clawlink.store.signals import LocalSignals
from tests.domain.test_agent import MIA
from tests.relay.scene import Scene


async def look(scene: Scene) -> Overview:
    """Return an overview that is made now."""
    return await scene.relay.overviews.make()


async def test_it_counts_agents_tasks_and_mailboxes_of_all() -> None:
    scene = Scene(max_attempts=1)
    await scene.register("req", "w", "idle", capabilities=["go"])
    empty = await look(scene)
    assert (empty.agents_online, empty.agents_stale, set(empty.open_tasks.values())) == (3, 0, {0})
    asked = [await scene.delegate(to_agent="w") for _ in range(4)]
    pooled = await scene.delegate(capability="go")
    unserved = await scene.delegate(capability="nobody can")
    await scene.send("req", "idle")
    found = await look(scene)
    assert found.open_tasks == {"queued": 6, "delivered": 0, "in_progress": 0, "input_required": 0}
    assert {m.agent_id: m.messages for m in found.mailboxes} == {"w": 4, "idle": 1}
    assert {p.capability[0]: (p.tasks, p.online) for p in found.pools} == {"go": (1, 3), "nobody can": (1, 0)}
    assert found.needs_you.unserved_pools == 1
    assert found.revision > empty.revision
    assert found.mailboxes[0].oldest_at == found.server_time

    await scene.claim("w", lease=5)
    stored_at = found.mailboxes[0].oldest_at
    assert (await look(scene)).mailboxes[0].oldest_at == stored_at, "a message that is handed out waits, too"
    await scene.respond("w", asked[0])
    await scene.respond("w", asked[1], "failed")
    await scene.respond("w", asked[2], "input_required")
    await scene.respond("w", pooled, "in_progress")
    found = await look(scene)
    assert found.open_tasks == {"queued": 1, "delivered": 1, "in_progress": 1, "input_required": 1}, unserved
    assert {state: n for state, n in found.ended_tasks.items() if n} == {"completed": 1, "failed": 1}
    assert found.needs_you.questions == 1
    (minute,) = found.traffic
    assert (minute.delegated, minute.answered, minute.failed) == (6, 1, 1)

    await scene.let_pass(10)  # the leases lapse
    await scene.let_pass(10)
    found = await look(scene)
    assert found.needs_you.dead_letters == 2  # the question had its one attempt, too
    assert found.mailboxes[0].oldest_at is not None
    await scene.let_pass(200)
    assert (await look(scene)).agents_stale == 3


async def test_work_for_an_agent_that_has_left_is_counted() -> None:
    scene = Scene()
    await scene.register("req", "w")
    await scene.delegate(to_agent="w")
    await scene.leave("w")
    found = await look(scene)
    assert [(p.name, p.tasks, p.online) for p in found.pools] == [("w", 1, 0)]
    assert found.needs_you.unserved_pools == 1
    await scene.register("other")
    assert [p.online for p in (await look(scene)).pools] == [0], "an agent of another name may not claim it"


async def test_it_is_made_once_for_all_that_look_at_once() -> None:
    scene = Scene()
    await scene.register("a")
    both = await asyncio.gather(*(scene.relay.overviews.overview(OverviewQuery()) for _ in range(2)))
    assert both[0] is both[1]


class _Turns:
    """Counts the turns of the event loop."""

    def __init__(self) -> None:
        self.count = 0

    async def __aenter__(self) -> _Turns:
        self._task = asyncio.create_task(self._run())
        await asyncio.sleep(0)
        self.count = 0
        return self

    async def __aexit__(self, *_: Any) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)


async def test_thousands_of_agents_are_looked_at_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "_COUNTED", SLICE)
    store, agents = MemoryStore(), 640
    for n in range(agents):
        id = f"a{n}"
        await store.commit(id, Put(type(MIA)(**{f: getattr(MIA, f) for f in MIA.__struct_fields__} | {"id": id})))
    relay = Relay(store, LocalSignals(), Limits(), clock=lambda: 1_000_000.0)
    async with _Turns() as turns:
        found = await relay.overviews.overview(OverviewQuery())
    assert found.agents_online + found.agents_stale == agents
    assert turns.count >= agents / SLICE


async def test_expired_tasks_need_a_person_for_an_hour() -> None:
    for retention in (600.0, 86_400.0):
        scene = Scene(retention=retention)
        await scene.register("req", "w")
        for at in range(3):
            for _ in range(40):
                await scene.delegate(to_agent="w", deadline=60)
            await scene.let_pass(100 if at < 2 else 61)

        async def expired(scene: Scene = scene) -> tuple[int, int]:
            seen = await scene.relay.overviews.make()
            return seen.needs_you.expired, seen.ended_tasks["expired"]

        assert await expired() == (120, 120)
        await scene.let_pass(3600 - 61)
        assert await expired() == ((0, 0) if retention == 600 else (40, 120)), "those before are an hour old"
        await scene.let_pass(62)
        assert (await expired())[0] == 0
