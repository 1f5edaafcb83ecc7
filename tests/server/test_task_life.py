"""The life of a task: what its requester sees of it, and what either may do until its one final answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from clawlink.domain.delivery import Delivery
from clawlink.store.base import Absent, Batch, Conflict, Drop, Failed, Put, R
from clawlink.store.memory import MemoryStore
from tests.conftest import Running, Serve
from tests.server.asks import (
    ack,
    claim,
    claim_one,
    delegate,
    metrics,
    nothing_due,
    ok,
    poll,
    refused,
    respond,
    status_of,
    task_of,
)
from tests.system.raw import Clock, connect, request
from tests.tables import each
from tests.waiting import eventually

pytestmark = pytest.mark.both_stores

memory = pytest.mark.parametrize("store_kind", ["memory"])
Until = Callable[[Callable[[], bool]], Awaitable[None]]

TIMES = ("created_at", "queued_at", "delivered_at", "acked_at", "started_at", "finished_at", "deadline_at")


def steps(task: Any) -> list[tuple[str, str | None]]:
    """Return the history as states, and who brought them about."""
    return [(event["status"], event["by"]) for event in task["history"]]


async def cancel(relay: Running, task_id: str, sender: str = "a", **fields: Any) -> Any:
    return await ok(relay.post(f"/tasks/{task_id}/cancel", {"from_agent": sender, **fields}))


async def answer(relay: Running, task_id: str, content: Any, sender: str = "a", **fields: Any) -> Any:
    return await ok(relay.post(f"/tasks/{task_id}/answer", {"from_agent": sender, "content": content, **fields}))


async def news(relay: Running, agent_id: str, count: int = 1) -> list[dict[str, Any]]:
    """Claim and ack this many messages, and return them."""
    got = await claim(relay, agent_id, count)
    await ack(relay, agent_id, *(g.receipt for g in got))
    return [g.message for g in got]


# -- what is seen of it ------------------------------------------------------------------------------------------------


async def test_a_new_task_reads_as_it_was_asked_with_absent_facts_as_null(pair: Running) -> None:
    context = {"deep": [{"er": None}], "text": "ä☃"}
    task_id = await delegate(pair, "a", "b", "count", context=context, priority="high")
    task = await task_of(pair, "a", task_id)
    assert task == {
        "task_id": task_id,
        "requester": "a",
        "assignee": "b",
        "capability": None,
        "to_any_of": None,
        "task": "count",
        "context": context,
        "priority": "high",
        "status": "queued",
        "progress": None,
        "note": None,
        "result": None,
        "attempts": 0,
        "version": task["version"],
        "parent_task": None,
        "hops": 0,
        "created_at": task["created_at"],
        "queued_at": task["created_at"],
        "delivered_at": None,
        "acked_at": None,
        "started_at": None,
        "finished_at": None,
        "deadline_at": None,
        "history": [
            {
                "at": task["created_at"],
                "status": "queued",
                "by": "a",
                "note": None,
                "progress": None,
                "content": None,
            }
        ],
        "history_folded": 0,
        "owner": {**task["owner"], "agent_id": "b", "name": "Bob", "status": "online"},
        "dead_letter": False,
        "woken": [],
        "attachments": [],
        "result_attachments": [],
        "pool_online": None,
    }
    assert task["version"] >= 1


async def test_each_step_has_its_time_and_its_line_in_the_history(pair: Running, clock: Clock) -> None:
    """The seconds between the steps are the test's own, so each time can be told from the others."""
    task_id = await delegate(pair, "a", "b", deadline=3600)
    versions = [(await task_of(pair, "a", task_id))["version"]]

    async def step(status: str) -> Any:
        task = await task_of(pair, "b", task_id)
        assert task["status"] == status
        assert task["version"] > versions[-1]
        versions.append(task["version"])
        assert await task_of(pair, "a", task_id) == task
        return task

    clock.skip(5)
    got = await claim_one(pair, "b")
    task = await step("delivered")
    assert (task["attempts"], task["acked_at"], task["started_at"]) == (1, None, None)
    clock.skip(5)
    await ack(pair, "b", got.receipt)
    task = await step("delivered")
    assert task["started_at"] is None
    clock.skip(5)
    await respond(pair, "b", task_id, {"so": "far"}, status="in_progress", progress=40, note="half way")
    task = await step("in_progress")
    assert (task["progress"], task["note"], task["finished_at"], task["result"]) == (40, "half way", None, None)
    clock.skip(5)
    await respond(pair, "b", task_id, {"the": "end"}, note="well done")
    task = await step("completed")
    assert (task["progress"], task["note"], task["result"]) == (40, "well done", {"the": "end"})

    assert all(task[name] is not None for name in TIMES)
    assert sorted(TIMES, key=task.__getitem__) == [
        *("created_at", "queued_at", "delivered_at", "acked_at", "started_at", "finished_at", "deadline_at")
    ]
    assert steps(task) == [("queued", "a"), ("delivered", "b"), ("in_progress", "b"), ("completed", "b")]
    _, delivered, reported, ended = task["history"]
    assert (delivered["at"], reported["at"], ended["at"]) == tuple(
        task[name] for name in ("delivered_at", "started_at", "finished_at")
    )
    assert (reported["progress"], reported["note"], reported["content"]) == (40, "half way", {"so": "far"})


@each("status", ["completed", "failed", "rejected"])
async def test_the_result_is_the_final_answers(pair: Running, status: str) -> None:
    task_id = await delegate(pair, "a", "b")
    await respond(pair, "b", task_id, "so far", status="in_progress")
    await respond(pair, "b", task_id, {"file": "report.md", "n": [1]}, status=status)
    task = await task_of(pair, "a", task_id)
    assert (task["status"], task["result"]) == (status, {"file": "report.md", "n": [1]})


async def test_only_its_parties_see_a_task(pair: Running) -> None:
    await pair.register("Eve", agent_id="e")
    task_id = await delegate(pair, "a", "b")
    await refused(pair.get(f"/tasks/{task_id}?agent_id=e"), 403, "not_allowed")
    await refused(pair.get(f"/tasks/{task_id}?agent_id=nobody"), 404, "unknown_agent")
    body = await refused(pair.get(f"/tasks/{task_id}"), 400, "bad_request")
    assert body["field"] == "agent_id"
    for asker in "ab":
        assert (await ok(pair.get(f"/tasks/{task_id}", headers={"ClawLink-Agent": asker})))["task_id"] == task_id


async def test_what_is_no_task_is_404(pair: Running) -> None:
    sent = await ok(pair.post("/send", {"from_agent": "a", "to_agent": "b", "content": 1}))
    for task_id in ("none", "☃", sent["message_id"]):
        await refused(pair.get(f"/tasks/{task_id}?agent_id=a"), 404, "unknown_task")
        for path in ("cancel", "answer"):
            ask = {"from_agent": "a", "content": 1}
            await refused(pair.post(f"/tasks/{task_id}/{path}", ask), 404, "unknown_task")


async def test_a_finished_task_is_kept_for_the_retention_time(serve: Serve, clock: Clock) -> None:
    relay = await serve(clock=clock, limits={"retention": 100})
    await relay.register("a", agent_id="a")
    await relay.register("b", agent_id="b")
    task_id = await delegate(relay, "a", "b")
    await respond(relay, "b", task_id)
    clock.skip(98)
    assert (await task_of(relay, "a", task_id))["status"] == "completed"
    clock.skip(4)

    async def forgotten() -> bool:
        return (await relay.get(f"/tasks/{task_id}?agent_id=a"))[0] == 404

    await eventually(forgotten)


async def test_a_long_history_keeps_who_had_it_and_folds_the_oldest_reports(unpaced_pair: Running) -> None:
    relay = unpaced_pair
    task_id = await delegate(relay, "a", "b")
    await claim_one(relay, "b")
    for n in range(110):
        await respond(relay, "b", task_id, None, status="in_progress", progress=n / 2)
    await respond(relay, "b", task_id)
    task = await task_of(relay, "a", task_id)
    assert len(task["history"]) <= 101
    assert len(task["history"]) + task["history_folded"] == 1 + 1 + 110 + 1
    assert steps(task)[:2] == [("queued", "a"), ("delivered", "b")]
    assert steps(task)[-1] == ("completed", "b")
    assert task["history"][-2]["progress"] == 54.5


# -- waiting for it ----------------------------------------------------------------------------------------------------


async def waiting_for(relay: Running, until: Until, task_id: str, asker: str = "a", **query: Any) -> asyncio.Task[Any]:
    """Ask for a task with a wait, and return once the relay waits."""
    before = relay.app.relay.waiting
    asked = asyncio.create_task(task_of(relay, asker, task_id, wait=30, **query))
    await until(lambda: relay.app.relay.waiting == before + 1 or asked.done())
    assert not asked.done()
    return asked


@pytest.mark.both_loops
async def test_a_wait_ends_with_the_next_change_after_a_version(pair: Running, until: Until) -> None:
    task_id = await delegate(pair, "a", "b")
    version = (await task_of(pair, "a", task_id))["version"]

    async def changed(make: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal version
        for_a = await waiting_for(pair, until, task_id, since=version)
        for_b = await waiting_for(pair, until, task_id, "b", since=version)
        made = await make()
        task = await asyncio.wait_for(for_a, 15)
        assert task == await asyncio.wait_for(for_b, 15)
        assert task["version"] > version
        version = task["version"]
        return task, made

    task, got = await changed(lambda: claim_one(pair, "b"))
    assert task["status"] == "delivered"
    task, _ = await changed(lambda: ack(pair, "b", got.receipt))
    assert task["acked_at"] is not None
    task, _ = await changed(lambda: respond(pair, "b", task_id, status="in_progress", progress=5))
    assert (task["status"], task["progress"]) == ("in_progress", 5)
    task, _ = await changed(lambda: respond(pair, "b", task_id, "q", status="input_required"))
    assert task["status"] == "input_required"
    task, _ = await changed(lambda: answer(pair, task_id, "this"))
    assert task["status"] == "in_progress"
    task, _ = await changed(lambda: cancel(pair, task_id))
    assert task["status"] == "cancelled"


async def test_a_wait_for_a_version_that_is_past_returns_at_once(pair: Running) -> None:
    task_id = await delegate(pair, "a", "b")
    task = await asyncio.wait_for(task_of(pair, "a", task_id, wait=30, since=0), 15)
    assert task["status"] == "queued"


@pytest.mark.parametrize("end", ["completed", "failed", "rejected", "cancelled", "expired"])
async def test_a_wait_without_a_version_ends_with_the_task(pair: Running, until: Until, clock: Clock, end: str) -> None:
    task_id = await delegate(pair, "a", "b", deadline=100)
    asked = await waiting_for(pair, until, task_id)
    await claim_one(pair, "b")
    await respond(pair, "b", task_id, "so far", status="in_progress")
    assert not asked.done()
    if end == "cancelled":
        await cancel(pair, task_id)
    elif end == "expired":
        clock.skip(101)
    else:
        await respond(pair, "b", task_id, status=end)
    task = await asyncio.wait_for(asked, 15)
    assert (task["status"], task["finished_at"] is not None) == (end, True)
    assert await asyncio.wait_for(task_of(pair, "a", task_id, wait=30), 15) == task


@pytest.mark.both_loops
async def test_a_wait_is_over_after_its_time_with_the_task_as_it_is(pair: Running) -> None:
    task_id = await delegate(pair, "a", "b")
    version = (await task_of(pair, "a", task_id))["version"]
    for since in ({}, {"since": version}):
        task = await asyncio.wait_for(task_of(pair, "a", task_id, wait=0.05, **since), 15)
        assert (task["status"], task["version"]) == ("queued", version)


@pytest.mark.both_loops
async def test_a_relay_that_drains_answers_those_who_wait_for_a_task(pair: Running, until: Until) -> None:
    task_id = await delegate(pair, "a", "b")
    version = (await task_of(pair, "a", task_id))["version"]
    asked = [await waiting_for(pair, until, task_id), await waiting_for(pair, until, task_id, since=version)]
    await pair.app.relay.drain()
    for waited in asked:
        assert (await asyncio.wait_for(waited, 15))["status"] == "queued"


@pytest.mark.both_loops
async def test_who_hangs_up_while_waiting_for_a_task_is_forgotten(pair: Running, until: Until) -> None:
    task_id = await delegate(pair, "a", "b")
    connection = await connect(pair.url)
    await connection.send(request("GET", f"/tasks/{task_id}?agent_id=a&wait=30"))
    await until(lambda: pair.app.relay.waiting == 1)
    connection.reset()
    await until(lambda: pair.app.relay.waiting == 0)


async def test_a_wait_after_a_wait_misses_nothing_that_stays(unpaced_pair: Running) -> None:
    """An agent that asks again with its version sees the last report, whatever happens in between."""
    task_id = await delegate(unpaced_pair, "a", "b")
    seen: list[float] = []

    async def follow() -> None:
        version = 0
        while True:
            task = await task_of(unpaced_pair, "a", task_id, wait=10, since=version)
            assert task["version"] > version
            version = task["version"]
            if task["progress"] is not None:
                seen.append(task["progress"])
            if task["status"] == "completed":
                return

    following = asyncio.create_task(follow())
    for n in range(60):
        await respond(unpaced_pair, "b", task_id, None, status="in_progress", progress=n)
    await respond(unpaced_pair, "b", task_id, progress=100)
    await asyncio.wait_for(following, 30)
    assert seen == sorted(seen)
    assert seen[-1] == 100


# -- cancel ------------------------------------------------------------------------------------------------------------


async def test_a_task_cancelled_before_it_was_fetched_is_withdrawn(pair: Running) -> None:
    task_id = await delegate(pair, "a", "b")
    reply = await cancel(pair, task_id, note="no longer needed")
    assert reply == {"status": "cancelled", "task_id": task_id, "withdrawn": True}
    await nothing_due(pair, "b")
    await nothing_due(pair, "a")
    task = await task_of(pair, "a", task_id)
    assert (task["status"], task["note"], task["attempts"]) == ("cancelled", "no longer needed", 0)
    assert steps(task) == [("queued", "a"), ("cancelled", "a")]
    assert (await status_of(pair, "a", task_id))["state"] == "withdrawn"


@each("how", ["delivered", "acked", "in_progress", "input_required"])
async def test_a_task_cancelled_after_it_was_fetched_is_told_to_its_assignee(pair: Running, how: str) -> None:
    task_id = await delegate(pair, "a", "b")
    got = await claim_one(pair, "b")
    if how == "acked":
        await ack(pair, "b", got.receipt)
    elif how != "delivered":
        await respond(pair, "b", task_id, "so far", status=how)
        await news(pair, "a")
    reply = await cancel(pair, task_id, note="enough")
    assert reply == {"status": "cancelled", "task_id": task_id, "withdrawn": False}
    (update,) = await news(pair, "b")
    expected = {"type": "task_update", "task_id": task_id, "status": "cancelled", "note": "enough", "by": "a"}
    assert {k: update[k] for k in expected} == expected
    await refused(pair.post("/respond", {"from_agent": "b", "message_id": task_id}), 409, "wrong_state")
    await nothing_due(pair, "a")
    await nothing_due(pair, "b")


async def test_cancelling_again_changes_nothing_and_answers_the_same(pair: Running) -> None:
    task_id = await delegate(pair, "a", "b")
    await claim_one(pair, "b")
    replies = await asyncio.gather(*(cancel(pair, task_id) for _ in range(5)))
    replies.append(await cancel(pair, task_id, note="again"))
    assert replies == [replies[0]] * 6
    assert len(await news(pair, "b")) == 1
    await nothing_due(pair, "b")
    assert steps(await task_of(pair, "a", task_id)).count(("cancelled", "a")) == 1


@each("status", ["completed", "failed", "rejected"])
async def test_a_task_at_its_end_cannot_be_cancelled(pair: Running, status: str) -> None:
    task_id = await delegate(pair, "a", "b")
    await respond(pair, "b", task_id, status=status)
    body = await refused(pair.post(f"/tasks/{task_id}/cancel", {"from_agent": "a"}), 409, "wrong_state")
    assert body["current"] == status
    assert (await task_of(pair, "a", task_id))["status"] == status


async def test_only_the_requester_may_cancel(pair: Running) -> None:
    await pair.register("Eve", agent_id="e")
    task_id = await delegate(pair, "a", "b")
    for other in "be":
        await refused(pair.post(f"/tasks/{task_id}/cancel", {"from_agent": other}), 403, "not_allowed")
    assert (await claim_one(pair, "b")).message["message_id"] == task_id


async def test_of_a_cancel_and_an_answer_at_once_one_counts(pair: Running) -> None:
    for _ in range(10):
        task_id = await delegate(pair, "a", "b")
        (cancelled, _), (answered, _) = await asyncio.gather(
            pair.post(f"/tasks/{task_id}/cancel", {"from_agent": "a"}),
            pair.post("/respond", {"from_agent": "b", "message_id": task_id, "result": 1}),
        )
        assert sorted([cancelled, answered]) == [200, 409]
        task = await task_of(pair, "a", task_id)
        assert task["status"] == ("cancelled" if cancelled == 200 else "completed")
        assert (task["result"] == 1) == (answered == 200)
        if answered == 200:
            await news(pair, "a")
        await nothing_due(pair, "a")


# -- deadline and expiry -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["unfetched", "delivered", "acked", "in_progress"])
@pytest.mark.shared
async def test_a_task_past_its_deadline_expires_and_both_are_told(pair: Running, clock: Clock, how: str) -> None:
    task_id = await delegate(pair, "a", "b", deadline=100)
    if how != "unfetched":
        got = await claim_one(pair, "b")
        if how == "acked":
            await ack(pair, "b", got.receipt)
        elif how == "in_progress":
            await respond(pair, "b", task_id, "so far", status="in_progress")
            await news(pair, "a")
    clock.skip(99)
    for agent_id in "ab":
        await ok(pair.post("/heartbeat", {"agent_id": agent_id}))
    assert (await task_of(pair, "a", task_id))["finished_at"] is None
    clock.skip(2)

    async def expired() -> bool:
        return bool((await task_of(pair, "a", task_id))["status"] == "expired")

    await eventually(expired)
    (update,) = await news(pair, "a")
    assert (update["type"], update["task_id"], update["status"], update["by"]) == (
        *("task_update", task_id, "expired"),
        None,
    )
    if how != "unfetched":
        (update,) = await news(pair, "b")
        assert (update["type"], update["task_id"], update["status"]) == ("task_update", task_id, "expired")
    await nothing_due(pair, "b")
    await nothing_due(pair, "a")
    body = await refused(pair.post("/respond", {"from_agent": "b", "message_id": task_id}), 409, "wrong_state")
    assert body["current"] == "expired"
    await refused(pair.post(f"/tasks/{task_id}/cancel", {"from_agent": "a"}), 409, "wrong_state")


async def test_an_answer_just_after_the_deadline_is_late_even_before_anybody_looked(
    pair: Running, clock: Clock
) -> None:
    task_id = await delegate(pair, "a", "b", deadline=5)
    await claim_one(pair, "b")
    clock.skip(5)
    body = await refused(pair.post("/respond", {"from_agent": "b", "message_id": task_id}), 409, "wrong_state")
    assert body["current"] == "expired"


async def test_a_report_does_not_move_a_deadline(pair: Running, clock: Clock) -> None:
    task_id = await delegate(pair, "a", "b", deadline=100)
    await claim_one(pair, "b", lease=3600)
    before = (await task_of(pair, "a", task_id))["deadline_at"]
    clock.skip(90)
    await respond(pair, "b", task_id, "so far", status="in_progress")
    assert (await task_of(pair, "a", task_id))["deadline_at"] == before
    clock.skip(11)
    await refused(pair.post("/respond", {"from_agent": "b", "message_id": task_id}), 409, "wrong_state")


async def test_the_deadline_goes_with_the_delegation(pair: Running) -> None:
    task_id = await delegate(pair, "a", "b", deadline=100)
    message = (await claim_one(pair, "b")).message
    assert message["deadline_at"] == (await task_of(pair, "b", task_id))["deadline_at"]
    await delegate(pair, "a", "b")
    assert "deadline_at" not in (await claim_one(pair, "b")).message


async def test_a_task_that_nobody_fetches_expires_after_the_message_ttl(serve: Serve, clock: Clock) -> None:
    relay = await serve(clock=clock, limits={"message_ttl": 1000})
    await relay.register("a", agent_id="a")
    await relay.register("b", agent_id="b")
    await poll(relay, "a")
    task_id = await delegate(relay, "a", "b")
    clock.skip(1002)
    (update,) = await news(relay, "a")
    assert (update["task_id"], update["status"]) == (task_id, "expired")
    assert (await status_of(relay, "a", task_id))["state"] == "expired"


@each("deadline", [0, 0.5, -1, 1e9, "soon", True])
async def test_a_deadline_out_of_range_is_400_and_named(pair: Running, deadline: Any) -> None:
    ask = {"from_agent": "a", "to_agent": "b", "task": "t", "deadline": deadline}
    assert (await refused(pair.post("/delegate", ask), 400, "bad_request"))["field"] == "deadline"


# -- input_required ----------------------------------------------------------------------------------------------------


async def asked(relay: Running, question: Any = "which?") -> str:
    """Return a task whose assignee has asked its requester something, who has read it."""
    task_id = await delegate(relay, "a", "b")
    await claim_one(relay, "b")
    await respond(relay, "b", task_id, question, status="input_required")
    (response,) = await news(relay, "a")
    assert (response["type"], response["status"], response["result"]) == ("task_response", "input_required", question)
    return task_id


async def test_both_sides_see_the_whole_exchange(pair: Running) -> None:
    task_id = await asked(pair, {"which": ["red", "blue"]})
    reply = await answer(pair, task_id, {"this": "blue"})
    assert (reply["status"], reply["task_id"], reply["task_status"]) == ("answered", task_id, "in_progress")
    assert reply["recipient"]["agent_id"] == "b"
    (told,) = await news(pair, "b")
    expected = {
        "type": "task_answer",
        "message_id": reply["message_id"],
        "task_id": task_id,
        "from_agent": "a",
        "from_name": "Ann",
        "to_agent": "b",
        "content": {"this": "blue"},
    }
    assert {k: told[k] for k in expected} == expected
    await respond(pair, "b", task_id, "and what size?", status="input_required")
    await answer(pair, task_id, "large")
    await respond(pair, "b", task_id, "done")
    task = await task_of(pair, "a", task_id)
    assert task == await task_of(pair, "b", task_id)
    exchange = [(e["status"], e["by"], e["content"]) for e in task["history"][2:]]
    assert exchange == [
        ("input_required", "b", {"which": ["red", "blue"]}),
        ("in_progress", "a", {"this": "blue"}),
        ("input_required", "b", "and what size?"),
        ("in_progress", "a", "large"),
        ("completed", "b", None),
    ]


async def test_the_same_question_asked_again_after_its_answer_arrives_again(pair: Running) -> None:
    task_id = await asked(pair, "go on?")
    for turn in range(2):
        await answer(pair, task_id, "yes")
        await respond(pair, "b", task_id, "go on?", status="input_required")
        assert [m["result"] for m in await news(pair, "a")] == ["go on?"], turn
    await answer(pair, task_id, "no")
    assert [m["content"] for m in await news(pair, "b", 3)] == ["yes", "yes", "no"]


@pytest.mark.shared
async def test_the_same_answer_again_is_answered_as_the_first_and_arrives_once(pair: Running) -> None:
    task_id = await asked(pair)
    first = await answer(pair, task_id, "this")
    for again in (await answer(pair, task_id, "this"), await answer(pair, task_id, "this")):
        assert (again["message_id"], again["status"]) == (first["message_id"], "answered")
    assert len(await news(pair, "b")) == 1
    await nothing_due(pair, "b")
    assert steps(await task_of(pair, "a", task_id)).count(("in_progress", "a")) == 1


async def test_another_answer_to_the_same_question_is_409(pair: Running) -> None:
    task_id = await asked(pair)
    await answer(pair, task_id, "this")
    ask = {"from_agent": "a", "content": "that"}
    body = await refused(pair.post(f"/tasks/{task_id}/answer", ask), 409, "wrong_state")
    assert body["current"] == "in_progress"
    assert [m["content"] for m in await news(pair, "b")] == ["this"]


async def test_of_different_answers_at_once_one_counts(pair: Running) -> None:
    task_id = await asked(pair)
    asks = [{"from_agent": "a", "content": n} for n in range(8)]
    replies = await asyncio.gather(*(pair.post(f"/tasks/{task_id}/answer", ask) for ask in asks))
    won = [n for n, (status, _) in enumerate(replies) if status == 200]
    assert len(won) == 1
    assert [m["content"] for m in await news(pair, "b")] == won
    await nothing_due(pair, "b")


class Together(MemoryStore):
    """A store at which two requests have looked for a message before either stores it, and the later is faster."""

    def __init__(self) -> None:
        super().__init__()
        self.looking = 2
        self.both = asyncio.Event()
        self.both.set()

    async def get(self, kind: type[R], id: str) -> R | None:
        found = await super().get(kind, id)
        if kind is Delivery and found is None:
            self.looking -= 1
            if not self.looking:
                self.both.set()
            await self.both.wait()
        return found

    async def commit(self, partition_key: str, *changes: Put | Drop | Absent) -> None:
        await super().commit(partition_key, *changes)
        if self.looking <= 0 and isinstance(changes[0], Put) and isinstance(changes[0].record, Delivery):
            for _ in range(50):  # the other goes on first
                await asyncio.sleep(0)


async def test_of_two_answers_that_find_none_one_is_refused(serve: Serve) -> None:
    store = Together()
    relay = await serve(store=store)
    for name in ("a", "b"):
        await relay.register(name, agent_id=name)
    task_id = await asked(relay)
    store.looking = 2
    store.both.clear()
    asks = [{"from_agent": "a", "content": n} for n in range(2)]
    replies = await asyncio.gather(*(relay.post(f"/tasks/{task_id}/answer", ask) for ask in asks))
    assert sorted(status for status, _ in replies) == [200, 409], replies
    (won,) = (n for n, (status, _) in enumerate(replies) if status == 200)
    assert next(body for status, body in replies if status == 409)["code"] == "wrong_state"
    assert [m["content"] for m in await news(relay, "b")] == [won]
    told = await ok(relay.get(f"/tasks/{task_id}?agent_id=a"))
    assert [event["content"] for event in told["history"] if "content" in event][-1] == won


@pytest.mark.parametrize("state", ["queued", "delivered", "in_progress", "completed", "cancelled"])
async def test_there_is_nothing_to_answer_while_nothing_is_asked(pair: Running, state: str) -> None:
    task_id = await delegate(pair, "a", "b")
    if state != "queued":
        await claim_one(pair, "b")
    if state in ("in_progress", "completed"):
        await respond(pair, "b", task_id, status=state)
    elif state == "cancelled":
        await cancel(pair, task_id)
    ask = {"from_agent": "a", "content": "unasked"}
    body = await refused(pair.post(f"/tasks/{task_id}/answer", ask), 409, "wrong_state")
    assert body["current"] == state


async def test_only_the_requester_may_answer(pair: Running) -> None:
    await pair.register("Eve", agent_id="e")
    task_id = await asked(pair)
    for other in "be":
        ask = {"from_agent": other, "content": "x"}
        await refused(pair.post(f"/tasks/{task_id}/answer", ask), 403, "not_allowed")
    await nothing_due(pair, "b")


async def test_a_wait_for_input_is_no_silence(pair: Running, clock: Clock) -> None:
    """An assignee that waits for its requester keeps the task as long as it shows that it is there."""
    task_id = await asked(pair)
    for _ in range(10):
        clock.skip(50)
        await ok(pair.post("/heartbeat", {"agent_id": "b"}))
    await answer(pair, task_id, "at last")
    assert [m["content"] for m in await news(pair, "b")] == ["at last"]
    await respond(pair, "b", task_id)


# -- progress ----------------------------------------------------------------------------------------------------------


async def test_unread_progress_arrives_as_the_newest(pair: Running) -> None:
    task_id = await delegate(pair, "a", "b")
    for n in (10, 20, 30):
        await respond(pair, "b", task_id, None, status="in_progress", progress=n, note=f"at {n}")

    async def newest() -> bool:
        return bool((await task_of(pair, "a", task_id))["progress"] == 30)

    await eventually(newest)
    seen = [(m["type"], m["status"], m["progress"], m["note"]) for m in await all_news(pair, "a")]
    assert ("task_response", "in_progress", 30, "at 30") in seen
    await respond(pair, "b", task_id, None, status="in_progress", progress=40)
    assert [m["progress"] for m in await news(pair, "a")] == [40]
    progress = [e["progress"] for e in (await task_of(pair, "a", task_id))["history"] if e["status"] == "in_progress"]
    assert progress == [10, 20, 30, 40]


async def all_news(relay: Running, agent_id: str) -> list[dict[str, Any]]:
    """Claim and ack what there is, which an index that lags may show as more than one."""
    found: list[dict[str, Any]] = []

    async def some() -> bool:
        reply = await poll(relay, agent_id, lease=60)
        found.extend(m for m in reply["messages"] if m["type"] != "agent_joined")
        if reply["count"]:
            await ack(relay, agent_id, *(held["receipt"] for held in reply["deliveries"]))
        return bool(found) and not reply["count"]

    await eventually(some)
    return found


@memory
async def test_progress_alone_takes_one_place_in_the_mailbox_and_what_has_a_result_its_own(pair: Running) -> None:
    await poll(pair, "a")
    task_id = await delegate(pair, "a", "b")
    for n in range(5):
        await respond(pair, "b", task_id, None, status="in_progress", progress=n)
    await respond(pair, "b", task_id, "a part", status="in_progress", progress=50)
    await respond(pair, "b", task_id, None, status="in_progress", progress=60)
    await respond(pair, "b", task_id, "all", progress=100)
    got = await claim(pair, "a", 3)
    assert [(g.message["progress"], g.message["result"]) for g in got] == [(60, None), (50, "a part"), (100, "all")]
    assert (await metrics(pair))["merged_total"] == 5


@memory
async def test_a_merged_report_can_be_asked_about_under_the_id_it_came_with(pair: Running) -> None:
    await poll(pair, "a")
    task_id = await delegate(pair, "a", "b")
    for n in (1, 2):
        await respond(pair, "b", task_id, None, status="in_progress", progress=n)
    reply = await poll(pair, "a", lease=60)
    ((message,), (held,)) = reply["messages"], reply["deliveries"]
    assert message["progress"] == 2
    assert held["message_id"] == message["response_id"]
    assert (await status_of(pair, "a", message["response_id"]))["state"] == "delivered"


@each("progress", [-1, 100.5, "half", True])
async def test_progress_is_in_percent(pair: Running, progress: Any) -> None:
    task_id = await delegate(pair, "a", "b")
    ask = {"from_agent": "b", "message_id": task_id, "status": "in_progress", "progress": progress}
    assert (await refused(pair.post("/respond", ask), 400, "bad_request"))["field"] == "progress"


async def test_progress_of_nothing_and_of_everything_is_progress(pair: Running) -> None:
    task_id = await delegate(pair, "a", "b")
    for progress in (0, 100, 33.3):
        await respond(pair, "b", task_id, None, status="in_progress", progress=progress)
        assert (await task_of(pair, "a", task_id))["progress"] == progress


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_a_final_answer_withdraws_what_was_not_fetched(pair: Running) -> None:
    task_id = await delegate(pair, "a", "b")
    await respond(pair, "b", task_id)
    await nothing_due(pair, "b")
    assert (await status_of(pair, "a", task_id))["answered_at"] is not None


async def test_an_ack_after_the_answer_is_harmless_whoever_goes_silent_then(pair: Running, clock: Clock) -> None:
    """The relay goes on looking after other tasks long after one was answered first and acked then."""
    task_id = await delegate(pair, "a", "b")
    got = await claim_one(pair, "b")
    await respond(pair, "b", task_id)
    await ack(pair, "b", got.receipt)
    await ok(pair.post("/extend", {"agent_id": "b", "receipts": [got.receipt], "lease": 60}))
    clock.skip(130)
    other = await delegate(pair, "a", "a", deadline=10)
    await respond(pair, "a", other, status="in_progress")
    clock.skip(11)
    version = (await task_of(pair, "a", other))["version"]
    over = await task_of(pair, "a", other, wait=5, since=version)
    assert over["status"] == "expired"
    assert (await task_of(pair, "a", task_id))["status"] == "completed"


async def test_a_repeat_of_the_final_answer_equals_the_first_also_after_an_hour(pair: Running, clock: Clock) -> None:
    task_id = await delegate(pair, "a", "b")
    first = await respond(pair, "b", task_id, {"x": 1}, note="n", progress=100)
    await news(pair, "a")
    clock.skip(3500)
    again = await respond(pair, "b", task_id, {"x": 1}, note="n", progress=100)
    for reply in (first, again):
        reply["recipient"] = None  # its age has changed
    assert first == again
    for other in ({"result": {"x": 2}}, {"note": "m"}, {"progress": 99}, {"status": "failed"}):
        ask = {"from_agent": "b", "message_id": task_id, "result": {"x": 1}, "note": "n", "progress": 100, **other}
        body = await refused(pair.post("/respond", ask), 409, "wrong_state")
        assert body["current"] == "completed"
    await nothing_due(pair, "a")


class Crossing(MemoryStore):
    """A store that has something else happen just before the next commit in order."""

    def __init__(self) -> None:
        super().__init__()
        self.before: list[Callable[[], Awaitable[Any]]] = []

    async def commit_in_order(self, batches: Sequence[Batch]) -> Sequence[Conflict | Failed | None]:
        while self.before:
            await self.before.pop()()
        return await super().commit_in_order(batches)


@memory
async def test_a_report_and_an_answer_that_cross_arrive_once_each(serve: Serve) -> None:
    store = Crossing()
    relay = await serve(store=store)
    for agent_id in ("a", "b"):
        await relay.register(agent_id, agent_id=agent_id)
    task_id = await delegate(relay, "a", "b")
    await news(relay, "b")
    await respond(relay, "b", task_id, "Which one?", status="input_required")
    store.before = [lambda: answer(relay, task_id, "the red one")]
    await respond(relay, "b", task_id, {"half": "done"}, status="in_progress")
    assert [one["result"] for one in await news(relay, "a", 2)] == ["Which one?", {"half": "done"}]
    await nothing_due(relay, "a")
    assert [one["content"] for one in await news(relay, "b")] == ["the red one"]

    await respond(relay, "b", task_id, "And which size?", status="input_required")
    store.before = [lambda: respond(relay, "b", task_id, "Or which shape?", status="input_required")]
    told = await answer(relay, task_id, "a large one")
    assert told["status"] == "answered"
    assert [one["content"] for one in await news(relay, "b")] == ["a large one"]
    await nothing_due(relay, "b")

    await respond(relay, "b", task_id, "Is that all?", status="input_required")
    store.before = [lambda: respond(relay, "b", task_id, "I see", status="in_progress")]
    assert (await answer(relay, task_id, "yes"))["task_status"] == "in_progress"
    assert [one["content"] for one in await news(relay, "b")] == ["yes"]
