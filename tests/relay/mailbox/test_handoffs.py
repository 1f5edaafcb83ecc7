"""Messages that come while a reader waits: one commit stores and leases them, and they keep all promises of a claim."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery, first_time
from clawlink.errors import NotAllowed, UnknownAgent
from clawlink.protocol.operating import StopAll
from clawlink.store.base import Batch, Conflict, Failed, Full, Put
from clawlink.store.events import Event
from clawlink.store.memory import MemoryStore
from tests.relay.scene import Scene, receipt_of
from tests.store.faulty import FaultyStore

Poll = asyncio.Task[list[Delivery]]


async def turns() -> None:
    """Let everything come to where it waits."""
    for _ in range(100):
        await asyncio.sleep(0)


class Slow(MemoryStore):
    """A store whose commits of messages end when the test says so, before or after they took effect, or fail."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.first: asyncio.Event | None = None  # for the next commit alone, which takes effect then
        self.before: Exception | None = None
        self.after: Exception | None = None

    async def commit(self, partition_key: str, *changes: Any) -> None:
        stores = any(isinstance(change, Put) and type(change.record) is Delivery for change in changes)
        if stores and self.before is not None:
            raise self.before
        if stores and self.first is not None:
            first, self.first = self.first, None
            await first.wait()
        await super().commit(partition_key, *changes)
        if stores:
            await self.goes_on.wait()
            if self.after is not None:
                raise self.after

    async def commit_many(self, batches: Sequence[Batch]) -> Sequence[Conflict | Failed | None]:
        if self.first is not None:
            first, self.first = self.first, None
            await first.wait()
        return await super().commit_many(batches)


@pytest.fixture
def store() -> Slow:
    return Slow()


@pytest.fixture
async def scene(store: Slow) -> Scene:
    scene = Scene(store=store)
    await scene.register("a", "b")
    return scene


async def waits(scene: Scene, reader: str = "b", lease: float = 20.0) -> Poll:
    """Return a poll that has found its mailbox empty and sleeps."""
    poll = asyncio.create_task(scene.take(reader, lease=lease, wait=30))
    await turns()
    assert not poll.done()
    return poll


async def ids_of(poll: Poll) -> list[str]:
    return [d.id for d in await asyncio.wait_for(poll, 15)]


def ids(found: Iterable[Delivery]) -> list[str]:
    return [d.id for d in found]


async def test_a_message_is_stored_as_it_is_leased(scene: Scene) -> None:
    poll = await waits(scene)
    id = await scene.send("a", "b")
    (given,) = await asyncio.wait_for(poll, 15)
    stored = await scene.store.get(Delivery, id)
    assert stored == given
    assert (given.version, given.attempts, given.delivered_at) == (1, 1, scene.now)
    assert given.visible_at == scene.now + 20
    assert first_time(given)
    assert scene.relay.core.stats.delivered == 1
    assert await scene.take("b") == []
    (outcome,) = await scene.relay.acks.ack("b", [receipt_of(given)])
    assert outcome.error is None


async def test_its_lease_lapses_as_any_other(scene: Scene) -> None:
    poll = await waits(scene)
    id = await scene.send("a", "b")
    await asyncio.wait_for(poll, 15)
    other = await waits(scene)
    scene.now += 20
    scene.relay.core.signals.publish("b")
    (again,) = await asyncio.wait_for(other, 15)
    assert (again.id, again.attempts) == (id, 2)
    assert not first_time(again)


async def test_nobody_sees_it_before_its_commit_has_ended(scene: Scene, store: Slow) -> None:
    poll = await waits(scene)
    store.goes_on.clear()
    sending = asyncio.create_task(scene.send("a", "b"))
    await turns()
    assert not poll.done()
    assert not sending.done()
    store.goes_on.set()
    assert await ids_of(poll) == [await sending]


async def test_a_commit_without_effect_leaves_the_reader_waiting(scene: Scene, store: Slow) -> None:
    poll = await waits(scene)
    store.before = Failed("as told")
    with pytest.raises(Failed):
        await scene.send("a", "b")
    await turns()
    assert not poll.done()
    store.before = None
    id = await scene.send("a", "b")
    assert await ids_of(poll) == [id]


async def test_a_conflict_leaves_the_reader_waiting(scene: Scene, store: Slow) -> None:
    poll = await waits(scene)
    store.before = Conflict(Delivery, "x", "as told")
    sending = asyncio.create_task(scene.send("a", "b"))
    await turns()
    assert scene.relay.core.stats.conflicts > 0
    assert not poll.done()
    store.before = None
    (given,) = await asyncio.wait_for(poll, 15)
    assert given.id == await sending
    assert await store.get(Delivery, given.id) == given


async def test_a_commit_whose_end_nobody_knows_gives_the_message_to_a_reader_once(scene: Scene, store: Slow) -> None:
    poll = await waits(scene, lease=3600)
    store.after = Failed("as told")
    with pytest.raises(Failed):
        await scene.send("a", "b")
    store.after = None
    (given,) = await asyncio.wait_for(poll, 15)
    assert given.attempts == 1
    assert await scene.take("b") == []


async def test_a_message_for_a_reader_that_goes_before_it_is_stored_is_due_again(scene: Scene, store: Slow) -> None:
    poll = await waits(scene, lease=3600)
    store.goes_on.clear()
    sending = asyncio.create_task(scene.send("a", "b"))
    await turns()
    poll.cancel()
    await asyncio.wait([poll])
    store.goes_on.set()
    id = await sending
    await scene.relay.finished()
    assert poll.cancelled()
    (given,) = await scene.take("b")
    assert (given.id, given.attempts) == (id, 1)
    assert not first_time(given)


async def test_a_message_for_a_reader_that_goes_at_any_later_step_is_due_again() -> None:
    """It is cut off at each of its steps in turn, up to the one at which it has the message."""
    for cut_off in range(50):
        scene = Scene()
        await scene.register("a", "b")
        poll = await waits(scene, lease=3600)
        id = await scene.send("a", "b")
        for _ in range(cut_off):  # 0: it is woken, and has not run since
            await asyncio.sleep(0)
        if poll.done():
            break
        poll.cancel()
        await asyncio.wait([poll])
        await scene.relay.finished()
        assert poll.cancelled()
        (given,) = await scene.take("b")
        assert (given.id, given.attempts) == (id, 1), cut_off
    assert 0 < cut_off < 50


async def test_a_sender_that_hangs_up_leaves_the_message_to_a_reader(scene: Scene, store: Slow) -> None:
    poll = await waits(scene, lease=3600)
    store.goes_on.clear()
    sending = asyncio.create_task(scene.send("a", "b"))
    await turns()
    sending.cancel()
    await asyncio.wait([sending])
    store.goes_on.set()
    (given,) = await asyncio.wait_for(poll, 15)
    assert given.attempts == 1


async def test_a_message_whose_commit_began_before_the_reader_slept_comes_first(scene: Scene, store: Slow) -> None:
    goes_on = store.first = asyncio.Event()
    first = asyncio.create_task(scene.send("a", "b"))
    await turns()
    poll = await waits(scene)
    store.goes_on.clear()
    second = asyncio.create_task(scene.send("a", "b"))
    await turns()
    goes_on.set()
    await turns()
    store.goes_on.set()
    assert await ids_of(poll) == [await first, await second]


async def test_a_broadcast_whose_commit_began_before_comes_first(scene: Scene, store: Slow) -> None:
    poll = await waits(scene)
    goes_on = store.first = asyncio.Event()
    broadcast = asyncio.create_task(scene.broadcast("a", "hello"))
    await turns()
    store.goes_on.clear()
    sending = asyncio.create_task(scene.send("a", "b"))
    await turns()
    goes_on.set()
    await broadcast
    store.goes_on.set()
    first, second = await ids_of(poll)
    assert first.startswith((await broadcast).message_id)
    assert second == await sending


async def test_a_message_that_came_due_meanwhile_comes_first(scene: Scene) -> None:
    early = await scene.send("a", "b")
    (given,) = await scene.take("b", lease=5)
    assert given.id == early
    poll = await waits(scene)
    scene.now += 5  # the clock of relay time moves, and the alarm of the event loop has not rung
    late = await scene.send("a", "b")
    assert await ids_of(poll) == [early, late]


async def test_a_message_that_was_given_back_comes_first(scene: Scene) -> None:
    early = await scene.send("a", "b")
    (given,) = await scene.take("b")
    poll = await waits(scene)
    await scene.relay.acks.nack("b", [receipt_of(given)], 0.0)  # the reader is woken, and has not run since
    late = await scene.send("a", "b")
    assert await ids_of(poll) == [early, late]


async def test_a_stop_of_all_work_hands_nothing_over(scene: Scene) -> None:
    id = await scene.delegate("a", to_agent="b")
    (receipt,) = await scene.claim("b")
    await scene.relay.acks.ack("b", [receipt])
    poll = await waits(scene, "a")
    await scene.relay.stops.switch(StopAll(stopped=True))
    await scene.respond("b", id, result="done")
    await turns()
    assert not poll.done()
    await scene.relay.stops.switch(StopAll(stopped=False))
    assert len(await asyncio.wait_for(poll, 15)) == 1


async def test_a_reader_that_left_meanwhile_gets_nothing(scene: Scene, store: Slow) -> None:
    poll = await waits(scene, lease=3600)
    store.goes_on.clear()
    sending = asyncio.create_task(scene.send("a", "b"))
    await turns()
    leaving = asyncio.create_task(scene.leave("b"))
    await turns()
    store.goes_on.set()
    id = await sending
    await leaving
    with pytest.raises(UnknownAgent):
        await asyncio.wait_for(poll, 15)
    await scene.relay.finished()
    stored = await store.get(Delivery, id)
    assert stored is None or stored.receipt is None


async def test_a_task_that_was_taken_back_is_claimed_with_its_record() -> None:
    scene = Scene()
    await scene.register("req", "w")
    id = await scene.delegate(to_agent="w")
    (receipt,) = await scene.claim("w", lease=5)
    await scene.relay.acks.ack("w", [receipt])
    poll = await waits(scene, "w")
    await scene.let_pass(scene.relay.core.limits.stale_after + 1)
    (given,) = await asyncio.wait_for(poll, 15)
    assert (given.id, given.has_record, given.attempts) == (id, True, 2)


async def test_a_task_with_a_record_waits_for_a_claim(scene: Scene, store: Slow) -> None:
    await scene.delegate("a", to_agent="b")
    (task,) = await scene.take("b")
    poll = await waits(scene)
    with_record = replace(task, id="x", version=1, has_record=True, receipt=None, visible_at=scene.now)
    await scene.relay.core.commit("b", Put(with_record))
    stored = await store.get(Delivery, "x")
    assert stored == with_record
    poll.cancel()
    await asyncio.wait([poll])


async def test_of_two_messages_in_one_commit_the_first_comes_first(scene: Scene) -> None:
    await scene.send("a", "b")
    (given,) = await scene.take("b")
    poll = await waits(scene)
    new = [
        replace(given, id=id, version=1, sort_key=given.sort_key + n, receipt=None, attempts=0, visible_at=scene.now)
        for n, id in enumerate("xy", 1)
    ]
    await scene.relay.core.commit("b", *map(Put, new))
    assert await ids_of(poll) == ["x", "y"]


async def test_a_reader_whose_name_is_another_agent_meanwhile_gets_nothing(scene: Scene, store: Slow) -> None:
    poll = await waits(scene, lease=3600)
    store.goes_on.clear()
    sending = asyncio.create_task(scene.send("a", "b"))
    await turns()
    leaving = asyncio.create_task(scene.leave("b"))
    await turns()
    scene.now += 1
    registering = asyncio.create_task(scene.register("b"))
    await turns()
    store.goes_on.set()
    await asyncio.wait([sending, leaving, registering])
    with pytest.raises(UnknownAgent):
        await asyncio.wait_for(poll, 15)


async def test_a_reader_that_was_claimed_meanwhile_reads_with_its_key(scene: Scene, store: Slow) -> None:
    poll = await waits(scene, lease=3600)
    store.goes_on.clear()
    sending = asyncio.create_task(scene.send("a", "b"))
    await turns()
    await scene.register("b", key="a key of b" * 4)
    store.goes_on.set()
    (given,) = await asyncio.wait_for(poll, 15)
    assert given.id == await sending
    assert given.reader_key == (await scene.agent("b")).key_hash is not None
    assert given.attempts == 1


class Unheard:
    """Other relays over the same store, of which nothing was heard so far."""

    def tell(self, event: Event) -> None:
        """Tell them."""


@pytest.mark.parametrize("shared", [False, True], ids=["a late index", "other relays"])
async def test_where_an_earlier_message_may_not_be_known_yet_nothing_is_handed_over(*, shared: bool) -> None:
    scene = Scene() if shared else Scene(store=FaultyStore(MemoryStore(), Random(1), stale=0.01))
    peers: Any = Unheard() if shared else None
    scene.relay.core.peers = peers
    await scene.register("a", "b")
    poll = await waits(scene)
    await scene.send("a", "b")
    (given,) = await asyncio.wait_for(poll, 15)
    assert given.version == 2


async def test_of_two_readers_of_a_mailbox_one_is_handed_the_message(scene: Scene) -> None:
    polls = [await waits(scene), await waits(scene)]
    first = await scene.send("a", "b")
    await turns()
    (had,) = [poll for poll in polls if poll.done()]
    assert await ids_of(had) == [first]
    (waiting,) = [poll for poll in polls if not poll.done()]
    second = await scene.send("a", "b")
    assert await ids_of(waiting) == [second]


async def test_a_reader_that_was_woken_for_a_pool_passes_the_work_on() -> None:
    scene = Scene()
    await scene.register("req")
    await scene.register("w1", "w2", capabilities=["go"])
    await scene.read("w1")
    await scene.read("w2")
    first = await waits(scene, "w1")
    second = await waits(scene, "w2")
    own = await scene.send("req", "w1")
    pooled = await scene.delegate(capability="go")
    found = [*await ids_of(first), *await ids_of(second)]
    assert sorted(found) == sorted([own, pooled])


async def test_work_of_a_pool_that_came_before_is_not_passed_over() -> None:
    scene = Scene()
    await scene.register("req")
    await scene.register("w", capabilities=["go"])
    await scene.read("w")
    poll = await waits(scene, "w")
    pooled = await scene.delegate(capability="go")  # the reader is woken, and has not run since
    own = await scene.send("req", "w")
    assert await ids_of(poll) == [pooled, own]


async def test_a_broadcast_reaches_readers_that_wait_and_others() -> None:
    scene = Scene()
    await scene.register("req", "w1", "w2")
    await scene.read("w1")
    await scene.read("w2")
    poll = await waits(scene, "w1")
    await scene.broadcast("req", "hello")
    assert len(await asyncio.wait_for(poll, 15)) == 1
    assert len(await scene.take("w2")) == 1
    assert await scene.take("w1") == []


@pytest.mark.virtual_time
@pytest.mark.parametrize("failure", [Failed("as told"), Full("as told")], ids=["failed", "full"])
async def test_a_message_of_a_reader_that_has_gone_is_given_back_once_the_store_takes_it(
    scene: Scene, store: Slow, failure: Exception
) -> None:
    poll = await waits(scene, lease=3600)
    store.goes_on.clear()
    sending = asyncio.create_task(scene.send("a", "b"))
    await turns()
    poll.cancel()
    await asyncio.wait([poll])
    store.before = failure
    store.goes_on.set()
    id = await sending
    await turns()
    store.before = None
    (given,) = await scene.take("b", wait=30)
    assert (given.id, given.attempts) == (id, 1)


@pytest.mark.virtual_time
async def test_a_message_of_a_reader_that_may_read_no_more_is_given_back_once_the_store_takes_it(
    scene: Scene, store: Slow
) -> None:
    agent = await scene.agent("b")

    async def tick() -> Agent:
        store.before = Failed("as told")
        raise NotAllowed("as told")

    with scene.relay.claims.reading(agent) as reader:
        reading = asyncio.create_task(reader.next(agent, limit=10, wait=30, lease=3600, tick=tick))
        await turns()
        id = await scene.send("a", "b")
        with pytest.raises(NotAllowed):
            await reading
    await turns()
    store.before = None
    (given,) = await scene.take("b", wait=30)
    assert (given.id, given.attempts) == (id, 1)


@pytest.mark.virtual_time
async def test_a_message_of_a_reader_that_is_cut_off_twice_is_given_back_once_the_store_takes_it(
    scene: Scene, store: Slow
) -> None:
    agent = await scene.agent("b")

    async def tick() -> Agent:
        store.before = Failed("as told")
        await asyncio.Event().wait()
        return agent

    with scene.relay.claims.reading(agent) as reader:
        reading = asyncio.create_task(reader.next(agent, limit=10, wait=30, lease=3600, tick=tick))
        await turns()
        id = await scene.send("a", "b")
        await turns()
        reading.cancel()
        await asyncio.sleep(0)  # it gives the message back
        reading.cancel()
        await asyncio.wait([reading])
    await turns()
    store.before = None
    (given,) = await scene.take("b", wait=30)
    assert (given.id, given.attempts) == (id, 1)


@pytest.mark.virtual_time
async def test_a_reader_whose_agent_changes_while_it_receives_looks_at_its_agent_again() -> None:
    scene = Scene(stale_after=3600.0)
    await scene.register("req", "w")
    agent = await scene.agent("w")
    goes_on = asyncio.Event()

    async def tick() -> Agent:
        found = await scene.agent("w")
        await goes_on.wait()
        return found

    with scene.relay.claims.reading(agent) as reader:
        reading = asyncio.create_task(reader.next(agent, limit=10, wait=30, lease=20, tick=tick))
        await turns()
        await scene.send("req", "w")
        await turns()
        await scene.register("w", capabilities=["go"])
        goes_on.set()
        assert len((await reading).deliveries) == 1
        reading = asyncio.create_task(reader.next(agent, limit=10, wait=1800, lease=20, tick=tick))
        await turns()
        id = await scene.delegate(capability="go")
        assert ids((await asyncio.wait_for(reading, 15)).deliveries) == [id]
