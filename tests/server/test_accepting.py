"""Connections that nobody needs, or that are too many: over real sockets, on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import operator
import os
import select
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clawlink.config import ServerConfig
from clawlink.domain.limits import Limits
from clawlink.server.app import App
from tests.conftest import Running, Serve
from tests.system.raw import Connection, address, request
from tests.tables import each
from tests.virtual_time import pass_time
from tests.waiting import PATIENCE, soon

pytestmark = pytest.mark.both_loops

ASK = request("GET", "/healthz")
DATA = Path(__file__).parents[1] / "data"

Dial = Callable[[str], Awaitable[Connection]]
Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
def store_kind() -> str:
    """Name the store, of which nothing here depends."""
    return "memory"


async def ended(connection: Connection) -> bytes:
    """Return what still comes until the relay ends the connection."""
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(connection.reader.read(), 30)
    return b""


async def open_connections(dial: Dial, relay: Running, count: int) -> list[Connection]:
    """Open connections that have a request answered, each before the next."""
    found = []
    for _ in range(count):
        found.append(await dial(relay.url))
        assert (await found[-1].ask(ASK)).status == 200
    return found


async def test_a_head_that_does_not_come_ends_the_connection(
    dial: Dial, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawlink.server.ceiling.HEAD_SECONDS", 1.0)
    relay = await serve()
    await relay.register("a", agent_id="a")
    waiting = asyncio.create_task(relay.get("/poll/a?wait=2"))
    async with relay.session.ws_connect(f"{relay.url}/ws/a?lease=30") as ws:
        silent, half, kept = [await dial(relay.url) for _ in range(3)]
        await half.send(ASK[:-2])
        assert (await kept.ask(ASK)).status == 200
        await kept.send(b"GET /hea")
        assert await ended(silent) == b""
        for connection in (half, kept):
            answer = await connection.answer(30)
            assert (answer.status, answer.json["code"], answer.json["limit"]) == (408, "body_timeout", 30)
            assert await ended(connection) == b""
        await relay.get("/healthz")
        await ws.send_json({"type": "heartbeat", "id": 1})
        assert (await soon(ws.receive_json()))["id"] == 1
    assert (await waiting)[0] == 200
    assert relay.app.connections <= 2


async def test_a_head_that_began_before_the_relay_accepted_ends_in_an_answer(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawlink.server.ceiling.HEAD_SECONDS", 1.0)
    relay = await serve()
    with socket.create_connection(address(relay.url)) as early:
        early.sendall(ASK[:-2])
        early.setblocking(False)
        answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(early, 1024), 30)
    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.virtual_time
async def test_a_head_of_a_byte_at_a_time_ends_the_connection(dial: Dial, serve: Serve) -> None:
    relay = await serve()
    slow = await dial(relay.url)
    end = asyncio.create_task(slow.reader.read())
    for byte in (ASK[:-1] * 2)[:60]:
        await slow.send(bytes([byte]))
        await pass_time(1)
        if end.done():
            break
    assert end.done(), "HEAD_SECONDS are 30"
    assert b" 408 " in end.result() or end.result() == b""  # its next bytes may have reset the connection
    assert (await relay.get("/healthz"))[0] == 200


async def test_an_idle_connection_ends(
    dial: Dial,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clawlink.server.ceiling.IDLE_SECONDS", 1.0)
    relay = await serve()
    await relay.register("a", agent_id="a")
    (idle,) = await open_connections(dial, relay, 1)
    waiting = await dial(relay.url)
    await waiting.send(request("GET", "/poll/a?wait=2"))
    assert await ended(idle) == b""
    assert (await waiting.answer(30)).status == 200


async def test_a_connection_with_a_slow_request_is_not_idle(
    dial: Dial, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawlink.server.ceiling.IDLE_SECONDS", 1.0)
    relay = await serve()
    slow, idle = await open_connections(dial, relay, 2)
    asked = request("POST", "/register", b'{"agent_id":"a"}')
    await slow.send(asked[:-4])
    assert await ended(idle) == b""  # it was idle for a shorter time than the other had no answer
    await slow.send(asked[-4:])
    assert (await slow.answer(30)).status == 200
    assert await ended(slow) == b""


@each("method, path", [("POST", "/send"), ("PUT", "/blobs/k")])
async def test_bodies_under_way_do_not_hide_an_idle_connection(
    dial: Dial, serve: Serve, method: str, path: str
) -> None:
    relay = await serve(limits={"max_connections": 800})
    await relay.register("a", agent_id="a")
    *busy, idle = await open_connections(dial, relay, 600)  # an address has 3/4, and 512 are asked to make room
    for connection in busy:
        await connection.send(request(method, path, b"x" * 100, ClawLink_Agent="a")[:-50])
    assert (await idle.ask(ASK)).status == 200
    assert (await (await dial(relay.url)).ask(ASK)).status == 200
    assert await ended(idle) == b""


async def test_each_refusal_of_a_connection_has_a_turn_of_its_own(dial: Dial, serve: Serve, until: Until) -> None:
    relay = await serve(limits={"max_connections": 2})
    await relay.register("a", agent_id="a")
    for _ in range(2):
        busy = await dial(relay.url)
        await busy.ask(ASK)
        await busy.send(request("GET", "/poll/a?wait=60&lease=60"))
    await until(lambda: relay.app.relay.waiting == 2)
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(socket.create_connection(address(relay.url))) for _ in range(10)]
        answered = [0]

        async def all_answered() -> None:
            while answered[-1] < len(peers):
                await asyncio.sleep(0)
                answered.append(len(select.select(peers, [], [], 0)[0]))

        await asyncio.wait_for(all_answered(), PATIENCE)
    assert max(map(operator.sub, answered[1:], answered)) == 1


async def test_an_idle_connection_makes_room_and_else_a_new_one_is_refused(
    dial: Dial, serve: Serve, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    for flag, limits in (
        ("--max-connections", {"max_connections": 3}),
        ("--max-connections-address", {"max_connections": 4, "max_connections_address": 3}),
    ):
        relay = await serve(limits=limits)
        waiting = relay.app.relay
        (first,) = await open_connections(dial, relay, 1)
        assert (await first.ask(request("POST", "/register", b'{"agent_id":"a"}'))).status == 200
        (second,) = await open_connections(dial, relay, 1)
        busy = await dial(relay.url)
        await busy.send(request("GET", "/poll/a?wait=30&lease=30"))
        await until(lambda: waiting.waiting == 1)  # noqa: B023
        (third,) = await open_connections(dial, relay, 1)
        assert await ended(first) == b"", flag
        for connection in (second, third):
            assert (await connection.ask(ASK)).status == 200, flag
            await connection.send(request("GET", "/poll/a?wait=30&lease=30"))
        await until(lambda: waiting.waiting == 3)  # noqa: B023
        with caplog.at_level(logging.WARNING, "clawlink"):
            caplog.clear()
            for _ in range(4):
                refused = await (await dial(relay.url)).ask(ASK)
                assert (refused.status, refused.json["code"], refused.json["limit"]) == (503, "unavailable", 3), flag
                assert refused.json["error"].endswith(f"or raise {flag}")
                assert refused.headers["retry-after"] == "5"
            assert [record.getMessage() for record in caplog.records] == ["connections refused"], flag
        busy.reset()
        await until(lambda: waiting.waiting == 2)  # noqa: B023
        metrics = (await (await dial(relay.url)).ask(request("GET", "/metrics"))).body.decode()
        assert "\nclawlink_connections_refused_total 4\n" in metrics, flag
        assert "\nclawlink_connections 3\n" in metrics, flag


async def test_connections_of_declared_proxies_have_no_limit_by_address(dial: Dial, serve: Serve) -> None:
    relay = await serve(limits={"max_connections_address": 2}, trust_proxies=("127.0.0.1",))
    for connection in await open_connections(dial, relay, 4):
        assert (await connection.ask(ASK)).status == 200


@contextlib.contextmanager
def no_more_files() -> Iterator[None]:
    """Have this process open no more files."""
    resource: Any = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(0)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 64, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in taken:
            os.close(number)


async def test_without_files_accepting_pauses_and_the_connected_go_on(
    dial: Dial, serve: Serve, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    relay = await serve()
    (connected,) = await open_connections(dial, relay, 1)
    loop = asyncio.get_running_loop()
    sockets = [socket.socket() for _ in range(20)]
    for sock in sockets:
        sock.setblocking(False)
    with caplog.at_level(logging.WARNING), no_more_files():
        await asyncio.gather(*(loop.sock_connect(sock, address(relay.url)) for sock in sockets))
        stats = relay.app.relay.stats
        await until(lambda: stats.connections_refused >= 2)
        assert (await connected.ask(ASK)).status == 200
        assert stats.connections_refused < 5  # one a second, however many wait
        assert [(record.getMessage(), record.exc_info) for record in caplog.records] == [("accepting pauses", None)]
    for sock in sockets:
        await loop.sock_sendall(sock, ASK)
        assert (await asyncio.wait_for(loop.sock_recv(sock, 12), 30)).endswith(b"200")
        sock.close()


async def test_a_peer_that_has_gone_and_left_no_address_ends_no_accepting(
    dial: Dial, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system of macOS gives such connections, as to clients that try two addresses at once."""
    without: list[Any] = [None, ""]
    really = socket.socket.accept

    def accept(listening: socket.socket) -> tuple[socket.socket, Any]:
        connection, peer = really(listening)
        return connection, without.pop() if without else peer

    monkeypatch.setattr(socket.socket, "accept", accept)
    relay = await serve()
    for _ in range(len(without)):
        assert await ended(await dial(relay.url)) == b""
    assert (await (await dial(relay.url)).ask(ASK)).status == 200


async def test_a_handshake_that_does_not_finish_has_a_place_and_ends(
    dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawlink.server.accepting.HEAD_SECONDS", 0.5)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(DATA / "tls-cert.pem", DATA / "tls-key.pem")
    app = App(ServerConfig(port=0, limits=Limits(max_connections=3)))
    url = f"http://127.0.0.1:{await app.start(tls=context, close_seconds=0.1)}"
    try:
        silent = [await dial(url) for _ in range(3)]
        assert await ended(await dial(url)) == b""
        for connection in silent:
            await ended(connection)
        trusting = ssl.create_default_context(cafile=str(DATA / "tls-cert.pem"))
        line = b""
        while not line:  # a place is free a moment after its peer has seen the end
            with contextlib.suppress(ConnectionError):
                reader, writer = await asyncio.open_connection(*address(url), ssl=trusting)
                writer.write(ASK)
                line = await reader.readline()
                writer.close()
        assert line.endswith(b" 200 OK\r\n")
    finally:
        await app.stop()
