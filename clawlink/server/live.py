"""The operator's event stream: each new overview, once a second at most."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from aiohttp import HttpVersion11, hdrs, web
from msgspec.structs import replace

from clawlink.errors import ClawLinkError, RelayFull
from clawlink.protocol import paths
from clawlink.protocol.admin import LiveQuery, Overview, OverviewQuery
from clawlink.protocol.endpoint import Endpoint
from clawlink.relay.relay import Relay
from clawlink.server.request import Handler, Request, hung_up, read_query
from clawlink.store.base import Failed

MAX_STREAMS = 100
_STEP_SECONDS = 1.0
# All streams get the same bytes, a few of them in one turn of the event loop. Pages that read on then come apart, too.
_AT_ONCE = 5
_APART_SECONDS = 0.02
_SIGN_SECONDS = 15.0
# A reader that has not taken the written bytes by then does not read.
_STUCK_SECONDS = 28.0
_RETRY_SECONDS = 1.0
_HEADERS = {hdrs.CONTENT_TYPE: "text/event-stream", hdrs.CACHE_CONTROL: "no-store", "X-Accel-Buffering": "no"}
# A script in a browser sees events alone.
_COMMENT, _HEARTBEAT = b":\n\n", b"event: heartbeat\ndata: {}\n\n"
_encoder = msgspec.json.Encoder()


class Live:
    """The event streams of the operator's pages and programs. One task looks for all of them."""

    def __init__(self, on_news: Callable[[], object]) -> None:
        """``on_news`` is called before each new overview goes out, and after the last stream."""
        self._on_news = on_news
        self._streams: dict[_Stream, None] = {}
        self._encoded: tuple[Overview, bytes, bytes] | None = None
        self._rounds: asyncio.Task[None] | None = None

    @property
    def routes(self) -> Iterator[tuple[Endpoint, Handler]]:
        """The endpoint with its handler."""
        yield paths.LIVE, self._serve

    async def _serve(self, relay: Relay, request: Request) -> web.StreamResponse:
        relay.require_working()
        ask = read_query(request, LiveQuery)
        if len(self._streams) >= MAX_STREAMS:
            raise RelayFull(
                f"{len(self._streams)} event streams of the operator are open, and there may be {MAX_STREAMS}; "
                "close a page",
                limit=MAX_STREAMS,
                actual=len(self._streams) + 1,
                retry_after=_RETRY_SECONDS,
            )
        sign = _HEARTBEAT if ask.heartbeats else _COMMENT
        stream = _Stream(request, sign, now=asyncio.get_running_loop().time())
        self._streams[stream] = None
        try:
            request.stay()
            response = web.StreamResponse(headers=_HEADERS)
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                await response.write(b"retry: 1000\n\n")
                with contextlib.suppress(ClawLinkError, Failed):  # a store that does not answer may do so later
                    stream.send(*await self._event(relay))
                if self._rounds is None or self._rounds.done():
                    self._rounds = asyncio.create_task(self._go_round(relay))
                await stream.ended
                await response.write_eof()
        finally:
            del self._streams[stream]
            if not self._streams:
                self._on_news()
                if self._rounds is not None:
                    self._rounds.cancel()
                    self._rounds = None
        return response

    async def _go_round(self, relay: Relay) -> None:
        """Send each new overview to all streams, until the last of them ends."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await asyncio.sleep(_STEP_SECONDS - loop.time() % _STEP_SECONDS)
                event = facts = b""
                with contextlib.suppress(ClawLinkError, Failed):
                    event, facts = await self._event(relay)
                for n, stream in enumerate(tuple(self._streams), 1):
                    stream.look(event, facts, loop.time(), draining=relay.draining)
                    if n % _AT_ONCE == 0:
                        await asyncio.sleep(_APART_SECONDS)
        except Exception:
            for stream in self._streams:  # else they would be open, and silent for ever
                stream.end()
            raise

    async def _event(self, relay: Relay) -> tuple[bytes, bytes]:
        """Return the overview as an event, and the facts that make it a new one. Encode it once for all streams."""
        overview = await relay.overviews.overview(OverviewQuery())
        if self._encoded is None or self._encoded[0] is not overview:
            event = b"id: %d\nevent: overview\ndata: %b\n\n" % (overview.revision, _encoder.encode(overview))
            facts = _encoder.encode(replace(overview, server_time="", traffic=[]))
            self._on_news()
            self._encoded = overview, event, facts
        return self._encoded[1], self._encoded[2]


class _Stream:
    """A response, as far as the rounds concern it. It is written to directly, and never waited for.

    ``sign`` tells the reader of a silent stream that it is alive.
    """

    def __init__(self, request: Request, sign: bytes, *, now: float) -> None:
        self._sign = sign
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._in_chunks = request.version >= HttpVersion11
        self._facts = b""
        self._sent_at = now
        self._taken_at = now

    def look(self, event: bytes, facts: bytes, now: float, *, draining: bool) -> None:
        """Send an overview unless its facts went out already, or a sign of life. End the stream if its time is over.

        A peer that has not taken the last one yet gets none now, and the newest later.
        """
        transport: Any = self._request.transport
        if draining or hung_up(self._request) or not self._request.may_go_on():
            self.end()
        elif transport.get_write_buffer_size():
            if now >= self._taken_at + _STUCK_SECONDS:
                transport.abort()
                self.end()
        else:
            self._taken_at = now
            if event and facts != self._facts:
                self.send(event, facts)
                self._sent_at = now
            elif now >= self._sent_at + _SIGN_SECONDS:
                self._write(self._sign)
                self._sent_at = now

    def send(self, event: bytes, facts: bytes) -> None:
        """Send an overview."""
        self._write(event)
        self._facts = facts

    def end(self) -> None:
        """Let the handler end the response."""
        if not self.ended.done():
            self.ended.set_result(None)

    def _write(self, data: bytes) -> None:
        transport: Any = self._request.transport
        if not hung_up(self._request):
            transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._in_chunks else data)
