"""Connections: kept alive, closed when asked to, and never out of step."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import Running, Serve
from tests.server.asks import claim_one, send
from tests.system.conftest import Dial
from tests.system.raw import exchange, request
from tests.tables import each
from tests.waiting import PATIENCE

HOST = b"Host: 127.0.0.1\r\n"


@pytest.fixture
async def relay(serve: Serve) -> Running:
    relay = await serve()
    await relay.register("Ann", agent_id="a")
    await relay.register("Bob", agent_id="b")
    return relay


@each("path", ["/healthz", "/", "/discover", "/poll/a", "/metrics", "/openapi.json", "/nowhere", "/files/x"])
async def test_a_connection_stays_open_after_every_reply(relay: Running, dial: Dial, path: str) -> None:
    connection = await dial(relay.url)
    for _ in range(3):
        answer = await connection.ask(request("GET", path))
        assert int(answer.headers["content-length"]) == len(answer.body)
        assert answer.headers["date"]
        assert answer.headers.get("connection", "keep-alive").lower() == "keep-alive"


@each("path", ["/healthz", "/poll/b", "/poll/b?lease=60", "/nowhere"])
async def test_a_client_that_asks_to_close_gets_its_reply_and_the_end(relay: Running, dial: Dial, path: str) -> None:
    await send(relay, "a", "b")
    connection = await dial(relay.url)
    answer = await connection.ask(request("GET", path, Connection="close"))
    assert answer.json
    assert await asyncio.wait_for(connection.reader.read(), 15) == b""


@each("path", ["/healthz", "/poll/b", "/poll/b?lease=60", "/nowhere"])
async def test_a_client_of_http_1_0_is_answered(relay: Running, dial: Dial, path: str) -> None:
    await send(relay, "a", "b")
    connection = await dial(relay.url)
    answer = await connection.ask(b"GET " + path.encode() + b" HTTP/1.0\r\n" + HOST + b"\r\n")
    assert answer.json
    assert await asyncio.wait_for(connection.reader.read(), 15) == b""


@each("path", ["/healthz", "/discover", "/poll/b", "/nowhere"])
async def test_head_gets_no_body_and_takes_nothing(relay: Running, dial: Dial, path: str) -> None:
    id = await send(relay, "a", "b")
    connection = await dial(relay.url)
    await connection.send(request("HEAD", path))
    head = await asyncio.wait_for(connection.reader.readuntil(b"\r\n\r\n"), PATIENCE)
    assert head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 404 ", b"HTTP/1.1 405 "))
    if b"\r\nconnection: close" not in head.lower():
        assert (await connection.ask(request("GET", "/healthz"))).json["status"] == "ok"
    got = await claim_one(relay, "b")
    assert (got.message["message_id"], got.attempt) == (id, 1)


async def test_a_body_where_none_belongs_does_not_become_the_next_request(relay: Running, dial: Dial) -> None:
    connection = await dial(relay.url)
    smuggled = request("GET", "/nowhere")
    answer = await connection.ask(request("GET", "/healthz", smuggled))
    assert answer.json["status"] == "ok"
    assert (await connection.ask(request("GET", "/healthz"))).json["status"] == "ok"


async def test_a_body_that_was_refused_unread_does_not_become_the_next_request(relay: Running, dial: Dial) -> None:
    connection = await dial(relay.url)
    await connection.send(request("POST", "/nowhere", request("GET", "/discover")) + request("GET", "/healthz"))
    assert (await connection.answer()).status == 404
    assert (await connection.answer()).json["status"] == "ok"


@each("path", ["/heartbeat", "/nowhere"])
async def test_a_client_that_waits_for_leave_to_send_its_body_gets_it(relay: Running, dial: Dial, path: str) -> None:
    connection = await dial(relay.url)
    body = b'{"agent_id":"a"}'
    answer = await connection.ask(request("POST", path, Expect="100-continue", Content_Length=str(len(body))))
    if answer.status == 100:
        answer = await connection.ask(body)
    assert answer.status == (200 if path == "/heartbeat" else 404)


async def test_no_header_of_a_reply_can_be_written_by_its_asker(relay: Running) -> None:
    for path in ("/files/a%0d%0aX-Evil:%20yes", "/poll/a%0d%0aX-Evil:%20yes", "/nowhere%0d%0aX-Evil:%20yes"):
        answer = await exchange(relay.url, request("GET", path))
        assert "x-evil" not in answer.headers


async def test_a_poll_that_waits_does_not_hold_up_what_else_its_agent_does(relay: Running, dial: Dial) -> None:
    polling = await dial(relay.url)
    await polling.send(request("GET", "/poll/b?wait=10&lease=60&max=1"))
    id = await asyncio.wait_for(send(relay, "b", "b"), 15)
    assert (await polling.answer(2)).json["messages"][0]["message_id"] == id
