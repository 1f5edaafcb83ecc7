"""What the machine over tasks has found once, each as short as it can be told."""

from __future__ import annotations

from typing import Any

import pytest

from clawlink.domain.agent import Agent
from clawlink.domain.limits import Limits
from clawlink.domain.message import TaskResponse, decode
from clawlink.protocol import requests
from clawlink.relay.ids import receipt
from clawlink.relay.relay import Relay
from clawlink.store.memory import MemoryStore
from clawlink.store.signals import LocalSignals


class Scene:
    """A relay on a clock of its own, a requester, and two workers."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.store = MemoryStore()
        limits = Limits(stale_after=30, max_attempts=2)
        self.relay = Relay(self.store, LocalSignals(), limits, clock=lambda: self.now)

    async def agent(self, id: str) -> Agent:
        return await self.relay.agents.acting(id, None, field="agent_id")

    async def delegate(self, **fields: Any) -> str:
        ask = requests.Delegate(from_agent="req", task="sum", **fields)
        return (await self.relay.delegations.delegate(await self.agent("req"), ask)).message_id

    async def claim(self, worker: str, lease: float = 20.0) -> list[str]:
        """Claim tasks and return their receipts."""
        taken = await self.relay.claims.claim(await self.agent(worker), limit=10, wait=0, lease=lease)
        return [receipt(str(d.receipt), d.id) for d in taken.deliveries if d.is_task]

    async def respond(self, worker: str, id: str, status: Any, result: Any = None) -> None:
        ask = requests.Respond(from_agent=worker, message_id=id, status=status, result=result)
        await self.relay.tasks.respond(await self.agent(worker), ask)

    async def let_pass(self, seconds: float) -> None:
        self.now += seconds
        await self.relay.janitor.sweep()

    async def told(self) -> list[tuple[str, str, Any]]:
        """Return who told the requester what."""
        unread = [decode(d.body) for d in await self.store.pending("req", 100)]
        return [(m.from_agent, m.status, m.result) for m in unread if isinstance(m, TaskResponse)]

    async def status(self, id: str) -> str:
        return (await self.relay.task_views.get(await self.agent("req"), id, requests.TaskQuery())).status


@pytest.fixture
async def scene() -> Scene:
    """Return a scene with everyone on it."""
    scene = Scene()
    for id, capabilities in (("req", []), ("w1", ["go"]), ("w2", ["go"])):
        ask = requests.Register(agent_id=id, name=id, capabilities=list(capabilities))
        await scene.relay.agents.register(ask, machine="here", agent_key=None)
    return scene


@pytest.mark.parametrize("status", ["completed", "failed"])
async def test_one_that_acknowledges_after_its_answer_and_then_falls_silent_changes_nothing(
    scene: Scene, status: str
) -> None:
    id = await scene.delegate(to_agent="w1")
    receipts = await scene.claim("w1")
    await scene.respond("w1", id, status, 3)
    assert [outcome.error for outcome in await scene.relay.settling.ack("w1", receipts)] == [None]
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
    await scene.relay.settling.extend("w1", receipts, 8)
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
