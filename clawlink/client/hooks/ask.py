"""A request to a relay over a plain socket, because a hook has no time to load a client.

It speaks HTTP/1.0, so that no proxy answers in parts.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl

_MAX_BYTES = 4 * 2**20
_PORTS = {"http": 9077, "https": 443}


class Answer(NamedTuple):
    """The status of a reply, and its JSON."""

    status: int
    body: Any


class Relay(NamedTuple):
    """A relay, and the rights at it. All requests together may last until ``until``, in monotonic time."""

    address: str
    token: str | None
    ca: str | None
    until: float

    def ask(self, method: str, path: str, body: Any = None, *, agent_key: str | None = None) -> Answer:
        """Send a request. Raises OSError if there is no answer in time, and ValueError if it is no relay's."""
        parts = urlsplit(self.address)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError(f"{self.address} is no address of a relay")
        data = b"" if body is None else json.dumps(body).encode()
        head = [
            f"{method} {parts.path}{path} HTTP/1.0",
            f"Host: {parts.netloc.rpartition('@')[2]}",
            f"Content-Length: {len(data)}",
            "Content-Type: application/json",
            *([] if self.token is None else [f"Authorization: Bearer {self.token}"]),
            *([] if agent_key is None else [f"ClawLink-Agent-Key: {agent_key}"]),
        ]
        if any("\r" in line or "\n" in line for line in head):
            raise ValueError("a token, a key or an address has a line end")
        place = (parts.hostname, parts.port or _PORTS[parts.scheme])
        secure = self._secure() if parts.scheme == "https" else None
        try:
            peer = socket.create_connection(place, self._left())
            with peer if secure is None else secure.wrap_socket(peer, server_hostname=parts.hostname) as peer:
                peer.settimeout(self._left())
                peer.sendall("\r\n".join([*head, "", ""]).encode() + data)
                return _read(peer, self._left)
        except TimeoutError:
            raise TimeoutError(f"{self.address} did not answer in time") from None

    def _secure(self) -> ssl.SSLContext:
        import ssl

        return ssl.create_default_context(cafile=self.ca)

    def _left(self) -> float:
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def _read(peer: socket.socket, left: Callable[[], float]) -> Answer:
    data = bytearray()
    while True:
        peer.settimeout(left())
        piece = peer.recv(65536)
        if not piece:
            break
        data += piece
        if len(data) > _MAX_BYTES:
            raise ValueError("the answer is too large for a relay's")
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise ValueError("the answer is no HTTP")
    return Answer(int(words[1]), json.loads(body))
