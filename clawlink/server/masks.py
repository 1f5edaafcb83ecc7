"""Refuse unmasked frames of a websocket's client: RFC 6455 asks a server to fail the connection (1002).

aiohttp's reader takes them. So this code checks the heads of frames first, and replaces the first unmasked one by a
head that the reader refuses.
"""

from __future__ import annotations

from typing import Protocol

_HEAD_BYTES = 2
_MASK_BYTES = 4
_MASKED, _LENGTH = 0x80, 0x7F
_LONG = 126
_LENGTH_BYTES = {126: 2, 127: 8}
_NO_FRAME = b"\xf0\x00"  # reserved bits


def _is_short_frame(data: bytes) -> bool:
    """Return True for one masked frame of up to 64 KiB, as most bytes come."""
    rest = len(data) - _HEAD_BYTES - _MASK_BYTES
    if rest < 0 or data[1] < _MASKED:
        return False
    told = data[1] - _MASKED
    return told == rest if told < _LONG else told == _LONG and (data[2] << 8 | data[3]) == rest - _LENGTH_BYTES[_LONG]


class FrameReader(Protocol):
    """aiohttp's reader of frames, as its protocol calls it."""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take bytes as they come."""

    def feed_eof(self) -> None:
        """Note the end of the input."""


class Masked:
    """Stands before a reader. Bytes may be cut anywhere; those of a head that is not whole are held back."""

    def __init__(self, reader: FrameReader) -> None:
        self._reader = reader
        self._head = b""
        self._rest = 0  # of the frame under way

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Pass bytes on, up to the first frame that is not masked."""
        if not self._head and not self._rest and _is_short_frame(data):
            return self._reader.feed_data(data)
        data, at = self._head + data, self._rest
        self._head, self._rest = b"", 0
        while (body := at + _HEAD_BYTES) <= len(data):
            told = data[at + 1]
            if not told & _MASKED:
                return self._reader.feed_data(data[:at] + _NO_FRAME)
            size = told & _LENGTH
            if size >= _LONG:
                more = body + _LENGTH_BYTES[size]
                if more > len(data):
                    break
                size, body = int.from_bytes(data[body:more], "big"), more
            at = body + _MASK_BYTES + size
        if at > len(data):
            self._rest = at - len(data)
        elif at < len(data):
            data, self._head = data[:at], data[at:]
        return self._reader.feed_data(data) if data else (False, b"")

    def feed_eof(self) -> None:
        """Pass the end of the input on."""
        self._reader.feed_eof()
