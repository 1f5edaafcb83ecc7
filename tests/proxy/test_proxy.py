"""The promises of the relay hold through nginx and Caddy, as references/operations.md configures them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hashlib
import http.client
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from clawlink.client.retry import Backoff
from clawlink.client.sync import Client
from clawlink.errors import NotARelay, NotAuthenticated, TooLarge, Unavailable
from tests.operations import NAME
from tests.proxy.conftest import BEARER, TOKEN, Behind
from tests.waiting import PATIENCE, eventually, until
from tests.websockets import connected

MIB = 1024 * 1024


async def post(session: aiohttp.ClientSession, path: str, **body: Any) -> Any:
    async with session.post(path, json=body) as response:
        reply = await response.json()
        assert response.status == 200, reply
        return reply


async def get(session: aiohttp.ClientSession, path: str) -> Any:
    async with session.get(path) as response:
        reply = await response.json()
        assert response.status == 200, reply
        return reply


def test_a_task_goes_through(behind: Behind) -> None:
    with behind.client() as ann, behind.client() as bob:
        ann.register("ann", claim=True)
        bob.register("bob", claim=True)
        task = ann.delegate("bob", "Count", context={"text": "\u00e4 \U0001f980"})
        (claimed,) = bob.poll(wait=5)
        assert claimed.raw["context"] == {"text": "\u00e4 \U0001f980"}
        bob.ack([claimed.receipt])
        bob.respond(task.message_id, {"words": 2})
        assert ann.wait_for(task.message_id, timeout=PATIENCE).result == {"words": 2}


def test_files_of_any_size_go_through_in_both_directions(behind: Behind, tmp_path: Path) -> None:
    content = random.Random(5).randbytes(9 * MIB)
    with behind.client() as ann:
        ann.register("ann", claim=True)
        at_once = ann.put_file("a b/\u00e4", content)
        assert (at_once.version, ann.get_file("a b/\u00e4").content) == (1, content)
        (tmp_path / "in").write_bytes(content)
        in_parts = ann.upload("parts", tmp_path / "in")
        assert in_parts.sha256 == hashlib.sha256(content).hexdigest()
        ann.download("parts", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content


def test_the_command_line_joins_with_the_ca(behind: Behind, tmp_path: Path) -> None:
    given = ["--relay", behind.url, "--token", TOKEN, "--ca", behind.authority.ca]
    for arguments in (["register", "--name", "ada", *given], ["heartbeat"], ["doctor"]):
        done = subprocess.run(
            [sys.executable, "-m", "clawlink.cli.main", *arguments],
            capture_output=True,
            text=True,
            env={"HOME": str(tmp_path), "CLAWLINK_HOME": str(tmp_path / "kept"), "PATH": ""},
        )
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)


def test_token_and_certificate_are_checked(behind: Behind) -> None:
    with Client(behind.url, token="wrong", ca=behind.authority.ca) as stranger, pytest.raises(NotAuthenticated):
        stranger.info()
    with Client(behind.url, token=TOKEN) as suspicious, pytest.raises(NotARelay, match="TLS"):
        suspicious.info()


async def test_the_name_that_the_client_used_reaches_the_relay(behind: Behind, session: aiohttp.ClientSession) -> None:
    port = behind.url.rpartition(":")[2]

    async def ask(name: str, **headers: str) -> tuple[int, str]:
        host = {"Host": f"{name}:{port}", **headers}
        async with session.get("/", headers=host, server_hostname=NAME) as response:
            return response.status, await response.text()

    assert (await ask(NAME))[0] == 200
    # A page of the relay's own name is one of https for the browser, and of http for the relay: it must be allowed.
    status, reply = await ask(NAME, Origin=f"https://{NAME}:{port}")
    assert (status, json.loads(reply)["field"]) == (403, "Origin")
    status, reply = await ask("elsewhere.example.org")
    if behind.proxy == "nginx":
        assert (status, json.loads(reply)["field"]) == (403, "Host")
    else:  # Caddy has no such site, and passes nothing on
        assert "agents_online" not in reply


async def test_a_long_poll_waits_and_is_woken(session: aiohttp.ClientSession) -> None:
    for name in ("ann", "bob"):
        await post(session, "/register", agent_id=name)
    assert (await get(session, "/poll/bob?wait=3&lease=30"))["count"] == 0
    waiting = asyncio.create_task(get(session, "/poll/bob?wait=60&lease=30"))
    await until_polls_wait(session, 1)
    await post(session, "/send", from_agent="ann", to_agent="bob", content="wake up")
    assert [message["content"] for message in (await waiting)["messages"]] == ["wake up"]


async def until_polls_wait(session: aiohttp.ClientSession, count: int) -> None:
    """Return once this many polls wait at the relay."""

    async def waiting() -> bool:
        async with session.get("/metrics") as response:
            return f"\nclawlink_waiting_polls {count}\n" in await response.text()

    await eventually(waiting)


async def test_a_poll_whose_client_has_gone_takes_nothing_with_it(
    behind: Behind, session: aiohttp.ClientSession
) -> None:
    for name in ("ann", "bob"):
        await post(session, "/register", agent_id=name)
    gone = behind.connection()
    await asyncio.to_thread(gone.request, "GET", "/poll/bob?wait=60&lease=3600", headers=BEARER)
    await until_polls_wait(session, 1)
    gone.close()
    await until_polls_wait(session, 0)
    await post(session, "/send", from_agent="ann", to_agent="bob", content="still here")
    assert (await get(session, "/poll/bob?lease=30"))["count"] == 1


@pytest.mark.parametrize("size", [MIB + 1, 3 * MIB, 30 * MIB])
def test_a_body_that_is_too_large_is_refused_as_json(behind: Behind, size: int) -> None:
    if behind.proxy == "caddy" and size > 3 * MIB:
        pytest.skip("Caddy cuts off what is much larger than the relay takes")
    with behind.client(backoff=Backoff(tries=1)) as client:
        client.register("ann")
        with pytest.raises(TooLarge) as refused:
            client.broadcast("x" * size)
        by_nginx = behind.proxy == "nginx" and size > 2 * MIB
        assert refused.value.limit == (None if by_nginx else MIB)
        assert ("proxy" in refused.value.message) is by_nginx
        # A file just below the relay's limit passes, and comes back whole.
        content = b"x" * (MIB - 1000)
        client.put_file("large", content)
        assert client.get_file("large").content == content


def test_addresses_arrive_as_they_were_sent(behind: Behind) -> None:
    with behind.client() as client:
        client.register("ann")
        for key in ("notes/plan.md", "50%", "%2F", "a b", "\u00e4", "what?"):
            client.put_file(key, b"1")
            assert client.get_file(key).file_key == key


async def test_a_websocket_gets_its_messages_and_settles_them(session: aiohttp.ClientSession) -> None:
    for name in ("ann", "bob"):
        await post(session, "/register", agent_id=name)
    async with connected(session, "/ws/bob?lease=60") as socket:
        assert (await socket.reply(type="ping"))["status"] == "pong"
        receipts = []
        for at in range(20):  # also what is large comes in one piece
            content = {"at": at, "much": "\u00e4" * (100_000 if at % 5 == 0 else 1)}
            await post(session, "/send", from_agent="ann", to_agent="bob", content=content)
            message = await socket.frame()
            assert message["content"] == content
            receipts.append(message["delivery"]["receipt"])
        assert (await socket.reply(type="ack", receipts=receipts))["count"] == 20
        assert (await socket.reply(type="send", to_agent="ann", content="thank you"))["status"] == "sent"
    messages = (await get(session, "/poll/ann?lease=30"))["messages"]
    assert [message["content"] for message in messages if message["type"] == "message"] == ["thank you"]


async def test_a_pong_comes_from_the_client_and_not_from_the_proxy(session: aiohttp.ClientSession) -> None:
    for name in ("ann", "bob"):
        await post(session, "/register", agent_id=name)
    async with connected(session, "/ws/bob", autoping=False) as silent:
        sent = await post(session, "/send", from_agent="ann", to_agent="bob", content="read me")
        assert (await silent.frame())["content"] == "read me"
        assert (await silent.next()).type is aiohttp.WSMsgType.PING
    # It read, and never said so: what it was sent is due again.
    async with connected(session, "/ws/bob") as honest:
        assert (await honest.frame())["message_id"] == sent["message_id"]
        reading = asyncio.create_task(honest.next())  # which is what answers pings
        assert (await get(session, f"/messages/{sent['message_id']}?agent_id=ann&wait=10"))["state"] == "acked"
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def test_a_websocket_of_a_browser_leaves_its_token_in_no_log(
    behind: Behind, session: aiohttp.ClientSession
) -> None:
    await post(session, "/register", agent_id="bob")
    async with session.get("/ws/bob?token=wrong", headers={"Authorization": "Bearer wrong"}) as refused:
        assert refused.status == 401
    connector = aiohttp.TCPConnector(ssl=behind.trusting)
    async with (
        aiohttp.ClientSession(behind.url, connector=connector) as bare,
        connected(bare, f"/ws/bob?token={TOKEN}&lease=60") as socket,
    ):
        await socket.reply(type="ping")
    if behind.proxy == "caddy":
        return  # it writes no log unless it is told to
    await until(lambda: "/ws/bob 101" in behind.log.read_text())
    logged = behind.log.read_text()
    assert "GET /ws/bob 401" in logged
    assert "GET /ws/bob 101" in logged
    assert "token" not in logged


def test_events_come_as_they_happen(behind: Behind) -> None:
    with behind.client() as ann, behind.client() as bob, contextlib.closing(behind.connection()) as connection:
        for client, name in ((ann, "ann"), (bob, "bob")):
            client.register(name, claim=False)
        connection.request("GET", f"/events/{bob.agent_id}?lease=3600", headers=BEARER)
        with connection.getresponse() as stream:
            assert (stream.getheader("Content-Type") or "").startswith("text/event-stream")
            for content in ("first", "second"):
                ann.send("bob", content)
                assert json.loads(_data(stream))["content"] == content


def _data(stream: http.client.HTTPResponse) -> str:
    """Return the data of the next event."""
    while True:
        line = stream.readline().decode()
        assert line, "the stream ended"
        if line.startswith("data: "):
            return line.removeprefix("data: ")


def test_while_the_relay_is_away_clients_are_told_so_and_come_back(behind: Behind) -> None:
    behind.relay.stop()
    with behind.client(backoff=Backoff(tries=1)) as client, pytest.raises(Unavailable, match="does not answer") as away:
        client.info()
    assert away.value.retry_after == 1
    with behind.client(backoff=Backoff(tries=1000)) as patient, concurrent.futures.ThreadPoolExecutor(1) as other:
        answer = other.submit(patient.health)
        behind.restart_relay()
        assert answer.result(PATIENCE).status == "ok"


async def test_a_relay_that_drains_says_so_through_the_proxy(behind: Behind, session: aiohttp.ClientSession) -> None:
    await post(session, "/register", agent_id="bob")
    async with connected(session, "/ws/bob?lease=60") as socket:
        await socket.reply(type="ping")
        behind.relay.process.terminate()
        closed = await socket.next()
        assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1001)
