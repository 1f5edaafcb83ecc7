"""The channel plugin ``p2p-portal`` of OpenClaw: it never acks, and drops all that has a number that it has seen."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from clawlink.doors.portal.server import socket
from tests.doors.portal.conftest import OWNER, Bridges, Own, Portals
from tests.waiting import eventually, until

B = "https://b.example"


class Plugin:
    """The plugin as a peer: one set for the numbers of all kinds of frames."""

    def __init__(self, portal: Own) -> None:
        self._portal = portal
        self._seen: set[int] = set()
        self.turns: list[str] = []
        """The texts that the agent gets."""
        self.dropped: list[dict[str, Any]] = []

    async def serve(self, ws: Any) -> None:
        await ws.send_json({"type": "sync_request"})
        async for told in ws:
            frame = json.loads(told.data)
            if frame["type"] == "ping":
                await ws.send_json({"type": "pong"})
            elif frame["type"] == "sync_response":
                for item in frame["messages"]:
                    await self._take({**frame, **item})  # the type of the item takes the place of the frame's
            else:
                await self._take(frame)

    async def _take(self, frame: dict[str, Any]) -> None:
        number = frame.get("id", frame.get("message_id"))
        if number in self._seen:
            self.dropped.append(frame)
            return
        if number is not None:
            self._seen.add(number)
        if frame["type"] in ("new_message", "new_guest_message", "owner_message"):
            self.turns.append(frame["content"])


async def test_the_plugin_hears_each_text_once_and_is_told_how_to_answer(
    portals: Portals, bridges: Bridges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "LEASE_SECONDS", 1.0)
    portal = await portals()
    key = await portal.befriend(B)
    said = {"api_key": key, "from_portal": B}
    texts = []
    for n in range(3):  # what comes before the plugin, and of each kind
        texts += [f"message {n}", f"guest {n}", f"line {n}"]
        await portal.well("POST", "/api/message/receive", {**said, "content": f"message {n}"}, key="")
        await portal.well("POST", "/api/guest/leave-message", {"content": f"guest {n}"}, key="")
        await portal.well("POST", "/api/chat/owner/send", {"content": f"line {n}"})
    plugin = Plugin(portal)
    async with portal.relay.session.ws_connect(f"{portal.url}/ws/agent", params={"api_key": OWNER}) as ws:
        serving = asyncio.create_task(plugin.serve(ws))
        await until(lambda: len(plugin.turns) == len(texts))
        await portal.well("POST", "/api/chat/owner/send", {"content": "live"})
        await until(lambda: "live" in plugin.turns)
        await until(lambda: any(frame["type"] == "new_message" for frame in plugin.dropped))
        assert sorted(plugin.turns) == sorted([*texts, "live"]), "no kind takes another one's number"
        assert {frame["type"] for frame in plugin.dropped} == {"new_message"}, "a repeat has the number that it had"
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    assert (await portal.contact(B))["unread_count"] == 3, "nothing counts as read without an ack"
    answer = {"content": "done", "user_id": "owner"}
    status, told = await portal.ask("POST", "/api/internal/agent-reply", answer, key="")
    assert status == 401
    assert "clawlink portal reply" in told["detail"]
    monkeypatch.setattr(socket, "LEASE_SECONDS", 60.0)  # from now on a message that is read does not come again
    bridge = await bridges(portal)

    async def all_read() -> bool:
        return bool((await portal.contact(B))["unread_count"] == 0)

    await eventually(all_read)
    told = [text.rpartition(": ")[2] for text in bridge.texts if "新消息" in text]
    assert sorted(told) == [f"message {n}" for n in range(3)]
