"""Claims: nobody is given more than it may have, and what was taken for one that has gone is there for the next."""

from __future__ import annotations

import asyncio
import gc
from random import Random
from typing import Any

from clawlink.errors import LeaseLost
from clawlink.store.memory import MemoryStore
from tests.relay.scene import Scene, receipt_of
from tests.store.faulty import FaultyStore
from tests.tables import each


async def turns(count: int = 100) -> None:
    """Give everyone else this many turns; unless told, enough to come to where they wait."""
    for _ in range(count):
        await asyncio.sleep(0)


@each("limits", [{"max_open_tasks": 2}, {"max_mailbox_bytes": 5000}])
async def test_one_with_as_many_open_tasks_as_it_may_have_gets_none_from_pools(limits: dict[str, Any]) -> None:
    scene = Scene(**limits)
    await scene.register("req")
    await scene.register("w1", "w2", capabilities=["go"])
    held = []
    for _ in range(2):
        held.append(await scene.delegate(capability="go", task="x" * 2500))
        await scene.relay.acks.ack("w1", await scene.claim("w1"))
    third = await scene.delegate(capability="go")
    assert await scene.claim("w1") == []
    own = await scene.send("req", "w1")
    assert [d.id for d in await scene.take("w1")] == [own]  # what is its own comes all the same
    await scene.respond("w1", held[0])
    (receipt,) = await scene.claim("w1")
    assert third in receipt


async def test_one_with_as_many_open_tasks_as_it_may_have_is_not_woken_in_place_of_one_that_can_take_more() -> None:
    scene = Scene(max_open_tasks=1)
    await scene.register("req")
    await scene.register("w1", "w2", capabilities=["go"])
    await scene.read("w1")
    await scene.delegate(capability="go")
    await scene.relay.acks.ack("w1", await scene.claim("w1"))
    full = asyncio.create_task(scene.take("w1", wait=30))
    await turns()
    free = asyncio.create_task(scene.take("w2", wait=30))
    await turns()
    assert scene.relay.waiting == 2
    id = await scene.delegate(capability="go")
    assert [d.id for d in await asyncio.wait_for(free, 15)] == [id]
    assert not full.done()
    full.cancel()
    await asyncio.wait([full])


async def test_whoever_hangs_up_in_the_middle_of_a_claim_leaves_nothing_half_taken() -> None:
    """It is cut off at each of its steps in turn, up to the one at which it has the task."""
    for cut_off in range(50):
        scene = Scene()
        await scene.register("req")
        await scene.register("w1", "w2", capabilities=["go"])
        await scene.read("w1")
        await scene.read("w2")
        poll = asyncio.create_task(scene.take("w1", lease=3600, wait=30))
        await turns()
        assert scene.relay.waiting == 1
        ids = {await scene.delegate(capability="go"), await scene.delegate(capability="go")}
        await turns(cut_off)  # 0: before its first step
        if poll.done():
            break
        poll.cancel()
        await asyncio.wait([poll])
        assert poll.cancelled()
        taken = [d for _ in ids for d in await scene.take("w2")]
        assert {d.id for d in taken} == ids
        assert [d.attempts for d in taken] == [1, 1]
    assert cut_off > 1
    assert len(poll.result()) == 1


async def test_whoever_hangs_up_while_what_has_ended_is_cleared_away_leaves_nothing_taken() -> None:
    """The mailbox holds a message behind a task that is over: telling of the one comes after leasing the other."""
    cut_off = 0
    while True:
        scene = Scene(store=FaultyStore(MemoryStore(), Random(1), delays=1.0))
        await scene.register("req", "w1")
        await scene.read("w1")
        await scene.delegate(to_agent="w1", deadline=1)
        id = await scene.send("req", "w1")
        scene.now += 2
        poll = asyncio.create_task(scene.take("w1", lease=3600))
        await turns(cut_off)
        if poll.done():
            break
        poll.cancel()
        await asyncio.wait([poll])
        assert [d.id for d in await scene.take("w1")] == [id], cut_off
        cut_off += 1
    assert cut_off > 20


@each("count", [1, 2])
async def test_a_receipt_that_is_lost_while_it_is_settled_leaves_nothing_in_memory(count: int) -> None:
    def errors() -> int:
        gc.collect()
        return sum(isinstance(thing, LeaseLost) for thing in gc.get_objects())

    before = errors()
    scene = Scene(max_attempts=1000)
    await scene.register("req", "w")
    for _ in range(count):
        await scene.send("req", "w")
    for _ in range(10):
        first = await scene.take("w", lease=1)
        scene.now += 2
        assert len(await scene.take("w", lease=1)) == count  # handed out again after the request has read them
        receipts, known = [receipt_of(d) for d in first], {d.id: d for d in first}
        outcomes = await scene.relay.acks.ack("w", receipts, known=known)
        assert all(outcome.error for outcome in outcomes)
        del outcomes
        scene.now += 2
    assert errors() <= before
