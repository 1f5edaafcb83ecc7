"""Requests about events of AgentRelay: each endpoint once, as ``endpoints`` has the relay's own."""

from __future__ import annotations

from typing import Any

import msgspec

from clawlink.client.calls import Call, Identity, repeat_key
from clawlink.doors.agentrelay.wire import exchange
from clawlink.errors import BadRequest
from clawlink.protocol.endpoint import Endpoint
from clawlink.protocol.invalid import bad_field

_encode = msgspec.json.Encoder().encode


def _call(endpoint: Endpoint, repeatable: bool = True, **ask: Any) -> Call[Any]:
    try:
        body = _encode(msgspec.convert(ask, endpoint.body))
    except msgspec.ValidationError as error:
        raise bad_field(error) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"the contents are not JSON in UTF-8: {error}", field="content") from None
    return Call(endpoint, endpoint.url(), msgspec.json.Decoder(endpoint.reply).decode, body, repeatable)


def send(
    me: Identity, to: str, type: str, event_id: str, content: dict[str, Any], *, key: str | None = None
) -> Call[exchange.EventSent]:
    """Keep contents under a new id, and tell their receiver."""
    return _call(
        exchange.SEND,
        from_agent=me.require(),
        to_agent=to,
        type=type,
        event_id=event_id,
        content=content,
        idempotency_key=repeat_key(key),
    )


def receive(me: Identity, message: str, *, key: str | None = None) -> Call[exchange.EventRead]:
    """Read the contents that a line leads to. Burned contents can be read again for a minute, with the same key."""
    return _call(exchange.RECEIVE, agent_id=me.require(), message=message, idempotency_key=repeat_key(key))


def update(
    me: Identity, event_id: str, updates: dict[str, Any], next_event_id: str | None = None, *, key: str | None = None
) -> Call[exchange.EventUpdated]:
    """Merge updates into the contents, or into those of the next event, which is made if need be."""
    return _call(
        exchange.UPDATE,
        agent_id=me.require(),
        event_id=event_id,
        updates=updates,
        next_event_id=next_event_id or None,
        idempotency_key=repeat_key(key),
    )


def cmp(
    me: Identity, event_id: str, secret: str | None = None, *, check: bool = False
) -> Call[exchange.EventCompleted]:
    """Get the line that proves that this agent has read an event; with ``check`` only whether it would."""
    return _call(exchange.CMP, agent_id=me.require(), event_id=event_id, secret=secret or None, check=check)


def verify(me: Identity, message: str, *, key: str | None = None) -> Call[exchange.EventVerified]:
    """Verify a CMP. A repeat with the same key gets the first answer."""
    return _call(exchange.VERIFY, agent_id=me.require(), message=message, idempotency_key=repeat_key(key))


def clean_up(me: Identity, registry_ttl_hours: int) -> Call[exchange.CleanedUp]:
    """Let go of this agent's events that are over."""
    return _call(exchange.CLEANUP, agent_id=me.require(), registry_ttl_hours=registry_ttl_hours)
