"""A delegation is a task: what its requester, its assignee and everyone else may do with it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clawlink.domain.limits import MAX_HISTORY_BYTES
from tests.conftest import Running
from tests.server.asks import (
    ack,
    claim,
    claim_one,
    delegate,
    nothing_due,
    ok,
    refused,
    respond,
    status_of,
    task_of,
)
from tests.system.raw import Clock
from tests.tables import each
from tests.waiting import eventually

pytestmark = pytest.mark.both_stores

FINAL = ["completed", "failed", "rejected"]
OPEN = ["in_progress", "input_required"]


async def answers(relay: Running, count: int) -> list[dict[str, Any]]:
    """Claim and ack this many responses as a."""
    got = await claim(relay, "a", count)
    await ack(relay, "a", *(g.receipt for g in got))
    return [g.message for g in got]


async def test_a_delegation_is_told_to_the_assignee_as_it_was_asked(pair: Running) -> None:
    context = {"deep": [{"er": None}], "number": 1.5, "text": "ä☃"}
    reply = await ok(
        pair.post(
            "/delegate",
            {"from_agent": "a", "to_agent": "b", "task": {"do": 0}, "context": context, "priority": "urgent"},
        )
    )
    assert (reply["status"], reply["delivery"], reply["recipient"]["agent_id"]) == ("delegated", "queued", "b")
    got = (await claim_one(pair, "b")).message
    expected = {
        "type": "task_delegation",
        "message_id": reply["message_id"],
        "from_agent": "a",
        "from_name": "Ann",
        "to_agent": "b",
        "task": {"do": 0},
        "context": context,
        "priority": "urgent",
    }
    assert {k: got[k] for k in expected} == expected


async def test_an_agent_may_delegate_to_itself(pair: Running) -> None:
    task = await delegate(pair, "a", "a")
    assert (await claim_one(pair, "a")).message["message_id"] == task
    await respond(pair, "a", task)
    assert (await claim_one(pair, "a")).message["type"] == "task_response"


@each("result", ["text", "", None, 0, False, [], {"a": [1, {"b": None}]}, 1e300, "\x00\x1f\u2028"])
async def test_a_response_carries_any_result(pair: Running, result: Any) -> None:
    task = await delegate(pair, "a", "b")
    reply = await respond(pair, "b", task, result)
    assert (reply["status"], reply["delivery"], reply["message_id"], reply["task_status"]) == (
        "response_sent",
        "queued",
        task,
        "completed",
    )
    assert reply["recipient"]["agent_id"] == "a"
    (answer,) = await answers(pair, 1)
    assert (answer["result"], answer["status"], answer["from_name"]) == (result, "completed", "Bob")
    assert answer["response_id"] == reply["response_id"]


async def test_to_agent_may_be_left_out_or_be_the_requesters_id_or_name(pair: Running) -> None:
    for to in (None, "a"):
        task = await delegate(pair, "a", "b")
        await respond(pair, "b", task, to_agent=to)
    task = await delegate(pair, "a", "b")

    async def by_name() -> bool:
        status, _ = await pair.post("/respond", {"from_agent": "b", "message_id": task, "to_agent": "ANN", "result": 1})
        assert status in (200, 404)
        return status == 200

    await eventually(by_name)
    assert len(await answers(pair, 3)) == 3


@each("last", FINAL)
@each("first", OPEN)
async def test_reports_may_come_before_the_final_answer(pair: Running, first: str, last: str) -> None:
    task = await delegate(pair, "a", "b")
    for status, result in ((first, "so far"), (first, "further"), (last, "the end")):
        reply = await respond(pair, "b", task, result, status=status)
        assert reply["task_status"] == status
    got = await answers(pair, 3)
    assert sorted((m["status"], m["result"]) for m in got) == sorted(
        [(first, "so far"), (first, "further"), (last, "the end")]
    )


@each("first", FINAL)
@each("second", FINAL + OPEN)
async def test_only_the_first_final_answer_counts(pair: Running, first: str, second: str) -> None:
    task = await delegate(pair, "a", "b")
    await respond(pair, "b", task, "one", status=first)
    ask = {"from_agent": "b", "message_id": task, "result": "two", "status": second}
    body = await refused(pair.post("/respond", ask), 409, "wrong_state")
    assert body["current"] == first
    assert [m["result"] for m in await answers(pair, 1)] == ["one"]
    await nothing_due(pair, "a")


async def test_the_same_final_answer_again_gets_the_same_reply(pair: Running) -> None:
    task = await delegate(pair, "a", "b")
    replies = [await respond(pair, "b", task, {"x": 1, "y": 2}) for _ in range(3)]
    replies.append(await respond(pair, "b", task, {"y": 2, "x": 1}))
    assert {reply["response_id"] for reply in replies} == {replies[0]["response_id"]}
    await answers(pair, 1)
    await nothing_due(pair, "a")


async def test_the_same_report_again_arrives_once_and_another_arrives_too(pair: Running) -> None:
    task = await delegate(pair, "a", "b")
    for result in ("half", "half", "more"):
        await respond(pair, "b", task, result, status="in_progress")
    assert [m["result"] for m in await answers(pair, 2)] == ["half", "more"]
    await respond(pair, "b", task, "half", status="in_progress", idempotency_key="said again on purpose")
    assert [m["result"] for m in await answers(pair, 1)] == ["half"]


async def test_of_many_different_final_answers_at_once_one_counts(pair: Running) -> None:
    task = await delegate(pair, "a", "b")
    asks = [{"from_agent": "b", "message_id": task, "result": n, "status": FINAL[n % 3]} for n in range(12)]
    replies = await asyncio.gather(*(pair.post("/respond", ask) for ask in asks))
    won = [ask for ask, (status, _) in zip(asks, replies, strict=True) if status == 200]
    assert len(won) == 1
    assert {body["code"] for status, body in replies if status != 200} == {"wrong_state"}
    (answer,) = await answers(pair, 1)
    assert (answer["result"], answer["status"]) == (won[0]["result"], won[0]["status"])
    await nothing_due(pair, "a")


async def test_a_task_can_be_answered_before_during_and_after_its_claim(pair: Running, clock: Clock) -> None:
    early = await delegate(pair, "a", "b")
    await respond(pair, "b", early)
    await nothing_due(pair, "b")  # there is nothing left to fetch it for
    held = await delegate(pair, "a", "b")
    got = await claim_one(pair, "b")
    await respond(pair, "b", held)
    (late_ack,) = (await ack(pair, "b", got.receipt))["results"]
    assert late_ack["status"] in ("acked", "lease_lost")
    clock.skip(3600)
    await nothing_due(pair, "b")
    late = await delegate(pair, "a", "b")
    got = await claim_one(pair, "b")
    assert got.message["message_id"] == late
    await ack(pair, "b", got.receipt)
    clock.skip(3600)
    await respond(pair, "b", late)


async def test_a_stranger_may_not_answer(pair: Running) -> None:
    await pair.register("Eve", agent_id="e")
    task = await delegate(pair, "a", "b")
    for stranger in ("e", "a"):
        ask = {"from_agent": stranger, "message_id": task, "result": "x"}
        assert (await refused(pair.post("/respond", ask), 403, "not_allowed"))["field"] == "from_agent"
    await respond(pair, "b", task)
    assert len(await answers(pair, 1)) == 1


async def test_a_response_to_someone_else_is_refused(pair: Running) -> None:
    await pair.register("Eve", agent_id="e")
    task = await delegate(pair, "a", "b")
    ask = {"from_agent": "b", "message_id": task, "result": "x", "to_agent": "e"}
    body = await refused(pair.post("/respond", ask), 403, "not_allowed")
    assert (body["field"], body["current"]) == ("to_agent", "a")
    for to in ("b", "e", "nobody"):
        body = await refused(pair.post("/respond", {**ask, "from_agent": "e", "to_agent": to}), 403, "not_allowed")
        assert (body["field"], body.get("current")) == ("from_agent", None), to  # a stranger is not told who asked
    await nothing_due(pair, "e")


@each("message_id", ["nothing", "☃", "x" * 256])
async def test_a_response_to_no_task_is_404(pair: Running, message_id: str) -> None:
    body = await refused(pair.post("/respond", {"from_agent": "b", "message_id": message_id}), 404, "unknown_task")
    assert body["field"] == "message_id"


async def test_a_response_to_a_message_or_broadcast_is_404(pair: Running) -> None:
    sent = await ok(pair.post("/send", {"from_agent": "a", "to_agent": "b", "content": 1}))
    told = await ok(pair.post("/broadcast", {"from_agent": "a", "content": "c"}))
    for id in (sent["message_id"], told["message_id"]):
        await refused(pair.post("/respond", {"from_agent": "b", "message_id": id}), 404, "unknown_task")


async def test_an_answer_counts_even_if_the_requester_has_left(pair: Running) -> None:
    task = await delegate(pair, "a", "b")
    await ok(pair.ask("DELETE", "/agents/a"))
    reply = await respond(pair, "b", task)
    assert (reply["delivery"], reply["recipient"], reply["task_status"]) == ("none", None, "completed")
    ask = {"from_agent": "b", "message_id": task, "result": "other"}
    await refused(pair.post("/respond", ask), 409, "wrong_state")


async def test_an_answer_reaches_a_stale_requester_and_says_that_it_is(pair: Running, clock: Clock) -> None:
    task = await delegate(pair, "a", "b")
    clock.skip(121)
    assert (await respond(pair, "b", task))["recipient"]["status"] == "stale"
    assert len(await answers(pair, 1)) == 1


async def test_the_requester_sees_how_far_its_task_came(pair: Running) -> None:
    task = await delegate(pair, "a", "b")
    told = await status_of(pair, "a", task)
    assert (told["type"], told["state"], told["task_status"]) == ("task_delegation", "stored", "queued")
    got = await claim_one(pair, "b")
    told = await status_of(pair, "a", task)
    assert (told["state"], told["task_status"]) == ("delivered", "delivered")
    await ack(pair, "b", got.receipt)
    assert (await status_of(pair, "a", task))["state"] == "acked"
    await respond(pair, "b", task, status="in_progress")
    assert (await status_of(pair, "a", task))["task_status"] == "in_progress"
    await respond(pair, "b", task, status="failed")
    told = await status_of(pair, "b", task)
    assert (told["state"], told["task_status"]) == ("acked", "failed")
    assert told["answered_at"] is not None


async def test_an_open_task_lasts_as_long_as_it_is_reported_on(pair: Running, clock: Clock) -> None:
    task = await delegate(pair, "a", "b")
    await ack(pair, "b", (await claim_one(pair, "b")).receipt)
    for n in range(3):
        clock.skip(20 * 3600)
        await pair.register("Ann", agent_id="a")
        await respond(pair, "b", task, n, status="in_progress")
        await asyncio.sleep(0)
    await respond(pair, "b", task)


@each("status", OPEN)
async def test_what_a_history_has_no_room_for_is_413_unless_it_is_the_final_answer(pair: Running, status: str) -> None:
    task = await delegate(pair, "a", "b")
    await claim_one(pair, "b")
    fits, too_large = "x" * (MAX_HISTORY_BYTES - 2), "x" * (MAX_HISTORY_BYTES - 1)  # and two quotation marks
    ask = {"from_agent": "b", "message_id": task, "status": status, "result": too_large}
    body = await refused(pair.post("/respond", ask), 413, "too_large")
    assert (body["field"], body["limit"], body["actual"]) == ("result", MAX_HISTORY_BYTES, MAX_HISTORY_BYTES + 1)
    await nothing_due(pair, "a")
    assert (await task_of(pair, "a", task))["status"] == "delivered"
    for result in (fits, too_large):
        await respond(pair, "b", task, result, status=status if result is fits else "completed")
    assert [len(m["result"]) for m in await answers(pair, 2)] == [len(fits), len(too_large)]


async def test_an_answer_to_a_question_that_a_history_has_no_room_for_is_413_and_names_its_content(
    pair: Running,
) -> None:
    task = await delegate(pair, "a", "b")
    await ack(pair, "b", (await claim_one(pair, "b")).receipt)
    await respond(pair, "b", task, "which?", status="input_required")
    ask = {"from_agent": "a", "content": ["x" * MAX_HISTORY_BYTES]}
    body = await refused(pair.post(f"/tasks/{task}/answer", ask), 413, "too_large")
    assert (body["field"], body["limit"], body["actual"]) == ("content", MAX_HISTORY_BYTES, MAX_HISTORY_BYTES + 4)
    await nothing_due(pair, "b")
    assert (await task_of(pair, "a", task))["status"] == "input_required"
    await ok(pair.post(f"/tasks/{task}/answer", {"from_agent": "a", "content": "this"}))
    assert (await claim_one(pair, "b")).message["content"] == "this"


@each(
    ("path", "fields", "field"),
    [
        ("/delegate", {"task": None}, "task"),
        ("/delegate", {"task": ""}, "task"),
        ("/delegate", {"task": {}}, "task"),
        ("/delegate", {"task": []}, "task"),
        ("/broadcast", {"content": None}, "content"),
        ("/broadcast", {"content": ""}, "content"),
        ("/broadcast", {"content": {}}, "content"),
        ("/broadcast", {"content": "c", "tags": "two\nlines"}, "tags"),
        ("/broadcast", {"content": "c", "tags": ""}, "tags"),
        ("/delegate", {"priority": "asap"}, "priority"),
        ("/delegate", {"to_agent": ""}, "to_agent"),
        ("/delegate", {"to_agent": "x" * 129}, "to_agent"),
        ("/delegate", {"from_agent": 5}, "from_agent"),
        ("/respond", {"status": "done", "receipt": "r"}, "status"),
        ("/respond", {"status": "queued", "receipt": "r"}, "status"),
        ("/respond", {"status": ""}, "status"),
        ("/respond", {"status": "two\nlines"}, "status"),
        ("/respond", {"message_id": "", "to_agent": None}, "message_id"),
        ("/respond", {"message_id": "x" * 257}, "message_id"),
    ],
)
async def test_a_field_out_of_range_is_400_and_named(
    pair: Running, path: str, fields: dict[str, Any], field: str
) -> None:
    ask = {"from_agent": "a", "to_agent": "b", "task": "t", "message_id": "m", "result": 1, **fields}
    assert (await refused(pair.post(path, ask), 400, "bad_request"))["field"] == field
    await nothing_due(pair, "b")
