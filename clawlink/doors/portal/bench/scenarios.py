"""Measure the portal: messages from one to the other, files both ways of the wire, many uploads, and long lists."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp

from clawlink.bench.scenarios import BenchFailed, Row
from clawlink.bench.servers import Server
from clawlink.doors.portal.client.files import file_status, send_file
from clawlink.doors.portal.client.portal import Portal
from clawlink.doors.portal.rules.file_parts import PART_BYTES
from clawlink.loop_run import run

FILE_BYTES = 128 * 1024 * 1024
UPLOADS = 20
TURNS = 3
"""The rounds of a file as bytes, whose median counts."""
MESSAGES = 200
_WATCH_SECONDS = 0.02
_START_SECONDS = 30.0
_FLAGS = ("--rate-agent", "0", "--rate-pair", "0", "--rate-files", "0", "--log-level", "error", "--sync", "normal")


class Measured(Portal):
    """A portal in a process of its own, with its owner's rights."""

    def __init__(self, url: str, key: str, server: Server) -> None:
        super().__init__(url, key, timeout=600.0)
        self.key = key
        self.server = server

    def befriend(self, url: str, key: str | None = None) -> str:
        """Add a contact, and return the shared key."""
        self.ask("POST", "/api/contacts", {"portal_url": url, "SHARED_KEY": key})
        return str(next(one for one in self.contacts() if one["portal_url"] == url)["SHARED_KEY"])


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(_WATCH_SECONDS)
    raise BenchFailed("a server of the measurement did not start")


@contextlib.contextmanager
def _running(*words: str, port: int, env: dict[str, str] | None = None) -> Iterator[Server]:
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, *words], env={**os.environ, **(env or {})}, stdout=subprocess.DEVNULL
    )
    try:
        _await(port, process)
        yield Server(f"http://127.0.0.1:{port}", process.pid)
    finally:
        process.terminate()
        process.wait(_START_SECONDS)


@contextlib.contextmanager
def _portal(folder: Path) -> Iterator[Measured]:
    port, key = _free_port(), "ap2p_" + secrets.token_urlsafe(32)
    url = f"http://127.0.0.1:{port}"
    words = ("-m", "clawlink", "serve", "--portal", url, "--port", str(port), "--data", str(folder), *_FLAGS)
    env = {"AGENTP2P_API_KEY": key, "CLAWLINK_PORTAL_PASSWORD": secrets.token_hex(8)}
    with _running(*words, "--portal-contact-messages", "1000000", port=port, env=env) as server:
        yield Measured(url, key, server)


@contextlib.contextmanager
def _pair(folder: Path) -> Iterator[tuple[Measured, Measured]]:
    with _portal(folder / "a") as a, _portal(folder / "b") as b:
        b.befriend(a.url, a.befriend(b.url))
        yield a, b


def messages(folder: str, *, say: Callable[[str], None]) -> list[Row]:
    """Milliseconds from ``send`` at a portal until the bridge of the other one has the message."""
    with _pair(Path(folder)) as (a, b):
        say(f"{MESSAGES} messages, one after another")
        took = run(_rounds(a, b))
    return [
        Row("a message from send to the bridge of the other portal, p50", statistics.median(took) * 1000, "ms"),
        Row("the same, p99", sorted(took)[int(len(took) * 0.99)] * 1000, "ms"),
    ]


async def _rounds(a: Measured, b: Measured) -> list[float]:
    took: list[float] = []
    headers = {"Authorization": f"Bearer {a.key}"}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{b.url}/ws/agent?api_key={b.key}") as bridge,
    ):
        for number in range(MESSAGES):
            started = time.perf_counter()
            body = {"to": b.url, "content": f"message {number}"}
            async with session.post(f"{a.url}/api/portal/send", json=body, headers=headers) as answer:
                if answer.status != 200:
                    raise BenchFailed(await answer.text())
            while (frame := json.loads((await bridge.receive()).data))["type"] != "new_message":
                pass
            took.append(time.perf_counter() - started)
            await bridge.send_json({"type": "ack", "message_ids": [frame["id"]]})
    return took


def files(folder: str, *, say: Callable[[str], None], size: int = FILE_BYTES) -> list[Row]:
    """Megabytes a second of one file to a portal, beside a bare handler that only decodes and writes."""
    size -= size % PART_BYTES
    with _pair(Path(folder)) as (a, b):
        port = _free_port()
        sink = str(Path(folder) / "sink")
        with _running("-m", "clawlink.doors.portal.bench.bare", str(port), sink, port=port) as bare:
            return [
                *_as_json(b, b.befriend("http://127.0.0.1:9"), bare, size, say),
                *_as_bytes(Path(folder), a, b, bare, size, say),
            ]


def _as_json(b: Measured, key: str, bare: Server, size: int, say: Callable[[str], None]) -> list[Row]:
    part = os.urandom(PART_BYTES)
    count = size // PART_BYTES
    whole = hashlib.md5(usedforsecurity=False)
    for _ in range(count):
        whole.update(part)
    body = {
        "api_key": key,
        "chunk_md5": hashlib.md5(part, usedforsecurity=False).hexdigest(),
        "data": base64.b64encode(part).decode(),
    }
    data = json.dumps(body).encode()
    took, used = {}, {}
    for name, url, server in (("bare", bare.url, bare), ("portal", b.url, b.server)):
        say(f"{size} bytes as base64 in JSON to the {name} handler")
        begin = {"api_key": key, "filename": "x", "size": size, "md5": whole.hexdigest(), "chunks_total": count}
        started, spent = time.perf_counter(), server.processor_seconds() or 0.0
        id = _post(url, "/api/file/initiate", json.dumps({**begin, "to_portal": url}).encode())["file_id"]
        for index in range(count):
            _post(url, f"/api/file/chunk/{id}/{index}", data)
        took[name] = time.perf_counter() - started
        used[name] = (server.processor_seconds() or 0.0) - spent
    rate = size / took["portal"] / 1e6
    what = "a file to a portal as base64 in JSON"
    return [Row(what, rate, "MB/s", took["bare"] / took["portal"]), *_processor(what, used, size)]


def _post(url: str, path: str, body: bytes) -> Any:
    connection = http.client.HTTPConnection(url.partition("://")[2], timeout=600)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        told = json.loads(answer.read())
        if answer.status != 200:
            raise BenchFailed(str(told))
        return told
    finally:
        connection.close()


def _as_bytes(folder: Path, a: Measured, b: Measured, bare: Server, size: int, say: Callable[[str], None]) -> list[Row]:
    a.befriend(bare.url + "/raw")
    path = folder / "file.bin"
    rounds: list[dict[str, tuple[float, float]]] = []
    try:
        for number in range(1, TURNS + 1):
            with path.open("wb") as file:
                for _ in range(size // PART_BYTES):
                    file.write(os.urandom(PART_BYTES))
            say(f"{size} bytes from a portal to the bare one and to another, {number} of {TURNS}")
            rounds.append({"bare": _sent(a, bare.url + "/raw", bare, path), "portal": _sent(a, b.url, b.server, path)})
            for there in b.ask("GET", "/api/portal/files")["files"]:  # the next file takes the same room
                b.ask("DELETE", f"/api/portal/files/{there['file_id']}")
    finally:
        path.unlink(missing_ok=True)
    took, used = (
        {name: statistics.median(one[name][which] for one in rounds) for name in ("bare", "portal")} for which in (0, 1)
    )
    rows = [Row("a file from portal to portal", size / took["portal"] / 1e6, "MB/s", took["bare"] / took["portal"])]
    return [*rows, *_processor("a file from portal to portal", used, size)]


def _sent(a: Measured, url: str, server: Server, path: Path) -> tuple[float, float]:
    """Send a file to a contact. Return the seconds that it takes, and those of the receiver's processor."""
    contact = f"/api/portal/contacts/{url.replace('/', '%2F')}"
    a.ask("POST", contact, {"paused": True})
    told = send_file(a, url, path)
    started, spent = time.perf_counter(), server.processor_seconds() or 0.0
    a.ask("POST", contact, {"paused": False})
    while (told := file_status(a, told["file_id"]))["status"] == "queued":
        time.sleep(_WATCH_SECONDS)
    if told["status"] != "sent":
        raise BenchFailed(f"the file is {told['status']}: {told['detail']}")
    return time.perf_counter() - started, (server.processor_seconds() or 0.0) - spent


def _processor(what: str, used: dict[str, float], size: int) -> list[Row]:
    """Return the processor time of the receivers, which other work on the machine changes less."""
    if not used.get("portal"):
        return []
    each = used["portal"] / size * 1e8 * 1000
    return [Row(f"{what}, processor time of the receiver for 100 MB", each, "ms", used["bare"] / used["portal"])]


def uploads(folder: str, *, say: Callable[[str], None]) -> list[Row]:
    """The most memory of a portal while files of contacts come at once, over what it had before."""
    size = 3 * PART_BYTES
    with _portal(Path(folder) / "a") as a:
        keys = [a.befriend(f"https://c{number}.example") for number in range(UPLOADS)]
        before = a.server.memory()
        if before is None:
            return []
        most, over = before, threading.Event()
        say(f"{UPLOADS} files of {size} bytes at once, as base64 in JSON")
        part = os.urandom(PART_BYTES)
        whole = hashlib.md5(part * 3, usedforsecurity=False).hexdigest()
        data = base64.b64encode(part).decode()

        def send(key: str) -> None:
            begin = {"api_key": key, "filename": "x", "size": size, "md5": whole, "chunks_total": 3, "to_portal": a.url}
            id = _post(a.url, "/api/file/initiate", json.dumps(begin).encode())["file_id"]
            for index in range(3):
                _post(a.url, f"/api/file/chunk/{id}/{index}", json.dumps({"api_key": key, "data": data}).encode())

        def watch() -> None:
            nonlocal most
            while not over.wait(_WATCH_SECONDS):
                most = max(most, a.server.memory() or 0)

        watching = threading.Thread(target=watch)
        watching.start()
        threads = [threading.Thread(target=send, args=(key,)) for key in keys]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        over.set()
        watching.join()
        done = [one["status"] for one in a.ask("GET", "/api/portal/files")["files"]]
        if done != ["completed"] * UPLOADS:
            raise BenchFailed(f"not all files arrived: {done}")
    return [Row(f"memory of {UPLOADS} files at once, over idle", (most - before) / 1e6, "MB")]


SCENARIOS = {"portal-messages": messages, "portal-files": files, "portal-uploads": uploads}
