"""Requests and replies about events of AgentRelay: the endpoints, and their JSON bodies."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from clawlink.doors.agentrelay import names, rules
from clawlink.protocol.endpoint import Endpoint
from clawlink.protocol.requests import AgentId, IdempotencyKey, Recipient

EventId = Annotated[str, Meta(min_length=1, max_length=names.MAX_ID_BYTES)]
Hours = Annotated[int, Meta(ge=0, le=rules.MAX_TTL_HOURS)]


class SendEvent(Struct, frozen=True):
    """Keep contents under a new id, and tell the receiver."""

    from_agent: AgentId
    to_agent: Recipient
    event_id: EventId
    content: dict[str, Any]
    type: Annotated[str, Meta(max_length=names.MAX_TYPE_LENGTH)] = "REQ"
    idempotency_key: IdempotencyKey | None = None


class ReceiveEvent(Struct, frozen=True):
    """Read the contents that a line leads to. ``message`` may be the line alone, or a text with it."""

    agent_id: AgentId
    message: str
    idempotency_key: IdempotencyKey | None = None


class UpdateEvent(Struct, frozen=True):
    """Merge updates into the contents, or into those of the next event, which is made if need be."""

    agent_id: AgentId
    event_id: EventId
    updates: dict[str, Any]
    next_event_id: EventId | None = None
    idempotency_key: IdempotencyKey | None = None


class CompleteEvent(Struct, frozen=True):
    """Ask for the CMP of an event that this agent has read. With ``check`` nothing is changed."""

    agent_id: AgentId
    event_id: EventId
    secret: Annotated[str, Meta(max_length=names.MAX_SECRET_LENGTH)] | None = None
    check: bool = False


class VerifyEvent(Struct, frozen=True):
    """Verify a CMP."""

    agent_id: AgentId
    message: str
    idempotency_key: IdempotencyKey | None = None


class CleanUp(Struct, frozen=True):
    """Let go of this agent's events that are over."""

    agent_id: AgentId
    registry_ttl_hours: Hours = rules.DEFAULT_REGISTRY_TTL_HOURS


class EventSent(Struct, frozen=True):
    """An event was sent.

    ``message_id`` is that of the message with the line; None if the receiver is not registered yet.
    """

    event_id: str
    ptr: str
    csv_message: str
    secret: str
    sender: str
    receiver: str
    expires_at: str
    message_id: str | None
    sender_name: str = ""
    receiver_name: str = ""


class EventMeta(Struct, frozen=True):
    """The facts of an event beside its contents."""

    event_id: str
    type: str
    secret: str
    created_at: str
    sender: str
    receiver: str
    ttl_hours: int
    sender_name: str
    receiver_name: str = ""


class EventRead(Struct, frozen=True):
    """The contents of an event. ``burned`` is True if no other reader can read them."""

    meta: EventMeta
    ptr: str
    content: msgspec.Raw
    status: str
    burned: bool


class EventUpdated(Struct, frozen=True):
    """An event has new contents; ``csv_message`` is the line that leads to them."""

    event_id: str
    ptr: str
    csv_message: str
    sender: str
    receiver: str
    sender_name: str = ""
    receiver_name: str = ""


class EventCompleted(Struct, frozen=True):
    """The CMP of an event, which is to be sent to ``sender``."""

    event_id: str
    cmp_message: str
    sender: str
    receiver: str
    sender_name: str = ""
    receiver_name: str = ""


class EventVerified(Struct, frozen=True):
    """The verdict on a CMP: ``status`` is ok the first time, repeat from then on, mismatch if it is forged."""

    status: str
    event_id: str
    verified: bool
    expected_secret: str
    received_secret: str
    sender: str
    receiver: str
    file_exists: bool
    sender_name: str = ""
    receiver_name: str = ""


class CleanedUp(Struct, frozen=True):
    """The agent's events that lost their contents, that are forgotten, and that are left."""

    deleted_files: list[str]
    deleted_registry: list[str]
    kept_events: list[str]


def _post(name: str, summary: str, body: type, reply: type) -> Endpoint:
    return Endpoint(f"agentrelay_{name}", "POST", f"/agentrelay/{name}", summary, reply, body=body, acts=True)


SEND = _post("send", "Keep contents, and tell their receiver.", SendEvent, EventSent)
RECEIVE = _post("receive", "Read what a line leads to.", ReceiveEvent, EventRead)
UPDATE = _post("update", "Change contents, or make the next event.", UpdateEvent, EventUpdated)
CMP = _post("cmp", "Get the line that proves that an event was read.", CompleteEvent, EventCompleted)
VERIFY = _post("verify", "Ask what such a line is worth.", VerifyEvent, EventVerified)
CLEANUP = _post("cleanup", "Let go of events that are over.", CleanUp, CleanedUp)

ENDPOINTS = (SEND, RECEIVE, UPDATE, CMP, VERIFY, CLEANUP)
