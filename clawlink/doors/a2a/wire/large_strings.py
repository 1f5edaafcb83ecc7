"""Large strings of a JSON body, cut out as it comes, so that no step on the rest takes long.

A file in a message is one string of megabytes. A JSON reader holds the event loop while it reads that. So the cutter
puts a short mark in the place of such a string, and keeps the string in the pieces in which it came.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Pieces = Sequence[bytes]

LONG = 64 * 1024
"""A string of more bytes is cut out."""
STEP = 16 * 1024
"""The bytes that a step looks at, at most."""


class Cutter:
    """Takes a body piece by piece. ``rest`` is the body with marks, ``cuts`` has the strings by their marks."""

    def __init__(self) -> None:
        self.cuts: dict[str, list[bytes]] = {}
        self.rest = bytearray()
        self._nonce = secrets.token_hex(16)
        self._string: list[bytes] | None = None  # the pieces of the string that has begun
        self._size = 0
        self._plain = True  # the string has no escapes so far
        self._escaped = False  # the last byte was a backslash that escapes the next

    def feed(self, piece: bytes) -> Iterator[None]:
        """Take a piece, in steps: the caller gives others their turn between them."""
        for start in range(0, len(piece), STEP):
            self._step(piece[start : start + STEP])
            yield

    @property
    def kept(self) -> int:
        """The bytes of the rest, with those of a string that has begun and cannot be cut out any more."""
        return len(self.rest) + (0 if self._plain else self._size)

    def end(self) -> bytes:
        """Return the body with marks. A string that has not ended stays, for the reader to refuse."""
        if self._string is not None:
            self.rest += b'"' + b"".join(self._string)
            self._string = None
        return bytes(self.rest)

    def _step(self, piece: bytes) -> None:
        quotes = self._without_escapes(piece)
        at = 0
        if self._string is not None:
            end = quotes.find(b'"')
            if end < 0:
                self._take(piece)
                return
            self._take(piece[:end])
            self._close(self._string)
            at = end + 1
        # A string that begins and ends in one step is no long one.
        begins = quotes.rfind(b'"') if quotes.count(b'"', at) % 2 else len(piece)
        self.rest += piece[at:begins]
        if begins < len(piece):
            self._string, self._size, self._plain = [], 0, True
            self._take(piece[begins + 1 :])

    def _without_escapes(self, piece: bytes) -> bytes:
        """Return a piece with other bytes in place of escaped quotes and backslashes."""
        escaped = self._escaped
        self._escaped = False
        if not escaped and b"\\" not in piece:
            return piece
        rest = (piece[1:] if escaped else piece).replace(b"\\\\", b"..").replace(b'\\"', b"..")
        self._escaped = rest.endswith(b"\\")
        return b"." + rest if escaped else rest

    def _take(self, part: bytes) -> None:
        if self._string is not None and part:
            self._string.append(part)
            self._size += len(part)
            self._plain = self._plain and b"\\" not in part

    def _close(self, string: list[bytes]) -> None:
        if self._plain and self._size > LONG:
            mark = f"{self._nonce}{len(self.cuts)}"
            self.cuts[mark] = string
            string = [mark.encode()]
        self.rest += b'"%b"' % b"".join(string)
        self._string, self._size, self._plain = None, 0, True


def restored(value: Any, cuts: Mapping[str, Pieces], but: Mapping[int, str]) -> Any:
    """Return decoded JSON with the strings in place of their marks, but for one field of the objects of these ids.

    Raises UnicodeDecodeError for a string that is not UTF-8.
    """
    if isinstance(value, str):
        pieces = cuts.get(value)
        return value if pieces is None else b"".join(pieces).decode()
    if isinstance(value, list):
        return [restored(one, cuts, but) for one in value]
    if isinstance(value, dict):
        kept = but.get(id(value))
        return {
            restored(name, cuts, but): one if name == kept else restored(one, cuts, but) for name, one in value.items()
        }
    return value


def marks(value: Any, cuts: Mapping[str, Pieces], but: Mapping[int, str]) -> Iterator[str]:
    """Give the marks that ``restored`` replaces."""
    if isinstance(value, str):
        if value in cuts:
            yield value
    elif isinstance(value, list):
        for one in value:
            yield from marks(one, cuts, but)
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from marks(name, cuts, but)
            if name != but.get(id(value)):
                yield from marks(one, cuts, but)
