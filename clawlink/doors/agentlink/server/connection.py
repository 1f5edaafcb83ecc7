"""A connection of an instance: it registers, then it sends and receives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Protocol

import msgspec
from aiohttp import WSCloseCode, web

from clawlink.domain.agent import Agent
from clawlink.domain.task import FINAL, TaskState
from clawlink.domain.terminal import cell
from clawlink.doors.agentlink.server.checks import Checks, Envelopes
from clawlink.doors.agentlink.server.fan_out import FanOut, Writer
from clawlink.doors.agentlink.server.instances import Instance, Instances
from clawlink.doors.agentlink.server.members import Members
from clawlink.doors.agentlink.server.ownership import Ownership
from clawlink.doors.agentlink.server.receipts import Receipts
from clawlink.doors.agentlink.server.sending import Sending
from clawlink.doors.agentlink.server.service import Service
from clawlink.doors.agentlink.server.socket import Gone, Socket
from clawlink.doors.agentlink.wire import frames
from clawlink.errors import BadRequest, ClawLinkError, LeaseLost, NotAllowed
from clawlink.protocol import requests
from clawlink.protocol.mailbox_replies import MessageStatus
from clawlink.relay.error_mapping import refusal
from clawlink.relay.relay import Relay
from clawlink.relay.time_slices import Turns
from clawlink.server.request import Request
from clawlink.server.ws_connection import Websockets
from clawlink.timeouts import wait_for

_log = logging.getLogger("clawlink.agentlink")

REGISTER_SECONDS = 10.0
_FAREWELL_SECONDS = 1.5
_FAREWELL_STEP_SECONDS = 0.05
_ABOUT = ("id", "to", "task_id")
_MOST_ECHOED = 1000
_MOST_LOGGED = 100
_GOING = "the relay is shutting down; come back in a moment"


class Hub(Protocol):
    """The door, as far as its connections use it."""

    relay: Relay
    websockets: Websockets
    checks: Checks
    instances: Instances
    members: Members
    envelopes: Envelopes
    ownership: Ownership
    sending: Sending
    holders: dict[str, FanOut]

    def require_room(self, instance: Instance) -> None: ...

    def joined(self, instance: Instance, connection: Connection) -> None: ...

    async def spoke(self, instance: Instance, connection: Connection, agent: Agent) -> None: ...

    async def left(self, connection: Connection) -> None: ...


class Connection:
    """A websocket of one instance; ``agent`` is the address that a connection of the new form named."""

    def __init__(self, door: Hub, instance: Instance, agent: Agent | None, socket: Socket) -> None:
        self.agent = None if agent is None else agent.id
        self.spoken_for: set[str] = set()
        self.number = 0
        self.ended = False
        self.socket = socket
        self._door = door
        self._relay = door.relay
        self._instance = instance
        self._socket = socket
        self._receipts = Receipts(door.relay)
        self._service: Service | None = None
        self.writer = Writer(self)

    # -- which mailboxes ---------------------------------------------------------------------------------------------

    def serve(self, agent: Agent) -> None:
        """Consume the mailbox of the agent that the connection named."""
        self._service = Service(self._relay, agent, self._socket, envelopes=self._door.envelopes)

    # -- peer to relay -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read frames until the connection ends. A wrong frame gets an error, and the connection stays."""
        turns = Turns()
        while True:
            await turns.next()  # frames that came together hold up nobody else
            frame: frames.Frame | None = None
            received: str | int | None = None
            try:
                received = await self._socket.receive()
                if received is None:
                    return
                if isinstance(received, str):
                    frame = frames.read(received)
                    await self._take(frame)
                else:
                    if self._service is not None:
                        self._service.has_read(received)
                    await self.writer.has_read(received)
            except Gone:
                raise
            except Exception as failure:
                about = _said_about(received) if frame is None else _about(frame)
                facts = _facts(self._socket, self._instance.id)
                await self._socket.send(frames.failure(refusal(self._relay, failure, facts, _log), **about))

    async def _take(self, frame: frames.Frame) -> None:
        if isinstance(frame, frames.Send):
            await self._send(frame)
        elif isinstance(frame, frames.Ping):
            await self._socket.send(frames.write("pong"))
        elif isinstance(frame, frames.Ack | frames.Nack):
            await self._settle(frame)
        elif isinstance(frame, frames.Respond):
            await self._respond(frame)
        else:
            raise BadRequest("this connection has registered already; open another for another agent", field="type")

    async def _send(self, frame: frames.Send) -> None:
        sent = await self._door.sending.send(frame, self._instance)
        await self._door.spoke(self._instance, self, sent.sender)
        about = {**_about(frame), "message_id": sent.message_id}
        # A message that was read at once is still reported as queued first, so that the order is always the same.
        await self._socket.send(frames.write("queued", recipient=sent.recipient, status=sent.presence, **about))
        self._receipts.follow(sent.sender, sent.message_id, lambda status: self._tell(about, status))

    async def _tell(self, about: dict[str, Any], status: MessageStatus) -> None:
        if status.acked_at is not None:
            await self._socket.send(frames.write("delivered", at=status.acked_at, **about))
        else:
            why = f"the message to {about['to']} was never read: it is {status.state}"
            await self._socket.send(frames.write("error", message=why, code="not_delivered", **about))

    async def _settle(self, frame: frames.Ack | frames.Nack) -> None:
        """Settle the peer's handled messages, or take messages back, each in its own mailbox."""
        acks = self._relay.acks
        held = self._held_by(frame.receipts)
        left = [one for one in frame.receipts if not any(one in receipts for receipts in held.values())]
        for holder, receipts in held.items():
            outcomes = (
                await acks.ack(holder.address, receipts)
                if isinstance(frame, frames.Ack)
                else await acks.nack(holder.address, receipts, frame.delay)
            )
            holder.settled([o.receipt for o in outcomes if o.message_id is not None])
            left += [o.receipt for o in outcomes if o.message_id is None]
        if left:
            error = LeaseLost("nothing is held under these receipts: each message was settled, or handed out again")
            await self._socket.send(frames.failure(error, receipts=left))

    def _held_by(self, receipts: Iterable[str]) -> dict[Service | FanOut, list[str]]:
        """Return the known holders of these messages on this connection."""
        if self._service is not None:
            return {self._service: list(receipts)}
        found: dict[Service | FanOut, list[str]] = {}
        for one in receipts:
            holder = self._door.holders.get(one)
            if holder is not None and holder.reads(self):
                found.setdefault(holder, []).append(one)
        return found

    async def _respond(self, frame: frames.Respond) -> None:
        if self.agent is None:
            raise NotAllowed("only a connection that named its agent when it registered may answer tasks")
        agent = await self._door.members.speaker(self._instance, self.agent.partition("/")[2])
        ask = requests.Respond(from_agent=agent.id, message_id=frame.task_id, result=frame.result, status=frame.status)
        done = await self._relay.tasks.respond(agent, ask)
        if TaskState(done.task_status) in FINAL and self._service is not None:
            self._service.finished(frame.task_id)
        await self._socket.send(frames.write("responded", status=done.task_status, **_about(frame)))

    async def extend(self) -> None:
        """Hold the messages of the agent that the connection named for some more time, and what the relay knows."""
        await self._door.instances.came(self._instance)
        if self._service is not None:
            await self._service.extend()
            await self._door.members.stays(self._service.address)

    # -- the end -----------------------------------------------------------------------------------------------------

    async def say_goodbye(self) -> None:
        """Close the connection because the relay goes, once messages under way are settled or a moment has passed."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _FAREWELL_SECONDS
        while loop.time() < until:
            if self.writer.idle and (self._service is None or self._service.idle):
                break
            await asyncio.sleep(_FAREWELL_STEP_SECONDS)
        await self.send_away(_GOING)

    async def send_away(self, reason: str) -> None:
        """Close the connection; its peer may connect again, to this relay or another."""
        await self._socket.close(WSCloseCode.GOING_AWAY, reason)

    async def close(self) -> None:
        """Release everything. Unsettled messages are due again at once, for others of the instance too."""
        self.ended = True
        self._receipts.close()
        try:
            await self.writer.close()
        finally:
            if self._service is not None:
                await self._service.close()


async def serve(door: Hub, request: Request) -> web.StreamResponse:
    """Shake hands, register, and stay until the connection ends."""
    door.relay.require_working()
    socket = await Socket.open(door.websockets, request)
    connection: Connection | None = None
    try:
        connection = await _registered(door, socket)
        if connection is not None:
            await connection.run()
    except Gone:
        pass
    finally:
        if connection is not None:
            await asyncio.shield(door.left(connection))
        await asyncio.shield(socket.over())
    return socket.response


async def _registered(door: Hub, socket: Socket) -> Connection | None:
    """Return the connection once the peer has registered, or send it the fault and close."""
    frame: frames.Register | None = None
    try:
        frame = await wait_for(_first_frame(socket), REGISTER_SECONDS)
        if frame is None:
            return None
        instance, agent_id = await door.checks.register(frame)
        agent = None if agent_id is None else await door.members.speaker(instance, agent_id, named=True)
        door.require_room(instance)
        await door.instances.came(instance)
        if agent is None:
            await door.ownership.take(instance.id)
    except Gone:
        raise
    except Exception as failure:
        late = isinstance(failure, asyncio.TimeoutError)
        refused = refusal(
            door.relay,
            BadRequest(frames.FIRST_MUST_REGISTER) if late else failure,
            _facts(socket, None if frame is None else frame.instance_id),
            _log,
        )
        await socket.send(frames.failure(refused))
        await socket.close()
        return None
    connection = Connection(door, instance, agent, socket)
    try:
        # Said before the first message is on its way: an old client takes the first frame for the answer.
        await socket.send(
            frames.write(
                "registered",
                instance_id=instance.id,
                agent=connection.agent,
                server_time=door.relay.time.stamp(),
                max_frame_bytes=door.relay.limits.max_body_bytes,
            )
        )
        door.joined(instance, connection)
    finally:
        if agent is None:
            door.ownership.stop_joining(instance.id)
    return connection


async def _first_frame(socket: Socket) -> frames.Register | None:
    while True:
        received = await socket.receive()
        if received is None:
            return None
        if isinstance(received, str):
            try:
                frame = frames.read(received)
            except ClawLinkError as error:
                raise _not_a_register(error, received) from None
            if isinstance(frame, frames.Register):
                return frame
            raise BadRequest(frames.FIRST_MUST_REGISTER, field="type")


def _not_a_register(error: ClawLinkError, text: str) -> ClawLinkError:
    """Return the fault of a register; for any other frame the old relay's sentence that it is none."""
    return (
        error if '"register"' in text and error.field not in (None, "type") else BadRequest(frames.FIRST_MUST_REGISTER)
    )


def _facts(socket: Socket, instance_id: str | None) -> dict[str, str]:
    """Return the log's facts of a refusal: the instance and agent, as far as given. Foreign text is cut and cleaned."""
    facts = {} if instance_id is None else {"instance": instance_id}
    facts |= {} if socket.address is None else {"address": socket.address}
    return {name: cell(said[:_MOST_LOGGED]) for name, said in facts.items()}


def _about(frame: frames.Frame | None) -> dict[str, Any]:
    """Return the fields that name the frame to which an answer belongs."""
    return {name: getattr(frame, name) for name in _ABOUT if getattr(frame, name, None) is not None}


def _said_about(received: str | int | None) -> dict[str, Any]:
    """Return the same of a frame with a wrong field, as far as it can be read, because its sender waits for an answer.

    Too long values are left out, so that an answer stays small.
    """
    try:
        said = msgspec.json.decode(received) if isinstance(received, str) else None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}
    if not isinstance(said, dict):
        return {}
    known = {name: said.get(name) for name in _ABOUT}
    return {name: value for name, value in known.items() if isinstance(value, str) and len(value) <= _MOST_ECHOED}
