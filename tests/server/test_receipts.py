"""How far a message came: stored, delivered, acked, answered are facts that a sender can wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.conftest import Running
from tests.server.asks import (
    ack,
    claim,
    claim_one,
    delegate,
    nothing_due,
    ok,
    pool_task,
    refused,
    respond,
    send,
    status_of,
    task_of,
)
from tests.system.raw import Clock
from tests.waiting import eventually

pytestmark = [pytest.mark.both_stores, pytest.mark.durable]

memory = pytest.mark.parametrize("store_kind", ["memory"])
Until = Callable[[Callable[[], bool]], Awaitable[None]]


async def reached(relay: Running, id: str, state: str, asker: str = "a") -> Any:
    """Ask with a wait, and return the answer."""
    return await ok(relay.get(f"/messages/{id}", params={"agent_id": asker, "wait": 30, "until": state}))


async def waits(relay: Running, until: Until, id: str, state: str) -> asyncio.Task[Any]:
    """Ask with a wait, and return once the relay waits."""
    before = relay.app.relay.waiting
    asked = asyncio.create_task(reached(relay, id, state))
    await until(lambda: relay.app.relay.waiting == before + 1)
    assert not asked.done()
    return asked


@pytest.mark.parametrize("kind", ["message", "task"])
@pytest.mark.shared
async def test_a_sender_waits_for_each_fact(pair: Running, until: Until, kind: str) -> None:
    id = await (send(pair, "a", "b") if kind == "message" else delegate(pair, "a", "b"))
    delivered, acked, answered = [await waits(pair, until, id, state) for state in ("delivered", "acked", "answered")]
    got = await claim_one(pair, "b")
    told = await asyncio.wait_for(delivered, 15)
    assert (told["state"], told["delivered_to"], told["acked_at"]) == ("delivered", "b", None)
    await ack(pair, "b", got.receipt)
    told = await asyncio.wait_for(acked, 15)
    assert (told["state"], told["answered_at"], answered.done()) == ("acked", None, False)
    if kind == "message":
        await send(pair, "b", "a", "yes", in_reply_to=id)
    else:
        await respond(pair, "b", id)
    told = await asyncio.wait_for(answered, 15)
    assert told["answered_at"] is not None
    for state in ("delivered", "acked", "answered"):
        assert (await asyncio.wait_for(reached(pair, id, state), 15))["answered_at"] == told["answered_at"]


async def test_a_wait_ends_when_it_will_never_be(pair: Running, until: Until, clock: Clock) -> None:
    """Cancelled, expired or buried: what will not come is not waited for."""
    cancelled = await delegate(pair, "a", "b")
    expired = await delegate(pair, "a", "b", deadline=20)
    left = await send(pair, "a", "b")
    asked = [await waits(pair, until, id, "answered") for id in (cancelled, expired, left)]
    await ok(pair.post(f"/tasks/{cancelled}/cancel", {"from_agent": "a"}))
    assert (await asyncio.wait_for(asked[0], 15))["state"] == "withdrawn"
    clock.skip(21)
    assert (await asyncio.wait_for(asked[1], 15))["state"] == "expired"
    assert not asked[2].done()
    await ok(pair.ask("DELETE", "/agents/b"))
    assert (await asyncio.wait_for(asked[2], 15))["state"] == "expired"


async def test_a_dead_letter_ends_the_wait(pair: Running, until: Until, clock: Clock) -> None:
    id = await send(pair, "a", "b")
    asked = await waits(pair, until, id, "acked")
    for _ in range(5):
        await claim_one(pair, "b", lease=5)
        clock.skip(5)
    await nothing_due(pair, "b")
    told = await asyncio.wait_for(asked, 15)
    assert (told["state"], told["attempts"], told["dead_at"] is not None) == ("dead", 5, True)


async def test_a_wait_is_over_after_its_time_and_when_the_relay_drains(pair: Running, until: Until) -> None:
    id = await send(pair, "a", "b")
    told = await ok(pair.get(f"/messages/{id}?agent_id=a&wait=0.05"))
    assert told["state"] == "stored"
    asked = await waits(pair, until, id, "acked")
    await pair.app.relay.drain()
    assert (await asyncio.wait_for(asked, 15))["state"] == "stored"


async def test_an_answer_marks_the_message_it_names_once_and_for_both(pair: Running, clock: Clock) -> None:
    id = await send(pair, "a", "b", "question")
    got = await claim_one(pair, "b")
    await ack(pair, "b", got.receipt)
    await send(pair, "b", "a", "answer", in_reply_to=id)
    first = (await status_of(pair, "a", id))["answered_at"]
    assert first is not None
    assert (await status_of(pair, "b", id))["answered_at"] == first
    clock.skip(10)
    await send(pair, "b", "a", "another", in_reply_to=id)
    assert (await status_of(pair, "a", id))["answered_at"] == first


async def test_an_answer_of_someone_else_or_to_someone_else_marks_nothing(pair: Running) -> None:
    await pair.register("Cyd", agent_id="c")
    id = await send(pair, "a", "b", "question")
    await claim_one(pair, "b")
    await send(pair, "c", "a", "I know", in_reply_to=id)
    await send(pair, "b", "c", "do you know?", in_reply_to=id)
    await send(pair, "a", "b", "well?", in_reply_to=id)
    assert (await status_of(pair, "a", id))["answered_at"] is None
    await send(pair, "b", "a", "yes", in_reply_to=id)
    assert (await status_of(pair, "a", id))["answered_at"] is not None


async def test_an_answer_repeated_under_its_key_finishes_what_the_first_began(pair: Running) -> None:
    id = await send(pair, "a", "b", "question")
    for _ in range(3):
        await send(pair, "b", "a", "answer", in_reply_to=id, idempotency_key="k")
    assert (await status_of(pair, "a", id))["answered_at"] is not None
    assert len(await claim(pair, "a", 1)) == 1


async def test_a_recipient_of_a_broadcast_answers_its_own_copy(pair: Running) -> None:
    await pair.register("Cyd", agent_id="c")
    id = (await ok(pair.post("/broadcast", {"from_agent": "a", "content": "who knows?"})))["message_id"]
    await claim_one(pair, "b")
    await send(pair, "b", "a", "I do", in_reply_to=id)
    assert (await status_of(pair, "b", id))["answered_at"] is not None
    assert (await status_of(pair, "c", id))["answered_at"] is None


@memory
async def test_a_wait_for_a_broadcast_ends_once_all_have_it(pair: Running, until: Until) -> None:
    await pair.register("Cyd", agent_id="c")
    id = (await ok(pair.post("/broadcast", {"from_agent": "a", "content": "x"})))["message_id"]
    asked = await waits(pair, until, id, "acked")
    for agent_id in "bc":
        assert not asked.done()
        got = await claim_one(pair, agent_id)
        await ack(pair, agent_id, got.receipt)
    told = await asyncio.wait_for(asked, 15)
    assert told["counts"] == {"acked": 2}


@pytest.mark.parametrize("status", ["completed", "failed", "rejected"])
async def test_an_answer_after_a_lapsed_lease_proves_that_the_task_was_delivered(
    pair: Running, clock: Clock, status: str
) -> None:
    id = await delegate(pair, "a", "b")
    got = await claim_one(pair, "b")
    delivered = (await status_of(pair, "a", id))["delivered_at"]
    clock.skip(130)

    async def taken_back() -> bool:
        return bool((await status_of(pair, "a", id))["state"] == "stored")

    await eventually(taken_back)
    told = await status_of(pair, "a", id)
    assert (told["delivered_at"], told["delivered_to"], told["last_delivered_at"]) == (None, None, delivered)
    assert told["requeued_at"] > delivered
    await respond(pair, "b", id, None, status="in_progress", progress=50)
    told = await status_of(pair, "a", id)
    assert (told["state"], told["last_delivered_at"], told["task_status"]) == ("stored", delivered, "in_progress")
    await respond(pair, "b", id, status=status, receipt=got.receipt)
    told = await status_of(pair, "a", id)
    assert (told["state"], told["delivered_at"], told["delivered_to"]) == ("acked", delivered, "b")
    assert told["acked_at"] == told["answered_at"] > delivered
    assert (told["attempts"], told["last_delivered_at"], told["requeued_at"]) == (1, None, None)
    task = await task_of(pair, "a", id)
    assert [task[name] for name in ("delivered_at", "acked_at")] == [told["delivered_at"], told["acked_at"]]
    seen = await ok(pair.get(f"/admin/tasks/{id}"))
    assert [seen["facts"][f"{name}_at"] for name in ("delivered", "acknowledged", "answered")] == [
        told[f"{name}_at"] for name in ("delivered", "acked", "answered")
    ]


async def test_an_answer_without_an_ack_acknowledges_the_task(pair: Running) -> None:
    id = await delegate(pair, "a", "b")
    got = await claim_one(pair, "b")
    await respond(pair, "b", id)
    told = await status_of(pair, "a", id)
    assert (told["state"], told["acked_at"]) == ("acked", told["answered_at"])
    assert (await ack(pair, "b", got.receipt))["count"] == 1
    assert (await status_of(pair, "a", id))["acked_at"] == told["acked_at"]


async def test_delivered_to_is_whoever_has_the_task_now(pair: Running, clock: Clock) -> None:
    for worker in ("w1", "w2"):
        await pair.register(worker, agent_id=worker, capabilities=["python"])
    id = await pool_task(pair, "a")
    told = await status_of(pair, "a", id)
    assert (told["to_agent"], told["delivered_to"], told["state"]) == (None, None, "stored")
    for attempt, worker in enumerate(("w1", "w2"), 1):
        await claim_one(pair, worker)
        told = await status_of(pair, "a", id)
        assert (told["delivered_to"], told["attempts"], told["state"]) == (worker, attempt, "delivered")
        clock.skip(61)


async def test_a_reply_names_the_recipients_presence_and_its_age(pair: Running, clock: Clock) -> None:
    clock.stop()
    await ok(pair.post("/heartbeat", {"agent_id": "b"}))
    clock.skip(30)
    for path, more in (("/send", {"content": 1}), ("/delegate", {"task": "t"})):
        reply = await ok(pair.post(path, {"from_agent": "a", "to_agent": "b", **more}))
        recipient = reply["recipient"]
        assert (recipient["agent_id"], recipient["name"], recipient["status"]) == ("b", "Bob", "online")
        assert recipient["age"] in (30, 31)
    clock.skip(100)
    reply = await ok(pair.post("/send", {"from_agent": "a", "to_agent": "b", "content": 1}))
    assert (reply["recipient"]["status"], reply["recipient"]["age"]) in (("stale", 130), ("stale", 131))


async def test_only_its_parties_may_wait_for_a_message(pair: Running) -> None:
    await pair.register("Eve", agent_id="e")
    for id in (await send(pair, "a", "b"), await delegate(pair, "a", "b")):
        await refused(pair.get(f"/messages/{id}?agent_id=e&wait=30"), 403, "not_allowed")


async def test_a_message_of_a_finished_task_still_tells(pair: Running) -> None:
    id = await delegate(pair, "a", "b")
    await respond(pair, "b", id, status="failed")

    async def told() -> bool:
        status = await status_of(pair, "a", id)
        return bool(status["task_status"] == "failed" and status["answered_at"])

    await eventually(told)


async def test_the_end_of_a_task_that_was_looked_at_is_settled_by_the_tasks_id(pair: Running) -> None:
    async def settle(agent_id: str, *tasks: str) -> list[tuple[str, str]]:
        reply = await ok(pair.post("/ack", {"agent_id": agent_id, "tasks": list(tasks)}))
        assert reply["count"] == sum(r["status"] == "acked" for r in reply["results"])
        return [(r["receipt"], r["status"]) for r in reply["results"]]

    held = await delegate(pair, "a", "b")
    await respond(pair, "b", held)
    assert (await claim_one(pair, "a")).message["message_id"] == held
    read, unread = await delegate(pair, "a", "b"), await delegate(pair, "a", "b")
    for task in (read, unread):
        await respond(pair, "b", task, None, status="in_progress", progress=50)
    assert await settle("a", read) == [(read, "lease_lost")]  # it has no end yet
    ends = {task: (await respond(pair, "b", task))["response_id"] for task in (read, unread)}
    assert await settle("b", read) == [(read, "lease_lost")]  # it is not b's
    for _ in range(2):  # repeating it is harmless
        assert await settle("a", read, held, "none") == [
            (read, "acked"),
            (held, "lease_lost"),  # a reader has it at this moment
            ("none", "lease_lost"),
        ]
    status = await status_of(pair, "a", ends[read])
    assert (status["state"], status["delivered_at"] is not None) == ("acked", True)
    got = [g.message for g in await claim(pair, "a", 2)]
    assert [(m["message_id"], m["status"]) for m in got if m["message_id"] != read] == [
        (unread, "in_progress"),
        (unread, "completed"),
    ]
    await refused(pair.post("/ack", {"agent_id": "a"}), 400, "bad_request")
