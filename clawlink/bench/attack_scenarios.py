"""Measure the time that others wait while a stranger, or a holder of the token, sends bad requests without end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from clawlink.bench.load import Connection, connect, request_bytes
from clawlink.bench.scenarios import Relay, Row, p99, pings

RATE = 1000
_CONNECTIONS = 40
_STEP_SECONDS = 0.01
_LARGE = b"x" * 65_536
_NESTED = b"[" * 65 + b'"' + b"a" * 30


def attacks_of(token: str | None) -> dict[str, bytes]:
    def held(method: str, path: str, body: bytes = b"") -> bytes:
        return request_bytes(method, path, body, token=token)

    nobody = b'{"from_agent":"bench-nobody","message_id":"no","result":"%b"}' % _LARGE
    return {
        "wrong tokens": request_bytes("GET", "/poll/bench-nobody", token="wrong"),  # noqa: S106 - a wrong one
        "bodies of 64 KiB without a token": request_bytes("POST", "/delegate", _LARGE),
        "responses of 64 KiB to no task": held("POST", "/respond", nobody),
        "nested JSON": held("POST", "/heartbeat", _NESTED),
        "requests to no route": held("GET", "/no/such/route"),
        "messages to nobody": held("POST", "/send", b'{"from_agent":"bench-a","to_agent":"no","content":1}'),
    }


async def attacks(relay: Relay, *, seconds: float, say: Callable[[str], None]) -> list[Row]:
    """Ping while ``RATE`` bad requests a second come in, and while as many connections open with half a header.

    Expects a relay with a token, which ``relay`` has.
    """
    await relay.register(["bench-a"])
    alone = await pings(relay, asyncio.sleep(seconds))
    rows = [
        Row("another request, no attack, p50", _middle(alone), "ms"),
        Row("another request, no attack, p99", p99(alone) * 1000, "ms"),
    ]
    for what, data in attacks_of(relay.token).items():
        say(f"{RATE} {what} a second")
        beside = await pings(relay, _send(relay.server.url, data, seconds))
        rows.append(Row(f"another request beside {RATE:,} {what} a second, p99", p99(beside) * 1000, "ms"))
    say(f"{RATE} half headers a second")
    beside = await pings(relay, _half_headers(relay.server.url, seconds))
    rows.append(Row(f"another request beside {RATE:,} half headers a second, p99", p99(beside) * 1000, "ms"))
    await relay.leave(["bench-a"])
    return rows


def _middle(took: list[float]) -> float:
    return sorted(took)[len(took) // 2] * 1000


def _steps(seconds: float) -> Iterator[int]:
    """Give the number of requests that are due at each step."""
    started, sent = time.perf_counter(), 0
    while (passed := time.perf_counter() - started) < seconds:
        due = int(passed * RATE) - sent
        sent += due
        yield due


async def _send(url: str, data: bytes, seconds: float) -> None:
    """Send at the rate, over kept connections by turns, each again once it is answered."""
    free: list[Connection] = []

    def answered(connection: Connection, _status: int, _body: bytes) -> None:
        free.append(connection)

    opened = [await connect(url, answered) for _ in range(_CONNECTIONS)]
    free += opened
    for due in _steps(seconds):
        for _ in range(min(due, len(free))):
            connection = free.pop(0)
            if connection.transport.is_closing():
                connection = await connect(url, answered)
                opened.append(connection)
            connection.send(data)
        await asyncio.sleep(_STEP_SECONDS)
    for connection in opened:
        connection.transport.abort()
    await asyncio.gather(*(connection.closed for connection in opened))


async def _half_headers(url: str, seconds: float) -> None:
    """Open connections at the rate, and send half a header on each."""
    parts = urlsplit(url)
    opened = []
    for due in _steps(seconds):
        for _ in range(due):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(parts.hostname, parts.port)
                writer.write(b"GET /healthz HTTP/1.1\r\nHo")
                opened.append(writer)
        await asyncio.sleep(_STEP_SECONDS)
    for writer in opened:
        writer.transport.abort()
