"""Frames of a websocket that their client did not mask end the connection with 1002, on every websocket."""

from __future__ import annotations

import asyncio
import struct
from urllib.parse import urlsplit

from clawlink.server.ws_connection import Masked
from tests.conftest import Running, Serve
from tests.tables import each

SECONDS = 10.0


class Taken:
    """A reader that notes what it gets."""

    def __init__(self) -> None:
        self.data = b""
        self.ended = False

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        self.ended = True


def frame(payload: bytes, *, masked: bool = True, opcode: int = 1) -> bytes:
    """Return a whole frame."""
    length, more = len(payload), b""
    if length > 125:
        length, more = (126, struct.pack("!H", length)) if length < 65536 else (127, struct.pack("!Q", length))
    key = b"\x00\x00\x00\x00" if masked else b""
    return bytes([0x80 | opcode, (0x80 if masked else 0) | length]) + more + key + payload


@each("step", [1, 2, 3, 7, 1000, 10**6])
def test_masked_frames_pass_however_they_are_cut_and_the_first_other_is_replaced(step: int) -> None:
    honest = b"".join(frame(b"x" * size) for size in (0, 1, 125, 126, 200, 65535, 65536, 3))
    for following, passed in ((b"", honest), (frame(b"evil", masked=False) + honest, honest + b"\xf0\x00")):
        reader = Taken()
        masked = Masked(reader)
        sent = honest + following
        for at in range(0, len(sent), step):
            masked.feed_data(sent[at : at + step])
            if reader.data.endswith(b"\xf0\x00"):
                break  # a reader that has failed gets nothing more
        masked.feed_eof()
        assert reader.data == passed
        assert reader.ended


def test_a_frame_that_comes_alone_passes_only_if_it_is_masked() -> None:
    for size in (0, 1, 120, 124, 125, 126, 127, 200, 65535, 65536):
        for masked in (True, False):
            reader = Taken()
            sent = frame(b"x" * size, masked=masked)
            Masked(reader).feed_data(sent)
            assert reader.data == (sent if masked else b"\xf0\x00"), f"{size} bytes, masked: {masked}"
    for length in range(128):  # a head alone, of a frame that is not masked
        reader = Taken()
        Masked(reader).feed_data(bytes([0x81, length]))
        assert reader.data == b"\xf0\x00", f"a head that tells {length}"


async def _shake_hands(url: str, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    return reader, writer


async def _frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, second = await reader.readexactly(2)
    length = second & 0x7F
    if length > 125:
        length = int.from_bytes(await reader.readexactly(2 if length == 126 else 8), "big")
    return first & 0x0F, await reader.readexactly(length)


async def test_an_unmasked_frame_ends_the_connection_with_1002(serve: Serve) -> None:
    relay = await serve()
    await relay.register("a", agent_id="a")
    await require_masks(relay, "/ws/a")


async def require_masks(relay: Running, path: str) -> None:
    """See a websocket refuse an unmasked frame, alone and in one packet with a masked one."""
    for together in (False, True):
        reader, writer = await _shake_hands(relay.url, path)
        ping = frame(b"p", opcode=9)
        writer.write(ping)
        if not together:
            while (await asyncio.wait_for(_frame(reader), SECONDS))[0] != 10:
                pass
        writer.write(frame(b'{"type": "heartbeat"}', masked=False) + frame(b'{"type": "heartbeat"}'))
        opcode, payload = 0, b""
        while opcode != 8:
            opcode, payload = await asyncio.wait_for(_frame(reader), SECONDS)
        assert int.from_bytes(payload[:2], "big") == 1002
        writer.close()
