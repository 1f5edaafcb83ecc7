"""Websockets: a consumer of the mailbox like every other, which lives as long as its connection.

One task writes what is claimed, one reads what the peer asks; a peer that does not read stops only itself. The pong to
a protocol-level ping proves that the peer has read so far.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, hdrs, web

from clawlink.config import LOOPBACK_HOSTS
from clawlink.domain.access import KEY_HEADER
from clawlink.domain.agent import Agent
from clawlink.domain.delivery import first_time
from clawlink.domain.task import FINAL
from clawlink.errors import BadRequest, NotAllowed, UnknownAgent
from clawlink.protocol import paths
from clawlink.protocol.paths import Endpoint
from clawlink.protocol.requests import StreamQuery
from clawlink.relay.consumer import Consumer
from clawlink.relay.refusal import refusal
from clawlink.relay.relay import Relay
from clawlink.relay.turns import Turns
from clawlink.server.auth import SUBPROTOCOL, in_subprotocol, offers_subprotocol
from clawlink.server.frames import BadFrame, Frame, error_frame, message_frame, read_frame, reply_frame
from clawlink.server.leases import lease_of
from clawlink.server.sending import Sender, Turn
from clawlink.server.wire import Handler, Request, origin_of, parameter, read_query

_log = logging.getLogger("clawlink.push")

PING_SECONDS = 10.0
# Disconnect a peer that sends or reads nothing for 28 s (30 s with the interval between looks).
SILENT_SECONDS = 28.0
# Bytes that a closed connection has not taken by then are dropped with it.
_ABORT_SECONDS = 5.0
# While the relay shuts down, what is under way may still be acked for so long.
_FAREWELL_SECONDS = 1.5
_RETRY_SECONDS = 1.0
# A peer that asks without end keeps its turn this long. Shorter turns would mean more pieces to write.
_TURN_SECONDS = 0.005
# To take a frame that is there takes less than this: whoever took longer has waited, and given others their turn.
_WAITED_SECONDS = 0.0001
# A peer that was told why has this long to close too.
_LINGER_SECONDS = 2.0
_MOST_REASON_BYTES = 120
_UNREADABLE = (WSCloseCode.PROTOCOL_ERROR, WSCloseCode.INVALID_TEXT, WSCloseCode.MESSAGE_TOO_BIG)

_ENDS = frozenset(state.value for state in FINAL)
_GOING_AWAY = 1001
_POLICY = 1008
_FAILED = 1011
_NO_SUCH_AGENT = 4404
_NOT_ALLOWED = 4403


class Push:
    """The websockets of one relay."""

    def __init__(self, relay: Relay, *, max_frame_bytes: int) -> None:
        self._relay = relay
        self._max_frame_bytes = max_frame_bytes
        self._sessions: set[_Session] = set()
        self._turn = Turn()
        self._tended = 0.0

    @property
    def routes(self) -> Iterator[tuple[Endpoint, Handler]]:
        """The endpoints with their handlers."""
        yield paths.SOCKET, self._serve

    def __len__(self) -> int:
        return len(self._sessions)

    async def tend(self, every: float) -> None:
        """Ping silent peers, and close those that stay silent. The caller repeats this ``every`` so many seconds.

        A late call means that the relay itself stood still: no peer is silent for that time.
        A connection that fails stops none of the others, and its failure is raised at the end.
        """
        now = asyncio.get_running_loop().time()
        late = now - self._tended - 2 * every if self._tended else 0.0
        self._tended = now
        turns = Turns()
        failed: Exception | None = None
        for session in list(self._sessions):
            try:
                if late > 0:
                    session.excuse(late)
                session.tend(now)
                if self._relay.draining:
                    session.wake()
            except Exception as failure:
                failed = failure
            await turns.next()
        if failed is not None:
            raise failed

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
        if ask.lease is None:  # as a client of 1.0.x connects, which does not know that the relay was restarted
            agent, _ = await relay.agents.acting_anyway(
                agent_id,
                agent_key,
                field="agent_id",
                machine=lambda: request.machine,
                address=lambda: request.block,
            )
        else:
            agent = await relay.agents.acting(agent_id, agent_key, field="agent_id")
        offers = offers_subprotocol(request)
        if len(request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, ())) > 1:
            # aiohttp looks at the first only, and if that has not ours writes it to the log: the token, maybe the key.
            raise BadRequest("offer all subprotocols in one header", field="Sec-WebSocket-Protocol")
        ws = _Socket(
            autoping=False,
            compress=request.address not in LOOPBACK_HOSTS,
            max_msg_size=self._max_frame_bytes + 1,  # aiohttp refuses what is as large as this
            protocols=(SUBPROTOCOL,) if offers else (),
        )
        try:
            await ws.prepare(request)
        except web.HTTPException as failure:
            raise BadRequest(f"this is no handshake of a websocket: {failure.text}") from None
        consumer = relay.consumer(agent, lease=ask.lease or relay.limits.lease, credit=ask.credit)
        ws.sender = Sender(request, ws, self._turn)
        session = _Session(relay, agent, agent_key, ws, ws.sender, request, consumer, acks=ask.lease is not None)
        self._sessions.add(session)
        relay.sockets.add(agent.id, session)
        try:
            await session.run()
        finally:
            relay.sockets.remove(agent.id, session)
            self._sessions.discard(session)
            ws.sender = None  # each knows the other, which would be garbage in a circle
        return ws


class _Socket(web.WebSocketResponse):
    """A websocket that writes what has gathered before it closes, whoever has it close.

    Its transport stays open for a moment, until the peer has closed too: what the peer sent meanwhile, or the rest of a
    frame that was too large, would have it reset, and the peer would not be told why.
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
                await asyncio.wait_for(self._closed_by_peer(), _LINGER_SECONDS)
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


class _Session:
    """A connection."""

    def __init__(
        self,
        relay: Relay,
        agent: Agent,
        agent_key: str | None,
        ws: _Socket,
        sender: Sender,
        request: Request,
        consumer: Consumer,
        *,
        acks: bool,
    ) -> None:
        self._relay = relay
        self._agent = agent
        self._agent_id = agent.id
        self._agent_key = agent_key
        self._ws = ws
        self._transport = request.transport
        self._origin = origin_of(request)
        self._consumer = consumer
        self._acks = acks
        self._loop = asyncio.get_running_loop()
        self._heard = self._pinged = self._loop.time()
        self._pump: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._sender = sender
        self._written = 0  # the last batch that has been written in full
        self._over = False

    async def run(self) -> None:
        """Push and listen until the connection ends; then what was not settled is due again."""
        self._pump = asyncio.create_task(self._push())
        try:
            # A task of its own: what wakes it need not pass through all of aiohttp's.
            await asyncio.create_task(self._listen())
        except Exception as failure:
            if not self._has_gone(failure):
                refusal(self._relay, failure, {"route": paths.SOCKET.path}, _log)
                self.end(_FAILED, "the relay failed; its log says more")
        finally:
            await asyncio.shield(self._finish())

    async def _finish(self) -> None:
        if self._ending is not None:
            await self._ending
        await self._let_go()

    async def _let_go(self) -> None:
        self._over = True
        if self._pump is not None:
            self._pump.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._pump
        await self._consumer.close()

    # -- relay to peer -------------------------------------------------------------------------------------------------

    async def _push(self) -> None:
        while not self._relay.draining:
            try:
                await self._push_some()
            except (UnknownAgent, NotAllowed) as error:
                self.end(_NO_SUCH_AGENT if isinstance(error, UnknownAgent) else _NOT_ALLOWED, error.message)
                return
            except Exception as failure:
                if self._has_gone(failure):
                    return
                refusal(self._relay, failure, {"route": paths.SOCKET.path}, _log)
                if self._over:  # it was cancelled, and to give back what it had taken failed
                    return
                await asyncio.sleep(_RETRY_SECONDS)
        for _ in range(int(_FAREWELL_SECONDS / 0.05)):
            if self._consumer.idle:
                break
            await asyncio.sleep(0.05)
        self.end(_GOING_AWAY, "the relay is shutting down; come back in a moment")

    def _has_gone(self, failure: Exception) -> bool:
        """Return True if the failure is that the peer has gone, and not a broken connection of the store."""
        return isinstance(failure, ConnectionError) and self._sender.closed

    async def _push_some(self) -> None:
        taken, earlier = await self._consumer.next(self._agent, tick=self._acting)
        for d in taken:
            await self._sender.text(message_frame(d.body, lease_of(d, earlier)))
        self._written = self._consumer.batch
        # A first delivery needs no proof; of every other it must be known whether it was read.
        if taken and not (self._acks and all(map(first_time, taken))):
            self._ping()

    async def _acting(self) -> Agent:
        """Return the agent as it is now; it may have left, or have been claimed by someone with a key."""
        self._agent = await self._relay.agents.acting(self._agent_id, self._agent_key, field="agent_id")
        return self._agent

    @property
    def takes_more(self) -> bool:
        """Whether a message would go out at once: there is credit, and the peer reads."""
        open_and_read = self._ending is None and not self._over and self._sender.waiting_since is None
        return open_and_read and not self._consumer.exhausted

    def tell(self, body: bytes) -> None:
        """Send a notice that is stored nowhere, to a client of 1.0.x that reads; nobody else is told so."""
        if not self._acks and self.takes_more:
            with contextlib.suppress(ConnectionError):
                self._sender.notice(body)

    # -- peer to relay -------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        now = self._loop.time
        turn = self._heard
        while True:
            done = now()
            if done - turn > _TURN_SECONDS:
                await asyncio.sleep(0)
                turn = done = now()
            message: Any = await self._ws.receive()
            self._heard = now()
            if self._heard - done > _WAITED_SECONDS:
                turn = self._heard
            if message.type is WSMsgType.TEXT:
                await self._take(message.data)
            elif message.type is WSMsgType.PONG:
                await self._has_read(message.data)
            elif message.type is WSMsgType.PING:
                await self._sender.pong(message.data)
            elif message.type is WSMsgType.BINARY:
                await self._sender.text(error_frame(None, BadRequest("frames are text: JSON in UTF-8")))
            else:
                if message.type is WSMsgType.ERROR:
                    message.data.__traceback__ = None  # aiohttp keeps the error, and its frames know the websocket
                    await asyncio.shield(self._let_go())
                    await asyncio.sleep(_LINGER_SECONDS)
                return

    async def _has_read(self, data: bytes) -> None:
        batch = int(data) if data.isdigit() and len(data) < 20 else 0
        if self._acks:
            self._consumer.has_read(batch)
            return
        try:
            await self._consumer.settle_read(batch)
        except Exception as failure:  # the next pong settles it, or it comes again
            refusal(self._relay, failure, {"route": paths.SOCKET.path}, _log)

    async def _take(self, text: str) -> None:
        try:
            frame = read_frame(text, self._agent_id)
        except BadFrame as bad:
            self._relay.stats.refused += 1
            await self._sender.text(error_frame(bad.id, bad.error))
            return
        try:
            reply = await frame.act(self._relay, await self._acting(), frame.ask)
        except Exception as failure:
            facts = {"route": paths.SOCKET.path, "frame": frame.type, **self._origin}
            await self._sender.text(error_frame(frame.id, refusal(self._relay, failure, facts, _log)))
            return
        self._note(frame, reply)
        if frame.id is not None:
            await self._sender.text(reply_frame(frame.id, reply))

    def _note(self, frame: Frame, reply: Any) -> None:
        """Keep account of what the peer has settled."""
        if frame.type in ("ack", "nack"):
            self._consumer.settled(frame.ask.receipts or ())
        elif frame.type == "respond" and reply.task_status in _ENDS:
            self._consumer.finished(reply.message_id)

    # -- the end -------------------------------------------------------------------------------------------------------

    def excuse(self, seconds: float) -> None:
        """Count so much time less of the peer's silence."""
        self._heard += seconds
        self._pinged += seconds

    def tend(self, now: float) -> None:
        """Ping a peer that is silent; close the connection of one that has been so for too long, or does not read."""
        if self._ending is not None:
            return
        behind = self._sender.waiting_since
        if behind is not None and now - behind >= SILENT_SECONDS:
            self.end(_POLICY, f"you have not read for {SILENT_SECONDS:.0f} s; what was not acked is due again")
        elif now - self._heard >= SILENT_SECONDS:
            self.end(_POLICY, f"no pong for {SILENT_SECONDS:.0f} s; what was not acked is due again")
        elif now - max(self._heard, self._pinged) >= PING_SECONDS and behind is None:
            self._pinged = now
            with contextlib.suppress(ConnectionError):
                self._ping()

    def _ping(self) -> None:
        """Ask for a pong, which proves that the peer has read up to here."""
        self._sender.ping(b"%d" % self._written)

    def wake(self) -> None:
        """Look again whether the relay shuts down."""
        self._consumer.wake()

    def end(self, code: int, reason: str) -> None:
        """Close the connection, saying why."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._close(code, reason))

    async def _close(self, code: int, reason: str) -> None:
        _log.info("closed", extra={"code": code, "reason": reason})
        if self._transport is not None:
            self._loop.call_later(_ABORT_SECONDS, self._transport.abort)
        await self._let_go()
        with contextlib.suppress(ConnectionError):
            # A frame that closes has room for this much, and a character cut in two would be no text.
            told = reason.encode()[:_MOST_REASON_BYTES].decode(errors="ignore").encode()
            await self._ws.close(code=code, message=told, drain=False)
