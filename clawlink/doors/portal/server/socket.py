"""``/ws/agent``: the owner's agent reads its mailbox over a websocket, as the bridge of Agent P2P does.

A message of a contact is settled by the agent's ack. The bridge acks nothing else. So guests, the owner's words and
notices are settled once a pong proves that the peer has read them. A peer that asks for full acks (``acks=all``)
settles each delivery itself, and may hold it for as long as its agent is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Protocol, TypeVar

from aiohttp import WSCloseCode, WSMsgType, web

from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery
from clawlink.domain.dense_json import as_text
from clawlink.domain.message import PlainMessage, TaskDelegation, TaskResponse, decode
from clawlink.doors.portal.records import AGENT, Chat, Contact, Guest, Message, State
from clawlink.doors.portal.rules.access import Role
from clawlink.doors.portal.rules.wake_texts import MORE, cut_note
from clawlink.doors.portal.server.forwarded_tasks import told_of
from clawlink.doors.portal.server.keys import Keys
from clawlink.doors.portal.server.mail import Mail
from clawlink.doors.portal.server.repository import MAX_MESSAGE_BYTES
from clawlink.doors.portal.server.task_files import TaskFiles
from clawlink.doors.portal.wire import frames
from clawlink.errors import BadRequest, StoreUnavailable, UnknownAgent
from clawlink.relay.ids import receipt
from clawlink.relay.relay import Relay
from clawlink.relay.time_slices import Turns
from clawlink.server.request import Request
from clawlink.server.ws_connection import Websocket, Websockets
from clawlink.store.base import Failed, Fenced

LEASE_SECONDS = 60.0
CREDIT = 32
FULL_CREDIT = 256
PING_SECONDS = 30.0
MAX_SOCKETS = 20
_RETRY_SECONDS = 1.0
_MOST_ACKED = 1000
_log = logging.getLogger("clawlink.portal")
_Id = TypeVar("_Id", int, str)


class Hub(Protocol):
    """The door, as far as its sockets use it."""

    relay: Relay
    websockets: Websockets
    mail: Mail
    keys: Keys
    task_files: TaskFiles
    url: str

    async def agent(self) -> Agent: ...


class Line:
    """A websocket of the owner's agent: one task brings messages, another reads the peer's frames."""

    def __init__(self, hub: Hub, agent: Agent, websocket: Websocket, key: str, role: Role, *, acks_all: bool) -> None:
        self._hub = hub
        self._key = key
        self._role = role
        self._relay = hub.relay
        self._store = hub.relay.core.store
        self._websocket = websocket
        self._sees_keys = role is Role.OWNER
        self._syncs = False
        self._agent = agent
        credit = FULL_CREDIT if acks_all else CREDIT
        self._consumer = hub.relay.consumer(self._agent, lease=LEASE_SECONDS, credit=credit)
        self._acks_all = acks_all
        self._deliveries: dict[str, str] = {}
        """By delivery, the receipts of what a peer with full acks has."""
        self._holding: set[str] = set()
        self._receipts: dict[int, str] = {}
        """By number, the receipts of messages that wait for the peer's ack."""
        self._told: dict[int, list[str]] = {}
        """By batch, the receipts of what a pong settles."""

    async def run(self) -> None:
        """Serve until the connection ends. Unsettled messages are then due again at once."""
        tasks = [asyncio.create_task(self._bring()), asyncio.create_task(self._ping())]
        try:
            await self._listen()
        finally:  # a lost connection cancels this, and must not leave messages with it
            await self._relay.core.finish(self._end(tasks))

    async def _end(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        held = [self._deliveries[id] for id in self._holding if id in self._deliveries]
        if held:  # the peer is well, and its agent is away: that is no attempt
            with contextlib.suppress(Failed, StoreUnavailable):  # then the leases lapse
                await self._relay.acks.release(AGENT, held)
                self._consumer.settled(held)
        await self._consumer.close()

    async def goodbye(self) -> None:
        """Close the connection because the relay goes."""
        self._websocket.end(WSCloseCode.GOING_AWAY, "the portal is shutting down; come back in a moment")
        if self._websocket.ending is not None:
            await self._websocket.ending

    async def check_key(self) -> None:
        """Close the connection if its key was revoked, or its login has ended."""
        with contextlib.suppress(Failed, StoreUnavailable):  # the next check tells
            if (await self._hub.keys.caller(self._key)).role is not self._role:
                self._websocket.end(WSCloseCode.POLICY_VIOLATION, "the key counts no more: it was revoked or has ended")

    # -- out ---------------------------------------------------------------------------------------------------------

    async def _bring(self) -> None:
        while not self._relay.draining:
            try:
                await self._bring_batch()
            except (ConnectionError, Fenced):  # the peer has gone, or another relay is the portal now
                return
            except UnknownAgent:  # the operator has removed it; the door registers it again at the next start
                await asyncio.sleep(_RETRY_SECONDS)
            except Exception:
                _log.exception("bringing messages failed; it goes on")
                await asyncio.sleep(_RETRY_SECONDS)

    async def _bring_batch(self) -> None:
        taken, _ = await self._consumer.next(self._agent, tick=self._seen)
        settled: list[str] = []
        told: list[str] = []
        for delivery in taken:
            given = receipt(str(delivery.receipt), delivery.id)
            found = await self._store.get(Message, delivery.id)
            if found is not None and found.inbound:
                if found.state is not State.RECEIVED:  # it was acked just before the relay was killed
                    settled.append(given)
                    continue
                frame = frames.message(found, await self._store.get(Contact, found.contact))
                if self._acks_all:
                    await self._bring_one(delivery.id, given, frame)
                    continue
                self._receipts[found.number] = given
                await self._write(frame)
                continue
            about = await self._readable(delivery)
            if self._acks_all and about:
                await self._bring_one(delivery.id, given, about[0])
                continue
            for frame in about:
                await self._write(frame)
            told.append(given)
        await self._settle(settled)
        if taken:
            batch = self._consumer.batch
            self._told[batch] = told
            self._websocket.mark = b"%d" % batch
            self._websocket.sender.ping(self._websocket.mark)

    async def _bring_one(self, id: str, given: str, frame: str) -> None:
        self._deliveries[id] = given
        self._holding.discard(id)
        await self._write(frames.tagged(frame, id))

    async def _seen(self) -> Agent | None:
        await self._relay.agents.touch(AGENT)
        return None

    async def _readable(self, delivery: Delivery) -> Sequence[str]:
        """Return the frames for what is no message of a contact. One that cannot be read holds up no other."""
        try:
            return await self._about(delivery)
        except (Failed, StoreUnavailable):
            raise
        except Exception:
            _log.exception("a delivery cannot be shown", extra={"delivery": delivery.id})
            told = f"Message {delivery.id} cannot be shown here; ask its sender for it as plain text or as a file"
            return self._notice(told, delivery)

    async def _about(self, delivery: Delivery) -> Sequence[str]:
        """Return the frames for what is no message of a contact."""
        kind, _, number = delivery.id.partition("-")
        if kind == "guest":
            guest = await self._store.get(Guest, number)
            return () if guest is None else frames.guest(guest, with_key=self._sees_keys)
        if kind == "chat":
            line = await self._store.get(Chat, number)
            return () if line is None else (frames.owner(line, self._hub.url),)
        body = decode(delivery.body)
        if kind == "file" and isinstance(body, PlainMessage):
            return (frames.file(str(body.content), self._stored_at(delivery)),)
        if isinstance(body, PlainMessage):
            return self._notice(as_text(body.content), delivery)
        told = told_of(body)
        if told is not None and isinstance(body, (TaskDelegation, TaskResponse)):
            told += await self._hub.task_files.told(body.attachments)
        return () if told is None else self._notice(told, delivery)

    def _notice(self, text: str, delivery: Delivery) -> Sequence[str]:
        """Return the frame of a notice. Old bridges die of large frames, and ours cuts a long text itself."""
        encoded = b"" if self._acks_all else text.encode("utf-8", "replace")
        if len(encoded) > MAX_MESSAGE_BYTES:
            text = encoded[:MAX_MESSAGE_BYTES].decode("utf-8", "ignore") + cut_note(MORE)
        return (frames.notice(text, self._stored_at(delivery)),)

    def _stored_at(self, delivery: Delivery) -> float:
        return self._relay.core.time.shown(delivery.stored_at)

    @property
    def is_page(self) -> bool:
        """Return True for a page of the owner: a bridge asks for a sync at once, and a page never does."""
        return self._sees_keys and not self._syncs

    async def tell(self, frame: str) -> None:
        """Write a frame that is no delivery, if the peer is still there."""
        with contextlib.suppress(ConnectionError):
            await self._write(frame)

    async def _write(self, frame: str) -> None:
        await self._websocket.sender.text(frame.encode())

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING_SECONDS)
            await self.check_key()
            with contextlib.suppress(ConnectionError):
                await self._write(frames.write("ping"))

    # -- in ----------------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        turns = Turns()
        while True:
            await turns.next()  # frames that came together hold up nobody else
            try:
                received = await self._websocket.receive()
            except ConnectionError:
                return
            if received is None:
                return
            if received.type is WSMsgType.TEXT:
                with contextlib.suppress(ConnectionError):
                    if not await self._take(str(received.data)):
                        return
            elif received.type is WSMsgType.PONG:
                await self._has_read(bytes(received.data))

    async def _take(self, text: str) -> bool:
        """Do what a frame asks for; False for a frame that ends the connection."""
        try:
            frame = frames.read(text)
        except BadRequest as error:
            self._websocket.end(WSCloseCode.POLICY_VIOLATION, error.message)
            return False
        if frame.type == "ping":
            await self._write(frames.write("pong"))
        elif frame.type == "sync_request":
            self._syncs = True
            # Waiting messages come as frames of their own: they have names, and one frame with all grew too large.
            await self._write(frames.write("sync_response", messages=[]))
        elif frame.type == "ack" and frame.message_ids:
            numbers = frame.message_ids[:_MOST_ACKED]
            if await self._ack(numbers, self._receipts):
                await self._write(frames.write("ack_confirm", message_ids=numbers))
        elif frame.type == "ack" and frame.deliveries:
            ids = frame.deliveries[:_MOST_ACKED]
            self._holding.difference_update(ids)
            if await self._ack(ids, self._deliveries):
                await self._write(frames.write("ack_confirm", deliveries=ids))
        elif frame.type == "hold":
            await self._hold(frame.deliveries[:_MOST_ACKED])
        return True

    async def _ack(self, ids: Sequence[_Id], receipts: dict[_Id, str]) -> bool:
        """Settle what this socket was given; False if the store did not take it, so that it comes again."""
        given = [receipts.pop(id) for id in ids if id in receipts]
        try:
            for one in given:
                await self._hub.mail.acknowledged(one.partition("-")[2])
            await self._settle(given)
        except (Failed, StoreUnavailable):
            return False
        return True

    async def _hold(self, ids: Sequence[str]) -> None:
        """Keep deliveries with this peer for another lease. It has read them, and its agent cannot take them yet."""
        given = {id: self._deliveries[id] for id in ids if id in self._deliveries}
        self._holding.update(given)
        if given:
            with contextlib.suppress(Failed, StoreUnavailable):
                await self._relay.acks.extend(AGENT, list(given.values()), LEASE_SECONDS)

    async def _settle(self, receipts: list[str]) -> None:
        if receipts:
            await self._relay.acks.ack(AGENT, receipts)
            self._consumer.settled(receipts)

    async def _has_read(self, mark: bytes) -> None:
        if not (mark.isdigit() and len(mark) < 16):
            return
        self._consumer.has_read(int(mark))
        read = [batch for batch in self._told if batch <= int(mark)]
        with contextlib.suppress(Failed, StoreUnavailable):  # then the leases lapse, and they come again
            await self._settle([given for batch in read for given in self._told.pop(batch)])


async def serve(hub: Hub, request: Request, key: str, role: Role, lines: set[Line]) -> web.StreamResponse:
    """Shake hands, and stay until the connection ends. The caller has looked at the key."""
    request.stay()
    agent = await hub.agent()
    websocket = await hub.websockets.accept(request)
    line = Line(hub, agent, websocket, key, role, acks_all=request.query.get("acks") == "all")
    lines.add(line)
    try:
        await line.run()
    finally:
        lines.discard(line)
        await asyncio.shield(hub.websockets.over(websocket))
    return websocket.response
