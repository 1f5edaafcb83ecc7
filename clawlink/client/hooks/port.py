"""The local port of the program that wakes agents: how hooks of this account talk to it.

It is a port on loopback. A file that only its owner may read has its number and a secret. Each line in both directions
carries a code made with the secret, so no other account can ask, nor answer. The secret itself is never sent.
Hooks load this at each call, so it imports little: neither ``typing`` nor ``json``, ``socket`` nor ``hmac``, each of
which takes as long as half an interpreter.
"""

from __future__ import annotations

import os
import sys
from _operator import _compare_digest
from time import monotonic

from clawlink.client.hooks import quick_json

try:  # what ``socket`` and ``hashlib`` are made of; other interpreters may lack it
    from _socket import AF_INET, SOCK_STREAM, socket

    if sys.version_info >= (3, 12):
        from _sha2 import sha256
    else:
        from _sha256 import sha256  # type: ignore[import-not-found]
except ImportError:  # pragma: no cover
    from hashlib import sha256
    from socket import AF_INET, SOCK_STREAM, socket  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FILE = "wake-port.json"
# A line of a peer that is longer is no line of ours.
MAX_LINE_BYTES = 64 * 1024
_CODE_LENGTH = 64
_BLOCK_BYTES = 64  # of SHA-256
_LAST_PORT = 65535


class Port:
    """A local port, and the secret of this account."""

    def __init__(self, number: int, secret: str) -> None:
        self.number = number
        self.secret = secret


class NoPort(OSError):
    """The program does not run here, or another program answers at its port."""


def find(home: str) -> Port:
    """Return the port of the program, as the file in ClawLink's folder says. Raises NoPort."""
    try:
        with open(os.path.join(home, FILE), "rb") as file:
            said = quick_json.read(file.read(4096))
        number = said["port"]
        if type(number) is not int or not 0 < number <= _LAST_PORT:
            raise ValueError
        return Port(number, str(said["secret"]))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise NoPort("the program that wakes agents does not run; start it with: clawlink wake") from None


def signed(secret: str, about: str, said: Any) -> bytes:
    """Return a line: a code, and the JSON. ``about`` is empty for a question, and its nonce for an answer."""
    data = quick_json.written(said)
    return _code(secret, about, data) + b" " + data + b"\n"


def checked(secret: str, about: str, line: bytes) -> Any:
    """Return the JSON of a line. Raises NoPort if its code is wrong."""
    code, _, data = line.rstrip(b"\n").partition(b" ")
    if len(code) != _CODE_LENGTH or not _compare_digest(code, _code(secret, about, data)):
        raise NoPort("another program answers at the local port")
    return quick_json.read(data)


def _code(secret: str, about: str, data: bytes) -> bytes:
    """Return the HMAC-SHA256 in hexadecimal digits (RFC 2104). ``hmac`` would load OpenSSL for it."""
    key = secret.encode()
    key = (key if len(key) <= _BLOCK_BYTES else sha256(key).digest()).ljust(_BLOCK_BYTES, b"\0")
    inner = sha256(bytes(byte ^ 0x36 for byte in key) + about.encode() + b"\n" + data).digest()
    code: str = sha256(bytes(byte ^ 0x5C for byte in key) + inner).hexdigest()
    return code.encode("ascii")


class Conversation:
    """A connection to the program. Its first line is a question; the program answers with one line or more."""

    def __init__(self, port: Port, question: dict[str, Any], timeout: float) -> None:
        """Connect, and ask. Raises OSError."""
        self._port = port
        self._nonce = os.urandom(16).hex()
        self._data = b""
        self._peer = socket(AF_INET, SOCK_STREAM)
        try:
            self._peer.settimeout(timeout)
            self._peer.connect(("127.0.0.1", port.number))
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
        until = monotonic() + timeout
        while b"\n" not in self._data:
            # A peer may send a byte at a time.
            if (left := until - monotonic()) <= 0:
                raise TimeoutError("the program that wakes agents does not answer in time")
            self._peer.settimeout(left)
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
