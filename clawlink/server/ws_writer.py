"""Frames to one peer.

All frames of one turn of the event loop leave in one piece, because the write is most of a frame's cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Iterator
from typing import Any

from aiohttp import WSMsgType, web

from clawlink.server.flow import gone_test, unwritten
from clawlink.server.request import Request

# Below that, packing costs the relay more than the network gains; between processes of one machine it never pays.
_PACK_BYTES = 4096
_PIECE_BYTES = 64 * 1024
_FINAL = 0x80
_TEXT, _PING, _PONG = _FINAL | WSMsgType.TEXT, _FINAL | WSMsgType.PING, _FINAL | WSMsgType.PONG
_SHORT, _LONG, _HUGE = struct.Struct("!BB"), struct.Struct("!BBH"), struct.Struct("!BBQ")


class Turn:
    """The senders with bytes to write at the end of this turn of the event loop, which is woken once for all."""

    def __init__(self) -> None:
        self.senders: list[Sender] = []
        """The first of them has ``end`` called at the end of the turn."""

    def end(self) -> None:
        """Write what was gathered in this turn."""
        senders, self.senders = self.senders, []
        for sender in senders:
            sender.flush()


class Sender:
    """Writes to one websocket."""

    def __init__(self, request: Request, ws: web.WebSocketResponse, turn: Turn) -> None:
        self._ws = ws
        self._turn = turn
        self._request = request
        self._transport: Any = request.transport
        self._has_gone = gone_test(request.transport)
        self._loop = asyncio.get_running_loop()
        self._piece: list[bytes] = []
        self._undrained = 0
        self._stopped = False
        self.waits: dict[object, float] = {}
        """The writers that wait for the peer to read, oldest first, each with its start."""
        self._packing = int(ws.compress)
        self._most_at_once = _PACK_BYTES if self._packing else _PIECE_BYTES
        if self._packing:
            # aiohttp would pack every frame. Asked for by the frame, it packs those that are worth it.
            ws._writer.compress = 0  # type: ignore[union-attr]

    @property
    def waiting_since(self) -> float | None:
        """Return the start of the longest wait for the peer to read; None if there is none."""
        return next(iter(self.waits.values()), None)

    def frame_now(self, data: bytes, opcode: int = _TEXT, *, any_size: bool = False) -> bool:
        """Gather a frame, which leaves at the end of the turn. Raises ConnectionError.

        Return False if only ``text`` can send it, because it takes a wait. One of ``any_size`` never waits.
        """
        size = len(data)
        if not any_size and self._undrained + size >= self._most_at_once:
            return False
        piece = self._piece
        if not piece:
            if self._stopped or self._has_gone():
                raise ConnectionResetError("the peer has gone")
            senders = self._turn.senders
            if not senders:
                self._loop.call_soon(self._turn.end)
            senders.append(self)
        if size < 126:
            head = _SHORT.pack(opcode, size)
        elif size < 1 << 16:
            head = _LONG.pack(opcode, 126, size)
        else:
            head = _HUGE.pack(opcode, 127, size)
        piece += head, data
        self._undrained += size
        return True

    async def text(self, frame: bytes) -> None:
        """Send a text frame, and wait while the peer is behind in reading. Raises ConnectionError."""
        if self._packing and len(frame) >= _PACK_BYTES:
            if self.closed:
                raise ConnectionResetError("the peer has gone")
            self.flush()
            with self.behind():
                await self._ws.send_frame(frame, WSMsgType.TEXT, self._packing)
            self._undrained += len(frame)
        else:
            self.frame_now(frame, any_size=True)
        if self._undrained >= _PIECE_BYTES:
            await self._drain()

    def notice(self, frame: bytes) -> None:
        """Send a text frame that may be lost: it is, where the peer is behind in reading."""
        if self._transport is not None and unwritten(self._transport) < _PIECE_BYTES:
            self.frame_now(frame, any_size=True)
            self.flush()

    @property
    def closed(self) -> bool:
        """Return True if nothing can be sent any more."""
        return self._stopped or self._has_gone()

    def ping(self, data: bytes) -> None:
        """Send a ping."""
        self.frame_now(data, _PING, any_size=True)

    async def pong(self, data: bytes) -> None:
        """Send a pong, and wait while the peer is behind in reading: there may be very many."""
        self.frame_now(data, _PONG, any_size=True)
        if self._undrained >= _PIECE_BYTES:
            await self._drain()

    def stop(self) -> None:
        """Write the gathered frames, and refuse all others: the next frame is the end."""
        self.flush()
        self._stopped = True

    def flush(self) -> None:
        """Write the gathered frames."""
        if piece := self._piece:
            self._piece = []
            if not self._has_gone():
                self._transport.write(b"".join(piece))

    async def _drain(self) -> None:
        self.flush()
        self._undrained = 0
        with self.behind():
            await self._request.writer.drain()

    @contextlib.contextmanager
    def behind(self) -> Iterator[None]:
        """Keep account of since when anyone waits for the peer to read.

        Each for itself: of several that take turns one always waits, however well the peer reads.
        """
        wait = object()
        self.waits[wait] = self._loop.time()
        try:
            yield
        finally:
            del self.waits[wait]
