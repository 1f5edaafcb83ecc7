"""Measure files: bytes a second both ways, memory while many come at once, and long lists."""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from clawlink.bench.scenarios import BenchFailed, Relay, Row, p99
from clawlink.bench.servers import Server

FILE_BYTES = 50_000_000
UPLOADS = 20
FILES = 10_000
_PAGE = 1000
_EDITOR = "bench-editor"
_STEP = 1 << 20
_WATCH_SECONDS = 0.02


async def streams(relay: Relay, floor: Server | None, *, rounds: int, say: Callable[[str], None]) -> list[Row]:
    """Megabytes a second of one file up and down, beside a handler that only reads and hashes, or only writes."""
    await relay.register([_EDITOR])
    content = os.urandom(FILE_BYTES)
    rates: dict[str, list[float]] = {"upload": [], "download": []}
    ratios: dict[str, list[float]] = {"upload": [], "download": []}
    for turn in range(rounds):
        say(f"a file up and down, round {turn + 1} of {rounds}")
        asked = {
            "upload": _put(relay, "bench/file", len(content)),
            "download": _head("GET", "/blobs/bench/file", relay.token),
        }
        bare = {
            "upload": _head("PUT", "/sink", None, f"Content-Length: {len(content)}"),
            "download": _head("GET", f"/source?bytes={len(content)}", None),
        }
        for way in rates:
            body = content if way == "upload" else b""
            base = None if floor is None else await asyncio.to_thread(_timed, floor.url, bare[way], body)
            took = await asyncio.to_thread(_timed, relay.server.url, asked[way], body)
            rates[way].append(FILE_BYTES / took / 1e6)
            if base is not None:
                ratios[way].append(base / took)
    return [
        Row(
            f"{way} of a file of {FILE_BYTES // 1_000_000} MB",
            statistics.median(rates[way]),
            "MB/s",
            statistics.median(ratios[way]) if ratios[way] else None,
        )
        for way in rates
    ]


async def many_uploads(relay: Relay, *, say: Callable[[str], None]) -> list[Row]:
    """The most memory that the relay takes while files come at once, over what it had before."""
    await relay.register([_EDITOR])
    say(f"{UPLOADS} uploads at once")
    before = relay.server.memory()
    if before is None:
        return []
    piece = os.urandom(FILE_BYTES)
    most = before
    uploads = [
        asyncio.create_task(
            asyncio.to_thread(
                _timed, relay.server.url, _put(relay, f"bench/{n}", len(piece)), n.to_bytes(4, "big") + piece[4:]
            )
        )
        for n in range(UPLOADS)
    ]
    while not all(upload.done() for upload in uploads):
        most = max(most, relay.server.memory() or 0)
        await asyncio.sleep(_WATCH_SECONDS)
    await asyncio.gather(*uploads)
    size = FILE_BYTES // 1_000_000
    return [Row(f"memory over idle, {UPLOADS} uploads of {size} MB at once, --spool", (most - before) / 1e6, "MB")]


async def listing(relay: Relay, *, seconds: float, say: Callable[[str], None]) -> list[Row]:
    """How long it takes to list many files, page by page."""
    await relay.register([_EDITOR])
    say(f"writing {FILES} files")
    async with await relay.open() as asker:
        for n in range(FILES):
            await relay.ask(asker, "POST", "/files", {"file_key": f"bench/{n}", "content": "x", "agent_id": _EDITOR})
        say(f"listing {FILES} files")
        took: list[float] = []
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or len(took) < 20:
            spent, after = 0.0, ""
            while True:
                request = relay.request("GET", f"/files?limit={_PAGE}{after}")
                started = time.perf_counter()
                status, page = await asker.ask(request)
                spent += time.perf_counter() - started
                if status != 200:
                    raise BenchFailed(f"GET /files: {page.decode(errors='replace')}")
                found = page.rpartition(b'"next":')[2].strip(b'"}')
                if found == b"null":
                    break
                after = f"&after={found.decode()}"
            took.append(spent * 1000)
    return [
        Row(f"list {FILES:,} files, {_PAGE} a page: p50", statistics.median(took), "ms"),
        Row("p99", p99(took), "ms"),
    ]


def _put(relay: Relay, key: str, size: int) -> bytes:
    return _head("PUT", f"/blobs/{key}", relay.token, f"Content-Length: {size}", f"ClawLink-Agent: {_EDITOR}")


def _head(method: str, path: str, token: str | None, *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *headers]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _timed(url: str, head: bytes, body: bytes) -> float:
    """Send a request, read the reply to its end, and return how long it took. Raises BenchFailed if it is refused."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 80)) as connection:
        started = time.perf_counter()
        connection.sendall(head)
        for piece in _pieces(body):
            connection.sendall(piece)
        room = bytearray(_STEP)
        first = b""
        while size := connection.recv_into(room):
            if not first:
                first = bytes(room[: min(size, 64)])
    if not first.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201")):
        raise BenchFailed(f"the file was refused: {first.decode(errors='replace')}")
    return time.perf_counter() - started


def _pieces(body: bytes) -> Iterable[memoryview]:
    view = memoryview(body)
    return (view[at : at + _STEP] for at in range(0, len(view), _STEP))
