"""Measure the time that others wait while a stranger, or a holder of the token, sends bad requests without end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import msgspec

from clawlink.bench.load import Connection, connect, request_bytes
from clawlink.bench.scenarios import Relay, Row, p99, pings
from clawlink.domain.limits import Limits

RATE = 1000
_CONNECTIONS = 40
_STEP_SECONDS = 0.01
_LARGE = b"x" * 65_536
_NESTED = b"[" * 65 + b'"' + b"a" * 30


_AUDIENCE = 200
_CLAIMED = "bench-claimed"
_LONG = "bench-long"
_NOBODY = "bench-nobody"
_FILE_BYTES = 2**20
# The limits that the bench turns off elsewhere, as a relay has them without a flag: they are the answer to attacks.
_DEFAULTS = Limits()
FLAGS = tuple(
    part
    for name in (
        *("rate_agent", "rate_pair", "rate_copies", "rate_register", "rate_files", "max_open_tasks"),
        *("max_mailbox_messages", "max_mailbox_bytes", "max_stored_bytes"),
    )
    for part in (f"--{name.replace('_', '-')}", str(getattr(_DEFAULTS, name)))
)


def attacks_of(token: str | None) -> dict[str, bytes]:
    """Return the requests of each attack. The agents ``bench-a``, ``bench-full`` and a claimed one are there."""

    def held(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
        lines = {name.replace("_", "-"): value for name, value in headers.items()}
        return request_bytes(method, path, body, token=token, headers=lines)

    def told(path: str, **fields: object) -> bytes:
        return held("POST", path, msgspec.json.encode(fields))

    text = _LARGE.decode()
    long = {"description": "d" * 4000, "capabilities": [f"{n}" + "c" * 100 for n in range(64)]}
    nobody = b'{"from_agent":"bench-nobody","message_id":"no","result":"%b"}' % _LARGE
    return {
        "wrong tokens": request_bytes("GET", "/poll/bench-nobody", token="wrong"),  # noqa: S106 - a wrong one
        "bodies of 64 KiB without a token": request_bytes("POST", "/delegate", _LARGE),
        "responses of 64 KiB to no task": held("POST", "/respond", nobody),
        "nested JSON": held("POST", "/heartbeat", _NESTED),
        "requests to no route": held("GET", "/no/such/route"),
        "messages to nobody": held("POST", "/send", b'{"from_agent":"bench-a","to_agent":"no","content":1}'),
        "packed bodies of 64 KiB": held("POST", "/delegate", _LARGE, Content_Encoding="gzip"),
        "registrations with the longest fields": told("/register", agent_id=_LONG, **long),
        "locks with long notes": told(
            "/locks", agent_id="bench-a", file_key="bench" + "k" * 900, seconds=60, note="n" * 1000
        ),
        "messages of 64 KiB to a full mailbox": told(
            "/send", from_agent="bench-a", to_agent="bench-full", content=text
        ),
        f"broadcasts to {_AUDIENCE} agents": told("/broadcast", from_agent="bench-a", content="x"),
        "claims of a claimed name": told("/register", name=_CLAIMED, claim=True),
        "look-alikes of a claimed name": told("/register", name=_CLAIMED.replace("a", "\u0430"), claim=True),
        "images that poll": held("GET", "/poll/bench-a", Sec_Fetch_Site="same-site", Accept="image/*"),
        "junk receipts": told(
            "/respond", from_agent="bench-a", message_id="0" * 24, result="x", receipt="0" * 16 + "-" + "0" * 24
        ),
    }


async def attacks(relay: Relay, *, seconds: float, say: Callable[[str], None]) -> list[Row]:
    """Ping while ``RATE`` bad requests a second come in, and while as many connections open with half a header.

    Expects a relay with a token, which ``relay`` has, and with ``FLAGS``.
    """
    # Attacks act as the last two, and may all come too late to register them.
    agents = ["bench-a", "bench-full", _LONG, _NOBODY, *(f"bench-hears-{n}" for n in range(_AUDIENCE))]
    await relay.register(agents)
    async with await relay.open() as asker:
        claim = {"agent_id": _CLAIMED, "name": _CLAIMED, "claim": True}
        key = (await relay.ask(asker, "POST", "/register", claim))["agent_key"]
        file = {"agent_id": "bench-a", "file_key": "bench-large", "content": "x" * (_FILE_BYTES // 2)}
        await relay.ask(asker, "POST", "/files", file)
    alone = await pings(relay, asyncio.sleep(seconds))
    rows = [
        Row("another request, no attack, p50", _middle(alone), "ms"),
        Row("another request, no attack, p99", p99(alone) * 1000, "ms"),
    ]
    for what, data in attacks_of(relay.token).items():
        say(f"{RATE} {what} a second")
        beside = await pings(relay, _send(relay.server.url, data, seconds))
        rows.append(Row(f"another request beside {RATE:,} {what} a second, p99", p99(beside) * 1000, "ms"))
    for what, data in (
        ("half headers", b"GET /healthz HTTP/1.1\r\nHo"),
        ("files that nobody reads", request_bytes("GET", "/blobs/bench-large", token=relay.token)),
    ):
        say(f"{RATE} {what} a second")
        beside = await pings(relay, _left_open(relay.server.url, data, seconds))
        rows.append(Row(f"another request beside {RATE:,} {what} a second, p99", p99(beside) * 1000, "ms"))
    async with await relay.open() as asker:
        await relay.ask(asker, "DELETE", "/files/bench-large?agent_id=bench-a")
        shown = {"ClawLink-Agent-Key": key}
        await asker.ask(request_bytes("DELETE", f"/agents/{_CLAIMED}", token=relay.token, headers=shown))
    await relay.leave(agents)
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


async def _left_open(url: str, data: bytes, seconds: float) -> None:
    """Open connections at the rate, send this on each, and read nothing."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    opened = []
    for due in _steps(seconds):
        for _ in range(due):
            with contextlib.suppress(OSError):
                one = socket.socket()
                opened.append(one)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                one.setblocking(False)
                await loop.sock_connect(one, (parts.hostname, parts.port))
                await loop.sock_sendall(one, data)
        await asyncio.sleep(_STEP_SECONDS)
    for one in opened:
        one.close()
