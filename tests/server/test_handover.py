"""Whether a reply was read: what connections tell, and what becomes of the messages that went out with it."""

from __future__ import annotations

import asyncio
import json
import select
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clawlink.domain.delivery import Delivery
from clawlink.protocol.requests import MessageQuery
from clawlink.server import flow, handover
from tests.conftest import Running
from tests.server.asks import nothing_due, ok, poll, send, status_of
from tests.system.conftest import Dial
from tests.system.raw import Clock, Connection, address, request
from tests.virtual_time import pass_time
from tests.waiting import PATIENCE, eventually

pytestmark = pytest.mark.both_loops

_POLL = request("GET", "/poll/b")
_LARGE = 600_000
# The connection alone tells a test whether a reply was read; the quiet that follows must not.
_NEVER = 1000.0
_PAGE = Path(__file__).parent.parent.parent / "references" / "protocol.md"
_QUIET_SECONDS, _STUCK_SECONDS = handover.QUIET_SECONDS, handover.STUCK_SECONDS


@pytest.fixture
def store_kind() -> str:
    return "memory"


@pytest.fixture(autouse=True)
def _never_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "QUIET_SECONDS", _NEVER)
    monkeypatch.setattr(handover, "_LOOK_SECONDS", 0.01)


async def _ids(connection: Connection) -> list[str]:
    return [message["message_id"] for message in (await connection.answer()).json["messages"]]


async def _state(relay: Running, id: str) -> str:
    return str((await status_of(relay, "a", id))["state"])


async def _becomes(relay: Running, id: str, state: str) -> None:
    async def become() -> bool:
        return await _state(relay, id) == state

    await eventually(become)


async def _given_again(relay: Running, id: str) -> None:
    """Check that a poll which waits is given the message, as if it had not been out before."""
    (message,) = (await poll(relay, "b", wait=10, lease=60))["messages"]
    assert message["message_id"] == id


async def test_the_next_request_settles_the_reply(pair: Running, dial: Dial) -> None:
    connection = await dial(pair.url)
    for _ in range(3):
        id = await send(pair, "a", "b")
        await connection.send(_POLL)
        assert await _ids(connection) == [id]
        assert await _state(pair, id) == "delivered"  # over another connection, which proves nothing
        assert (await connection.ask(request("GET", f"/messages/{id}?agent_id=a"))).status == 200
        await _becomes(pair, id, "acked")


async def test_the_end_of_the_connection_settles_the_reply(pair: Running, dial: Dial) -> None:
    for how in ("close", "half-close", "HTTP/1.0", "Connection: close", "half-close before the reply"):
        id = await send(pair, "a", "b")
        connection = await dial(pair.url)
        data = {
            "HTTP/1.0": _POLL.replace(b"HTTP/1.1", b"HTTP/1.0"),
            "Connection: close": request("GET", "/poll/b", Connection="close"),
        }.get(how, _POLL)
        await connection.send(data)
        if how == "half-close before the reply":
            connection.writer.write_eof()
        assert await _ids(connection) == [id], how
        if how == "half-close":
            connection.writer.write_eof()
        if how != "close":
            assert await asyncio.wait_for(connection.reader.read(), 30) == b"", f"{how}: the relay closes too"
        connection.close()
        await _becomes(pair, id, "acked")

    async def closed() -> bool:
        return pair.app.connections <= 1

    await eventually(closed)


async def test_a_reply_that_is_not_read_is_given_to_another_that_waits(pair: Running, dial: Dial) -> None:
    for how in ("reset", "HTTP/1.0", "hang-up", "pipelined"):
        id = await send(pair, "a", "b")
        connection = await dial(pair.url)
        await connection.send(_POLL.replace(b"HTTP/1.1", b"HTTP/1.0") if how == "HTTP/1.0" else _POLL)
        if how == "pipelined":  # was there before the reply, perhaps
            await connection.send(_POLL)
        if how == "hang-up":
            connection.close()
        else:
            await _becomes(pair, id, "delivered")
            assert (await poll(pair, "b"))["count"] == 0, f"{how}: it is leased until more is known"
            waiting = asyncio.create_task(_given_again(pair, id))
            await eventually(lambda: _waits(pair))
            connection.reset()
            await asyncio.wait_for(waiting, 30)
            continue
        await _given_again(pair, id)


async def _waits(relay: Running) -> bool:
    return relay.app.relay.waiting > 0


async def test_requests_that_were_sent_before_the_reply_prove_nothing(pair: Running, dial: Dial) -> None:
    for parts in ([_POLL * 2], [_POLL, _POLL], [_POLL + _POLL[:20], _POLL[20:]], [_POLL[:9], _POLL[9:] + _POLL]):
        id = await send(pair, "a", "b")
        connection = await dial(pair.url)
        for part in parts:
            await connection.send(part)
        await _becomes(pair, id, "delivered")
        connection.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert await _ids(connection) == [id], parts
        assert await _ids(connection) == [], parts
        assert await _state(pair, id) == "delivered", parts
        answer = await connection.ask(request("GET", f"/messages/{id}?agent_id=a"))
        await connection.ask(_POLL)  # this one was sent after its forerunners were read; its successor shows it
        assert answer.status == 200
        connection.close()
        await _becomes(pair, id, "acked")


async def test_a_kept_connection_that_stays_quiet_has_read_it(
    pair: Running, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = await send(pair, "a", "b")
    connection = await dial(pair.url)
    await connection.send(_POLL)
    assert await _ids(connection) == [id]
    assert await _state(pair, id) == "delivered"
    monkeypatch.setattr(handover, "QUIET_SECONDS", 0.05)
    await _becomes(pair, id, "acked")
    assert (await connection.ask(request("GET", "/healthz"))).status == 200


async def test_a_reset_during_a_standstill_of_the_relay_is_no_quiet(
    pair: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of quiet is over before the relay hears of the reset."""
    for kept in (True, False):
        monkeypatch.setattr(handover, "QUIET_SECONDS", _NEVER)
        id = await send(pair, "a", "b")
        reader = socket.create_connection(address(pair.url))
        reader.sendall(_POLL if kept else _POLL.replace(b"HTTP/1.1", b"HTTP/1.0"))
        await _becomes(pair, id, "delivered")
        await asyncio.get_running_loop().run_in_executor(None, select.select, [reader], [], [])
        monkeypatch.setattr(handover, "QUIET_SECONDS", 0.05)
        reader.close()  # with the reply unread, as the system does for a process that is killed
        time.sleep(0.2)  # noqa: ASYNC251 - the loop stands still
        await _given_again(pair, id)


async def test_a_slow_reader_keeps_what_it_reads(pair: Running, dial: Dial, clock: Clock) -> None:
    """The reply does not fit into the buffers: as long as the reader goes on, nobody else is given the message."""
    for closes in (False, True):
        id = await send(pair, "a", "b", "x" * _LARGE)
        connection = await dial(pair.url, receive_buffer=4096)
        await connection.send(request("GET", "/poll/b", Connection="close") if closes else _POLL)
        got = await asyncio.wait_for(connection.reader.readexactly(20_000), PATIENCE)
        assert (await poll(pair, "b"))["count"] == 0
        head, _, body = got.partition(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        body += await asyncio.wait_for(connection.reader.readexactly(length - len(body)), PATIENCE)
        assert [m["message_id"] for m in json.loads(body)["messages"]] == [id]
        connection.close()
        await _becomes(pair, id, "acked")


@pytest.mark.virtual_time
async def test_the_lease_of_a_slow_reader_is_extended(pair: Running, dial: Dial) -> None:
    relay = pair.app.relay
    id = await send(pair, "a", "b")
    agent = await relay.agents.acting("b", None, field="agent_id")
    taken, _ = await relay.claims.claim(agent, limit=10, wait=0, lease=60)
    out = relay.handed_out(agent, taken, lease=60, until_read=True)
    await pass_time(45)
    out.hold()
    await relay.finished()
    held = await relay.core.store.get(Delivery, taken[0].id)
    assert held is not None
    assert held.visible_at > taken[0].visible_at + 30
    out.over(read=False)
    await relay.finished()
    await _given_again(pair, id)


async def test_a_reader_that_stops_is_given_up_and_cannot_go_on(
    pair: Running, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "STUCK_SECONDS", 0.3)
    id = await send(pair, "a", "b", "x" * _LARGE)
    connection = await dial(pair.url, receive_buffer=4096)
    await connection.send(_POLL)
    await _becomes(pair, id, "delivered")
    await _given_again(pair, id)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await connection.answer()


async def test_a_poll_with_a_lease_keeps_it_when_its_client_closes(pair: Running, dial: Dial) -> None:
    for reads in (True, False):
        id = await send(pair, "a", "b")
        connection = await dial(pair.url)
        await connection.send(request("GET", "/poll/b?lease=60"))
        if not reads:
            connection.close()  # before the reply: nothing is taken, or it is given back
            await _given_again(pair, id)
            continue
        (lease,) = (await connection.answer()).json["deliveries"]
        connection.close()
        assert (await poll(pair, "b", lease=60))["count"] == 0
        result = await ok(pair.post("/ack", {"agent_id": "b", "receipts": [lease["receipt"]]}))
        assert result["count"] == 1


async def test_a_client_that_closes_its_side_is_answered_unless_it_has_to_wait(pair: Running, dial: Dial) -> None:
    body = b'{"from_agent": "a", "to_agent": "b", "content": "hello"}'
    asked: list[tuple[list[bytes], int]] = [
        ([request("GET", "/discover")], 1),
        ([request("POST", "/send", body)], 1),
        ([request("POST", "/send", body), _POLL, request("GET", "/healthz")], 3),
        ([request("GET", "/poll/a?wait=60")], 0),
        ([request("GET", "/events/a")], 0),
        ([request("POST", "/send", body)[:-5]], 0),
    ]
    for requests, answers in asked:
        connection = await dial(pair.url)
        connection.writer.write(b"".join(requests))
        connection.writer.write_eof()
        for _ in range(answers):
            assert (await connection.answer()).status == 200, requests
        rest: Any = await asyncio.wait_for(connection.reader.read(), 30)
        assert answers == 0 or rest == b"", (requests, rest)
    await nothing_due(pair, "b")


async def test_a_relay_that_stops_settles_what_was_read(pair: Running, dial: Dial) -> None:
    id = await send(pair, "a", "b")
    connection = await dial(pair.url)
    await connection.send(_POLL)
    assert await _ids(connection) == [id]
    await pair.app.stop()
    relay = pair.app.relay
    asker = await relay.agents.acting("a", None, field="agent_id")
    assert (await relay.messages.status(asker, id, MessageQuery())).state == "acked"


def test_the_end_of_a_connection_means_read_unless_something_speaks_against_it() -> None:
    for exc, left, failed, read in (
        (None, 0, False, True),  # a proxy, and a system that does not tell what is acknowledged, show no more
        (None, 1, False, False),
        (None, 0, True, False),
        (ssl.SSLError("application data after close notify"), 0, False, True),
        (ssl.SSLError("application data after close notify"), 1, False, False),
        (ConnectionResetError(), 0, False, False),
        (BrokenPipeError(), 0, False, False),
        (TimeoutError(), 0, False, False),
    ):
        assert handover.was_read(exc, left=left, failed=failed) is read, (exc, left, failed)


async def test_where_the_system_does_not_tell_what_is_acknowledged_every_end_but_a_reset_means_read(
    pair: Running, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    knows = flow.on_its_way
    tells_nothing = lambda transport, sock=None: transport.get_write_buffer_size()  # noqa: E731
    for tells, ends, read in ((False, True, True), (False, False, False), (True, True, False)):
        if tells and sys.platform not in ("linux", "darwin"):
            continue
        monkeypatch.setattr(handover, "on_its_way", knows if tells else tells_nothing)
        id = await send(pair, "a", "b", "x" * 60_000)
        connection = await dial(pair.url, receive_buffer=4096)
        await connection.send(_POLL)
        await _becomes(pair, id, "delivered")
        if ends:
            connection.writer.write_eof()
        if read:
            await _becomes(pair, id, "acked")
        connection.writer.transport.abort()  # with bytes that are not read: its system resets the connection
        if not read:
            await _given_again(pair, id)


def test_the_page_names_the_times() -> None:
    rows = [line for line in _PAGE.read_text(encoding="utf-8").splitlines() if line.strip().startswith("|")]
    for told in (f"for {_QUIET_SECONDS:g} s, and all bytes", f"no byte for {_STUCK_SECONDS:g} s"):
        assert sum(told in row for row in rows) == 1, told
