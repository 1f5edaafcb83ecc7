"""Server-sent events: the mailbox for clients that cannot use websockets.

A client can answer only by a new request: its ``Last-Event-ID`` names the last event read, and settles all up to it. So
a response ends when its credit is used up or a part of the lease is over, and the client is expected back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Iterator

from aiohttp import hdrs, web

from clawlink.domain.access import KEY_HEADER
from clawlink.domain.agent import Agent
from clawlink.errors import NotAllowed, UnknownAgent
from clawlink.protocol import mailbox_paths
from clawlink.protocol.endpoint import Endpoint
from clawlink.protocol.replies import TicketMade
from clawlink.protocol.requests import EventsQuery, MakeTicket
from clawlink.relay.error_mapping import refusal
from clawlink.relay.ids import receipt
from clawlink.relay.mailbox.consumer import Consumer
from clawlink.relay.mailbox.long_poll import Closed, Taken
from clawlink.relay.mailbox.receipts import lease_of
from clawlink.relay.relay import Relay
from clawlink.server.request import Handler, Request, acting, hung_up, parameter, read, read_query
from clawlink.server.response import Reply, reply
from clawlink.server.tickets import SECONDS, Tickets
from clawlink.server.ws_protocol import message_frame
from clawlink.timeouts import wait_for

_log = logging.getLogger("clawlink.push")

_LAST_EVENT_ID = "Last-Event-ID"
_COMMENT_SECONDS = 15.0
# A client has this many seconds to read the rest and come back, before its messages are due again.
BACK_SECONDS = 10.0
_RETRY_MILLISECONDS = 1000
# A peer that has not taken the written bytes by then does not read.
_STUCK_SECONDS = 28.0
_LEAST_SECONDS = 0.05
_HEADERS = {hdrs.CONTENT_TYPE: "text/event-stream", hdrs.CACHE_CONTROL: "no-store", "X-Accel-Buffering": "no"}


class EventStreams:
    """The event streams of one relay, and those that ended a moment ago."""

    def __init__(self, tickets: Tickets) -> None:
        self._tickets = tickets
        self._consumers: dict[str, list[Consumer]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._stopped = False

    @property
    def routes(self) -> Iterator[tuple[Endpoint, Handler]]:
        """The endpoints with their handlers."""
        yield mailbox_paths.EVENTS, self._serve
        yield mailbox_paths.TICKETS, self._make_ticket

    async def stop(self) -> None:
        """Give the messages of all clients back at once, also of those that leave from now on."""
        self._stopped = True
        for streams in tuple(self._consumers.values()):
            for consumer in tuple(streams):
                await consumer.close()
        await asyncio.gather(*self._leaving, return_exceptions=True)

    @property
    def idle(self) -> bool:
        """Return True if nothing is held for a response, nor for a reader that may come back."""
        return not (self._consumers or self._leaving)

    @property
    def leaving(self) -> int:
        """How many responses have ended whose messages are kept for a reader that may come back."""
        return len(self._leaving)

    async def _make_ticket(self, relay: Relay, request: Request) -> Reply:
        """Make a ticket for an agent, because its page can set no header."""
        ask = await read(request, MakeTicket)
        agent = await acting(relay, request, ask.agent_id, "agent_id")
        ticket = self._tickets.make(agent.id, request.headers.get(KEY_HEADER), ask.route, ask.last_event_id)
        url = f"{mailbox_paths.EVENTS.url(agent_id=agent.id)}?ticket={ticket}"
        return reply(TicketMade(ticket, url, SECONDS))

    async def _serve(self, relay: Relay, request: Request) -> web.StreamResponse:
        """Settle the messages that the client has read, and send it messages until it has to come back."""
        relay.require_working()
        agent = await acting(relay, request, parameter(request, "agent_id"), "agent_id")
        ask = read_query(request, EventsQuery)
        request.stay()
        last = request.headers.get(_LAST_EVENT_ID)
        if request.ticket is not None:
            last = last or request.ticket.last_event_id
        if last:
            await self._settle(agent.id, last)
        response = web.StreamResponse(headers=_HEADERS)
        await response.prepare(request)
        lease = ask.lease or relay.limits.lease
        consumer = relay.consumer(agent, lease=lease, credit=ask.credit)
        self._consumers.setdefault(agent.id, []).append(consumer)
        stream = _Stream(relay, agent.id, request, response, consumer, lease)
        try:
            await stream.run()
        finally:
            leaving = asyncio.create_task(self._leave(consumer))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
            if self._stopped:
                await asyncio.shield(leaving)
        return response

    async def _settle(self, agent_id: str, last: str) -> None:
        """Settle the messages up to the last event read, on its own stream; the rest is due again."""
        for consumer in tuple(self._consumers.get(agent_id, ())):
            if await consumer.settle_up_to(last):
                await consumer.close()
                return

    async def _leave(self, consumer: Consumer) -> None:
        """Give the client a moment to come back; then its messages are due again."""
        try:
            if not (consumer.idle or self._stopped):
                with contextlib.suppress(asyncio.TimeoutError):
                    await wait_for(consumer.closed.wait(), BACK_SECONDS)
        finally:
            streams = self._consumers[consumer.agent_id]
            streams.remove(consumer)
            if not streams:
                del self._consumers[consumer.agent_id]
            await asyncio.shield(consumer.close())


class _Stream:
    """A response."""

    def __init__(
        self,
        relay: Relay,
        agent_id: str,
        request: Request,
        response: web.StreamResponse,
        consumer: Consumer,
        lease: float,
    ) -> None:
        self._relay = relay
        self._agent_id = agent_id
        self._request = request
        self._response = response
        self._consumer = consumer
        self._lease = lease
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Send until the client has to come back, or the relay shuts down. Ends quietly if the client has gone."""
        with contextlib.suppress(ConnectionError):
            await self._write(b"retry: %d\n\n" % _RETRY_MILLISECONDS)
            with contextlib.suppress(Closed, UnknownAgent, NotAllowed):  # a returning client hears of it
                await self._send_on()
            await self._response.write_eof()

    async def _send_on(self) -> None:
        while not self._relay.draining:
            try:
                if await self._due_back():
                    return
                await self._step()
            except (Closed, UnknownAgent, NotAllowed):
                raise
            except Exception as failure:
                if isinstance(failure, ConnectionError) and hung_up(self._request):
                    raise
                refusal(self._relay, failure, {"route": mailbox_paths.EVENTS.path}, _log)
                await asyncio.sleep(_RETRY_MILLISECONDS / 1000)

    @property
    def _left(self) -> float:
        """How long from now the client may go on reading before it has to come back."""
        since = self._consumer.since
        return math.inf if since is None else since + self._lease / 3 - self._loop.time()

    async def _due_back(self) -> bool:
        if self._consumer.exhausted or self._left <= 0:
            await self._consumer.forget_lost()
        return self._consumer.exhausted or self._left <= 0

    async def _step(self) -> None:
        taken = await self._next_within(max(_LEAST_SECONDS, min(_COMMENT_SECONDS, self._left)))
        if taken is None:
            await self._write(b":\n\n")
        else:
            await self._send(taken)

    async def _next_within(self, seconds: float) -> Taken | None:
        """Return the next batch; None if there is none in time.

        The leases of a batch that was claimed as the client left are released.
        """
        # Not wait_for: before Python 3.12 it may swallow that it was cancelled.
        claim = asyncio.ensure_future(self._next())
        claim.add_done_callback(lambda claim: claim.cancelled() or claim.exception())  # the client may have gone
        try:
            await asyncio.wait([claim], timeout=seconds)
        finally:
            if not claim.done():
                claim.cancel()
                await asyncio.wait([claim])
        return None if claim.cancelled() else claim.result()

    async def _next(self) -> Taken:
        return await self._consumer.next(await self._acting(), tick=self._acting)

    async def _acting(self) -> Agent:
        """Return the current agent; it may have left, or another client may have claimed it with a key."""
        return await acting(self._relay, self._request, self._agent_id, "agent_id")

    async def _send(self, taken: Taken) -> None:
        for d in taken.deliveries:
            kind = d.body[len(b'{"type":"') :].partition(b'"')[0]  # which every message begins with
            id = receipt(str(d.receipt), d.id).encode()
            data = message_frame(d.body, lease_of(d, taken.reported, self._relay.time))
            await self._write(b"id: %b\nevent: %b\ndata: %b\n\n" % (id, kind, data))

    async def _write(self, data: bytes) -> None:
        try:
            await wait_for(self._response.write(data), _STUCK_SECONDS)
        except asyncio.TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError("the client does not read") from None
