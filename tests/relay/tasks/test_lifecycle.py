"""Tasks that were handed out too often, or too late: they come to an end that the requester hears of by itself."""

from __future__ import annotations

import pytest

from clawlink.domain.delivery import message_id
from tests.relay.scene import Scene


@pytest.fixture
async def scene() -> Scene:
    """Return a scene with a requester, and with ``b1``, who is Bob and knows Go."""
    scene = Scene(stale_after=30, max_attempts=2)
    await scene.register("req")
    await scene.register("b1", name="Bob", capabilities=["go"])
    return scene


async def test_a_task_out_of_attempts_in_the_mailbox_of_one_that_has_left_fails(scene: Scene) -> None:
    """Nobody would find it among the dead letters of that one."""
    id = await scene.delegate(to_agent="Bob")
    await scene.leave("b1")
    await scene.register("b2", name="Bob")
    await scene.updates()
    await scene.use_up("b2", attempts=2)
    assert await scene.claim("b2") == []
    ((status, note),) = await scene.updates()
    assert status == "failed"
    assert "2 times" in note
    assert await scene.status(id) == "failed"


async def test_a_task_of_a_pool_fails_when_its_last_lease_lapses_although_nobody_polls(scene: Scene) -> None:
    id = await scene.delegate(capability="go")
    await scene.use_up("b1", attempts=2)
    await scene.let_pass(0)
    assert await scene.status(id) == "failed"
    ((status, note),) = await scene.updates()
    assert status == "failed"
    assert "2 times" in note


async def test_a_task_of_a_name_is_a_dead_letter_when_its_last_lease_lapses_although_nobody_polls(
    scene: Scene,
) -> None:
    id = await scene.delegate(to_agent="b1")
    await scene.use_up("b1", attempts=2)
    await scene.let_pass(0)
    letters = await scene.relay.mailbox.dead_letters("b1", None, 10)
    assert [message_id(d) for d in letters.records] == [id]
    ((status, note),) = await scene.updates()
    assert status == "queued"
    assert "dead letters" in note


async def test_a_task_that_an_agent_holds_ends_at_the_instant_of_its_deadline(scene: Scene) -> None:
    id = await scene.delegate(to_agent="b1", deadline=10)
    await scene.relay.acks.ack("b1", await scene.claim("b1", lease=60))
    await scene.let_pass(9.5)
    assert await scene.status(id) == "delivered"
    await scene.let_pass(0.5)
    assert await scene.status(id) == "expired"
    assert await scene.updates() == [("expired", "no agent finished it in time")]


async def test_a_silent_agent_loses_its_task_at_the_instant_that_it_counts_as_silent(scene: Scene) -> None:
    id = await scene.delegate(to_agent="b1")
    await scene.relay.acks.ack("b1", await scene.claim("b1", lease=5))
    await scene.let_pass(29.5)
    assert await scene.status(id) == "delivered"
    await scene.let_pass(0.5)
    assert await scene.status(id) == "queued"


async def test_a_claim_at_the_instant_of_a_deadline_gets_no_task(scene: Scene) -> None:
    id = await scene.delegate(to_agent="b1", deadline=10)
    scene.now += 10  # without a look of the janitor
    assert await scene.claim("b1") == []
    assert await scene.status(id) == "expired"


async def test_the_tasks_of_an_agent_that_left_are_returned_at_the_instant_that_the_wait_for_it_ends() -> None:
    scene = Scene(return_after=60)
    await scene.register("req", "b1")
    id = await scene.delegate(to_agent="b1")
    await scene.leave("b1")
    await scene.let_pass(59.5)
    assert await scene.status(id) == "queued"
    await scene.let_pass(0.5)
    assert await scene.status(id) == "returned"


async def test_a_claim_at_the_instant_that_a_heartbeat_no_longer_holds_a_task_gets_it(scene: Scene) -> None:
    await scene.register("b2", capabilities=["go"])
    await scene.delegate(capability="go")
    await scene.claim("b1", lease=5)
    scene.now += 3
    await scene.relay.agents.beat("b1")
    scene.now += 4.5  # without a look of the janitor
    assert await scene.claim("b2") == []
    scene.now += 0.5
    assert len(await scene.claim("b2")) == 1
