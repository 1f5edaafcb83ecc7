"""HTTP by hand: requests byte for byte, and connections that end as rudely as a test needs."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests import virtual_time
from tests.waiting import PATIENCE


class Clock:
    """The real time, plus whatever the test or its loop has skipped; once stopped, only what the test skips."""

    def __init__(self) -> None:
        self.skipped = 0.0
        self._stopped_at: float | None = None

    def __call__(self) -> float:
        return (time.time() + virtual_time.skipped() if self._stopped_at is None else self._stopped_at) + self.skipped

    def stop(self) -> None:
        """Let no time pass but what is skipped."""
        self._stopped_at = time.time() + virtual_time.skipped()

    def skip(self, seconds: float) -> None:
        """Let this much time pass at once."""
        self.skipped += seconds


class Answer(NamedTuple):
    """An HTTP reply; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def address(url: str) -> tuple[str, int]:
    """Return host and port of a relay's address."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def request(method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
    """Return a request's bytes. Header names are given with underscores: ``content_type="text/plain"``."""
    lines = {"Host": "127.0.0.1", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if body is not None:
        lines.setdefault("Content-Length", str(len(body)))
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return head.encode("utf-8", "surrogateescape") + b"\r\n" + (body or b"")


async def read_answer(reader: asyncio.StreamReader, *, body: bool = True) -> Answer:
    """Read one reply, to HEAD without a ``body``. Raises IncompleteReadError if the connection ends before it does."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    content = await reader.readexactly(int(headers.get("content-length", "0")) if body else 0)
    return Answer(int(first.split(" ")[1]), headers, content)


class Connection:
    """A TCP connection to a relay."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Write bytes; that the relay has hung up shows at the next read."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except ConnectionError:
            return

    async def answer(self, within: float = PATIENCE, *, body: bool = True) -> Answer:
        """Read one reply, within this many seconds."""
        return await asyncio.wait_for(read_answer(self.reader, body=body), within)

    async def ask(self, data: bytes, within: float = PATIENCE) -> Answer:
        """Send a request and read its reply."""
        await self.send(data)
        return await self.answer(within, body=not data.startswith(b"HEAD "))

    def close(self) -> None:
        """Hang up politely."""
        self.writer.close()

    def reset(self) -> None:
        """Hang up as a killed process or a dropped link does: what the other side writes meets a reset.

        Does nothing if the other side has hung up already.
        """
        if self.writer.is_closing():
            return
        raw: socket.socket = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def connect(url: str, *, receive_buffer: int | None = None) -> Connection:
    """Open a connection. A small ``receive_buffer`` makes the relay feel at once that nobody reads."""
    raw = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if receive_buffer is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, address(url))
    limit = 2**16 if receive_buffer is None else receive_buffer
    return Connection(*await asyncio.open_connection(sock=raw, limit=limit))


async def exchange(url: str, data: bytes, within: float = PATIENCE) -> Answer:
    """Send one request on a connection of its own and read the reply."""
    connection = await connect(url)
    try:
        return await connection.ask(data, within)
    finally:
        connection.close()
