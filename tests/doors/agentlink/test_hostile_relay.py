"""Attacks of a relay on our own client, and relays that talk nonsense or take little."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientConnectionResetError, WSCloseCode, web

from clawlink.agentlink import AgentLink
from clawlink.errors import NotARelay, TooLarge
from tests.doors.agentlink.conftest import SECONDS
from tests.doors.agentlink.old_client import sign
from tests.doors.agentlink.signed_client import canonical, stamp
from tests.doors.agentlink.test_link import Box

Play = Callable[..., Awaitable["Hostile"]]
LIMIT = 100_000


class Hostile:
    """A relay that answers a register with what it is told to, and keeps what it gets after that."""

    def __init__(self, frames: list[Any]) -> None:
        self._frames = frames
        self.got = Box()
        self.url = ""

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        for frame in self._frames:
            await socket.send_str(frame if isinstance(frame, str) else json.dumps(frame))
        async for message in socket:
            self.got.put(json.loads(message.data))
        return socket


@pytest.fixture
async def play() -> AsyncIterator[Play]:
    """Start one: ``await play([frame, ...])``."""
    runners = []

    async def start(frames: list[Any], kind: type[Hostile] = Hostile) -> Hostile:
        hostile = kind(frames)
        app = web.Application()
        app.router.add_get("/agentlink", hostile.serve)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        hostile.url = f"ws://127.0.0.1:{runner.addresses[0][1]}"
        return hostile

    yield start
    for runner in runners:
        await runner.cleanup()


def message(text: str, n: int, *, secret: str = "between us", to: str = "d/dan", **changed: Any) -> dict[str, Any]:
    """Return a frame with a message of c that is sealed, then changed."""
    said = {"type": "send", "from": "c/carol", "to": to, "message": text}
    proof = {"to": to, "time": stamp(), "nonce": "n" * 16, "id": text}
    seal = sign(secret, canonical({**said, **proof}))
    frame = {"type": "message", "from": "c/carol", "to": "d/dan", "message": text, "message_id": str(n)}
    return {**frame, "receipt": f"r{n}", "proof": {**proof, "signature": "s", "seal": seal}, **changed}


async def test_only_what_is_sealed_is_handed_over_and_only_once(play: Play) -> None:
    good = message("good", 1)
    relay = await play(
        [
            {"type": "registered"},
            good,
            {**good, "message_id": "2", "receipt": "r2"},  # handed on once more
            message("text was changed", 3, message="by the relay"),
            message("sender was changed", 4, **{"from": "c/other"}),
            message("for another", 5, to="d/dora"),
            message("wrong secret", 6, secret="guessed"),
            message("no seal", 7, proof=None),
            message("no id", 8, proof={"seal": "x"}),
            {"type": "message"},
            {"type": "delivered", "id": "unknown"},
            {"type": "of the future"},
            message("last", 9),
        ]
    )
    box = Box()
    async with AgentLink(relay.url, "s", "d", "dan", end_to_end={"c": "between us"}) as link:
        link.on_message(box)
        assert [(await box.next()).message for _ in range(2)] == ["good", "last"]
        answers = [await relay.got.next() for _ in range(10)]
    assert box.empty
    assert [a["receipts"][0] for a in answers if a["type"] == "ack"] == ["r1", "r2", "r9"]
    assert [a["receipts"][0] for a in answers if a["type"] == "nack"] == ["r3", "r4", "r5", "r6", "r7", "r8", "None"]


@pytest.mark.parametrize("answer", ["no JSON", "[]", '{"type": "hello"}'])
async def test_what_is_no_relay_is_told(play: Play, answer: str) -> None:
    relay = await play([answer])
    link = AgentLink(relay.url, "s", "d", "dan")
    with pytest.raises(NotARelay):
        await link.connect()
    await link.disconnect()


async def test_a_relay_that_talks_nonsense_does_not_end_the_link(
    play: Play,
    until: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    hostile = await play([{"type": "registered"}, {"type": "error", "id": []}])
    states: list[str] = []
    link = AgentLink(hostile.url, "s", "d", "dan")
    link.on_state(states.append)
    await link.connect()
    await until(lambda: states.count("connected") >= 2)
    await link.disconnect()
    assert "failed by a defect" in caplog.text


class Pinging(Hostile):
    """A relay that pings, and waits."""

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        await socket.send_str('{"type": "registered"}')
        await socket.ping()
        await socket.receive()
        return socket


async def test_a_ping_that_can_no_longer_be_answered_is_the_end_of_a_connection(
    play: Play, until: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def ended(*_: object) -> None:
        raise ClientConnectionResetError("Cannot write to closing transport")

    monkeypatch.setattr("aiohttp.ClientWebSocketResponse.pong", ended)
    relay = await play([], Pinging)
    states: list[str] = []
    link = AgentLink(relay.url, "s", "d", "dan")
    link.on_state(states.append)
    await link.connect()
    await until(lambda: states.count("connected") >= 2)
    await link.disconnect()
    assert "defect" not in caplog.text


class Small(Hostile):
    """A relay that does not tell how much it takes, and closes with 1009 on more, though not before the next frame."""

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        await socket.send_str('{"type": "registered"}')
        async for message in socket:
            if len(message.data) > LIMIT:
                await socket.receive()  # what is left unread would have TCP throw the close frame away
                await socket.close(code=WSCloseCode.MESSAGE_TOO_BIG)
                break
            frame = json.loads(message.data)
            await socket.send_json({"type": "queued", "id": frame["id"], "message_id": "m" + frame["message"][0]})
        return socket


async def test_a_connection_closed_as_a_frame_was_too_large_costs_that_frame_alone(
    play: Play,
    until: Callable[..., Any],
) -> None:
    small = await play([], Small)
    link = AgentLink(small.url, "s", "c", "carol")
    whys: list[str | None] = []
    link.on_state(lambda state: whys.append(link.why))
    await link.connect()
    before, large, after = link.send("carol", "1"), link.send("carol", "2" * 3 * LIMIT), link.send("carol", "3")
    with pytest.raises(TooLarge):
        await asyncio.wait_for(large, SECONDS)
    assert [(await asyncio.wait_for(sent, SECONDS)).message_id for sent in (before, after)] == ["m1", "m3"]
    assert "the relay closed the connection (1009): a frame was larger than it takes" in whys
    await until(lambda: link.state == "connected")
    await link.disconnect()


async def test_a_refusal_of_no_known_message_is_logged_in_words(
    play: Play,
    until: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    hostile = await play(
        [{"type": "registered"}, {"type": "error", "code": "bad_request", "message": "not\nlike \x1b[31mthis"}]
    )
    async with AgentLink(hostile.url, "s", "d", "dan"):
        await until(lambda: "the relay refused a frame: not␤like ␛[31mthis" in caplog.text)
