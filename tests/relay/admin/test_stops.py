"""While the operator has stopped all work: what is refused, what goes on, and what stands still."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import clawlink
from clawlink.domain.message import TaskAnswer, TaskResponse
from clawlink.domain.task import TaskState
from clawlink.errors import Stopped
from clawlink.protocol import requests
from clawlink.protocol.operating import StopAll
from clawlink.relay.relay import Relay
from clawlink.relay.timestamps import iso
from clawlink.store.events import Event, Peers
from clawlink.store.memory import MemoryStore
from tests.relay.scene import Scene, receipt_of
from tests.waiting import until

STOP, RESUME = StopAll(True), StopAll(False)


async def working(**limits: Any) -> Scene:
    scene = Scene(**limits)
    await scene.register("req", "w", capabilities=["go"])
    return scene


async def test_new_work_and_claims_are_refused_and_nothing_else() -> None:
    scene = await working()
    task = await scene.delegate(to_agent="w")
    (taken,) = await scene.take("w")
    key = requests.Delegate(from_agent="req", to_agent="w", task="t", idempotency_key="k")
    first = await scene.relay.submission.delegate(await scene.agent("req"), key)
    await scene.relay.stops.switch(STOP)
    refused: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: scene.delegate(to_agent="w"),
        lambda: scene.delegate(capability="go"),
        lambda: scene.send("req", "w"),
        lambda: scene.broadcast("req", "news"),
        lambda: scene.take("w"),
        lambda: scene.take("w", wait=5.0),
    )
    for ask in refused:
        with pytest.raises(Stopped) as stopped:
            await ask()
        assert stopped.value.retry_after
    again = await scene.relay.submission.delegate(await scene.agent("req"), key)
    assert again.message_id == first.message_id  # the same answer as before: it is no new work
    assert [o.error for o in await scene.relay.acks.ack("w", [receipt_of(taken)])] == [None]
    await scene.relay.agents.beat("w")
    await scene.respond("w", task, "input_required", result="which?")
    answer = requests.Answer(from_agent="req", content="that one")
    await scene.relay.tasks.answer(await scene.agent("req"), task, answer)
    await scene.respond("w", task, "completed", result=1)
    assert await scene.status(task) == "completed"
    await scene.register("late")
    await scene.relay.tasks.cancel(await scene.agent("req"), first.message_id, requests.Cancel(from_agent="req"))
    free = requests.Respond(from_agent="w", to_agent="req", result="by the way")
    await scene.relay.responses.respond(await scene.agent("w"), free)


async def test_leases_deadlines_and_ages_stand_still_and_go_on() -> None:
    scene = await working(stale_after=30.0, message_ttl=100.0)
    task = await scene.delegate(to_agent="w", deadline=60)
    other = await scene.delegate(to_agent="w")
    await scene.take("w", lease=20.0)
    await scene.let_pass(15)
    deadline = (await scene.view(task)).deadline_at
    await scene.relay.stops.switch(STOP)
    await scene.let_pass(10_000)
    assert {await scene.status(task), await scene.status(other)} == {"delivered"}
    online, stale = await scene.relay.agents.directory.presence()
    assert (online, stale) == (2, 0)
    view = await scene.view(task)
    assert deadline is not None
    assert view.deadline_at == iso(scene.now + 45)
    assert view.created_at == iso(scene.now - 10_015)
    await scene.relay.stops.switch(RESUME)
    view = await scene.view(task)
    assert view.deadline_at == iso(scene.now + 45)
    await scene.let_pass(4)
    assert await scene.status(task) == "delivered"
    await scene.let_pass(2)
    assert await scene.status(task) == "queued"  # the lease of 20 s has lapsed: 15 before the stop, and 5 after
    await scene.let_pass(40)
    assert await scene.status(task) == TaskState.EXPIRED.value
    ended = await scene.view(task)
    assert (ended.created_at, ended.finished_at) == (iso(scene.now - 10_061), iso(scene.now))


async def test_each_question_of_a_stop_gets_its_own_answer() -> None:
    """Time stands still, so equal questions and answers differ in nothing else."""
    scene = await working()
    task = await scene.delegate(to_agent="w")
    await scene.take("w")
    await scene.relay.stops.switch(STOP)
    for content in ("yes", "yes", "no"):
        await scene.respond("w", task, "input_required", result="delete it?")
        ask = requests.Answer(from_agent="req", content=content)
        for _ in range(2):  # a repeat doubles nothing
            await scene.relay.tasks.answer(await scene.agent("req"), task, ask)
    await scene.relay.stops.switch(RESUME)
    answers = [m.content for m in await scene.read("w") if isinstance(m, TaskAnswer)]
    assert sorted(answers) == ["no", "yes", "yes"]
    questions = [m for m in await scene.read("req") if isinstance(m, TaskResponse)]
    assert len(questions) == 3


@pytest.mark.virtual_time
async def test_a_look_that_began_before_the_first_stop_reads_little_after_it() -> None:
    scene = await working()
    await scene.send("req", "w")
    await scene.take("w", lease=5.0)
    ask = requests.UnreadQuery(wait=50.0, since=2**60)
    looking = asyncio.ensure_future(scene.relay.unread_mail.unread(await scene.agent("w"), ask))
    await until(lambda: scene.relay.core.signals.listeners() > 0)
    await scene.relay.stops.switch(STOP)
    scene.now += 1000
    await scene.relay.stops.switch(RESUME)
    reads = 0
    due = scene.store.next_due_at

    async def counted(mailbox: str) -> float | None:
        nonlocal reads
        reads += 1
        return await due(mailbox)

    scene.store.next_due_at = counted  # type: ignore[method-assign]
    await looking
    assert reads < 20


async def test_a_claim_that_waits_goes_on_when_work_does() -> None:
    scene = await working()
    await scene.send("req", "w", "before")
    await scene.take("w")
    waiting = asyncio.ensure_future(scene.take("w", wait=30.0))
    await until(lambda: scene.relay.waiting == 1)
    await scene.relay.stops.switch(STOP)
    scene.now += 1000  # the lease of the first message would have lapsed
    scene.relay.look_again()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    await scene.relay.stops.switch(RESUME)
    scene.now += 30
    scene.relay.look_again()
    assert len(await waiting) == 1


@pytest.mark.virtual_time
async def test_a_waiting_claim_reads_little_while_its_next_message_stands_still() -> None:
    """Leases of its mailbox and of a pool would lapse in a moment."""
    scene = await working()
    await scene.register("w2", capabilities=["go"])
    await scene.send("req", "w")
    await scene.delegate(capability="go")
    await scene.take("w2", lease=5.0)
    await scene.take("w", lease=5.0)
    scene.now += 4.999
    waiting = asyncio.ensure_future(scene.take("w", wait=50.0))
    await until(lambda: scene.relay.waiting == 1)
    await scene.relay.stops.switch(STOP)
    reads = 0
    due = scene.store.next_due_at

    async def counted(mailbox: str) -> float | None:
        nonlocal reads
        reads += 1
        assert reads
        return await due(mailbox)

    scene.store.next_due_at = counted  # type: ignore[method-assign]
    ask = requests.UnreadQuery(wait=50.0, since=2**60)
    await asyncio.gather(scene.relay.unread_mail.unread(await scene.agent("w"), ask), waiting)
    assert reads < 20


class Told(Peers):
    """The other relays over one store, which hear at once."""

    def __init__(self) -> None:
        self.relays: list[Relay] = []

    def tell(self, event: Event) -> None:
        for relay in self.relays:
            relay.hear(event)

    async def hold(self, file_key: str) -> bool:
        return True

    async def let_go(self, file_key: str) -> None:
        return

    async def lease(self, name: str, held: str, proposed: str, seconds: float) -> str | None:
        return held or proposed

    async def end_lease(self, name: str, token: str) -> None:
        return


async def test_a_restarted_relay_and_its_peers_follow_the_record() -> None:
    store = MemoryStore()
    first = Scene(store=store)
    await first.register("req", "w")
    await first.delegate(to_agent="w")
    await first.relay.stops.switch(STOP)
    again = Scene(store=store)
    again.now = first.now + 500
    peer = Scene(store=store)
    peer.now = again.now
    await again.relay.stops.load()
    with pytest.raises(Stopped):
        await again.take("w")
    told = Told()
    told.relays = [peer.relay]
    again.relay.core.peers = told
    assert len(await peer.take("w", lease=1.0)) == 1  # it has not heard yet
    await again.relay.stops.switch(STOP)
    assert not peer.relay.stopped  # a repeat tells nothing
    await again.relay.stops.switch(RESUME)
    await peer.relay.finished()
    assert again.relay.clock() == peer.relay.clock() == first.now
    assert not again.relay.stopped


def test_instants_of_relay_time_are_written_as_people_know_them() -> None:
    """Only these write instants of the steady time, by ``iso`` alone. All others go by ``StoppableTime``."""
    steady = {
        *(f"relay/admin/{name}.py" for name in ("audit", "load", "overview", "stops", "talk")),
        *("relay/relay.py", "server/page_sessions.py", "relay/timestamps.py"),
    }
    root = Path(clawlink.__file__).parent
    found = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if re.search(r"(?<![\w.])iso(_or_none)?\(", path.read_text("utf-8"))
    }
    assert found == steady
