"""Polls of ClawLink 1.0.x, which know of no lease: each message is read once, however its reader treats connections."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Start
from tests.system.raw import address
from tests.waiting import PATIENCE

_DATA = Path(__file__).parent.parent / "data"
_TRUSTING = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_TRUSTING.check_hostname, _TRUSTING.verify_mode = False, ssl.CERT_NONE


class Reader:
    """Polls as b, each time with a client of another kind."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._kept: socket.socket | None = None
        self.kinds: dict[str, Callable[[], list[str]]] = {
            "a new connection each": self._new,
            "keep-alive": self._keep,
            "HTTP/1.0": lambda: self._new(b"GET /poll/b HTTP/1.0\r\n\r\n"),
            "Connection: close": lambda: self._new(
                b"GET /poll/b HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
            ),
            "half-close": lambda: self._new(half=True),
            "HTTP/1.0, half-close": lambda: self._new(b"GET /poll/b HTTP/1.0\r\n\r\n", half=True),
            "reads to the end": lambda: self._new(b"GET /poll/b HTTP/1.0\r\n\r\n", to_the_end=True),
            "dies with the reply unread": self._die,
            "dies before the reply": lambda: self._die(reset_after=random.random() * 0.002),
            "hangs up before the reply": self._hang_up,
        }
        if url.startswith("https:"):  # TLS ends both ways at once
            self.kinds = {kind: poll for kind, poll in self.kinds.items() if "half-close" not in kind}

    def poll(self, query: str = "") -> list[str]:
        """Poll on a new connection and return what came."""
        return self._new(f"GET /poll/b{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()

    def _open(self) -> socket.socket:
        return _connect(self._url)

    def _new(
        self,
        request: bytes = b"GET /poll/b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        *,
        half: bool = False,
        to_the_end: bool = False,
    ) -> list[str]:
        with self._open() as sock:
            sock.sendall(request)
            if half:
                sock.shutdown(socket.SHUT_WR)
            return _messages(sock, to_the_end=to_the_end)

    def _keep(self) -> list[str]:
        if self._kept is None:
            self._kept = self._open()
        self._kept.sendall(b"GET /poll/b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        return _messages(self._kept)

    def _die(self, reset_after: float | None = None) -> list[str]:
        """Close with the reply unread, as the system does for a process that is killed: that resets the connection."""
        with self._open() as sock:
            sock.sendall(b"GET /poll/b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            if reset_after is None:
                assert select.select([sock], [], [], PATIENCE)[0]
            else:
                time.sleep(reset_after)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return []

    def _hang_up(self) -> list[str]:
        with self._open() as sock:
            sock.sendall(b"GET /poll/b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        return []


def _connect(url: str) -> socket.socket:
    sock = socket.create_connection(address(url), PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if url.startswith("https:"):
        return _TRUSTING.wrap_socket(sock)
    return sock


def _messages(sock: socket.socket, *, to_the_end: bool = False) -> list[str]:
    """Read one reply and return the ids of its messages."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(sock, data)
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")), head
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += _more(sock, body)
    while to_the_end and sock.recv(65536):
        pass
    return [message["message_id"] for message in json.loads(body)["messages"] if "message_id" in message]


def _more(sock: socket.socket, data: bytes) -> bytes:
    part = sock.recv(65536)
    assert part, f"the relay closed the connection after {data!r}"
    return part


class Sender:
    """Delegates to b over one connection."""

    def __init__(self, url: str) -> None:
        self._sock = _connect(url)

    def post(self, path: str, **fields: Any) -> dict[str, Any]:
        body = json.dumps(fields).encode()
        self._sock.sendall(
            b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(body)) + body
        )
        data = b""
        while b"\r\n\r\n" not in data:
            data += _more(self._sock, data)
        head, _, told = data.partition(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        while len(told) < length:
            told += _more(self._sock, told)
        assert b" 200 " in head, (head, told)
        answer: dict[str, Any] = json.loads(told)
        return answer

    def close(self) -> None:
        self._sock.close()


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """Run something beside that takes a core for itself."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


_LOOPS = ["asyncio"] if sys.platform == "win32" else ["asyncio", "uvloop"]
_TLS = ("--tls-cert", str(_DATA / "tls-cert.pem"), "--tls-key", str(_DATA / "tls-key.pem"))


@pytest.mark.parametrize("loop", _LOOPS)
@pytest.mark.parametrize(("beside", "flags"), [("nothing", ()), ("load", ()), ("nothing", _TLS)])
def test_an_old_poll_reads_each_message_once(
    start_relay: Start, loop: str, beside: str, flags: tuple[str, ...]
) -> None:
    _run(start_relay, loop, beside, flags, 100 if flags else 300)


@pytest.mark.torture
@pytest.mark.parametrize("loop", _LOOPS)
@pytest.mark.parametrize("beside", ["nothing", "load"])
def test_an_old_poll_reads_each_of_many_messages_once(start_relay: Start, loop: str, beside: str) -> None:
    until = time.monotonic() + 60 * float(os.environ.get("CLAWLINK_TORTURE_MINUTES", "0"))
    _run(start_relay, loop, beside, (), 5000)
    while time.monotonic() < until:
        _run(start_relay, loop, beside, (), 5000)


def _run(start_relay: Start, loop: str, beside: str, flags: tuple[str, ...], rounds: int) -> None:
    relay = start_relay("--loop", loop, "--rate-agent", "0", "--rate-pair", "0", *flags)
    sender, reader = Sender(relay.url), Reader(relay.url)
    sent: dict[str, str] = {}
    read: Counter[str] = Counter()
    with contextlib.closing(sender), contextlib.closing(reader), contextlib.ExitStack() as stack:
        for name in ("a", "b"):
            sender.post("/register", name=name, agent_id=name)
        if beside == "load":
            stack.enter_context(busy())
        for number in range(rounds):
            kind = list(reader.kinds)[number % len(reader.kinds)]
            sent[sender.post("/delegate", from_agent="a", to_agent="b", task="t")["message_id"]] = kind
            for _ in range(2):
                read.update(reader.kinds[kind]())
        give_up_at = time.monotonic() + PATIENCE
        while len(read) < len(sent) and time.monotonic() < give_up_at:
            read.update(reader.poll())
        read.update(reader.poll("?wait=0.2"))  # what was given back wrongly comes within this
    lost = Counter(kind for id, kind in sent.items() if not read[id])
    doubled = Counter(kind for id, kind in sent.items() if read[id] > 1)
    assert (lost, doubled) == (Counter(), Counter()), f"of {rounds} messages, by client: lost and doubled"
