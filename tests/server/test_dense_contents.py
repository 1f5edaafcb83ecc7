"""Contents of very many parts: passed on as they came, by every route, and to every reader."""

from __future__ import annotations

from typing import Any

from clawlink.domain.dense_json import MAX_PARTS
from tests.conftest import Running
from tests.server.asks import ack, claim, claim_one, delegate, ok, refused, respond, send, task_of
from tests.server.sockets import websocket

CONTENT: Any = [[], {}] * MAX_PARTS + [{"text": "a, b", "number": 1.5}]


def same(*pairs: tuple[Any, Any]) -> bool:
    """Return True if each two values are equal; a failure of pytest's own would print megabytes."""
    return all(one == other for one, other in pairs)


async def test_every_message_carries_it(pair: Running) -> None:
    await send(pair, "a", "b", CONTENT)
    got = await claim_one(pair, "b")
    assert same((got.message["content"], CONTENT))
    await ack(pair, "b", got.receipt)

    id = await delegate(pair, "a", "b", CONTENT, context={"rows": CONTENT})
    got = await claim_one(pair, "b")
    assert same((got.message["task"], CONTENT), (got.message["context"], {"rows": CONTENT}))
    await respond(pair, "b", id, result=CONTENT, receipt=got.receipt)
    got = await claim_one(pair, "a")
    assert same((got.message["result"], CONTENT))
    await ack(pair, "a", got.receipt)
    task = await task_of(pair, "a", id)
    assert same((task["task"], CONTENT), (task["context"], {"rows": CONTENT}), (task["result"], CONTENT))

    await ok(pair.post("/broadcast", {"from_agent": "a", "content": CONTENT}))
    assert same(((await claim_one(pair, "b")).message["content"], CONTENT))
    (known,) = (await ok(pair.get("/broadcasts")))["broadcasts"]
    assert same((known["content"], CONTENT))


async def test_a_repeat_is_known_by_its_bytes(pair: Running) -> None:
    ask = {"from_agent": "a", "to_agent": "b", "content": CONTENT, "idempotency_key": "k"}
    first = await ok(pair.post("/send", ask))
    assert (await ok(pair.post("/send", ask)))["message_id"] == first["message_id"]
    await refused(pair.post("/send", {**ask, "content": [*CONTENT, 1]}), 409, "key_reused")


async def test_a_frame_carries_it(pair: Running) -> None:
    async with websocket(pair, "a") as peer:
        reply = await peer.ask("send", to_agent="b", content=CONTENT)
        assert reply["status"] == "sent"
        own = await peer.ask("delegate", to_agent="b", task=CONTENT, of_my_own=CONTENT)
        assert own["status"] == "delegated"
    said, asked = (got.message for got in await claim(pair, "b", 2))
    assert same((said["content"], CONTENT), (asked["task"], CONTENT), (asked["of_my_own"], CONTENT))


async def test_a_field_that_takes_no_such_value_is_named(pair: Running) -> None:
    ask = {"agent_id": "a", "receipts": CONTENT}
    error = await refused(pair.post("/ack", ask), 400, "bad_request")
    assert (error["field"], error["limit"]) == ("receipts", MAX_PARTS)
    await ok(pair.post("/send", {"from_agent": "a", "to_agent": "b", "content": 1, "field_of_my_own": CONTENT}))
    async with websocket(pair, "a") as peer:
        error = await peer.refused("ack", "bad_request", receipts=CONTENT)
        assert error["field"] == "receipts"
