"""A reader that stays: what is under way to it, and what becomes of that when it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from clawlink.domain.delivery import Delivery
from clawlink.domain.limits import Limits
from clawlink.errors import UnknownAgent
from clawlink.relay.mailbox.consumer import Consumer
from clawlink.relay.mailbox.long_poll import Closed
from clawlink.relay.relay import Relay
from clawlink.relay.timestamps import RelayTime
from clawlink.store.memory import MemoryStore
from clawlink.store.signals import LocalSignals
from tests.relay.scene import Scene, receipt_of
from tests.store.faulty import FaultyStore
from tests.tables import each
from tests.waiting import PATIENCE

pytestmark = pytest.mark.both_loops


async def turns(count: int = 100) -> None:
    """Give everyone else this many turns; unless told, enough to come to where they wait."""
    for _ in range(count):
        await asyncio.sleep(0)


class Reading:
    """A consumer of one agent, as a connection uses it."""

    def __init__(self, scene: Scene, consumer: Consumer) -> None:
        self.scene = scene
        self.consumer = consumer

    async def look(self) -> None:
        await self.scene.agent(self.consumer.agent_id)

    async def next(self) -> list[Delivery]:
        """Return the next batch, once there is one."""
        agent = await self.scene.agent(self.consumer.agent_id)
        return (await asyncio.wait_for(self.consumer.next(agent, tick=self.look), 30)).deliveries

    async def ids(self) -> list[str]:
        return [d.id for d in await self.next()]

    def waiting(self) -> asyncio.Task[list[Delivery]]:
        """Wait for the next batch meanwhile."""
        return asyncio.create_task(self.next())


async def reading(scene: Scene, id: str, *, lease: float = 20.0, credit: int = 32) -> Reading:
    return Reading(scene, scene.relay.consumer(await scene.agent(id), lease=lease, credit=credit))


async def over(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, and wait until they are gone."""
    for task in tasks:
        task.cancel()
    if tasks:
        _, alive = await asyncio.wait(tasks, timeout=PATIENCE)
        assert not alive


@pytest.fixture
async def scene() -> Scene:
    """Return a scene with two that write to each other, without news of each other."""
    scene = Scene()
    await scene.register("a", "b")
    await scene.read("a")
    return scene


# -- credit ------------------------------------------------------------------------------------------------------------


async def test_no_more_is_under_way_than_there_is_credit_for(scene: Scene) -> None:
    ids = [await scene.send("a", "b", n) for n in range(5)]
    b = await reading(scene, "b", credit=2)
    first = await b.next()
    assert [d.id for d in first] == ids[:2]
    assert b.consumer.exhausted
    waiting = b.waiting()
    await turns()
    assert not waiting.done()
    b.consumer.settled([receipt_of(first[0])])
    assert [d.id for d in await waiting] == [ids[2]]
    await b.consumer.close()


async def test_credit_is_freed_by_what_is_settled_elsewhere(scene: Scene) -> None:
    ids = [await scene.send("a", "b", n) for n in range(2)]
    b = await reading(scene, "b", credit=1)
    (first,) = await b.next()
    waiting = b.waiting()
    await turns()
    await scene.relay.acks.ack("b", [receipt_of(first)])
    assert [d.id for d in await waiting] == [ids[1]]
    await b.consumer.close()


async def test_a_lease_that_lapsed_frees_credit_and_comes_again_once(scene: Scene) -> None:
    id = await scene.send("a", "b")
    b = await reading(scene, "b", credit=1, lease=20)
    await b.next()
    scene.now += 21
    (again,) = await b.next()
    assert (again.id, again.attempts) == (id, 2)
    assert b.consumer.exhausted
    b.consumer.settled([receipt_of(again)])
    assert b.consumer.idle
    await b.consumer.close()


async def test_what_one_takes_and_loses_comes_to_another_that_has_waited_all_the_while() -> None:
    scene = Scene()
    scene.relay = Relay(scene.store, LocalSignals(), Limits(), clock=RelayTime())
    await scene.register("a", "b")
    await scene.read("b")
    readers = [await reading(scene, "b", lease=0.3) for _ in range(2)]
    waiting = [r.waiting() for r in readers]
    await turns()
    id = await scene.send("a", "b")
    for number in (1, 2):  # neither is told of anything but that the message came
        done, pending = await asyncio.wait(waiting, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        (taken,) = done
        assert [(d.id, d.attempts) for d in taken.result()] == [(id, number)]
        waiting = list(pending)
    for r in readers:
        await r.consumer.close()


async def test_a_receipt_of_an_earlier_time_frees_nothing(scene: Scene) -> None:
    await scene.send("a", "b")
    b = await reading(scene, "b", credit=1)
    (first,) = await b.next()
    scene.now += 21
    await b.next()
    b.consumer.settled([receipt_of(first), "unknown", "", "x-" + first.id])
    assert b.consumer.exhausted
    await b.consumer.close()


async def test_a_task_that_heartbeats_hold_past_its_lease_stays_under_way(scene: Scene) -> None:
    id = await scene.delegate("a", to_agent="b")
    b = await reading(scene, "b", credit=1, lease=20)
    await b.next()
    for _ in range(3):
        scene.now += 15
        await scene.relay.agents.beat("b")
    other = await scene.send("a", "b")
    waiting = b.waiting()
    await turns()
    assert not waiting.done()
    await over(waiting)
    assert b.consumer.exhausted
    await b.consumer.close()
    assert [d.id for d in await scene.take("b")] == [id, other]


async def test_what_is_finished_needs_no_ack(scene: Scene) -> None:
    id = await scene.delegate("a", to_agent="b")
    b = await reading(scene, "b", credit=1)
    await b.next()
    await scene.respond("b", id)
    b.consumer.finished(id)
    assert b.consumer.idle
    await b.consumer.close()


async def test_one_that_waits_for_credit_shows_signs_of_life(scene: Scene) -> None:
    await scene.send("a", "b")
    b = await reading(scene, "b", credit=1, lease=3600)
    await b.next()
    waiting = b.waiting()
    for _ in range(2):
        scene.now += 100
        b.consumer.wake()
        await turns()
    assert scene.now - (await b.scene.relay.agents.acting("b", None, field="agent_id")).last_heartbeat < 1
    assert not waiting.done()
    await over(waiting)
    await b.consumer.close()


async def test_one_that_leaves_while_it_waits_for_credit_is_told(scene: Scene) -> None:
    await scene.send("a", "b")
    b = await reading(scene, "b", credit=1)
    await b.next()
    waiting = b.waiting()
    await turns()
    await scene.leave("b")
    with pytest.raises(UnknownAgent):
        await waiting
    await b.consumer.close()


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_what_was_read_counts_as_an_attempt_and_the_rest_does_not(scene: Scene) -> None:
    b = await reading(scene, "b")
    ids = []
    for n in range(3):
        ids.append(await scene.send("a", "b", n))
        await b.next()
    b.consumer.has_read(2)
    await b.consumer.close()
    assert [(d.id, d.attempts) for d in await scene.take("b")] == [(ids[0], 2), (ids[1], 2), (ids[2], 1)]


async def test_an_ack_proves_that_all_before_it_was_read(scene: Scene) -> None:
    b = await reading(scene, "b")
    batches = []
    for n in range(3):
        await scene.send("a", "b", n)
        batches.append(await b.next())
    receipt = receipt_of(batches[1][0])
    await scene.relay.acks.ack("b", [receipt])
    b.consumer.settled([receipt])
    await b.consumer.close()
    assert [(d.id, d.attempts) for d in await scene.take("b")] == [(batches[0][0].id, 2), (batches[2][0].id, 1)]


async def test_a_pong_for_what_was_never_sent_proves_no_more_than_was(scene: Scene) -> None:
    await scene.send("a", "b")
    b = await reading(scene, "b")
    b.consumer.has_read(10**18)
    await b.next()
    await b.consumer.close()
    assert [d.attempts for d in await scene.take("b")] == [1]


async def test_to_close_twice_takes_nothing_from_the_next(scene: Scene) -> None:
    await scene.send("a", "b")
    b = await reading(scene, "b")
    await b.next()
    await b.consumer.close()
    (held,) = await scene.take("b")
    await b.consumer.close()
    assert await scene.take("b") == []
    assert (await scene.relay.acks.ack("b", [receipt_of(held)]))[0].error is None


async def test_what_another_has_by_now_is_not_taken_from_it(scene: Scene) -> None:
    await scene.send("a", "b")
    b = await reading(scene, "b", lease=20)
    await b.next()
    b.consumer.has_read(1)
    scene.now += 21
    (held,) = await scene.take("b")
    await b.consumer.close()
    assert await scene.take("b") == []
    assert (await scene.relay.acks.ack("b", [receipt_of(held)]))[0].error is None


async def test_one_closed_by_another_while_it_waits_ends_and_takes_nothing(scene: Scene) -> None:
    b = await reading(scene, "b")
    waiting = b.waiting()
    await turns()
    await b.consumer.close()
    with pytest.raises(Closed):
        await waiting
    id = await scene.send("a", "b")
    assert [d.id for d in await scene.take("b")] == [id]
    assert scene.relay.waiting == 0


async def test_whoever_goes_in_the_middle_of_a_claim_leaves_nothing_half_taken() -> None:
    """It is cancelled at each of its steps in turn, and closed, up to the one at which it has something."""
    for cut_off in range(80):
        scene = Scene()
        await scene.register("req")
        await scene.register("w1", "w2", capabilities=["go"])
        await scene.read("w1")
        await scene.read("w2")
        w1 = await reading(scene, "w1", lease=3600)
        waiting = w1.waiting()
        await turns()
        ids = {await scene.delegate(capability="go"), await scene.delegate(to_agent="w1")}
        await turns(cut_off)
        done = waiting.done()
        await over(waiting)
        await w1.consumer.close()
        assert scene.relay.waiting == 0
        taken = [*await scene.take("w2"), *await scene.take("w1")]
        assert {d.id for d in taken} == ids
        assert [d.attempts for d in taken] == [1, 1]
        if done:
            break
    assert 1 < cut_off < 79


async def test_whoever_goes_as_its_credit_is_freed_is_gone() -> None:
    """At no turn between the two is it lost that it was cancelled."""
    for cut_off in range(12):
        scene = Scene()
        await scene.register("a", "b")
        await scene.send("a", "b")
        b = await reading(scene, "b", credit=1)
        (first,) = await b.next()
        waiting = b.waiting()
        await turns()
        await scene.relay.acks.ack("b", [receipt_of(first)])
        b.consumer.settled([receipt_of(first)])
        await turns(cut_off)
        await over(waiting)
        await b.consumer.close()
        assert scene.relay.waiting == 0


async def test_a_shutdown_ends_one_that_waits_for_messages_and_one_that_waits_for_credit(scene: Scene) -> None:
    await scene.send("a", "b")
    b, a = await reading(scene, "b", credit=1), await reading(scene, "a")
    await b.next()
    tasks = [b.waiting(), a.waiting()]
    await turns()
    await scene.relay.drain()
    b.consumer.wake()
    assert await asyncio.gather(*tasks) == [[], []]
    await b.consumer.close()
    await a.consumer.close()
    assert scene.relay.waiting == 0


# -- settled by what was read ------------------------------------------------------------------------------------------


async def test_what_was_read_by_one_that_knows_no_ack_is_settled_for_good(scene: Scene) -> None:
    b = await reading(scene, "b")
    ids = []
    for n in range(3):
        ids.append(await scene.send("a", "b", n))
        await b.next()
    await b.consumer.settle_read(2)
    await b.consumer.settle_read(2)
    await b.consumer.close()
    assert [d.id for d in await scene.take("b")] == [ids[2]]


async def test_an_event_settles_itself_and_all_before_it(scene: Scene) -> None:
    ids = [await scene.send("a", "b", n) for n in range(3)]
    b = await reading(scene, "b")
    sent = await b.next()
    assert not await b.consumer.settle_up_to("unknown")
    assert await b.consumer.settle_up_to(receipt_of(sent[1]))
    await b.consumer.close()
    assert [(d.id, d.attempts) for d in await scene.take("b")] == [(ids[2], 1)]


# -- who is woken ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def crew() -> Scene:
    """Return a scene in which each worker may have one open task, and nobody has any news."""
    scene = Scene(max_open_tasks=1)
    await scene.register("req")
    await scene.register("w1", "w2", capabilities=["go"])
    for id in ("req", "w1", "w2"):
        await scene.read(id)
    return scene


async def test_one_that_may_have_no_more_is_woken_again_once_it_may(crew: Scene) -> None:
    """Not in its own time, but by what ends its task."""
    await crew.leave("w2")
    await crew.read("w1")
    w1 = await reading(crew, "w1")
    waiting = w1.waiting()
    await turns()
    first = await crew.delegate(capability="go")
    (d,) = await waiting
    await crew.relay.acks.ack("w1", [receipt_of(d)])
    w1.consumer.settled([receipt_of(d)])
    waiting = w1.waiting()
    await turns()
    await crew.respond("w1", first)
    w1.consumer.finished(first)
    await turns()
    assert not waiting.done()
    second = await crew.delegate(capability="go")
    assert [d.id for d in await waiting] == [second]
    await w1.consumer.close()


async def test_work_for_which_one_is_woken_that_may_have_no_more_by_now_goes_to_another(crew: Scene) -> None:
    """It has two connections: over the first it has got all that it may have."""
    one, two = await reading(crew, "w1"), await reading(crew, "w1")
    waiting = [one.waiting()]
    await turns()
    waiting.append(two.waiting())
    await turns()
    other = await reading(crew, "w2")
    waiting.append(other.waiting())
    await turns()
    ids = [await crew.delegate(capability="go")]
    await asyncio.wait([waiting[0]], timeout=PATIENCE)
    ids.append(await crew.delegate(capability="go"))
    assert [d.id for d in await waiting[2]] == [ids[1]]
    assert [d.id for d in await waiting[0]] == [ids[0]]
    await over(waiting[1])
    for r in (one, two, other):
        await r.consumer.close()
    assert crew.relay.waiting == 0


async def test_each_of_several_that_wait_for_work_gets_its_share() -> None:
    scene = Scene()
    await scene.register("req")
    workers = [f"w{n}" for n in range(4)]
    await scene.register(*workers, capabilities=["go"])
    for id in workers:
        await scene.read(id)
    got: dict[str, int] = dict.fromkeys(workers, 0)

    async def work(id: str, r: Reading) -> None:
        while True:
            for d in await r.next():
                await scene.relay.acks.ack(id, [receipt_of(d)])
                r.consumer.settled([receipt_of(d)])
                got[id] += 1

    readers = {id: await reading(scene, id) for id in workers}
    tasks = [asyncio.create_task(work(id, r)) for id, r in readers.items()]
    await turns()
    for _ in range(20):
        await scene.delegate(capability="go")
        await turns()
    assert got == dict.fromkeys(workers, 5)
    await over(*tasks)
    for r in readers.values():
        await r.consumer.close()


async def test_who_is_woken_and_goes_before_it_has_looked_leaves_the_work_to_another() -> None:
    for cut_off in range(30):
        scene = Scene()
        await scene.register("req")
        await scene.register("w1", "w2", capabilities=["go"])
        for id in ("w1", "w2"):
            await scene.read(id)
        readers = [await reading(scene, id) for id in ("w1", "w2")]
        tasks = []
        for r in readers:
            tasks.append(r.waiting())
            await turns()
        id = await scene.delegate(capability="go")
        await turns(cut_off)
        done = tasks[0].done()
        await over(tasks[0])
        await readers[0].consumer.close()
        if not done:
            assert [d.id for d in await asyncio.wait_for(tasks[1], 15)] == [id]
        await over(tasks[1])
        await readers[1].consumer.close()
        if done:
            return
    raise AssertionError("it never came to take it")


# -- a store that fails, and one that lags -----------------------------------------------------------------------------


class Shaky(Scene):
    """A scene over a store that can be made to fail."""

    def __init__(self, seed: int = 1) -> None:
        self.faulty = FaultyStore(MemoryStore(), Random(seed))
        super().__init__(store=self.faulty)


def fail(store: FaultyStore) -> None:
    store.failures = 1.0


def conflict(store: FaultyStore) -> None:
    store.conflicts = 1.0


@each("break_it", [fail, conflict])
async def test_to_close_while_the_store_does_not_work_is_no_failure_and_the_lease_lapses(
    break_it: Callable[[FaultyStore], None],
) -> None:
    scene = Shaky()
    await scene.register("a", "b")
    b = await reading(scene, "b")
    ids = []
    for n in range(2):
        ids.append(await scene.send("a", "b", n))
        await b.next()
    b.consumer.has_read(1)
    break_it(scene.faulty)
    await b.consumer.close()
    assert scene.relay.waiting == 0
    scene.faulty.failures = scene.faulty.conflicts = 0.0
    scene.now += 21
    assert [d.id for d in await scene.take("b")] == ids


async def test_one_that_is_cut_off_while_it_gives_back_gives_back_all_the_same() -> None:
    for cut_off in range(1, 30, 2):
        scene = Shaky(cut_off)
        await scene.register("a", "b")
        ids = []
        b = await reading(scene, "b", lease=3600)
        for n in range(2):
            ids.append(await scene.send("a", "b", n))
            await b.next()
        b.consumer.has_read(1)
        scene.faulty.delays = 1.0
        closing = asyncio.create_task(b.consumer.close())
        await turns(cut_off)
        await over(closing)
        await scene.relay.drain()
        scene.faulty.delays = 0.0
        assert [(d.id, d.attempts) for d in await scene.take("b")] == [(ids[0], 2), (ids[1], 1)]


async def test_what_came_is_found_however_late_the_index_tells_of_it() -> None:
    """Nothing but the first signal ever wakes it."""
    late = 0
    for seed in range(40):
        scene = Shaky(seed)
        await scene.register("a", "b")
        b = await reading(scene, "b")
        scene.faulty.stale = 0.6
        waiting = b.waiting()
        await turns(300)
        id = await scene.send("a", "b")
        assert [d.id for d in await asyncio.wait_for(waiting, 15)] == [id]
        late += scene.faulty.injected["stale"]
        scene.faulty.stale = 0.0
        await b.consumer.close()
    assert late


async def test_what_never_arrives_counts_as_an_attempt_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message may kill its reader before it can say that it has read it: it is not to do so for ever."""
    monkeypatch.setattr("clawlink.relay.mailbox.consumer._PATIENCE", 3)
    scene = Scene(max_attempts=2)
    await scene.register("req", "b")
    await scene.read("b")
    id = await scene.send("req", "b")
    attempts = []
    for _ in range(20):
        reader = await reading(scene, "b")
        found = reader.waiting()
        await turns()
        if not found.done():
            await over(found)
            await reader.consumer.close()
            break
        attempts += [d.attempts for d in found.result()]
        await reader.consumer.close()
    assert attempts == [1, 1, 1, 1, 2]
    assert [d.id for d in (await scene.relay.mailbox.dead_letters("b", None, 10)).records] == [id]
