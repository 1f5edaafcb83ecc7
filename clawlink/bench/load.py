"""A load generator that costs little: raw HTTP/1.1 over kept-open connections, one request at a time on each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import urlsplit

_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"content-length:"

PATIENCE_SECONDS = 30.0


def request_bytes(
    method: str, path: str, body: bytes = b"", *, token: str | None = None, headers: Mapping[str, str] | None = None
) -> bytes:
    """Write one request. The Host is what any relay on an address accepts."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if token is not None:
        head += f"Authorization: Bearer {token}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    for name, value in (headers or {}).items():
        head += f"{name}: {value}\r\n"
    return head.encode() + b"\r\n" + body


class Connection(asyncio.Protocol):
    """A connection. Every whole answer goes to ``answered`` with its status and body."""

    def __init__(self, answered: Callable[[Connection, int, bytes], None]) -> None:
        self._answered = answered
        self._waiting: list[bytes] = []
        self._missing = 0
        self.transport: asyncio.Transport
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def send(self, request: bytes) -> None:
        """Write a request."""
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._waiting:
            # A long answer comes in many pieces: they are joined once, when all have come.
            self._waiting.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data = b"".join(self._waiting)
            self._waiting.clear()
        while data:
            end = data.find(_END_OF_HEAD)
            if end < 0:
                self._wait(data, 1)
                return
            head = data[:end].lower()
            at = head.index(_LENGTH) + len(_LENGTH)
            line_end = head.find(b"\r\n", at)
            total = end + len(_END_OF_HEAD) + int(head[at : line_end if line_end > 0 else end])
            if len(data) < total:
                self._wait(data, total - len(data))
                return
            self._answered(self, int(data[9:12]), data[end + len(_END_OF_HEAD) : total])
            data = data[total:]

    def _wait(self, data: bytes, missing: int) -> None:
        self._waiting.append(data)
        self._missing = missing


async def connect(url: str, answered: Callable[[Connection, int, bytes], None]) -> Connection:
    """Open a connection to the address of a relay."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(answered), parts.hostname or "", parts.port or 80)
    return connection


class Asker:
    """A connection on which requests are asked one by one and awaited."""

    def __init__(self) -> None:
        self._connection: Connection
        self._answer: asyncio.Future[tuple[int, bytes]]

    @classmethod
    async def open(cls, url: str) -> Asker:
        """Open a connection."""
        asker = cls()
        asker._connection = await connect(url, asker._take)
        return asker

    def _take(self, _connection: Connection, status: int, body: bytes) -> None:
        if not self._answer.done():
            self._answer.set_result((status, body))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request and return status and body."""
        self._answer = asyncio.get_running_loop().create_future()
        self._connection.send(request)
        return await self._answer

    async def close(self) -> None:
        """Close the connection."""
        self._connection.transport.close()
        await self._connection.closed

    async def __aenter__(self) -> Asker:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def measure(seconds: float, counted: Callable[[], int]) -> None:
    """Wait for ``seconds``; then, on a busy machine, until something is counted, for ``PATIENCE_SECONDS`` at most."""
    await asyncio.sleep(seconds)
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE_SECONDS
    while loop.time() < until:
        if counted():
            return
        await asyncio.sleep(0.01)


async def saturate(url: str, make: Callable[[], bytes], *, connections: int, seconds: float) -> tuple[float, int, int]:
    """Keep ``connections`` busy with what ``make`` gives, for ``seconds``.

    Returns answers a second with status 200, how many those were, and how many answers had another status.
    """
    good = bad = 0
    running = True

    def answered(connection: Connection, status: int, body: bytes) -> None:
        nonlocal good, bad
        if status == 200:
            good += 1
        else:
            bad += 1
        if running:
            connection.send(make())

    def spin() -> None:
        # Never sleep: on a virtual machine the server would pay for waking us, the more the slower it is.
        if running:
            loop.call_soon(spin)

    loop = asyncio.get_running_loop()
    opened = [await connect(url, answered) for _ in range(connections)]
    loop.call_soon(spin)
    started = time.perf_counter()
    for connection in opened:
        connection.send(make())
    await measure(seconds, lambda: good + bad)
    elapsed = time.perf_counter() - started
    total, refused = good, bad
    running = False
    for connection in opened:
        connection.transport.abort()
    await asyncio.gather(*(connection.closed for connection in opened))
    return total / elapsed, total, refused
