"""A websocket for Agent Link: text in and out, and numbered pings that prove reads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from aiohttp import WSCloseCode, WSMsgType, web

from clawlink.errors import BadRequest
from clawlink.server.request import Request
from clawlink.server.ws_connection import Websocket, Websockets


class Gone(ConnectionError):
    """The peer is not there any more, or does not read."""


class Socket:
    """A websocket, its pings numbered: the pong to one proves that the peer has read all that was sent before it."""

    def __init__(self, websockets: Websockets, websocket: Websocket, address: str | None) -> None:
        self.address = address
        self._websockets = websockets
        self._websocket = websocket
        self._number = 0

    @classmethod
    async def open(cls, websockets: Websockets, request: Request) -> Socket:
        """Answer the handshake. Raises BadRequest if there is none."""
        request.stay()
        return cls(websockets, await websockets.accept(request), request.block)

    @property
    def response(self) -> web.StreamResponse:
        """The answer to the request, once the connection has ended."""
        return self._websocket.response

    async def receive(self) -> str | int | None:
        """Return a text frame, the number of a ping that was answered, or None at the end.

        Frames are read one at a time, so a peer that sends faster than it is served waits in its own buffers. A too
        large frame ends the connection (1009). Raises BadRequest for a frame that is not text.
        """
        while True:
            with _sending():
                message = await self._websocket.receive()
            if message is None:
                return None
            if message.type is WSMsgType.TEXT:
                return str(message.data)
            if message.type is WSMsgType.BINARY:
                raise BadRequest("frames are text: JSON in UTF-8")
            number = bytes(message.data)
            if number.isdigit() and len(number) < 16:
                return int(number)

    async def send(self, text: str) -> None:
        """Write a frame; while the peer is behind in reading, this waits. Raises Gone."""
        with _sending():
            await self._websocket.sender.text(text.encode())

    async def ping(self) -> int:
        """Send a ping and return its number. Raises Gone."""
        self._number += 1
        self._websocket.mark = b"%d" % self._number
        with _sending():
            self._websocket.sender.ping(self._websocket.mark)
        return self._number

    async def close(self, code: int = WSCloseCode.OK, reason: str = "") -> None:
        """Say goodbye."""
        self._websocket.end(code, reason)
        if self._websocket.ending is not None:
            await self._websocket.ending

    async def over(self) -> None:
        """Let go of the connection, once its peer has had the time to read why it has ended."""
        await self._websockets.over(self._websocket)


@contextlib.contextmanager
def _sending() -> Iterator[None]:
    """Distinguish a peer that has gone from a store whose own connection broke."""
    try:
        yield
    except ConnectionError as error:
        raise Gone("the peer has gone, or does not read") from error
