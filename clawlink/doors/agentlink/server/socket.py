"""A websocket: writes do not wait for ever, and a peer that has gone is noticed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable

from aiohttp import WSCloseCode, WSMsgType, web

from clawlink.errors import BadRequest

PING_SECONDS = 5.0
SILENT_SECONDS = 22.0  # looked at every five seconds: below 30 s in all
WRITE_SECONDS = 20.0
_CLOSE_SECONDS = 2.0


class Gone(ConnectionError):
    """The peer is not there any more, or does not read."""


class Socket:
    """A websocket, its pings numbered: the pong to one proves that the peer has read all that was sent before it."""

    def __init__(self, *, max_frame_bytes: int) -> None:
        # aiohttp refuses a frame as large as its limit; ours is the size of the largest that is taken.
        self.response = web.WebSocketResponse(
            timeout=_CLOSE_SECONDS, autoping=False, compress=False, max_msg_size=max_frame_bytes + 1
        )
        self.address: str | None = None
        self._transport: asyncio.Transport | None = None
        self._number = 0
        self._heard_at = 0.0
        self._writing: dict[object, float] = {}  # each write that is under way, the oldest first, and since when
        self._pinging: asyncio.Task[None] | None = None

    async def open(self, request: web.BaseRequest) -> None:
        """Answer the handshake. Raises BadRequest for what is none."""
        try:
            await self.response.prepare(request)
        except web.HTTPException as failure:
            raise BadRequest(f"this is no handshake of a websocket: {failure.text}", field="Upgrade") from None
        self.address = getattr(request, "block", None)  # the relay's own requests have it, see server/wire.py
        self._transport = request.transport
        self._heard_at = asyncio.get_running_loop().time()

    async def receive(self) -> str | int | None:
        """Return a text frame, the number of a ping that was answered, or None at the end.

        Frames are read one at a time, so a peer that sends faster than it is served waits in its own buffers. A frame
        that is larger than allowed ends the connection (1009). Raises BadRequest for one that is not text.
        """
        while True:
            message = await self.response.receive()
            self._heard_at = asyncio.get_running_loop().time()
            if message.type is WSMsgType.TEXT:
                return str(message.data)
            if message.type is WSMsgType.PING:
                await self._write(self.response.pong(message.data))
            elif message.type is WSMsgType.PONG:
                number = bytes(message.data)
                if number.isdigit() and len(number) < 16:
                    return int(number)
            elif message.type is WSMsgType.BINARY:
                raise BadRequest("frames are text: JSON in UTF-8")
            else:
                return None

    async def send(self, text: str) -> None:
        """Write a frame. Raises Gone."""
        await self._write(self.response.send_str(text))

    async def ping(self) -> int:
        """Send a ping and return its number. Raises Gone."""
        self._number += 1
        await self._write(self.response.ping(str(self._number).encode()))
        return self._number

    async def watch(self) -> None:
        """Ping now and then; break the connection off once the peer is silent, or has not read, for too long."""
        while True:
            await asyncio.sleep(PING_SECONDS)
            now = asyncio.get_running_loop().time()
            stuck = now - next(iter(self._writing.values()), now) > WRITE_SECONDS
            if stuck or now - self._heard_at > SILENT_SECONDS:
                if self._transport is not None:
                    self._transport.abort()
                return
            if not self._writing:
                self._pinging = asyncio.create_task(self._ping())  # on its own: it may get stuck as any write

    async def _ping(self) -> None:
        with contextlib.suppress(Gone):
            await self.ping()

    async def close(self, code: int = WSCloseCode.OK, reason: str = "") -> None:
        """Say goodbye."""
        with contextlib.suppress(ConnectionError, RuntimeError):
            await self.response.close(code=code, message=reason.encode())

    async def _write(self, writing: Awaitable[None]) -> None:
        """Write; while the peer is behind in reading, this waits. What is small may go past others that wait."""
        this = object()
        self._writing[this] = asyncio.get_running_loop().time()
        try:
            await writing
        except (ConnectionError, RuntimeError) as error:
            raise Gone("the peer has gone, or does not read") from error
        finally:
            del self._writing[this]
