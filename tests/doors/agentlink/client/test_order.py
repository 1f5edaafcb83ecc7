"""Messages to one recipient arrive in the order in which they were sent, also where the relay refuses some at first."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from clawlink.agentlink import AgentLink
from tests.conftest import Running
from tests.doors.agentlink.conftest import SECONDS, Make, ServeLink
from tests.doors.agentlink.test_hostile_relay import Hostile, Play
from tests.doors.agentlink.test_link import Box


async def test_a_burst_beyond_the_relays_limits_arrives_in_order(relay: Running, make: Make) -> None:
    c, d = make(relay, "c", "carol"), make(relay, "d", "dan")
    box = Box()
    d.on_message(box)
    await d.connect()
    texts = [str(n) for n in range(150)]
    for text in texts:
        c.send("d/dan", text)
    assert [(await box.next()).message for _ in texts] == texts


async def test_one_recipient_does_not_wait_for_another(serve_link: ServeLink, make: Make) -> None:
    relay = await serve_link(limits={"burst_pair": 1, "rate_pair": 0.1})
    c, d = make(relay, "c", "carol"), make(relay, "d", "dan")
    await d.connect()
    await c.send("d/dan", "taken")
    refused = c.send("d/dan", "refused for ten seconds")
    await asyncio.wait_for(c.send("carol", "to myself"), SECONDS)
    assert "on its way" in repr(refused)


class Fussy(Hostile):
    """A relay that refuses each message at first, and says so as it is told to."""

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        await socket.send_str('{"type": "registered"}')
        seen = set()
        async for message in socket:
            frame = json.loads(message.data)
            self.got.put(frame)
            if frame["id"] in seen:
                await socket.send_json({"type": "queued", "id": frame["id"], "message_id": "m"})
            else:
                await socket.send_json({"type": "error", "id": frame["id"], **self._frames[0]})
            seen.add(frame["id"])
        return socket


@pytest.mark.parametrize(
    "refusal",
    [
        {"code": "rate_limited", "retry_after": 0.01},
        {"code": "store_unavailable", "retry_after": 0.01},
        {"code": "internal_error", "retry_after": "soon"},
    ],
)
async def test_what_is_refused_leaves_again_before_anything_newer(play: Play, refusal: dict[str, Any]) -> None:
    fussy = await play([refusal], Fussy)
    async with AgentLink(fussy.url, "s", "c", "carol") as link:
        sent = [link.send("d/dan", text) for text in ("1", "2", "3")]
        for each in sent:
            await asyncio.wait_for(each, SECONDS)
    assert [(await fussy.got.next())["message"] for _ in range(6)] == ["1", "1", "2", "2", "3", "3"]


async def test_what_fails_for_good_does_not_hold_up_those_behind_it(serve_link: ServeLink, make: Make) -> None:
    relay = await serve_link(limits={"max_body_bytes": 10_000})
    c = make(relay, "c", "carol")
    box = Box()
    c.on_message(box)
    await c.connect()
    for text in ("first", "x" * 20_000, "last"):
        c.send("carol", text)
    assert [(await box.next()).message for _ in range(2)] == ["first", "last"]
