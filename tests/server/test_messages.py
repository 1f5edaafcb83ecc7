"""Plain messages, broadcasts, and how far either came."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conftest import Running, Serve
from tests.server.asks import (
    ack,
    claim,
    claim_one,
    metrics,
    nothing_due,
    ok,
    poll,
    refused,
    send,
    status_of,
)
from tests.system.raw import Clock
from tests.tables import each
from tests.waiting import eventually

pytestmark = pytest.mark.both_stores

memory = pytest.mark.parametrize("store_kind", ["memory"])


# -- send --------------------------------------------------------------------------------------------------------------


@each("content", ["hi", "", None, 0, True, [1, "x"], {"k": {"n": []}}, "\U0001f980 \u202e\x1b[31m"])
async def test_a_message_carries_any_json(pair: Running, content: Any) -> None:
    id = await send(pair, "a", "b", content, in_reply_to="m1", thread="t1", priority="high")
    got = (await claim_one(pair, "b")).message
    expected = {
        "type": "message",
        "message_id": id,
        "from_agent": "a",
        "from_name": "Ann",
        "to_agent": "b",
        "content": content,
        "in_reply_to": "m1",
        "thread": "t1",
    }
    assert {k: got[k] for k in expected} == expected


async def test_what_is_optional_is_null(pair: Running) -> None:
    reply = await ok(pair.post("/send", {"from_agent": "a", "to_agent": "b", "content": 1}))
    assert (reply["status"], reply["delivery"]) == ("sent", "queued")
    got = (await claim_one(pair, "b")).message
    assert (got["in_reply_to"], got["thread"]) == (None, None)


async def test_numbers_keep_their_digits(pair: Running) -> None:
    """Big integers and exact decimals come out as they went in, as far as JSON readers of their own can tell."""
    body = b'{"from_agent":"a","to_agent":"b","content":[12345678901234567890, 0.1, -0.0, 1e22]}'
    assert (await pair.ask("POST", "/send", data=body))[0] == 200
    got = (await claim_one(pair, "b")).message
    assert got["content"] == [12345678901234567890, 0.1, -0.0, 1e22]


@each(
    ("fields", "field"),
    [
        ({"content": ...}, "content"),
        ({"to_agent": ...}, "to_agent"),
        ({"from_agent": ...}, "from_agent"),
        ({"in_reply_to": ""}, "in_reply_to"),
        ({"thread": "x" * 129}, "thread"),
        ({"priority": 1}, "priority"),
    ],
)
async def test_a_field_missing_or_out_of_range_is_400_and_named(
    pair: Running, fields: dict[str, Any], field: str
) -> None:
    ask = {"from_agent": "a", "to_agent": "b", "content": 1, **fields}
    ask = {name: value for name, value in ask.items() if value is not ...}
    assert (await refused(pair.post("/send", ask), 400, "bad_request"))["field"] == field


# -- how far it came ---------------------------------------------------------------------------------------------------


async def test_stored_delivered_and_acked_are_three_facts_and_answered_a_fourth(pair: Running) -> None:
    id = await send(pair, "a", "b")
    told = await status_of(pair, "a", id)
    assert {k: v for k, v in told.items() if not k.endswith("_at")} == {
        "message_id": id,
        "type": "message",
        "from_agent": "a",
        "to_agent": "b",
        "state": "stored",
        "attempts": 0,
        "task_status": None,
        "recipients": 1,
        "counts": {},
        "delivered_to": None,
        "woken": [],
    }
    assert told["stored_at"]
    assert {told[f"{fact}_at"] for fact in ("delivered", "acked", "expired", "dead", "answered")} == {None}

    got = await claim_one(pair, "b")
    told = await status_of(pair, "b", id)
    assert (told["state"], told["attempts"], told["acked_at"]) == ("delivered", 1, None)
    assert (told["delivered_to"], told["answered_at"]) == ("b", None)
    assert told["delivered_at"] >= told["stored_at"]

    await ack(pair, "b", got.receipt)
    told = await status_of(pair, "a", id)
    assert (told["state"], told["attempts"], told["answered_at"]) == ("acked", 1, None)
    assert told["acked_at"] >= told["delivered_at"]

    await send(pair, "b", "a", "yes", in_reply_to=id)
    told = await status_of(pair, "a", id)
    assert told["answered_at"] >= told["acked_at"]


async def test_a_message_given_back_was_delivered_all_the_same(pair: Running) -> None:
    id = await send(pair, "a", "b")
    got = await claim_one(pair, "b")
    await ok(pair.post("/nack", {"agent_id": "b", "receipts": [got.receipt]}))
    told = await status_of(pair, "a", id)
    assert (told["state"], told["attempts"]) == ("delivered", 1)


async def test_a_redelivered_message_counts_its_attempts(pair: Running, clock: Clock) -> None:
    id = await send(pair, "a", "b")
    for attempt in (1, 2, 3):
        await claim_one(pair, "b")
        assert (await status_of(pair, "a", id))["attempts"] == attempt
        clock.skip(60)


async def test_who_asks_may_be_named_in_a_header(pair: Running) -> None:
    id = await send(pair, "a", "b")
    assert (await ok(pair.get(f"/messages/{id}", headers={"ClawLink-Agent": "b"})))["message_id"] == id
    body = await refused(pair.get(f"/messages/{id}"), 400, "bad_request")
    assert body["field"] == "agent_id"


async def test_an_unknown_message_is_404(pair: Running) -> None:
    body = await refused(pair.get("/messages/none?agent_id=a"), 404, "unknown_message")
    assert body["field"] == "message_id"


async def test_the_recipient_of_a_response_or_notice_may_ask_about_it(pair: Running) -> None:
    await ok(pair.post("/files", {"file_key": "k", "content": "c", "agent_id": "a"}))
    notice = await claim_one(pair, "b")
    told = await status_of(pair, "b", notice.message["message_id"])
    assert (told["type"], told["state"]) == ("file_updated", "delivered")


# -- broadcast ---------------------------------------------------------------------------------------------------------


async def test_a_broadcast_reaches_everyone_else_once(pair: Running) -> None:
    others = ["b", *[await pair.register(f"other {n}") for n in range(70)]]
    ask = {"from_agent": "a", "content": "news", "topic": "build.done", "tags": ["x", "y", "x"]}

    reply = await ok(pair.post("/broadcast", {**ask, "idempotency_key": "k"}))
    again = await ok(pair.post("/broadcast", {**ask, "idempotency_key": "k"}))
    assert again == reply
    assert reply["refused"] == 0
    for agent_id in others:
        (got,) = await claim(pair, agent_id)
        assert got.message["message_id"] == reply["message_id"]
        assert {k: got.message[k] for k in ask} == ask
        await ack(pair, agent_id, got.receipt)
        await nothing_due(pair, agent_id)
    await nothing_due(pair, "a")
    assert (await metrics(pair))["broadcasts_total"] == 1


@memory
async def test_a_broadcast_says_how_many_it_reached(pair: Running) -> None:
    for n in range(70):
        await pair.register(f"other {n}")
    assert (await ok(pair.post("/broadcast", {"from_agent": "a", "content": "c"})))["recipients"] == 71


async def test_a_broadcast_to_nobody_is_fine(relay: Running) -> None:
    await relay.register("Ann", agent_id="a")
    reply = await ok(relay.post("/broadcast", {"from_agent": "a", "content": "c"}))
    assert (reply["recipients"], reply["refused"]) == (0, 0)


@memory
async def test_a_broadcast_counts_the_mailboxes_that_had_no_room(serve: Serve) -> None:
    """Broadcasts fill one half of a mailbox, so that work finds room in the other."""
    relay = await serve(limits={"max_mailbox_messages": 4})
    for agent_id in ("a", "b", "c"):
        await relay.register(agent_id, agent_id=agent_id)
        await poll(relay, "a")
    await poll(relay, "b")
    for turn in range(4):
        reply = await ok(relay.post("/broadcast", {"from_agent": "a", "content": str(turn)}))
        assert (reply["recipients"], reply["refused"]) == ((2, 0) if turn < 2 else (0, 2))
    await send(relay, "a", "b")
    await send(relay, "c", "b")
    await refused(relay.post("/send", {"from_agent": "c", "to_agent": "b", "content": 1}), 429, "mailbox_full")


@memory
async def test_the_sender_sees_the_counts_of_all_copies_and_a_recipient_its_own(pair: Running, clock: Clock) -> None:
    await pair.register("Cyd", agent_id="c")
    await pair.register("Dan", agent_id="d")
    id = (await ok(pair.post("/broadcast", {"from_agent": "a", "content": "c"})))["message_id"]
    await ack(pair, "b", (await claim_one(pair, "b")).receipt)
    await claim_one(pair, "c")
    told = await status_of(pair, "a", id)
    assert (told["type"], told["recipients"], told["to_agent"]) == ("knowledge_broadcast", 3, None)
    assert told["counts"] == {"acked": 1, "delivered": 1, "stored": 1}
    assert [(await status_of(pair, agent, id))["state"] for agent in "bcd"] == ["acked", "delivered", "stored"]


async def test_an_agent_that_comes_later_does_not_get_it(pair: Running) -> None:
    await ok(pair.post("/broadcast", {"from_agent": "a", "content": "c"}))
    await pair.register("Late", agent_id="late")
    await nothing_due(pair, "late")


async def test_broadcasts_at_once_all_arrive(pair: Running) -> None:
    await asyncio.gather(*(ok(pair.post("/broadcast", {"from_agent": "a", "content": str(n)})) for n in range(10)))
    got = await claim(pair, "b", 10)
    assert sorted(g.message["content"] for g in got) == sorted(map(str, range(10)))


@each(
    ("fields", "field"),
    [
        ({"content": ""}, "content"),
        ({"topic": ""}, "topic"),
        ({"topic": "x" * 129}, "topic"),
        ({"topic": "two\nlines"}, "topic"),
        ({"tags": ["x"] * 33}, "tags"),
        ({"tags": 1}, "tags"),
        ({"tags": [""]}, "tags[0]"),
    ],
)
async def test_a_broadcast_out_of_range_is_400_and_named(pair: Running, fields: dict[str, Any], field: str) -> None:
    ask = {"from_agent": "a", "content": "c", **fields}
    assert (await refused(pair.post("/broadcast", ask), 400, "bad_request"))["field"] == field


async def test_tags_may_be_null(pair: Running) -> None:
    await ok(pair.post("/broadcast", {"from_agent": "a", "content": "c", "tags": None}))
    assert (await claim_one(pair, "b")).message["tags"] == []


async def test_settled_records_are_bounded(serve: Serve, clock: Clock) -> None:
    """Beyond ``--retention-records`` the oldest settled records are forgotten early; what is unread never is."""
    relay = await serve(clock=clock, limits={"retention_records": 10})
    await relay.register("a", agent_id="a")
    await relay.register("b", agent_id="b")
    ids = [await send(relay, "a", "b", n) for n in range(30)]
    unread = await send(relay, "b", "a", "unread")
    await ack(relay, "b", *(g.receipt for g in await claim(relay, "b", 30)))

    async def evicted() -> bool:
        return (await metrics(relay))["evicted_total"] >= 20

    await eventually(evicted)
    known = [(await relay.get(f"/messages/{id}?agent_id=a"))[0] == 200 for id in ids]
    assert sum(known) <= 11
    assert (await claim_one(relay, "a")).message["message_id"] == unread
