"""A look at a mailbox leases nothing and is no sign of life, and a wake is a fact of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.conftest import Running
from tests.server.asks import ack, claim_one, delegate, ok, pool_task, refused, respond, send, status_of, task_of
from tests.system.raw import Clock
from tests.waiting import eventually

pytestmark = [pytest.mark.both_stores, pytest.mark.durable]

Until = Callable[[Callable[[], bool]], Awaitable[None]]


async def look(relay: Running, agent_id: str = "b", **query: Any) -> Any:
    return await ok(relay.get(f"/agents/{agent_id}/unread", params=query))


async def shows(relay: Running, *ids: str, **query: Any) -> Any:
    """Look until just these messages are there: an index may lag."""
    found: Any = None

    async def there() -> bool:
        nonlocal found
        found = await look(relay, **query)
        return [m["message_id"] for m in found["messages"]] == list(ids) and found["count"] >= len(ids)

    await eventually(there)
    return found


async def wake(relay: Running, id: str, result: str = "started", **fields: Any) -> Any:
    ask = {"agent_id": "b", "adapter": "claude", "result": result, **fields}
    return await ok(relay.post(f"/messages/{id}/woken", ask))


async def test_a_look_takes_nothing_and_is_no_sign_of_life(pair: Running, clock: Clock) -> None:
    first = await send(pair, "a", "b", "one  two\nthree four")
    task = await delegate(pair, "a", "b", "build it", priority="high")
    found = await shows(pair, task, first, words=9)
    assert (found["agent_id"], found["count"]) == ("b", 2)
    assert found["senders"] == [{"agent_id": "a", "name": "Ann", "count": 2}]
    facts = [(m["type"], m["from_agent"], m["from_name"], m["attempts"], m["words"]) for m in found["messages"]]
    assert facts == [("task_delegation", "a", "Ann", 0, "build it"), ("message", "a", "Ann", 0, "one two …")]
    assert all("words" not in m for m in (await look(pair))["messages"])
    clock.skip(50)
    before = (await ok(pair.get("/discover", params={"status": "all", "name": "Bob"})))["agents"][0]
    await look(pair)
    await wake(pair, first)
    after = (await ok(pair.get("/discover", params={"status": "all", "name": "Bob"})))["agents"][0]
    assert after["last_heartbeat"] == before["last_heartbeat"]
    got = await claim_one(pair, "b", max=1)
    assert (got.message["message_id"], got.attempt) == (task, 1)
    held = await shows(pair, first)
    assert held["count"] == 2  # one is in the hands of a reader, and not read
    await ack(pair, "b", got.receipt)
    await eventually(lambda: _count_is(pair, 1))


async def _count_is(relay: Running, count: int) -> bool:
    return bool((await look(relay))["count"] == count)


async def test_a_look_waits_for_what_is_newer(pair: Running, until: Until) -> None:
    nothing = await look(pair)
    assert (nothing["messages"], nothing["senders"], nothing["latest"]) == ([], [], 0)
    first = await send(pair, "a", "b", {"is": "no text"})
    seen = await shows(pair, first, words=80)
    assert seen["messages"][0]["words"] == '{"is":"no text"}'
    assert (await look(pair, since=seen["latest"], wait=0.05))["latest"] == seen["latest"]
    before = pair.app.relay.waiting
    waiting = asyncio.create_task(look(pair, since=seen["latest"], wait=30))
    await until(lambda: pair.app.relay.waiting == before + 1)
    assert not waiting.done()
    second = await send(pair, "a", "b")
    told = await asyncio.wait_for(waiting, 15)
    assert [m["message_id"] for m in told["messages"]] == [first, second]
    assert told["latest"] > seen["latest"]


async def test_a_wake_shows_in_the_receipt_and_in_the_task(pair: Running) -> None:
    message = await send(pair, "a", "b")
    assert (await status_of(pair, "a", message))["woken"] == []
    await wake(pair, message, "failed", note="no session", idempotency_key="k1")
    again = await wake(pair, message, "failed", note="no session", idempotency_key="k1")
    assert [(w["adapter"], w["result"], w["note"]) for w in again["woken"]] == [("claude", "failed", "no session")]
    await wake(pair, message)
    told = await status_of(pair, "a", message)
    assert [w["result"] for w in told["woken"]] == ["failed", "started"]
    assert (told["state"], told["delivered_at"], told["attempts"]) == ("stored", None, 0)

    task = await delegate(pair, "a", "b")
    version = (await task_of(pair, "a", task))["version"]
    await wake(pair, task)
    # A requester that waits for a change is told.
    assert (await task_of(pair, "a", task, since=version, wait=5))["woken"][0]["adapter"] == "claude"
    await eventually(lambda: _claims(pair, task))
    await respond(pair, "b", task, "half", status="in_progress")  # now the task has a record of its own
    await wake(pair, task, "given_up")
    await respond(pair, "b", task)
    done = await task_of(pair, "a", task)
    assert [w["result"] for w in done["woken"]] == ["started", "given_up"]
    assert [w["result"] for w in (await status_of(pair, "a", task))["woken"]] == ["started", "given_up"]
    assert done["status"] == "completed"


async def _claims(relay: Running, id: str) -> bool:
    got = await ok(relay.get("/poll/b", params={"lease": 60}))
    return id in [m["message_id"] for m in got["messages"]]


async def test_the_requester_of_a_task_is_told_once_that_its_worker_could_not_be_woken(pair: Running) -> None:
    task = await delegate(pair, "a", "b")
    for id in (task, task):
        await wake(pair, id, "given_up", idempotency_key="k1")

    async def told() -> list[Any]:
        return list((await look(pair, "a", words=200))["messages"])

    (update,) = await eventually(told)
    assert update["type"] == "task_update"
    assert "could not be woken" in update["words"]
    await claim_one(pair, "a")
    await eventually(lambda: _claims(pair, task))
    await respond(pair, "b", task)
    await claim_one(pair, "a")
    await wake(pair, task, "given_up", idempotency_key="k2")
    assert (await look(pair, "a"))["messages"] == [], "a task that has ended needs no worker"


async def test_the_sender_of_a_message_is_told_once_that_its_reader_could_not_be_woken(pair: Running) -> None:
    first, second = await send(pair, "a", "b"), await send(pair, "a", "b", "again")
    for id, key in ((first, "k1"), (first, "k1"), (second, "k2")):
        await wake(pair, id, "failed", idempotency_key=key + "-1")
        await wake(pair, id, "given_up", idempotency_key=key)
    update = (await claim_one(pair, "a")).message
    assert (update["type"], update["about"], update["status"]) == ("message_update", second, "given_up")
    assert update["note"] == "Bob could not be woken; the message waits in its mailbox"
    # A later end of the chain says nothing new, and there is no notice about a notice.
    await wake(pair, first, "given_up", idempotency_key="k3")
    ask = {"agent_id": "a", "adapter": "claude", "result": "given_up"}
    await ok(pair.post(f"/messages/{update['message_id']}/woken", ask))
    told_all = await ok(pair.post("/broadcast", {"from_agent": "a", "content": "news", "topic": "t"}))
    await wake(pair, told_all["message_id"], "given_up")
    own = await send(pair, "b", "b")
    await wake(pair, own, "given_up")
    for reader, ids in (("a", []), ("b", [first, second, told_all["message_id"], own])):
        found = await look(pair, reader)
        assert [m["message_id"] for m in found["messages"] if m["type"] == "message_update"] == [], reader
        assert set(ids) <= {m["message_id"] for m in found["messages"]}
    # Mail that was read meanwhile is no news.
    third = await send(pair, "a", "b", "third")
    await eventually(lambda: _claims(pair, third))
    await wake(pair, third, "given_up", idempotency_key="k4")
    assert (await look(pair, "a"))["messages"] == []


async def test_a_wake_of_a_broadcast_is_of_the_own_copy(pair: Running) -> None:
    told = await ok(pair.post("/broadcast", {"from_agent": "a", "content": "news", "topic": "t"}))
    stored = await wake(pair, told["message_id"])
    assert stored["woken"][0]["result"] == "started"


async def test_only_the_reader_may_look_or_tell(pair: Running) -> None:
    key = (await ok(pair.post("/register", {"name": "Eve", "agent_id": "e", "claim": True})))["agent_key"]
    message, pooled = await send(pair, "a", "b"), await pool_task(pair, "a")
    ask = {"agent_id": "a", "adapter": "x", "result": "started"}
    for id, body, status, code in (
        (message, ask, 403, "not_allowed"),
        (message, {**ask, "agent_id": "nobody"}, 404, "unknown_agent"),
        (message, {**ask, "agent_id": "e"}, 403, "not_allowed"),
        (pooled, {**ask, "agent_id": "b"}, 403, "not_allowed"),
        ("nothing", {**ask, "agent_id": "b"}, 404, "unknown_message"),
        (message, {**ask, "agent_id": "b", "result": "delivered"}, 400, "bad_request"),
        (message, {**ask, "agent_id": "b", "note": "two\nlines"}, 400, "bad_request"),
        (message, {**ask, "agent_id": "b", "note": "n" * 257}, 400, "bad_request"),
    ):
        await refused(pair.post(f"/messages/{id}/woken", body), status, code)
    await refused(pair.get("/agents/e/unread"), 403, "not_allowed")
    await ok(pair.get("/agents/e/unread", headers={"ClawLink-Agent-Key": key}))
    for query in ({"limit": 101}, {"words": 501}, {"wait": 61}, {"since": -1}):
        await refused(pair.get("/agents/b/unread", params=query), 400, "bad_request")
