"""Portals and scripts of Agent P2P, written from what they send and take. They share no code with ClawLink's portal."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

RELEASES = ("0.5", "0.6", "0.8", "0.9")
"""The releases that are tested: 0.5 cuts names and knows no type, 0.8 posts with a slash too many, 0.9 is as today."""


class OldPortal:
    """The portal of another person, of one release: it stores what it is sent, as often as it is sent.

    ``lose`` answers are cut off, ``pause`` holds them back, and ``answer`` makes one in place of storing.
    """

    def __init__(self, release: str) -> None:
        self.release = release
        self.url = ""
        self.key = ""
        self.from_portal = ""
        self.stored: list[dict[str, Any]] = []
        self.guests: list[str] = []
        self.lose = 0
        self.answer: Callable[[], web.Response] | None = None
        self.asked: list[str] = []
        self.pause: asyncio.Event | None = None
        self._runner: web.AppRunner | None = None

    async def start(self, *, ssl: Any = None, port: int = 0) -> None:
        """Listen on loopback."""
        app = web.Application()
        app.router.add_post("/api/message/receive", self._receive)
        app.router.add_post("/api/guest/leave-message", self._leave)
        app.router.add_route("*", "/{rest:.*}", self._nowhere)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=ssl)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"{'https' if ssl else 'http'}://127.0.0.1:{port}"

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        if request.content_type != "application/json":
            return web.json_response({"detail": []}, status=422)
        body = await request.json()
        for name in ("api_key", "from_portal", "content"):
            if not isinstance(body.get(name), str):
                return web.json_response({"detail": [{"loc": ["body", name], "msg": "field required"}]}, status=422)
        if self.answer is not None:
            return self.answer()
        if body["api_key"] != self.key:
            return web.json_response({"detail": "Invalid API Key"}, status=401)
        if body["from_portal"] != self.from_portal:
            return web.json_response({"detail": "Portal URL mismatch"}, status=403)
        self.stored.append({"content": body["content"], "message_type": body.get("message_type", "text")})
        if self.pause is not None:
            await self.pause.wait()
        if self.lose:
            self.lose -= 1
            if request.transport is not None:
                request.transport.abort()
        return web.json_response({"status": "received", "message_id": len(self.stored)})

    async def _leave(self, request: web.Request) -> web.Response:
        self.guests.append((await request.json())["content"])
        return web.json_response({"status": "ok", "message_id": len(self.guests)})

    async def _nowhere(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        return web.json_response({"detail": "Not Found"}, status=404)


@dataclass
class OldSender:
    """The send.py of another person: it posts to the contact's portal itself."""

    release: str
    own_url: str
    key: str

    async def send(self, session: aiohttp.ClientSession, portal: str, text: str) -> tuple[int, Any]:
        """Post as the release does. 0.8 keeps the address as it was typed, with a slash at its end."""
        body = {"api_key": self.key, "from_portal": self.own_url, "content": text}
        if self.release != "0.5":
            body["message_type"] = "text"
        slash = "/" if self.release == "0.8" else ""
        own = body["from_portal"] + ("/" if self.release == "0.6" else "")
        async with session.post(
            f"{portal}{slash}/api/message/receive",
            data=json.dumps(body | {"from_portal": own}),
            headers={"Content-Type": "application/json"},
        ) as answer:
            return answer.status, await answer.json()


class OldBridge:
    """The bridge of 0.9: it syncs at once, acks what has an ``id`` before it wakes its agent, and acks nothing else."""

    def __init__(self, *, acks: bool = True) -> None:
        self.texts: list[str] = []
        self.frames: list[dict[str, Any]] = []
        self._acks = acks
        self._socket: Any = None
        self._task: asyncio.Task[None] | None = None

    async def connect(self, session: aiohttp.ClientSession, portal: str, key: str) -> None:
        """Connect, and read in the background."""
        socket: Any = await session.ws_connect(f"{portal}/ws/agent", params={"api_key": key})
        self._socket = socket
        await socket.send_json({"type": "sync_request"})
        self._task = asyncio.create_task(self._read(socket))

    async def close(self) -> None:
        """Go away."""
        if self._socket is not None:
            await self._socket.close()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _read(self, socket: Any) -> None:
        async for received in socket:
            if received.type is not aiohttp.WSMsgType.TEXT:
                return
            frame = json.loads(received.data)
            self.frames.append(frame)
            if frame["type"] == "sync_response":
                for message in frame["messages"]:
                    self._wake(message)
                if self._acks and frame["messages"]:
                    ids = [message["id"] for message in frame["messages"]]
                    await socket.send_json({"type": "ack", "message_ids": ids})
                continue
            if self._acks and "id" in frame:
                await socket.send_json({"type": "ack", "message_ids": [frame["id"]]})
            self._wake(frame)

    def _wake(self, frame: dict[str, Any]) -> None:
        """Say to the agent what the bridge says, to the letter."""
        if frame["type"] in ("ping", "pong", "ack_confirm", "guest_message"):
            return
        content = frame["content"]
        name = frame.get("from_name")
        if frame["type"] == "new_message" and name and "http" not in name:
            self.texts.append(f"[Agent P2P] 新消息来自 {name}(Agent): {content}")
        elif frame["type"] in ("new_message", "text"):
            sender = frame["from"].replace("https://", "").replace("http://", "")
            self.texts.append(f"[Agent P2P] 新消息来自 {sender}: {content}")
        elif frame["type"] == "new_guest_message":
            self.texts.append(f"[Agent P2P] 新留言: {content}")
        elif frame["type"] == "owner_message":
            self.texts.append(f"[主人消息] {content}")
        else:
            self.texts.append(f"[Agent P2P] 系统通知: {content}")
