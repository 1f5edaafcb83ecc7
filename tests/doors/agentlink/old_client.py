"""The unmodified client of Agent Link, written from the bytes that it sends; it shares no code with the relay."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from typing import Any

import aiohttp

SECONDS = 60.0


def sign(secret: str, text: str) -> str:
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


class OldClient:
    """A connection, as the old client makes it: it answers pings as every websocket does, and acks nothing."""

    def __init__(self, socket: Any, instance_id: str, secret: str) -> None:
        self.socket = socket
        self.instance_id = instance_id
        self._secret = secret

    async def register(self, *, at: float | None = None, utc: bool = False) -> dict[str, Any]:
        read = time.gmtime if utc else time.localtime
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", read(time.time() if at is None else at))
        signature = sign(self._secret, f"register:{self.instance_id}:{stamp}")
        await self.put({"type": "register", "instance_id": self.instance_id, "signature": signature})
        return await self.frame()

    def signed(self, agent_id: str, to: str, message: str) -> dict[str, Any]:
        """Return a message's frame."""
        sender = f"{self.instance_id}/{agent_id}"
        signature = sign(self._secret, f"send:{sender}:{to}:{message}")
        return {"type": "send", "from": sender, "to": to, "message": message, "signature": signature}

    async def send(self, agent_id: str, to: str, message: str) -> None:
        await self.put(self.signed(agent_id, to, message))

    async def put(self, frame: Any) -> None:
        await self.socket.send_str(frame if isinstance(frame, str) else json.dumps(frame))

    async def frame(self, *, seconds: float = SECONDS) -> dict[str, Any]:
        """Return the next frame; pings, which come up where none are answered, are none."""
        got = await asyncio.wait_for(self.socket.receive(), seconds)
        while got.type is aiohttp.WSMsgType.PING:
            got = await asyncio.wait_for(self.socket.receive(), seconds)
        assert got.type is aiohttp.WSMsgType.TEXT, got
        frame: dict[str, Any] = json.loads(got.data)
        return frame

    async def next(self, kind: str, *, seconds: float = SECONDS) -> dict[str, Any]:
        """Return the next frame of a type, as a client that ignores the others sees it."""
        while True:
            frame = await self.frame(seconds=seconds)
            if frame["type"] == kind:
                return frame

    async def closed(self) -> int | None:
        """Read to the end, and return the close code."""
        while not self.socket.closed:
            await asyncio.wait_for(self.socket.receive(), SECONDS)
        code: int | None = self.socket.close_code
        return code
