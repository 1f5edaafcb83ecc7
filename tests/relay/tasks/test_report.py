"""Faults that the machine over tasks found once, each as short as it can be told."""

from __future__ import annotations

import pytest

from clawlink.protocol import requests
from tests.relay.scene import Scene
from tests.tables import each


@pytest.fixture
async def scene() -> Scene:
    """Return a scene with a requester and two workers on it."""
    scene = Scene(stale_after=30, max_attempts=2)
    await scene.register("req")
    await scene.register("w1", "w2", capabilities=["go"])
    return scene


@each("status", ["completed", "failed"])
async def test_one_that_acknowledges_after_its_answer_and_then_falls_silent_changes_nothing(
    scene: Scene, status: str
) -> None:
    id = await scene.delegate(to_agent="w1")
    receipts = await scene.claim("w1")
    await scene.respond("w1", id, status, 3)
    assert [outcome.error for outcome in await scene.relay.acks.ack("w1", receipts)] == [None]
    for _ in range(3):
        await scene.let_pass(100)
        assert await scene.status(id) == status


async def test_the_next_owner_may_say_the_same_as_the_one_before(scene: Scene) -> None:
    id = await scene.delegate(capability="go")
    await scene.claim("w1")
    await scene.respond("w1", id, "input_required", "which?")
    await scene.let_pass(60)
    assert await scene.claim("w2")
    await scene.respond("w2", id, "input_required", "which?")
    assert await scene.told() == [("w1", "input_required", "which?"), ("w2", "input_required", "which?")]


async def test_a_question_that_was_answered_may_be_asked_again_and_one_sent_twice_is_one(scene: Scene) -> None:
    id = await scene.delegate(to_agent="w1")
    await scene.claim("w1")
    for _ in range(2):
        await scene.respond("w1", id, "input_required", "go on?")
        await scene.respond("w1", id, "input_required", "go on?")
        await scene.let_pass(1)
        answer = requests.Answer(from_agent="req", content="yes")
        await scene.relay.tasks.answer(await scene.agent("req"), id, answer)
    assert await scene.told() == [("w1", "input_required", "go on?")] * 2


async def test_a_task_held_beyond_its_deadline_is_handed_out_to_nobody_after_it(scene: Scene) -> None:
    id = await scene.delegate(capability="go", deadline=10)
    receipts = await scene.claim("w1", lease=5)
    await scene.respond("w1", id, "in_progress")
    await scene.relay.acks.extend("w1", receipts, 8)
    scene.now += 11  # before the janitor has looked
    assert await scene.claim("w2") == []
    assert await scene.status(id) == "expired"


async def test_a_task_put_back_from_the_dead_letters_is_handed_out_to_nobody_after_its_deadline(scene: Scene) -> None:
    id = await scene.delegate(to_agent="w1", deadline=300)
    for _ in range(2):
        assert await scene.claim("w1", lease=5)
        scene.now += 6
    assert await scene.claim("w1") == []
    assert await scene.relay.mailbox.redrive("w1", [id], 10) == [id]
    scene.now += 300  # before the janitor has looked
    assert await scene.claim("w1") == []
    assert await scene.status(id) == "expired"
