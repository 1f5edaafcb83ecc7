"""The local port of the program that wakes agents: how hooks of this account talk to it.

It is a port on loopback. A file that only its owner may read has its number and a secret. Each line in both directions
carries a code made with the secret, so no other account can ask, nor answer. The secret itself is never sent.
Hooks load this at each call, so it imports little.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any, NamedTuple

FILE = "wake-port.json"
# A line of a peer that is longer is no line of ours.
MAX_LINE_BYTES = 64 * 1024
_CODE_LENGTH = 64


class Port(NamedTuple):
    """A local port, and the secret of this account."""

    number: int
    secret: str


class NoPort(OSError):
    """The program does not run here, or another program answers at its port."""


def find(home: str) -> Port:
    """Return the port of the program, as the file in ClawLink's folder says. Raises NoPort."""
    try:
        with open(os.path.join(home, FILE), "rb") as file:
            said = json.loads(file.read(4096))
        return Port(int(said["port"]), str(said["secret"]))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise NoPort("the program that wakes agents does not run; start it with: clawlink wake") from None


def signed(secret: str, about: str, said: Any) -> bytes:
    """Return a line: a code, and the JSON. ``about`` is empty for a question, and its nonce for an answer."""
    data = json.dumps(said).encode()
    return _code(secret, about, data) + b" " + data + b"\n"


def checked(secret: str, about: str, line: bytes) -> Any:
    """Return the JSON of a line. Raises NoPort if its code is wrong."""
    import hmac

    code, _, data = line.rstrip(b"\n").partition(b" ")
    if len(code) != _CODE_LENGTH or not hmac.compare_digest(code, _code(secret, about, data)):
        raise NoPort("another program answers at the local port")
    return json.loads(data)


def _code(secret: str, about: str, data: bytes) -> bytes:
    import hmac

    return hmac.digest(secret.encode(), about.encode() + b"\n" + data, "sha256").hex().encode()


class Conversation:
    """A connection to the program. Its first line is a question; the program answers with one line or more."""

    def __init__(self, port: Port, question: dict[str, Any], timeout: float) -> None:
        """Connect, and ask. Raises OSError."""
        self._port = port
        self._nonce = os.urandom(16).hex()
        self._data = b""
        self._peer = socket.create_connection(("127.0.0.1", port.number), timeout)
        try:
            self._peer.sendall(signed(port.secret, "", {**question, "nonce": self._nonce}))
        except BaseException:
            self._peer.close()
            raise

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self._peer.close()

    def next(self, timeout: float) -> Any:
        """Return the next answer. Raises TimeoutError, or NoPort at the end of the connection."""
        self._peer.settimeout(timeout)
        while b"\n" not in self._data:
            piece = self._peer.recv(65536)
            self._data += piece
            if not piece or len(self._data) > MAX_LINE_BYTES:
                raise NoPort("the program that wakes agents has ended the connection")
        line, _, self._data = self._data.partition(b"\n")
        return checked(self._port.secret, self._nonce, line)

    def say(self, said: dict[str, Any]) -> None:
        """Send another line. Raises OSError."""
        self._peer.sendall(signed(self._port.secret, self._nonce, said))


def ask(home: str, question: dict[str, Any], timeout: float) -> Any:
    """Ask the program of this account one question. Raises OSError."""
    with Conversation(find(home), question, timeout) as there:
        return there.next(timeout)
