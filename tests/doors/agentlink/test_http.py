"""The two routes that Agent Link's documents promised."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from clawlink.doors.agentlink import Settings
from tests.conftest import Running, Serve
from tests.doors.agentlink.conftest import SECRETS, DialNew, Joined, ServeLink, Sign
from tests.doors.agentlink.old_client import sign
from tests.doors.agentlink.signed_client import sealed, stamp
from tests.system.raw import connect, request
from tests.virtual_time import pass_time


def old_send(sender: str, to: str, message: str) -> dict[str, Any]:
    secret = SECRETS[sender.partition("/")[0]]
    return {"from": sender, "to": to, "message": message, "signature": sign(secret, f"send:{sender}:{to}:{message}")}


async def test_an_old_message_is_sent(serve_link: ServeLink, join: Joined) -> None:
    relay = await serve_link(token="t")
    b = await join(relay, "b")
    status, body = await relay.post("/api/v1/send", old_send("a/ann", "b/bob", "hello"))
    assert status == 200
    assert (body["status"], body["to"], body["recipient"]) == ("queued", "b/bob", "b/bob")
    got = await b.next("message")
    assert (got["from"], got["message"], got["message_id"]) == ("a/ann", "hello", body["message_id"])


async def test_a_signed_message_is_sent(serve_link: ServeLink, sign_in: Sign) -> None:
    relay = await serve_link(token="t")
    d = await sign_in(relay, "d", "dan")
    frame = {"type": "send", "from": "c/carol", "to": "d/dan", "message": "hi", "time": stamp(), "nonce": "n" * 16}
    status, body = await relay.post("/api/v1/send", sealed({**frame, "id": "1"}, SECRETS["c"]))
    assert (status, body["id"]) == (200, "1")
    assert (await d.frame())["message"] == "hi"


@pytest.mark.virtual_time
async def test_a_drain_keeps_the_connection_of_a_sender(serve_link: ServeLink) -> None:
    relay = await serve_link()
    await relay.register("bob", agent_id="bob")
    sender = await connect(relay.url)
    asked = request("POST", "/api/v1/send", json.dumps(old_send("a/ann", "bob", "hello")).encode())
    assert (await sender.ask(asked)).status == 200
    await relay.app.relay.drain()
    grace = asyncio.create_task(relay.app.grace())
    await pass_time(1)
    answer = await sender.ask(asked)
    assert (answer.status, answer.json["code"], answer.headers.get("connection")) == (503, "draining", None)
    await grace
    sender.close()


@pytest.mark.parametrize(
    ("change", "status", "code", "field"),
    [
        ({"message": "other"}, 403, "not_allowed", "signature"),
        ({"from": "c/carol"}, 403, "not_allowed", "signature"),
        ({"from": "x/y"}, 403, "not_allowed", "from"),
        ({"from": "nobody"}, 400, "bad_request", "from"),
        ({"to": None}, 400, "bad_request", "to"),
        ({"type": "ping"}, 400, "bad_request", "type"),
    ],
)
async def test_what_is_wrong_is_refused(
    serve_link: ServeLink, change: dict[str, Any], status: int, code: str, field: str
) -> None:
    relay = await serve_link()
    got, body = await relay.post("/api/v1/send", {**old_send("a/ann", "b/bob", "hello"), **change})
    assert (got, body["code"], body["field"]) == (status, code, field)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
async def test_a_body_that_is_none_is_refused(serve_link: ServeLink, data: bytes) -> None:
    relay = await serve_link()
    status, body = await relay.ask("POST", "/api/v1/send", data=data)
    assert (status, body["code"].startswith("bad_")) == (400, True)


async def test_a_large_body_is_refused(serve_link: ServeLink) -> None:
    relay = await serve_link(limits={"max_body_bytes": 1000})
    status, body = await relay.post("/api/v1/send", old_send("a/ann", "b/bob", "x" * 2000))
    assert (status, body["code"]) == (413, "too_large")


async def test_an_instance_registers_itself_where_that_is_allowed(serve: Serve, dial_new: DialNew) -> None:
    relay = await serve(token="t", doors={"agentlink": Settings(self_register=True)})
    ask = {"instance_id": "new", "public_key": "pk", "name": "New one"}
    status, body = await relay.post("/api/v1/register", ask)
    assert (status, body["code"]) == (401, "not_authenticated")
    headers = {"Authorization": "Bearer t"}
    status, body = await relay.post("/api/v1/register", ask, headers=headers)
    assert (status, body["status"], body["instance_id"], body["name"]) == (200, "registered", "new", "New one")
    client = await dial_new(relay, "new", secret=body["secret"])
    assert (await client.join("me"))["type"] == "registered"
    for taken in ("new", "NEW", "n\u0435w"):
        status, body = await relay.post("/api/v1/register", {"instance_id": taken}, headers=headers)
        assert (status, body["code"]) == (409, "name_taken")
        assert "secret" not in body
    _, told = await relay.get("/", headers=headers)
    assert told["doors"]["agentlink"] == {"instances": 1, "connections": 1}
    status, body = await relay.post("/api/v1/register", {"instance_id": "a/b"}, headers=headers)
    assert (status, body["field"]) == (400, "instance_id")


async def test_otherwise_it_is_told_whom_to_ask(serve_link: ServeLink) -> None:
    relay = await serve_link()
    status, body = await relay.post("/api/v1/register", {"instance_id": "new"})
    assert (status, body["code"]) == (403, "not_allowed")
    assert "clawlink instance add" in body["error"]


async def test_without_store_who_is_not_there_is_not_written_to(serve_link: ServeLink, join: Joined) -> None:
    relay = await serve_link(no_store=True)
    status, body = await relay.post("/api/v1/send", old_send("a/ann", "b/bob", "hello"))
    assert (status, body["code"], body["current"]) == (409, "wrong_state", "not_connected")
    b = await join(relay, "b")
    status, _ = await relay.post("/api/v1/send", old_send("a/ann", "b/bob", "hello"))
    assert status == 200
    assert (await b.next("message"))["message"] == "hello"


async def test_the_relay_shows_that_it_takes_no_page_of_others(serve_link: ServeLink) -> None:
    relay: Running = await serve_link()
    status, body = await relay.get("/agentlink", headers={"Origin": "https://example.org"})
    assert (status, body["field"]) == (403, "Origin")
