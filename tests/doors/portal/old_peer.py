"""Portals and scripts of Agent P2P, written from what they send and take. They share no code with ClawLink's portal."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

RELEASES = ("0.5", "0.6", "0.8", "0.9")
"""The releases that are tested: 0.5 cuts names and knows no type, 0.8 posts with a slash too many, 0.9 is as today."""

FILES_SINCE = ("0.8", "0.9")


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
        self.files = OldFiles(self)
        self._runner: web.AppRunner | None = None

    async def start(self, *, ssl: Any = None, port: int = 0) -> None:
        """Listen on loopback."""
        app = web.Application(client_max_size=32 * 1024 * 1024)
        app.router.add_post("/api/message/receive", self._receive)
        app.router.add_post("/api/guest/leave-message", self._leave)
        if self.release in FILES_SINCE:
            self.files.add_routes(app)
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


class OldFiles:
    """The files of a portal of 0.8 and 0.9: whole in memory, and no part is checked but for its own MD5.

    ``lose`` answers to parts are cut off once the part is stored. ``broken`` answers are 500, as on a fresh install.
    """

    def __init__(self, portal: OldPortal) -> None:
        self._portal = portal
        self.known: dict[str, dict[str, Any]] = {}
        self.parts_taken: list[int] = []
        self.lose = 0
        self.broken = 0
        self.spoil = False

    def add_routes(self, app: web.Application) -> None:
        """Serve the four routes that a sender uses."""
        app.router.add_post("/api/file/initiate", self._initiate)
        app.router.add_post("/api/file/chunk/{file_id}/{index}", self._chunk)
        app.router.add_get("/api/file/status/{file_id}", self._status)

    def contents(self, name: str) -> bytes:
        """Return the bytes of a completed file."""
        (found,) = [one for one in self.known.values() if one["filename"] == name and one["status"] == "completed"]
        return b"".join(found["parts"][index] for index in sorted(found["parts"]))

    async def _initiate(self, request: web.Request) -> web.Response:
        if self.broken:
            self.broken -= 1
            return web.Response(status=500, text="Internal Server Error")
        body = await request.json()
        for name, kind in (("filename", str), ("size", int), ("md5", str), ("chunks_total", int), ("to_portal", str)):
            if not isinstance(body.get(name), kind):
                return web.json_response({"detail": [{"loc": ["body", name], "msg": "field required"}]}, status=422)
        if body["api_key"] != self._portal.key:
            return web.json_response({"detail": "Invalid API Key"}, status=401)
        id = secrets.token_urlsafe(32)
        self.known[id] = {**body, "status": "transferring", "parts": {}}
        return web.json_response({"status": "ready", "file_id": id, "message": "ready"})

    async def _chunk(self, request: web.Request) -> web.StreamResponse:
        body, index = await request.json(), int(request.match_info["index"])
        for name in ("api_key", "file_id", "chunk_index", "chunk_md5", "data"):
            if name not in body:
                return web.json_response({"detail": [{"loc": ["body", name], "msg": "field required"}]}, status=422)
        if body["api_key"] != self._portal.key:
            return web.json_response({"detail": "Invalid API Key"}, status=401)
        found = self.known.get(request.match_info["file_id"])
        if found is None:
            return web.json_response({"detail": "File not found"}, status=404)
        if found["status"] != "transferring" or not 0 <= index < found["chunks_total"]:
            return web.json_response({"detail": "File is not in transferring state"}, status=400)
        if index in found["parts"]:
            return web.json_response({"status": "exists", "message": "Chunk already received"})
        data = base64.b64decode(body["data"])
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != body["chunk_md5"]:
            return web.json_response({"detail": "Chunk MD5 mismatch"}, status=400)
        found["parts"][index] = data[::-1] if self.spoil else data
        self.parts_taken.append(index)
        if len(found["parts"]) == found["chunks_total"]:
            whole = b"".join(found["parts"][one] for one in sorted(found["parts"]))
            right = hashlib.md5(whole, usedforsecurity=False).hexdigest() == found["md5"]
            found["status"] = "completed" if right else "failed"
        if self.lose:
            self.lose -= 1
            if request.transport is not None:
                request.transport.abort()
        total = found["chunks_total"]
        answer = {"status": "received", "chunk_index": index, "chunks_received": len(found["parts"])}
        return web.json_response({**answer, "chunks_total": total})

    async def _status(self, request: web.Request) -> web.Response:
        found = self.known.get(request.match_info["file_id"])
        if request.query.get("api_key") != self._portal.key:
            return web.json_response({"detail": "Invalid API Key"}, status=401)
        if found is None:
            return web.json_response({"detail": "File not found"}, status=404)
        shown = {name: found[name] for name in ("filename", "size", "status", "chunks_total", "to_portal")}
        received = sorted(found["parts"])
        told = {"file_id": request.match_info["file_id"], "chunks_received": len(received), "received_chunks": received}
        return web.json_response({**shown, **told, "from_portal": "", "receiver_confirmed": False, "created_at": ""})


@dataclass
class OldFileSender:
    """The send_file.py of another person. 0.8 says the size of parts, and tells its own portal at the end."""

    release: str
    key: str
    part_bytes: int = 10 * 1024 * 1024
    tries: int = 3

    async def send(self, session: aiohttp.ClientSession, portal: str, name: str, data: bytes) -> tuple[bool, str]:
        """Send a file; return whether the script would say that it did, and the file's id."""
        total = -(-len(data) // self.part_bytes)
        body = {
            "api_key": self.key,
            "filename": name,
            "size": len(data),
            "md5": hashlib.md5(data, usedforsecurity=False).hexdigest(),
            "chunks_total": total,
            "to_portal": portal,
        }
        if self.release == "0.8" or self.part_bytes != 10 * 1024 * 1024:  # only tests have smaller parts in 0.9
            body["chunk_size"] = self.part_bytes
        status, told = await self._post(session, f"{portal}/api/file/initiate", body)
        if status != 200:
            return False, ""
        for index in range(total):
            part = data[index * self.part_bytes : (index + 1) * self.part_bytes]
            if not await self._part(session, portal, told["file_id"], index, part):
                return False, told["file_id"]
        return True, told["file_id"]

    async def _part(self, session: aiohttp.ClientSession, portal: str, id: str, index: int, part: bytes) -> bool:
        body = {
            "api_key": self.key,
            "file_id": id,
            "chunk_index": index,
            "chunk_md5": hashlib.md5(part, usedforsecurity=False).hexdigest(),
            "data": base64.b64encode(part).decode(),
        }
        for _ in range(self.tries):
            with contextlib.suppress(aiohttp.ClientError, OSError):
                status, _ = await self._post(session, f"{portal}/api/file/chunk/{id}/{index}", body)
                if status == 200:
                    return True
        return False

    async def _post(self, session: aiohttp.ClientSession, url: str, body: Any) -> tuple[int, Any]:
        data = io.BytesIO(json.dumps(body).encode())
        async with session.post(url, data=data, headers={"Content-Type": "application/json"}) as answer:
            return answer.status, await answer.json(content_type=None)


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


MOST_FRAME_BYTES = 1024 * 1024
"""The default of the library ``websockets``, by which the old bridges read."""


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
        socket: Any = await session.ws_connect(
            f"{portal}/ws/agent", params={"api_key": key}, max_msg_size=MOST_FRAME_BYTES
        )
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

    @property
    def closed(self) -> bool:
        """Return True once the connection is over."""
        return self._task is not None and self._task.done()

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
