"""Requests over a websocket: each frame is a request of a route, with its identity filled in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from clawlink.domain.agent import Agent
from clawlink.domain.limits import MAX_ID_LENGTH
from clawlink.errors import BadJson, BadRequest, ClawLinkError, NotAllowed
from clawlink.protocol import failure, replies, requests
from clawlink.protocol.reading import read_fields, why_no_json
from clawlink.relay.relay import Relay
from clawlink.relay.tasks.submit import Own
from clawlink.relay.timestamps import iso
from clawlink.server.lease_views import acked, receipted
from clawlink.server.request import require_shallow

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(dict[str, Any])


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A valid frame: its type, the id for its answer, the request, and the function that does it."""

    type: str
    id: str | int | None
    ask: Any
    act: Callable[[Relay, Agent, Any], Awaitable[Any]]


class BadFrame(Exception):
    """A frame that makes none: why, and the id to say so by if it had one."""

    def __init__(self, error: ClawLinkError, id: str | int | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.id = id


async def _heartbeat(relay: Relay, agent: Agent, ask: requests.Heartbeat) -> replies.Beat:
    await relay.agents.beat(agent.id)
    return replies.Beat("ok")


def _delegate(
    relay: Relay, agent: Agent, ask: requests.Delegate, own: Own | None = None
) -> Awaitable[replies.Delegated]:
    return relay.submission.delegate(agent, ask, own)


def _own(fields: Mapping[str, Any]) -> Own | None:
    """Return the further fields of a delegation, as clients of 1.0.x write it; None if all its fields are known."""
    further = {name: value for name, value in fields.items() if name not in requests.Delegate.__struct_fields__}
    id = further.get("message_id")
    return Own(id if isinstance(id, str) else None, further) if further else None


def _respond(relay: Relay, agent: Agent, ask: requests.Respond) -> Awaitable[replies.ResponseSent]:
    return relay.responses.respond(agent, ask)


def _send(relay: Relay, agent: Agent, ask: requests.Send) -> Awaitable[replies.Sent]:
    return relay.messages.send(agent, ask)


def _broadcast(relay: Relay, agent: Agent, ask: requests.Broadcast) -> Awaitable[replies.BroadcastSent]:
    return relay.broadcasts.broadcast(agent, ask)


async def _ack(relay: Relay, agent: Agent, ask: requests.Ack) -> replies.Receipted:
    return await acked(relay, agent.id, ask)


async def _nack(relay: Relay, agent: Agent, ask: requests.Nack) -> replies.Receipted:
    return receipted(await relay.acks.nack(agent.id, ask.receipts, ask.delay), "nacked")


async def _extend(relay: Relay, agent: Agent, ask: requests.Extend) -> replies.Receipted:
    return receipted(await relay.acks.extend(agent.id, ask.receipts, ask.lease), "extended")


async def _subscribe(relay: Relay, agent: Agent, ask: requests.Subscribe) -> replies.Subscribed:
    now = await relay.agents.subscribe(agent.id, ask.subscriptions)
    return replies.Subscribed("subscribed", list(now.subscriptions))


async def _ping(relay: Relay, agent: Agent, ask: requests.Ping) -> replies.Pong:
    return replies.Pong("pong", iso(relay.clock()))


# Type: the request, its field for the connection's agent, and the function that does it.
_KINDS: Mapping[str, tuple[Any, str, Callable[[Relay, Agent, Any], Awaitable[Any]]]] = {
    "heartbeat": (requests.Heartbeat, "agent_id", _heartbeat),
    "delegate": (requests.Delegate, "from_agent", _delegate),
    "broadcast": (requests.Broadcast, "from_agent", _broadcast),
    "respond": (requests.Respond, "from_agent", _respond),
    "send": (requests.Send, "from_agent", _send),
    "ack": (requests.Ack, "agent_id", _ack),
    "nack": (requests.Nack, "agent_id", _nack),
    "extend": (requests.Extend, "agent_id", _extend),
    "subscribe": (requests.Subscribe, "agent_id", _subscribe),
    "ping": (requests.Ping, "agent_id", _ping),
}
TYPES = tuple(_KINDS)


def read_frame(text: str, agent_id: str) -> Frame:
    """Read a frame of the connection of ``agent_id``. Raises BadFrame."""
    try:
        require_shallow(text.encode("utf-8", "surrogatepass"))
        fields = _decoder.decode(text)
    except msgspec.ValidationError as error:
        large = "out of range" in str(error)
        what = "a number in the frame is out of range" if large else "a frame is a JSON object with a type"
        raise BadFrame(BadRequest(what)) from None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BadFrame(BadJson(why_no_json("the frame", text, error))) from None
    except ClawLinkError as error:
        raise BadFrame(error) from None
    type, id = fields.pop("type", None), fields.pop("id", None)
    if not (id is None or (isinstance(id, int) and not isinstance(id, bool)) or isinstance(id, str)):
        raise BadFrame(BadRequest("the id of a frame is a string or a whole number", field="id"))
    if isinstance(id, str) and len(id) > MAX_ID_LENGTH:
        raise BadFrame(
            BadRequest(
                f"the id of a frame may have {MAX_ID_LENGTH} characters, and this has {len(id)}",
                field="id",
                limit=MAX_ID_LENGTH,
                actual=len(id),
            )
        )
    kind = _KINDS.get(type) if isinstance(type, str) else None
    if kind is None:
        raise BadFrame(BadRequest(f"the type of a frame is one of {', '.join(TYPES)}", field="type"), id)
    ask_kind, identity, act = kind
    if fields.setdefault(identity, agent_id) != agent_id:
        raise BadFrame(NotAllowed(f"this connection speaks for {agent_id!r} alone", field=identity), id)
    try:
        ask = read_fields(fields, ask_kind)
    except BadRequest as error:
        raise BadFrame(error, id) from None
    return Frame(str(type), id, ask, partial(_delegate, own=_own(fields)) if act is _delegate else act)


def reply_frame(id: str | int, reply: Any) -> bytes:
    """Return the answer to a frame that had an id."""
    return b'{"type":"reply","id":%b,"reply":%b}' % (_encoder.encode(id), _encoder.encode(reply))


def error_frame(id: str | int | None, error: ClawLinkError) -> bytes:
    """Return the refusal of a frame: the error that HTTP would answer, with the frame's id."""
    return b'{"type":"error","id":%b,%b' % (_encoder.encode(id), failure.to_body(error)[1:])


def message_frame(body: bytes, lease: replies.Lease) -> bytes:
    """Return a message with its receipt, in a field that clients of 1.0.x ignore."""
    return b'%b,"delivery":%b}' % (body[:-1], _encoder.encode(lease))
