"""Websockets of any protocol: how one is accepted, noticed to be gone, and ended. ``/ws`` and the doors share this."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aiohttp import WSCloseCode, WSMsgType, hdrs, web

from clawlink.errors import BadRequest
from clawlink.relay.time_slices import Turns
from clawlink.server.request import Request
from clawlink.server.ws_writer import Sender, Turn
from clawlink.timeouts import wait_for

_log = logging.getLogger("clawlink.push")

PING_SECONDS = 10.0
# Disconnect a peer that sends or reads nothing for 28 s (30 s with the interval between looks).
SILENT_SECONDS = 28.0
# Bytes that a closed connection has not taken by then are dropped with it.
_ABORT_SECONDS = 5.0
# A peer that was told why has this long to close too.
LINGER_SECONDS = 2.0
_MOST_REASON_BYTES = 120
_UNREADABLE = (WSCloseCode.PROTOCOL_ERROR, WSCloseCode.INVALID_TEXT, WSCloseCode.MESSAGE_TOO_BIG)
_MESSAGES = (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.PONG)
_POLICY = 1008

# The parts of a frame.
_HEAD_BYTES = 2
_MASK_BYTES = 4
_MASKED, _LENGTH = 0x80, 0x7F
_LONG = 126
_LENGTH_BYTES = {126: 2, 127: 8}
# Masked frames that come alone. The second byte of a short frame exceeds the frame's size by this, and a long frame
# has this many bytes before its data.
_SHORT_ALONE = _MASKED - _HEAD_BYTES - _MASK_BYTES
_MASKED_LONG, _LONG_ALONE = _MASKED | _LONG, _HEAD_BYTES + _LENGTH_BYTES[_LONG] + _MASK_BYTES
_NO_FRAME = b"\xf0\x00"  # reserved bits


class Websockets:
    """The websockets of one relay."""

    def __init__(self, *, max_frame_bytes: int) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._open: set[Websocket] = set()
        self._turn = Turn()
        self._tended = 0.0

    def __len__(self) -> int:
        return len(self._open)

    async def accept(self, request: Request, *, protocols: tuple[str, ...] = (), compress: bool = False) -> Websocket:
        """Shake hands, and return the websocket.

        Raises BadRequest if there is no handshake. The caller has to ``forget`` the result.
        """
        response = _Response(
            autoping=False,
            compress=compress,
            max_msg_size=self._max_frame_bytes + 1,  # aiohttp refuses a frame of this size
            protocols=protocols,
        )
        try:
            await response.prepare(request)
        except web.HTTPException as failure:
            is_upgrade = request.headers.get(hdrs.UPGRADE, "").strip().lower() == "websocket"
            field = None if is_upgrade else str(hdrs.UPGRADE)
            raise BadRequest(f"this is no handshake of a websocket: {failure.text}", field=field) from None
        websocket = Websocket(request, response, self._turn)
        self._open.add(websocket)
        return websocket

    def forget(self, websocket: Websocket) -> None:
        """Note that a websocket is over."""
        self._open.discard(websocket)
        websocket.response.sender = None  # each knows the other, which would be garbage in a circle

    async def over(self, websocket: Websocket) -> None:
        """Forget a connection that has ended, once its peer has had the time to read the reason."""
        if websocket.unreadable:
            await asyncio.sleep(LINGER_SECONDS)
        if websocket.ending is not None:
            await websocket.ending
        self.forget(websocket)

    async def tend(self, every: float) -> None:
        """Ping silent peers, and close those that stay silent. The caller repeats this every ``every`` seconds.

        A late call means that the relay itself stood still: no peer is silent for that time. A connection that fails
        stops none of the others, and its failure is raised at the end.
        """
        now = asyncio.get_running_loop().time()
        late = now - self._tended - 2 * every if self._tended else 0.0
        self._tended = now
        turns = Turns()
        failed: Exception | None = None
        for websocket in list(self._open):
            try:
                if late > 0:
                    websocket.excuse(late)
                websocket.tend(now)
            except Exception as failure:
                failed = failure
            await turns.next()
        if failed is not None:
            raise failed


class Websocket:
    """An open websocket. Its owner writes by ``sender`` and reads by ``receive``.

    An owner that reads by ``response`` sets ``heard`` at each frame.
    """

    def __init__(self, request: Request, response: _Response, turn: Turn) -> None:
        self.response = response
        self.sender = response.sender = Sender(request, response, turn)
        self.transport = request.transport
        self._loop = asyncio.get_running_loop()
        self.heard = self._pinged = self._loop.time()
        self.unreadable = False
        """Whether the peer sent a frame that nobody can read, as one that is too large."""
        self.mark = b""
        """The data of the next ping that asks whether the peer is there. Its pong proves what was read before it."""
        self.let_go: Callable[[], Awaitable[None]] | None = None
        """Called before the relay closes the connection."""
        self.ending: asyncio.Task[None] | None = None
        """The closing of the connection by the relay, once it has begun."""

    async def receive(self) -> Any:
        """Return the next message of the peer: a text, bytes, or a pong. Return None at the end of the connection.

        Pings of the peer are answered. Raises ConnectionError if the peer has gone.
        """
        while True:
            message = await self.response.receive()
            self.heard = self._loop.time()
            if message.type is WSMsgType.PING:
                await self.sender.pong(message.data)
            elif message.type in _MESSAGES:
                return message
            else:
                if message.type is WSMsgType.ERROR:
                    message.data.__traceback__ = None  # aiohttp keeps the error, and its frames know the websocket
                    self.unreadable = True
                return None

    def excuse(self, seconds: float) -> None:
        """Take this many seconds off the peer's silence."""
        self.heard += seconds
        self._pinged += seconds

    def tend(self, now: float) -> None:
        """Ping a silent peer. Close the connection of a peer that has been silent for too long, or does not read."""
        if self.ending is not None:
            return
        behind = self.sender.waiting_since
        if behind is not None and now - behind >= SILENT_SECONDS:
            self.end(_POLICY, f"you have not read for {SILENT_SECONDS:.0f} s; what was not acked is due again")
        elif now - self.heard >= SILENT_SECONDS:
            self.end(_POLICY, f"no pong for {SILENT_SECONDS:.0f} s; what was not acked is due again")
        elif now - max(self.heard, self._pinged) >= PING_SECONDS and behind is None:
            self._pinged = now
            with contextlib.suppress(ConnectionError):
                self.sender.ping(self.mark)

    def end(self, code: int, reason: str = "") -> None:
        """Close the connection, saying why."""
        if self.ending is None:
            self.ending = asyncio.create_task(self._close(code, reason))

    async def _close(self, code: int, reason: str) -> None:
        if reason:
            _log.info("closed", extra={"code": code, "reason": reason})
        if self.transport is not None:
            self._loop.call_later(_ABORT_SECONDS, self.transport.abort)
        if self.let_go is not None:
            await self.let_go()
        with contextlib.suppress(ConnectionError):
            # A frame that closes has room for this much, and a character cut in two would be no text.
            told = reason.encode()[:_MOST_REASON_BYTES].decode(errors="ignore").encode()
            await self.response.close(code=code, message=told, drain=False)


class _Response(web.WebSocketResponse):
    """A websocket that writes its gathered frames before it closes, on every way to close.

    Its transport stays open for a moment, until the peer has closed too. Otherwise late bytes of the peer, or the rest
    of a too large frame, would reset the connection. The peer would not see the reason.
    """

    sender: Sender | None = None
    _lingers = False
    _unreadable = False

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        if self.sender is not None:
            self.sender.stop()
        if self.closed:
            return False
        self._unreadable = code in _UNREADABLE
        self._lingers = self._unreadable or not self._closing
        await super().close(code=code, message=message, drain=drain)
        if self._lingers and self._closing and not self._unreadable:
            with contextlib.suppress(Exception):
                await wait_for(self._closed_by_peer(), LINGER_SECONDS)
            self._lingers = False
            self._close_transport()
        return True

    async def _closed_by_peer(self) -> None:
        reader = self._reader
        while reader is not None and (await reader.read()).type is not WSMsgType.CLOSE:
            pass

    def _close_transport(self) -> None:
        # Otherwise aiohttp has waited for the peer itself.
        if not (self._lingers and (self._closing or self._unreadable)):
            super()._close_transport()


class FrameReader(Protocol):
    """aiohttp's reader of frames, as its protocol calls it."""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take bytes as they come."""

    def feed_eof(self) -> None:
        """Note the end of the input."""


class Masked:
    """Refuses unmasked frames of clients, before aiohttp's reader, which takes them.

    RFC 6455 asks a server to fail the connection (1002). So the first unmasked frame is replaced by a head that the
    reader refuses. Bytes may be cut anywhere; those of a head that is not whole are held back.
    """

    def __init__(self, reader: FrameReader) -> None:
        self._reader = reader
        self._head = b""
        self._rest = 0  # of the frame under way

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Pass bytes on, up to the first frame that is not masked."""
        size = len(data)
        if size >= _LONG_ALONE and not self._head and not self._rest:  # mostly it is one frame of up to 64 KiB
            told = data[1]
            if told == size + _SHORT_ALONE < _MASKED_LONG or (
                told == _MASKED_LONG and (data[2] << 8 | data[3]) == size - _LONG_ALONE
            ):
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
