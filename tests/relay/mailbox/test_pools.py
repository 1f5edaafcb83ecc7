"""Pools: each is for those it asks for and for nobody else, and to find them costs little."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clawlink.domain.agent import Agent
from clawlink.errors import NameTaken, RelayFull
from clawlink.protocol import requests
from clawlink.store.base import Page
from clawlink.store.memory import MemoryStore
from tests.relay.mailbox.test_consumer import turns
from tests.relay.scene import Scene, receipt_of

MANY = 300


async def test_a_capability_with_a_line_break_takes_no_work_from_those_who_have_both_parts() -> None:
    scene = Scene()
    await scene.register("req", "evil")
    await scene.register("w", capabilities=["python", "sql"])
    await scene.delegate("evil", capability="python\nsql")
    id = await scene.delegate(capability=["python", "sql"])
    assert len(await scene.claim("w")) == 1
    await scene.respond("w", id)
    assert await scene.status(id) == "completed"


async def test_a_task_of_one_that_left_is_nobodys_but_its_names_while_the_next_of_it_works_on_it() -> None:
    """It may come back to the mailbox that it was put into, so whoever takes that mailbox's id must have the name."""
    scene = Scene(stale_after=30)
    await scene.register("req")
    await scene.register("b1", name="Bob")
    id = await scene.delegate(to_agent="Bob")
    await scene.leave("b1")
    await scene.register("b2", name="Bob")
    await scene.relay.acks.ack("b2", await scene.claim("b2"))
    for _ in range(4):
        await scene.let_pass(20)  # a pool in which there is nothing is gone after a minute
        await scene.relay.agents.touch("b2")
    with pytest.raises(NameTaken):
        await scene.register("b1", name="Mallory")
    await scene.let_pass(31)  # b2 was silent for too long
    assert await scene.status(id) == "queued"
    with pytest.raises(NameTaken):
        await scene.register("b1", name="Mallory")
    assert len(await scene.claim("b2")) == 1
    await scene.respond("b2", id)
    await scene.let_pass(61)
    await scene.register("b1", name="Mallory")  # nothing can come back any more


async def test_a_pool_that_was_emptied_a_moment_ago_makes_room_for_the_next() -> None:
    scene = Scene(max_pools=3, rate_agent=0)
    await scene.register("req")
    await scene.register("w", capabilities=["a", "b", "c"])
    for capability in "abc":
        await scene.delegate(capability=capability)
    with pytest.raises(RelayFull):
        await scene.delegate(capability="d")
    for _ in "abc":
        for d in await scene.take("w"):
            await scene.relay.acks.ack("w", [receipt_of(d)])
            await scene.respond("w", d.id)
    for capability in "defg"[:3]:
        await scene.delegate(capability=capability)
    with pytest.raises(RelayFull):
        await scene.delegate(capability="g")


async def test_of_many_that_wait_only_those_that_can_do_all_of_it_are_woken() -> None:
    most = 100  # some are filed in the queues of the pools before the first task, and some by it
    scene = Scene(rate_agent=0)
    await scene.register("req")
    skills = [["go"], ["sql"], ["go", "sql"], ["go", "sql", "c"], ["Go", "SQL"]]
    for n in range(most):
        scene.now += 200
        await scene.register(f"w{n}", capabilities=skills[n % len(skills)])
    polls = {n: asyncio.ensure_future(scene.take(f"w{n}", wait=50.0)) for n in range(most)}
    for _ in range(5):
        await asyncio.sleep(0)
    able = [n for n in range(most) if n % len(skills) >= 2]
    for n in able:  # the longest wait comes first
        await scene.delegate(capability=["sql", "go"])
        await asyncio.wait_for(asyncio.shield(polls[n]), 30)
        assert sum(poll.done() for poll in polls.values()) == able.index(n) + 1, n
    assert scene.relay.core.signals.listeners() == most - len(able)
    for poll in polls.values():
        poll.cancel()
    await asyncio.gather(*polls.values(), return_exceptions=True)


class CountingStore(MemoryStore):
    """Counts the agents it gives under a key."""

    def __init__(self) -> None:
        super().__init__()
        self.agents = 0

    async def page(
        self, kind: Any, key: str, after: str | None = None, limit: int = 100, *, newest: bool = False
    ) -> Page[Any]:
        found = await super().page(kind, key, after, limit, newest=newest)
        self.agents += len(found.records) if kind is Agent else 0
        return found


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
async def crowd(store: CountingStore) -> Scene:
    """Return a scene with many that know Python, as many that know SQL, and none that knows both."""
    scene = Scene(store=store)
    for n in range(MANY):
        scene.now += 200  # nobody is told who joins where nobody is online
        await scene.register(f"p{n}", capabilities=["python"])
        await scene.register(f"s{n}", capabilities=["sql"])
    await scene.register("req")
    return scene


async def online(scene: Scene, *capabilities: str) -> int:
    """Delegate to whoever can do all this, and return how many are there that can."""
    ask = requests.Delegate(from_agent="req", task="sum", capability=list(capabilities))
    pool = (await scene.relay.submission.delegate(await scene.agent("req"), ask)).pool
    assert pool is not None
    return pool.online


async def test_those_who_can_do_several_things_are_counted_among_those_who_can_do_the_rarest(
    crowd: Scene, store: CountingStore
) -> None:
    store.agents = 0
    for capabilities in (["python", "rust"], ["rust", "python"], ["python", "zig"]):
        assert await online(crowd, *capabilities) == 0
    assert store.agents == 0
    await crowd.register("both", capabilities=["python", "rust"])
    store.agents = 0
    assert await online(crowd, "python", "rust") == 1
    assert store.agents == 1


async def test_that_none_of_many_can_do_it_is_counted_once_a_second(crowd: Scene, store: CountingStore) -> None:
    store.agents = 0
    for _ in range(3):
        assert await online(crowd, "python", "sql") == 0
    assert store.agents == MANY
    await crowd.register("both", capabilities=["python", "sql"])
    crowd.now += 1
    assert await online(crowd, "python", "sql") == 1


def _waits(scene: Scene, agent: Agent, **options: Any) -> asyncio.Task[Any]:
    """Return a poll of the agent that waits for 30 s."""
    return asyncio.create_task(scene.relay.claims.claim(agent, limit=1, wait=30.0, lease=600.0, **options))


@pytest.mark.virtual_time
async def test_the_next_is_woken_if_an_agent_that_was_woken_may_not_have_the_work_any_more() -> None:
    async def change_of(scene: Scene, change: str, poll: asyncio.Task[Any]) -> None:
        if change == "leaves":
            await scene.leave("a")
        elif change == "loses the capability":
            await scene.register("a", capabilities=["else"])
        else:
            poll.cancel()

    for change in ("leaves", "loses the capability", "hangs up"):
        for together in (True, False):
            scene = Scene()
            await scene.register("req")
            await scene.register("a", "b", capabilities=["work"])
            first = _waits(scene, await scene.agent("a"))
            await turns()
            second = _waits(scene, await scene.agent("b"))
            await turns()
            changed = change_of(scene, change, first)
            given = asyncio.get_running_loop().time()
            if together:  # two requests of one turn of the event loop
                await asyncio.gather(changed, scene.delegate(capability="work"))
            else:  # the reader is woken, and has not run yet
                await changed
                await scene.delegate(capability="work")
            assert len((await second).deliveries) == 1, (change, together)
            assert asyncio.get_running_loop().time() - given < 1, (change, together)
            first.cancel()
            await asyncio.wait([first])


@pytest.mark.virtual_time
async def test_the_next_is_woken_if_an_agent_with_all_it_may_have_is_woken_while_it_is_read() -> None:
    scene = Scene(max_open_tasks=1)
    await scene.register("req")
    await scene.register("a", "b", capabilities=["work"])
    a, b = await scene.agent("a"), await scene.agent("b")
    may_go_on, is_read = asyncio.Event(), asyncio.Event()
    may_go_on.set()

    async def tick() -> None:
        is_read.set()
        await may_go_on.wait()

    polls = []
    for agent, options in ((a, {"tick": tick}), (b, {}), (a, {"tick": tick})):
        polls.append(_waits(scene, agent, **options))
        await turns()
    busy, gone, full = polls
    await scene.delegate(capability="work")
    assert len((await busy).deliveries) == 1
    await turns()
    gone.cancel()
    await asyncio.wait([gone])
    free = _waits(scene, b)  # the other reader of the agent that may have nothing more has waited longer
    await turns()
    may_go_on.clear()
    is_read.clear()
    scene.relay.core.signals.publish("a")
    await is_read.wait()
    given = asyncio.get_running_loop().time()
    await scene.delegate(capability="work")
    may_go_on.set()
    assert len((await free).deliveries) == 1
    assert asyncio.get_running_loop().time() - given < 1
    full.cancel()
    await asyncio.wait([full])
