"""A repeat under the same idempotency key answers as the first did; another request under it is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conftest import Running
from tests.server.asks import claim, delegate, load_of, metrics, nothing_due, ok, refused
from tests.system.raw import Clock
from tests.waiting import eventually

pytestmark = [pytest.mark.both_stores, pytest.mark.durable]

memory = pytest.mark.parametrize("store_kind", ["memory"])

Write = tuple[str, dict[str, Any], dict[str, Any]]
WRITES: dict[str, Write] = {
    "delegate": ("/delegate", {"from_agent": "a", "to_agent": "b", "task": "t"}, {"task": "other"}),
    "send": ("/send", {"from_agent": "a", "to_agent": "b", "content": {"x": 1}}, {"content": {"x": 2}}),
    "broadcast": ("/broadcast", {"from_agent": "a", "content": "c"}, {"content": "other"}),
    "put_file": ("/files", {"file_key": "k", "content": "c", "agent_id": "a"}, {"content": "other"}),
}


def timeless(reply: Any) -> Any:
    """Return a reply without the seconds since its recipient's last sign of life: of all it says, only they go on."""
    recipient = reply.get("recipient")
    return reply if recipient is None else {**reply, "recipient": {**recipient, "age": None}}


writes = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())


@writes
@pytest.mark.shared
async def test_a_repeat_answers_as_the_first_did_and_stores_nothing_twice(pair: Running, write: Write) -> None:
    path, ask, _ = write
    replies = [await ok(pair.post(path, {**ask, "idempotency_key": "k1"})) for _ in range(3)]
    assert timeless(replies[1]) == timeless(replies[0]) == timeless(replies[2])
    (got,) = await claim(pair, "b")
    assert got.message.get("message_id") == replies[0].get("message_id", got.message.get("message_id"))
    await nothing_due(pair, "b")


@writes
async def test_the_key_may_come_in_the_header(pair: Running, write: Write) -> None:
    path, ask, _ = write
    first = timeless(await ok(pair.post(path, ask, headers={"Idempotency-Key": "k1"})))
    again = {**ask, "idempotency_key": "k1"}
    assert timeless(await ok(pair.post(path, again))) == first
    assert timeless(await ok(pair.post(path, again, headers={"Idempotency-Key": "k1"}))) == first
    body = await refused(
        pair.post(path, {**ask, "idempotency_key": "k2"}, headers={"Idempotency-Key": "k1"}), 400, "bad_request"
    )
    assert body["field"] == "idempotency_key"
    await claim(pair, "b", 1)
    await nothing_due(pair, "b")


@writes
@pytest.mark.shared
async def test_another_request_under_the_key_is_refused(pair: Running, write: Write) -> None:
    path, ask, other = write
    await ok(pair.post(path, {**ask, "idempotency_key": "k1"}))
    body = await refused(pair.post(path, {**ask, **other, "idempotency_key": "k1"}), 409, "key_reused")
    assert body["field"] == "idempotency_key"
    await claim(pair, "b", 1)
    await nothing_due(pair, "b")


@writes
async def test_repeats_at_once_store_one(pair: Running, write: Write) -> None:
    path, ask, _ = write
    replies = await asyncio.gather(*(ok(pair.post(path, {**ask, "idempotency_key": "k1"})) for _ in range(8)))
    assert len({str(timeless(reply)) for reply in replies}) == 1
    await claim(pair, "b", 1)
    await nothing_due(pair, "b")


@writes
async def test_another_key_is_another_write(pair: Running, write: Write) -> None:
    path, ask, _ = write
    for key in ("k1", "k2", "K1", "k1 "):
        await ok(pair.post(path, {**ask, "idempotency_key": key}))
    if path == "/files":
        assert (await ok(pair.get("/files/k")))["version"] == 4
    else:
        await claim(pair, "b", 4)


@writes
async def test_keys_belong_to_their_sender(pair: Running, write: Write) -> None:
    path, ask, _ = write
    await pair.register("Cyd", agent_id="c")
    sender = "agent_id" if "agent_id" in ask else "from_agent"
    first = await ok(pair.post(path, {**ask, "idempotency_key": "k1"}))
    second = await ok(pair.post(path, {**ask, sender: "c", "idempotency_key": "k1"}))
    assert first != second


@writes
async def test_a_repeat_is_answered_after_the_message_was_settled(pair: Running, clock: Clock, write: Write) -> None:
    path, ask, _ = write
    first = await ok(pair.post(path, {**ask, "idempotency_key": "k1"}))
    (got,) = await claim(pair, "b")
    await ok(pair.post("/ack", {"agent_id": "b", "receipts": [got.receipt]}))
    clock.skip(110)
    assert timeless(await ok(pair.post(path, {**ask, "idempotency_key": "k1"}))) == timeless(first)
    await nothing_due(pair, "b")


@writes
@pytest.mark.parametrize("key", ["", "x" * 129])
async def test_a_key_has_1_to_128_characters(pair: Running, write: Write, key: str) -> None:
    path, ask, _ = write
    body = await refused(pair.post(path, {**ask, "idempotency_key": key}), 400, "bad_request")
    assert body["field"] == "idempotency_key"
    body = await refused(pair.post(path, ask, headers={"Idempotency-Key": key}), 400, "bad_request")
    assert body["field"] == "Idempotency-Key"
    await ok(pair.post(path, {**ask, "idempotency_key": "☃" * 128}))


async def test_a_key_of_one_kind_of_write_is_free_for_another(pair: Running) -> None:
    for path, ask, _ in WRITES.values():
        await ok(pair.post(path, {**ask, "idempotency_key": "shared"}))


async def test_a_repeat_is_answered_when_the_mailbox_is_full_meanwhile(pair: Running) -> None:
    ask = {"from_agent": "a", "to_agent": "b", "content": "x" * 900_000}
    first = await ok(pair.post("/send", {**ask, "idempotency_key": "k1"}))

    async def full() -> bool:
        return (await pair.post("/send", ask))[0] == 429

    await eventually(full)
    assert timeless(await ok(pair.post("/send", {**ask, "idempotency_key": "k1"}))) == timeless(first)


@pytest.mark.parametrize("named", ["b", "BOB"])
@pytest.mark.parametrize("kind", ["delegate", "send"])
async def test_a_repeat_is_answered_when_the_recipient_has_left(pair: Running, kind: str, named: str) -> None:
    path, ask, other = WRITES[kind]
    ask = {**ask, "to_agent": named, "idempotency_key": "k1"}

    async def asked() -> Any:
        status, body = await pair.post(path, ask)
        assert status in (200, 404), body
        return body if status == 200 else None

    first = await eventually(asked)
    await ok(pair.ask("DELETE", "/agents/b"))
    assert await ok(pair.post(path, ask)) == {**first, "recipient": None}
    await refused(pair.post(path, {**ask, **other}), 409, "key_reused")
    await refused(pair.post(path, {**ask, "to_agent": "a"}), 409, "key_reused")
    await refused(pair.post(path, {**ask, "idempotency_key": "k2"}), 404, "unknown_agent")


@memory
async def test_registering_under_a_key_makes_one_agent(pair: Running) -> None:
    asked = [await ok(pair.post("/register", {"name": "New", "idempotency_key": "r1"})) for _ in range(3)]
    assert len({reply["agent"]["agent_id"] for reply in asked}) == 1
    assert (await ok(pair.get("/discover?name=new")))["count"] == 1
    assert (await load_of(pair, "a"))[0] == 0  # joins are told on websockets alone


async def test_responding_under_a_key_arrives_once(pair: Running) -> None:
    task = await delegate(pair, "a", "b")
    ask = {"from_agent": "b", "message_id": task, "result": 1, "status": "in_progress", "idempotency_key": "k"}
    first = timeless(await ok(pair.post("/respond", ask)))
    assert timeless(await ok(pair.post("/respond", ask))) == first
    await refused(pair.post("/respond", {**ask, "result": 2}), 409, "key_reused")
    await claim(pair, "a", 1)
    await nothing_due(pair, "a")


async def test_the_header_means_nothing_where_nothing_is_written(pair: Running) -> None:
    headers = {"Idempotency-Key": ""}
    await ok(pair.post("/heartbeat", {"agent_id": "a"}, headers=headers))
    await ok(pair.post("/ack", {"agent_id": "a", "receipts": ["r"]}, headers=headers))
    await ok(pair.get("/poll/a", headers=headers))


@memory
async def test_repeats_do_not_count_as_stored(pair: Running) -> None:
    before = (await metrics(pair))["stored_total"]
    for _ in range(3):
        await ok(pair.post("/send", {"from_agent": "a", "to_agent": "b", "content": 1, "idempotency_key": "k"}))
    assert (await metrics(pair))["stored_total"] == before + 1
