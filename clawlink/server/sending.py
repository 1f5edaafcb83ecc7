"""Frames to one peer: those of one turn of the event loop leave in one piece, which is most of what a frame costs."""

from __future__ import annotations

import asyncio
import struct

from aiohttp import WSMsgType, web

from clawlink.server.wire import Request

# Below that, packing costs the relay more than the network gains; between processes of one machine it never pays.
_PACK_BYTES = 4096
_PIECE_BYTES = 64 * 1024
_FINAL = 0x80


class Sender:
    """Writes to one websocket. ``waiting_since`` is since when the peer has been behind in reading, if it is."""

    def __init__(self, request: Request, ws: web.WebSocketResponse) -> None:
        self._ws = ws
        self._request = request
        self._transport = request.transport
        self._loop = asyncio.get_running_loop()
        self._piece: list[bytes] = []
        self._size = 0
        self._undrained = 0
        self._flushing = False
        self.waiting_since: float | None = None
        self._packing = int(ws.compress)
        if self._packing:
            # aiohttp would pack every frame. Asked for by the frame, it packs those that are worth it.
            ws._writer.compress = 0  # type: ignore[union-attr]

    async def text(self, frame: bytes) -> None:
        """Send a text frame, and wait while the peer is behind in reading. Raises ConnectionError."""
        if self._packing and len(frame) >= _PACK_BYTES:
            self.flush()
            await self._ws.send_frame(frame, WSMsgType.TEXT, self._packing)
            self._undrained += len(frame)
        else:
            self._add(WSMsgType.TEXT, frame)
        if self._undrained >= _PIECE_BYTES:
            await self._drain()

    def control(self, kind: WSMsgType, data: bytes) -> None:
        """Send a ping or a pong."""
        self._add(kind, data)

    def flush(self) -> None:
        """Write what has gathered."""
        self._flushing = False
        piece, self._piece, self._size = self._piece, [], 0
        if piece and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(piece))

    def _add(self, kind: WSMsgType, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the peer has gone")
        size = len(data)
        if size < 126:
            self._piece.append(bytes((_FINAL | kind, size)))
        elif size < 1 << 16:
            self._piece.append(struct.pack("!BBH", _FINAL | kind, 126, size))
        else:
            self._piece.append(struct.pack("!BBQ", _FINAL | kind, 127, size))
        self._piece.append(data)
        self._size += size
        self._undrained += size
        if self._size >= _PIECE_BYTES:
            self.flush()
        elif not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)

    async def _drain(self) -> None:
        self.flush()
        self._undrained = 0
        self.waiting_since = self._loop.time()
        try:
            await self._request.writer.drain()
        finally:
            self.waiting_since = None
