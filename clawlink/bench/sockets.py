"""Websockets by hand, for a load that costs little: frames made and cut without a library."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
_KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """Make a client's frame. Its mask is all zeros, which leaves the payload as it is."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    return head + b"\0\0\0\0" + payload


class Socket(asyncio.Protocol):
    """A websocket. All text frames that have come together go to ``heard``; pings are answered."""

    def __init__(self, path: str, heard: Callable[[Socket, list[bytes]], None], token: str | None = None) -> None:
        self._path = path
        self._heard = heard
        self._token = token
        self._left = b""
        self.transport: asyncio.Transport
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        more = "" if self._token is None else f"Authorization: Bearer {self._token}\r\n"
        self.transport.write(
            f"GET {self._path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {_KEY}\r\n{more}\r\n".encode()
        )

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("the websocket was refused"))
        if not self.closed.done():
            self.closed.set_result(None)

    def send(self, payload: bytes) -> None:
        """Write a text frame."""
        self.transport.write(frame(payload))

    def data_received(self, data: bytes) -> None:
        data = self._left + data if self._left else data
        if not self.opened.done():
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self._left = head
                return
            if b" 101 " not in head[:16]:
                self.transport.abort()
                return
            self.opened.set_result(None)
        at, texts = 0, []
        while True:
            cut = _cut(data, at)
            if cut is None:
                break
            opcode, start, at = cut
            if opcode == TEXT:
                texts.append(data[start:at])
            elif opcode == PING:
                self.transport.write(frame(data[start:at], PONG))
        self._left = data[at:]
        if texts:
            self._heard(self, texts)


def _cut(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Return the opcode of the frame here, and where its payload begins and ends; None if it is not all there."""
    if len(data) < at + 2:
        return None
    size, start = data[at + 1] & 127, at + 2
    if size == 126:
        start = at + 4
        if len(data) < start:
            return None
        size = int.from_bytes(data[at + 2 : start], "big")
    elif size == 127:
        start = at + 10
        if len(data) < start:
            return None
        size = int.from_bytes(data[at + 2 : start], "big")
    return (data[at] & 15, start, start + size) if len(data) >= start + size else None


async def open_socket(
    url: str, path: str, heard: Callable[[Socket, list[bytes]], None], token: str | None = None
) -> Socket:
    """Connect and shake hands. Raises ConnectionError if the address takes no websockets."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    _, socket = await loop.create_connection(lambda: Socket(path, heard, token), parts.hostname or "", parts.port or 80)
    await socket.opened
    return socket
