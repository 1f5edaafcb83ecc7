"""Both ends of a websocket as tests need them: one that behaves as clients do, and one that is made of bytes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import struct
from collections import deque
from collections.abc import AsyncIterator
from itertools import count
from typing import Any
from urllib.parse import quote

import aiohttp

from tests.conftest import Running
from tests.server.asks import NEWS, Headers
from tests.system.raw import Connection, connect, request
from tests.waiting import soon

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def path_of(agent_id: str, *, kind: str = "ws", **query: Any) -> str:
    """Return the address of an agent's websocket, or of its events."""
    asked = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in query.items())
    return f"/{kind}/{quote(agent_id, safe='')}?{asked}"


class Peer:
    """A websocket. It pongs whenever it reads, as every client does."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse[Any]) -> None:
        self.ws = ws
        self.came: deque[dict[str, Any]] = deque()  # messages that came while something else was waited for
        self._ids = count(1)

    async def frame(self) -> dict[str, Any]:
        """Return the next frame, whatever it is."""
        got = await soon(self.ws.receive())
        assert got.type is aiohttp.WSMsgType.TEXT, (got, self.ws.close_code)
        frame: dict[str, Any] = json.loads(got.data)
        return frame

    async def message(self, *, news: bool = False) -> dict[str, Any]:
        """Return the next message. Who joined and left is acked and left out."""
        while True:
            found = self.came.popleft() if self.came else await self.frame()
            assert "delivery" in found, found
            if news or found["type"] not in NEWS:
                return found
            await self.say("ack", receipts=[receipt_of(found)])

    async def messages(self, number: int) -> list[dict[str, Any]]:
        """Return the next messages."""
        return [await self.message() for _ in range(number)]

    async def say(self, type: str, **fields: Any) -> None:
        """Send a frame."""
        await self.ws.send_json({"type": type, **fields})

    async def answer(self, id: Any) -> dict[str, Any]:
        """Return the frame that answers this id; messages that come before it are kept."""
        while True:
            frame = await self.frame()
            if "delivery" not in frame:
                assert frame["id"] == id, frame
                return frame
            self.came.append(frame)

    async def ask(self, type: str, **fields: Any) -> Any:
        """Send a frame with an id, and return what it is answered."""
        id = next(self._ids)
        await self.say(type, id=id, **fields)
        frame = await self.answer(id)
        assert frame["type"] == "reply", frame
        return frame["reply"]

    async def refused(self, type: str, code: str, **fields: Any) -> dict[str, Any]:
        """Send a frame with an id that is refused with this code, and return the error."""
        id = next(self._ids)
        await self.say(type, id=id, **fields)
        frame = await self.answer(id)
        assert (frame["type"], frame.get("code")) == ("error", code), frame
        return frame

    async def ack(self, *messages: dict[str, Any]) -> None:
        """Ack messages that must be held."""
        reply = await self.ask("ack", receipts=[receipt_of(m) for m in messages])
        assert [r["status"] for r in reply["results"]] == ["acked"] * len(messages), reply

    async def silent(self) -> None:
        """Check that no message is here, once all that the relay had to say has been read."""
        for _ in range(3):
            await self.ask("ping")
            await asyncio.sleep(0)
        assert [m for m in self.came if m["type"] not in NEWS] == []

    async def closed(self) -> tuple[int | None, str]:
        """Read on until the relay closes, and return the code and the reason."""
        while True:
            got = await soon(self.ws.receive())
            if got.type is aiohttp.WSMsgType.TEXT:
                frame = json.loads(got.data)
                assert "delivery" in frame, frame
                self.came.append(frame)
            else:
                return self.ws.close_code, str(got.extra or "")

    async def close(self) -> None:
        """Close politely."""
        await self.ws.close()


@contextlib.asynccontextmanager
async def websocket(
    relay: Running, agent_id: str, *, headers: Headers | None = None, **query: Any
) -> AsyncIterator[Peer]:
    """Connect; in the end close, if that has not been done."""
    async with relay.session.ws_connect(relay.url + path_of(agent_id, **query), headers=headers, max_msg_size=0) as ws:
        yield Peer(ws)


def receipt_of(message: dict[str, Any]) -> str:
    receipt: str = message["delivery"]["receipt"]
    return receipt


def attempt_of(message: dict[str, Any]) -> int:
    attempt: int = message["delivery"]["attempt"]
    return attempt


class Wire:
    """A websocket made of bytes: it does nothing by itself, not even pong."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def send(self, kind: int, data: bytes | str, *, flags: int = 0x80) -> None:
        """Send one frame."""
        await self.connection.send(packed(kind, data, flags=flags))

    async def say(self, type: str, **fields: Any) -> None:
        """Send a frame of text."""
        await self.send(TEXT, json.dumps({"type": type, **fields}))

    async def frame(self) -> tuple[int, bytes]:
        """Return kind and data of the next frame."""
        return await soon(self._read())

    async def _read(self) -> tuple[int, bytes]:
        reader = self.connection.reader
        first, second = await reader.readexactly(2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", await reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await reader.readexactly(8))
        return first & 0x0F, await reader.readexactly(size)

    async def next(self, kind: int) -> bytes:
        """Return the data of the next frame of this kind, past all others."""
        while True:
            found, data = await self.frame()
            if found == kind:
                return data

    async def message(self) -> dict[str, Any]:
        """Return the next message, or reply, past all pings."""
        found: dict[str, Any] = json.loads(await self.next(TEXT))
        return found

    def hang_up(self) -> None:
        """End the connection without a word."""
        self.connection.close()

    def reset(self) -> None:
        """End the connection as a killed process does."""
        self.connection.reset()


def packed(kind: int, data: bytes | str, *, flags: int = 0x80) -> bytes:
    """Return a frame as a client sends it: masked, though with zeros."""
    payload = data.encode() if isinstance(data, str) else data
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", flags | kind, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", flags | kind, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", flags | kind, 0x80 | 127, size)
    return head + bytes(4) + payload


@contextlib.asynccontextmanager
async def wire(
    relay: Running, agent_id: str, *, receive_buffer: int | None = None, headers: Headers | None = None, **query: Any
) -> AsyncIterator[Wire]:
    """Shake hands by hand; in the end hang up, if that has not been done."""
    connection = await connect(relay.url, receive_buffer=receive_buffer)
    try:
        asked = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            **(headers or {}),
        }
        await connection.send(request("GET", path_of(agent_id, **query), None, **asked))
        head = await soon(connection.reader.readuntil(b"\r\n\r\n"))
        assert head.startswith(b"HTTP/1.1 101 "), head
        yield Wire(connection)
    finally:
        connection.close()
        with contextlib.suppress(ConnectionError):
            await connection.writer.wait_closed()
