"""The operator's event stream: each new overview, once a second at most."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec
from aiohttp import hdrs, web
from msgspec.structs import replace

from clawlink.errors import ClawLinkError, RelayFull
from clawlink.protocol import paths
from clawlink.protocol.admin import Overview, OverviewQuery
from clawlink.protocol.endpoint import Endpoint
from clawlink.relay.relay import Relay
from clawlink.server.request import Handler, Request, hung_up

MAX_STREAMS = 100
_STEP_SECONDS = 1.0
# Streams look at nearly the same time, so that one overview serves all, but not in one turn of the event loop.
_PLACES = 50
_APART_SECONDS = 0.004
_COMMENT_STEPS = 15
# A reader that has not taken the written bytes by then does not read.
_STUCK_SECONDS = 28.0
_RETRY_SECONDS = 1.0
_HEADERS = {hdrs.CONTENT_TYPE: "text/event-stream", hdrs.CACHE_CONTROL: "no-store", "X-Accel-Buffering": "no"}
_encoder = msgspec.json.Encoder()


class Live:
    """The event streams of the operator's pages and programs."""

    def __init__(self) -> None:
        self._open = 0
        self._encoded: tuple[Overview, bytes, bytes] | None = None

    @property
    def routes(self) -> Iterator[tuple[Endpoint, Handler]]:
        """The endpoint with its handler."""
        yield paths.LIVE, self._serve

    async def _serve(self, relay: Relay, request: Request) -> web.StreamResponse:
        relay.require_working()
        if self._open >= MAX_STREAMS:
            raise RelayFull(
                f"{self._open} event streams of the operator are open, and there may be {MAX_STREAMS}; close a page",
                limit=MAX_STREAMS,
                actual=self._open + 1,
                retry_after=_RETRY_SECONDS,
            )
        self._open += 1
        try:
            request.stay()
            response = web.StreamResponse(headers=_HEADERS)
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                await self._send(relay, request, response)
                await response.write_eof()
        finally:
            self._open -= 1
        return response

    async def _send(self, relay: Relay, request: Request, response: web.StreamResponse) -> None:
        """Send each overview that differs from the last one, until the relay drains or the right ends."""
        await _write(request, response, b"retry: 1000\n\n")
        sent = b""
        quiet = 0
        place = self._open % _PLACES
        while not (relay.draining or hung_up(request)) and request.may_go_on():
            with contextlib.suppress(ClawLinkError):  # a store that does not answer may do so later
                event, facts = self._event(await relay.overviews.overview(OverviewQuery()))
                if facts != sent:
                    sent, quiet = facts, 0
                    await _write(request, response, event)
            quiet += 1
            if quiet % _COMMENT_STEPS == 0:
                await _write(request, response, b":\n\n")
            await asyncio.sleep(_until_next(asyncio.get_running_loop().time(), place))

    def _event(self, overview: Overview) -> tuple[bytes, bytes]:
        """Return an overview as an event, and the facts that make it a new one. Encode it once for all streams."""
        if self._encoded is None or self._encoded[0] is not overview:
            event = b"id: %d\nevent: overview\ndata: %b\n\n" % (overview.revision, _encoder.encode(overview))
            facts = _encoder.encode(replace(overview, server_time="", traffic=[]))
            self._encoded = overview, event, facts
        return self._encoded[1], self._encoded[2]


def _until_next(now: float, place: int) -> float:
    """Return the seconds until a stream looks again, by its place among the streams: from 0.5 to 1.5."""
    wait = _STEP_SECONDS - now % _STEP_SECONDS + place * _APART_SECONDS
    return wait if wait >= _STEP_SECONDS / 2 else wait + _STEP_SECONDS


async def _write(request: Request, response: web.StreamResponse, data: bytes) -> None:
    try:
        await asyncio.wait_for(response.write(data), _STUCK_SECONDS)
    except asyncio.TimeoutError:
        transport: Any = request.transport
        if transport is not None:
            transport.abort()
        raise ConnectionResetError("the client does not read") from None
