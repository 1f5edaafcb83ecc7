"""An agent leaves: its tasks go on to the next agent of its name, and each requester is told."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from clawlink.domain.agent import Agent
from clawlink.domain.pool import POOLS, Pool
from clawlink.errors import LeaseLost, NameTaken, UnknownAgent, WrongState
from clawlink.protocol.replies import Left
from clawlink.store.base import Absent, Drop, Failed, Put
from clawlink.store.memory import MemoryStore
from tests.relay.mailbox.test_claims import turns
from tests.relay.scene import Scene
from tests.store.faulty import FaultyStore


@pytest.fixture
async def scene() -> Scene:
    """Return a scene with a requester, and with ``b1``, who is Bob."""
    scene = Scene(stale_after=30, max_attempts=2)
    await scene.register("req")
    await scene.register("b1", name="Bob")
    return scene


async def test_one_that_leaves_has_its_dead_letters_tried_by_the_next_of_its_name(scene: Scene) -> None:
    id = await scene.delegate(to_agent="b1")
    await scene.use_up("b1", attempts=2)
    assert await scene.claim("b1") == []
    ((_, note),) = await scene.updates()
    assert "dead letters" in note
    assert (await scene.leave("b1")).waiting == 1
    ((status, note),) = await scene.updates()
    assert status == "queued"
    assert "Bob has left" in note
    await scene.register("b2", name="Bob")
    assert len(await scene.claim("b2")) == 1
    await scene.respond("b2", id)
    assert await scene.status(id) == "completed"


async def test_a_requester_is_told_each_time_that_one_leaves_with_its_task(scene: Scene) -> None:
    await scene.delegate(to_agent="b1")
    for _ in range(3):
        assert (await scene.leave("b1")).waiting == 1
        ((status, note),) = await scene.updates()
        assert status == "queued"
        assert "Bob has left" in note
        await scene.let_pass(5)
        await scene.register("b1", name="Bob")


async def test_a_requester_is_told_that_one_leaves_with_a_task_that_it_had_given_back(scene: Scene) -> None:
    await scene.delegate(to_agent="b1")
    await scene.relay.acks.nack("b1", await scene.claim("b1"), 0)
    assert await scene.updates() == []
    assert (await scene.leave("b1")).waiting == 1
    ((status, note),) = await scene.updates()
    assert status == "queued"
    assert "Bob has left" in note


@pytest.mark.parametrize("how", ["queued", "delivered", "acked", "in_progress"])
async def test_whoever_leaves_is_named_as_others_know_it(scene: Scene, how: str) -> None:
    id = await scene.delegate(to_agent="Bob")
    receipts = await scene.claim("b1") if how != "queued" else []
    if how == "acked":
        await scene.relay.acks.ack("b1", receipts)
    elif how == "in_progress":
        await scene.respond("b1", id, "in_progress")
    await scene.leave("b1")
    ((_, note),) = await scene.updates()
    assert note.startswith("Bob has left; ")
    assert "b1" not in note


async def test_tasks_of_one_that_was_renamed_wait_for_the_name_that_it_had_last(scene: Scene) -> None:
    """It had left before, under its first name, and a task of then is in its mailbox still."""
    id = await scene.delegate(to_agent="b1")
    await scene.leave("b1")
    await scene.register("b1", name="Bob")
    await scene.register("b1", name="Robert")
    await scene.leave("b1")
    assert [note.partition(" has left")[0] for _, note in await scene.updates()] == ["Robert"]
    await scene.register("b2", name="Bob")
    assert await scene.claim("b2") == []
    await scene.register("b3", name="Robert")
    assert len(await scene.claim("b3")) == 1
    await scene.respond("b3", id)


@pytest.mark.parametrize("for_good", [False, True])
async def test_an_acknowledgement_that_comes_after_the_leave_is_too_late(scene: Scene, for_good: bool) -> None:
    """An old poll is settled a moment after its reply. One that has left by then keeps the task from nobody."""
    id = await scene.delegate(to_agent="Bob")
    receipts = await scene.claim("b1", lease=60)
    await scene.leave("b1")
    (outcome,) = await scene.relay.acks.ack("b1", receipts, for_good=for_good)
    assert isinstance(outcome.error, LeaseLost)
    await scene.register("b2", name="Bob")
    assert len(await scene.claim("b2")) == 1
    assert (await scene.view(id)).assignee == "b2"


async def test_what_waits_is_counted_also_where_it_came_from_another_of_the_name(scene: Scene) -> None:
    await scene.delegate(to_agent="Bob")
    for turn in (1, 2):
        assert (await scene.leave(f"b{turn}")).waiting == 1
        await scene.register(f"b{turn + 1}", name="Bob")
        assert len(await scene.claim(f"b{turn + 1}")) == 1


async def test_a_poll_that_waits_ends_when_its_agent_leaves(scene: Scene) -> None:
    id = await scene.delegate(to_agent="b1")
    await scene.relay.acks.ack("b1", await scene.claim("b1"))
    polls = [asyncio.create_task(scene.take("b1", wait=30)) for _ in range(3)]
    await turns()
    assert (await scene.leave("b1")).waiting == 1
    for poll in polls:
        with pytest.raises(UnknownAgent, match="has left"):
            await asyncio.wait_for(poll, 15)
    assert scene.relay.waiting == 0
    await scene.register("b2", name="Bob")
    assert [id] == [receipt.partition("-")[2] for receipt in await scene.claim("b2")]


async def test_work_of_a_pool_goes_past_a_worker_that_leaves_while_it_waits_or_claims() -> None:
    for seed in range(60):
        store = FaultyStore(MemoryStore(), Random(seed), delays=0.5)
        scene = Scene(store=store)
        await scene.register("req")
        await scene.register("w1", "w2", capabilities=["go"])
        await scene.read("w1")
        worker = await scene.agent("w1")
        poll = asyncio.create_task(scene.relay.claims.claim(worker, limit=10, wait=30, lease=20))
        await turns(seed)
        await asyncio.gather(scene.delegate(capability="go"), scene.relay.deregistration.leave(worker))
        held = await asyncio.wait([poll], timeout=20)
        assert held[0], f"seed {seed}: the poll of an agent that has left still waits"
        assert poll.exception() is None or isinstance(poll.exception(), UnknownAgent), f"seed {seed}"
        # Also when the poll was quicker: its agent has left with the task, which goes on to another.
        assert len(await scene.claim("w2")) == 1, f"seed {seed}: the task is held for an agent that has left"


async def test_tasks_of_a_claimed_agent_wait_for_its_key_and_are_then_returned(scene: Scene) -> None:
    mine, other = "k" * 43, "o" * 43
    await scene.register("c1", name="Carol", key=mine)
    first = await scene.delegate(to_agent="Carol")
    await scene.send("req", "c1", "a secret")
    assert await scene.leave("c1") == Left("left", "c1", 1, 1)
    ((_, note),) = await scene.updates()
    assert note == "Carol has left; the task waits for it to come back with its key for 600 s"

    await scene.register("thief", name="Carol", key=other)  # the name is free at once
    assert await scene.take("thief") == []
    with pytest.raises(NameTaken, match="register with the agent key that it had"):
        await scene.register("c1", name="other", key=other)
    with pytest.raises(NameTaken):
        await scene.register("c1", name="other")
    await scene.leave("thief")

    await scene.let_pass(599)
    assert await scene.status(first) == "queued"
    await scene.register("c2", name="Carol", key=mine)  # another id, the same key
    assert len(await scene.claim("c2")) == 1
    await scene.respond("c2", first)
    assert await scene.status(first) == "completed"

    second = await scene.delegate(to_agent="c2")
    await scene.leave("c2")
    await scene.let_pass(599)
    assert await scene.status(second) == "queued"
    await scene.updates()
    await scene.let_pass(2)
    assert await scene.status(second) == "returned"
    ((status, note),) = await scene.updates()
    assert (status, note) == ("returned", "its assignee has left and did not come back; delegate it again")
    await scene.register("c2", name="Carol", key=mine)
    assert await scene.take("c2") == []
    with pytest.raises(WrongState):
        await scene.respond("c2", second)
    await scene.let_pass(120)  # nothing is left that waits
    assert not (await scene.store.page(Pool, POOLS, limit=10)).records


async def test_an_agent_that_comes_back_to_its_id_has_its_tasks_for_good(scene: Scene) -> None:
    await scene.register("c1", name="Carol", key="k" * 43)
    id = await scene.delegate(to_agent="c1")
    await scene.leave("c1")
    await scene.register("c1", name="Caroline", key="k" * 43)
    for _ in range(7):
        await scene.let_pass(100)
    assert await scene.status(id) == "queued"
    assert len(await scene.claim("c1")) == 1


async def test_a_claimed_agent_that_is_silent_keeps_its_name_for_longer(scene: Scene) -> None:
    await scene.register("c1", name="Carol", key="k" * 43)
    await scene.let_pass(29 * 86_400)
    assert await scene.store.get(Agent, "b1") is None
    assert await scene.store.get(Agent, "c1") is not None
    with pytest.raises(NameTaken):
        await scene.register("thief", name="carol", key="o" * 43)
    await scene.let_pass(86_400)
    assert await scene.store.get(Agent, "c1") is None


async def test_a_departure_that_broke_off_goes_on_at_the_next_look() -> None:
    """The store fails at each commit in turn. No stranger has the mailbox meanwhile, and the tasks wait in the end."""
    for commits in range(1, 12):
        store = _Breaking(MemoryStore(), Random(1))
        scene = Scene(store=store)
        await scene.register("req")
        await scene.register("b1", name="Bob")
        held, queued = await scene.delegate(to_agent="b1"), await scene.delegate(to_agent="b1")
        await scene.send("req", "b1", "a secret")
        (taken, *_) = (await scene.relay.claims.claim(await scene.agent("b1"), limit=1, wait=0, lease=600)).deliveries
        assert taken.id == held
        store.left = commits
        try:
            await scene.leave("b1")
        except Failed:
            if await store.get(Agent, "b1") is not None:
                continue
        finally:
            broke_off, store.left = store.left == 0, None
        with pytest.raises(NameTaken):
            await scene.register("b1", name="stranger")
        await scene.let_pass(1)
        await scene.register("b2", name="Bob")
        taken_over = [d.id for _ in range(3) for d in await scene.take("b2")]  # one of a pool each time
        assert sorted(taken_over) == sorted([held, queued]), f"after {commits} commits"
        assert {status for status, _ in await scene.updates()} == {"queued"}, f"after {commits} commits"
        if not broke_off:
            return
    raise AssertionError("a departure takes more commits than this test allows for")


async def test_a_departure_sees_what_an_index_shows_late() -> None:
    for seed in range(20):
        store = FaultyStore(MemoryStore(), Random(seed), stale=0.7)
        scene = Scene(store=store)
        await scene.register("req")
        await scene.register("b1", name="Bob")
        await scene.leave("b1")  # its questions have answers by then that are soon out of date
        await scene.register("b1", name="Bob")
        for _ in range(2):
            await scene.delegate(to_agent="b1")
        await scene.send("req", "b1", "a secret")
        receipts: list[str] = []
        while len(receipts) < 2:
            receipts += await scene.claim("b1")
        await scene.relay.acks.ack("b1", receipts[:1])
        await scene.delegate(to_agent="b1")
        assert await scene.leave("b1") == Left("left", "b1", 1, 3), f"seed {seed}"
        assert [d.receipt for d in await store.inner.pending("b1", 10)] == [None] * 3, f"seed {seed}"


class _Breaking(FaultyStore):
    """A store that fails once ``left`` more commits have been made."""

    left: int | None = None

    async def commit(self, partition_key: str, *changes: Put | Drop | Absent) -> None:
        if self.left == 0:
            raise Failed("injected: the store is away")
        await super().commit(partition_key, *changes)
        if self.left is not None:
            self.left -= 1
