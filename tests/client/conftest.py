"""Relays for a client that blocks: a real one in a thread, and one that says what it is told to."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from clawlink.client.retry import Backoff
from clawlink.config import ServerConfig
from clawlink.domain.limits import Limits
from tests.client.facade import KINDS, Chosen
from tests.client.restartable import Restartable
from tests.system.threaded import relay_in_thread
from tests.waiting import PATIENCE

SMALL = Limits(max_mailbox_messages=20, max_file_bytes=1000, max_attempts=1)


@pytest.fixture(scope="session")
def relay() -> Iterator[str]:
    """A real relay with small limits; the tests share it, so each brings names of its own."""
    with relay_in_thread(ServerConfig(port=0, limits=SMALL)) as url:
        yield url


@pytest.fixture(scope="session")
def guarded() -> Iterator[str]:
    """A real relay that asks for a token of many scripts."""
    with relay_in_thread(ServerConfig(port=0, token="schlüssel-☃")) as url:
        yield url


def http(status: str, body: str | bytes = b"", *lines: str) -> bytes:
    """Return an HTTP reply."""
    data = body.encode() if isinstance(body, str) else body
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", "Connection: close", *lines, "", ""]
    return "\r\n".join(head).encode() + data


class Scripted:
    """A server that answers one connection after the other with the next reply of its script, the last one for ever.

    A float in place of a reply is this many seconds of silence. ``asked`` are the requests it has read.
    """

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.script: list[bytes | float] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            if self._over.is_set():
                connection.close()
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(5)
                self.asked.append(self._read(connection))
                reply = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                if isinstance(reply, float):
                    self._over.wait(reply)
                else:
                    connection.sendall(reply)

    @staticmethod
    def _read(connection: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536) or b"\r\n\r\n"
        head, _, body = data.partition(b"\r\n\r\n")
        stated = re.search(rb"(?i)content-length: *(\d+)", head)
        while stated and len(body) < int(stated[1]):
            body += connection.recv(65536)
        return head + b"\r\n\r\n" + body

    def close(self) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            socket.create_connection(self._socket.getsockname(), timeout=1).close()
        self._thread.join(PATIENCE)
        self._socket.close()


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    """A relay that says what it is told to: ``scripted.script = [http("503 ..."), ...]``."""
    server = Scripted()
    yield server
    server.close()


@pytest.fixture(params=KINDS)
def each_client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have the test run with either client: ``connect`` then makes one of that kind."""
    kind: str = request.param
    monkeypatch.setattr(Chosen, "kind", kind)
    return kind


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that clients have made; none of them takes any time."""
    made: list[float] = []
    decide = Backoff.pause

    def pause(self: Backoff, *args: Any, **facts: Any) -> float | None:
        decided = decide(self, *args, **facts)
        if decided is None:
            return None
        made.append(decided)
        return 0.0

    monkeypatch.setattr(Backoff, "pause", pause)
    return made


@pytest.fixture
def restartable() -> Iterator[Restartable]:
    """A relay of the test's own, which goes away and comes back with all it knew."""
    relay = Restartable(Limits(rate_agent=0, rate_pair=0))
    yield relay
    relay.close()
