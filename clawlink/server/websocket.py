"""Websockets: each is a consumer of the mailbox that lives as long as its connection.

One task writes claimed messages, another reads the peer's frames. A peer that does not read stops only itself. The pong
to a protocol-level ping proves that the peer has read so far.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any

from aiohttp import WSMsgType, hdrs, web

from clawlink.config import LOOPBACK_HOSTS
from clawlink.domain.access import KEY_HEADER
from clawlink.domain.agent import Agent
from clawlink.domain.delivery import first_time
from clawlink.domain.task import FINAL
from clawlink.errors import BadRequest, NotAllowed, UnknownAgent
from clawlink.protocol import mailbox_paths
from clawlink.protocol.endpoint import Endpoint
from clawlink.protocol.requests import StreamQuery
from clawlink.relay.error_mapping import refusal
from clawlink.relay.mailbox.consumer import Consumer
from clawlink.relay.mailbox.receipts import lease_of
from clawlink.relay.relay import Relay
from clawlink.server.auth import SUBPROTOCOL, in_subprotocol, offers_subprotocol
from clawlink.server.request import Handler, Request, by_the_way, origin_of, parameter, read_query
from clawlink.server.ws_connection import LINGER_SECONDS, Websocket, Websockets
from clawlink.server.ws_protocol import BadFrame, error_frame, message_frame, read_frame, reply_frame, use_cases

_log = logging.getLogger("clawlink.push")

# While the relay shuts down, peers may ack messages under way for this many seconds.
_FAREWELL_SECONDS, _FAREWELL_STEP_SECONDS = 1.5, 0.05
_RETRY_SECONDS = 1.0
# A peer that asks without end keeps its turn this long. Shorter turns would mean more pieces to write.
_TURN_SECONDS = 0.005
# Reading a frame that is there takes fewer seconds than this. A longer read has waited, and given others their turn.
_WAITED_SECONDS = 0.0001
# Looking a member up in its class costs more than the comparison.
_TEXT = WSMsgType.TEXT
_SETTLE = frozenset({"ack", "nack", "respond"})
_ENDS = frozenset(state.value for state in FINAL)
_GOING_AWAY = 1001
_FAILED = 1011
_NO_SUCH_AGENT = 4404
_NOT_ALLOWED = 4403


class WebsocketEndpoint:
    """The websockets of one relay."""

    def __init__(self, relay: Relay, websockets: Websockets) -> None:
        self._relay = relay
        self._websockets = websockets
        self._use_cases = use_cases(relay)
        self._sessions: set[_Session] = set()

    @property
    def routes(self) -> Iterator[tuple[Endpoint, Handler]]:
        """The endpoints with their handlers."""
        yield mailbox_paths.SOCKET, self._serve

    def __len__(self) -> int:
        return len(self._sessions)

    async def tend(self) -> None:
        """Have all connections notice that the relay shuts down."""
        if self._relay.draining:
            for session in list(self._sessions):
                session.wake()

    async def _serve(self, relay: Relay, request: Request) -> web.StreamResponse:
        """Shake hands, and stay until the connection ends."""
        if request.headers.get(hdrs.UPGRADE, "").strip().lower() != "websocket":
            raise BadRequest(
                "this address is a websocket; without one, wait with GET /events/{agent_id} or GET /poll/{agent_id}",
                field="Upgrade",
            )
        relay.require_working()
        agent_key = request.headers.get(KEY_HEADER) or in_subprotocol(request, "key")
        agent_id = parameter(request, "agent_id")
        ask = read_query(request, StreamQuery)
        request.stay()
        try:
            agent = await relay.agents.acting(agent_id, agent_key, field="agent_id")
        except UnknownAgent:
            if ask.lease is not None:
                raise
            made = await by_the_way(relay, request, agent_id, agent_key)
            if made is None:
                raise
            agent, _ = made
        offers = offers_subprotocol(request)
        if len(request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, ())) > 1:
            # aiohttp looks at the first only, and if that has not ours writes it to the log: the token, maybe the key.
            raise BadRequest("offer all subprotocols in one header", field="Sec-WebSocket-Protocol")
        websocket = await self._websockets.accept(
            request,
            protocols=(SUBPROTOCOL,) if offers else (),
            compress=request.address not in LOOPBACK_HOSTS,
        )
        consumer = relay.consumer(agent, lease=ask.lease or relay.limits.lease, credit=ask.credit)
        session = _Session(
            relay, self._use_cases, agent, agent_key, websocket, request, consumer, acks=ask.lease is not None
        )
        self._sessions.add(session)
        relay.sockets.add(agent.id, session)
        try:
            await session.run()
        finally:
            relay.sockets.remove(agent.id, session)
            self._sessions.discard(session)
            self._websockets.forget(websocket)
        return websocket.response


class _Session:
    """A connection."""

    def __init__(
        self,
        relay: Relay,
        use_cases: Mapping[str, Callable[..., Awaitable[Any]]],
        agent: Agent,
        agent_key: str | None,
        websocket: Websocket,
        request: Request,
        consumer: Consumer,
        *,
        acks: bool,
    ) -> None:
        self._relay = relay
        # The agent may leave, or another client may claim it with a key.
        self._acting = partial(relay.agents.acting, agent.id, agent_key, field="agent_id")
        self._use_cases = use_cases
        self._agent = agent
        self._agent_id = agent.id
        self._websocket = websocket
        self._origin = origin_of(request)
        self._consumer = consumer
        self._acks = acks
        self._loop = asyncio.get_running_loop()
        websocket.let_go = self._let_go
        self._pump: asyncio.Task[None] | None = None
        self._sender = websocket.sender
        self._over = False

    async def run(self) -> None:
        """Push and listen until the connection ends; then unsettled messages are due again."""
        self._pump = asyncio.create_task(self._push())
        try:
            # A task of its own, so that a wake-up does not pass through all of aiohttp's coroutines.
            await asyncio.create_task(self._listen())
        except Exception as failure:
            if not self._has_gone(failure):
                refusal(self._relay, failure, {"route": mailbox_paths.SOCKET.path}, _log)
                self._websocket.end(_FAILED, "the relay failed; its log says more")
        finally:
            await asyncio.shield(self._finish())

    async def _finish(self) -> None:
        if self._websocket.ending is not None:
            await self._websocket.ending
        await self._let_go()
        self._websocket.let_go = None  # each knows the other, which would be garbage in a circle

    async def _let_go(self) -> None:
        self._over = True
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])
            self._pump = None  # on Python 3.10 a cancelled task keeps its error, whose frames lead back to here
        await self._consumer.close()

    # -- relay to peer -------------------------------------------------------------------------------------------------

    async def _push(self) -> None:
        while not self._relay.draining:
            try:
                await self._push_on()
            except (UnknownAgent, NotAllowed) as error:
                self._websocket.end(_NO_SUCH_AGENT if isinstance(error, UnknownAgent) else _NOT_ALLOWED, error.message)
                return
            except Exception as failure:
                if self._has_gone(failure):
                    return
                refusal(self._relay, failure, {"route": mailbox_paths.SOCKET.path}, _log)
                if self._over:  # it was cancelled, and giving its messages back failed
                    return
                await asyncio.sleep(_RETRY_SECONDS)
        until = self._loop.time() + _FAREWELL_SECONDS
        while self._loop.time() < until:
            if self._consumer.idle:
                break
            await asyncio.sleep(_FAREWELL_STEP_SECONDS)
        self._websocket.end(_GOING_AWAY, "the relay is shutting down; come back in a moment")

    def _has_gone(self, failure: Exception) -> bool:
        """Return True if the failure is that the peer has gone, and not a broken connection of the store."""
        return isinstance(failure, ConnectionError) and self._sender.closed

    async def _push_on(self) -> None:
        """Write what the consumer claims, until the relay shuts down."""
        core, consumer, sender, websocket = self._relay.core, self._consumer, self._sender, self._websocket
        while not core.draining:
            taken, earlier = await consumer.next(self._agent, tick=self._acting)
            self._agent = consumer.reader.agent
            for d in taken:
                frame = message_frame(d.body, lease_of(d, earlier, core.time))
                if not sender.frame_now(frame):
                    await sender.text(frame)
            websocket.mark = b"%d" % consumer.batch
            # A first delivery needs no proof; of every other it must be known whether it was read.
            if taken and not (self._acks and all(map(first_time, taken))):
                sender.ping(websocket.mark)

    @property
    def takes_more(self) -> bool:
        """Return True if a message would go out at once: there is credit, and the peer reads."""
        open_and_read = self._websocket.ending is None and not self._over and not self._sender.waits
        return open_and_read and not self._consumer.exhausted

    def tell(self, body: bytes) -> None:
        """Send a notice that is stored nowhere, to a client of 1.0.x that reads; other clients do not get it."""
        if not self._acks and self.takes_more:
            with contextlib.suppress(ConnectionError):
                self._sender.notice(body)

    # -- peer to relay -------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        now = self._loop.time
        websocket = self._websocket
        receive = websocket.response.receive
        turn = websocket.heard
        while True:
            done = now()
            if done - turn > _TURN_SECONDS:
                await asyncio.sleep(0)
                turn = done = now()
            message: Any = await receive()
            heard = websocket.heard = now()
            if heard - done > _WAITED_SECONDS:
                turn = heard
            kind = message.type
            if kind is _TEXT:
                await self._take(message.data)
            elif kind is WSMsgType.PONG:
                await self._has_read(message.data)
            elif kind is WSMsgType.PING:
                await self._sender.pong(message.data)
            elif kind is WSMsgType.BINARY:
                await self._sender.text(error_frame(None, BadRequest("frames are text: JSON in UTF-8")))
            else:
                if kind is WSMsgType.ERROR:
                    message.data.__traceback__ = None  # aiohttp keeps the error, and its frames know the websocket
                    await asyncio.shield(self._let_go())
                    await asyncio.sleep(LINGER_SECONDS)
                return

    async def _has_read(self, data: bytes) -> None:
        batch = int(data) if data.isdigit() and len(data) < 20 else 0
        if self._acks:
            self._consumer.has_read(batch)
            return
        try:
            await self._consumer.settle_read(batch)
        except Exception as failure:  # the next pong settles it, or it comes again
            refusal(self._relay, failure, {"route": mailbox_paths.SOCKET.path}, _log)

    async def _take(self, text: str) -> None:
        try:
            frame = read_frame(text, self._agent_id)
        except BadFrame as bad:
            self._relay.stats.refused += 1
            await self._sender.text(error_frame(bad.id, bad.error))
            return
        try:
            agent = self._agent = await self._acting()
            use = self._use_cases[frame.type]
            reply = await (use(agent, frame.ask, *frame.further) if frame.further else use(agent, frame.ask))
        except Exception as failure:
            facts = {"route": mailbox_paths.SOCKET.path, "frame": frame.type, **self._origin}
            await self._sender.text(error_frame(frame.id, refusal(self._relay, failure, facts, _log)))
            return
        if frame.type in _SETTLE:  # they are no longer under way
            if frame.type != "respond":
                self._consumer.settled(frame.ask.receipts or ())
            elif reply.task_status in _ENDS:
                self._consumer.finished(reply.message_id)
        if frame.id is not None:
            answer = reply_frame(frame.id, reply)
            if not self._sender.frame_now(answer):
                await self._sender.text(answer)

    # -- the end -------------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Look again whether the relay shuts down."""
        self._consumer.wake()
