"""An event of AgentRelay: contents in one place, a short line that names the place, and the rules for both.

The rules are the same for both places that keep events, a local folder and the relay. Times are seconds since the
epoch; times, ids and secrets are given. The agent that gets the line reads the event, and gives its secret back as a
proof. A CMP counts once, and a forged one changes nothing.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from clawlink.domain.record import text_bytes
from clawlink.domain.shares import Origin, holder
from clawlink.doors.agentrelay.names import in_use, require_id, require_party, require_secret, require_type
from clawlink.errors import BadRequest, UnknownEvent, WrongState

COMPLETION = "CMP"
DEFAULT_TTL_HOURS = 24
DEFAULT_REGISTRY_TTL_HOURS = 168
MAX_TTL_HOURS = 24 * 3650
HOUR = 3600.0
_MANY_HOURS = 10**9

# The bytes that an event takes beside its texts and contents, measured.
_RECORD_BYTES = 360
_TAG = re.compile(r"</?[A-Za-z][A-Za-z0-9]{0,15}>")
_INNER_END = re.compile(r'["<>\\]')
_AROUND = " \t\r\n\"'`*_~<>()[]{}.,;:!?\\\u2018\u2019\u201c\u201d\u00ab\u00bb"


class Status(str, Enum):
    """How far an event has come."""

    SENT = "sent"
    RECEIVED = "received"
    BURNED = "burned_on_read"
    UPDATED = "updated"
    COMPLETED = "completed"
    VERIFIED = "verified"
    FAILED = "verification_failed"
    EXPIRED = "expired"


class Verdict(str, Enum):
    """The verdict on a CMP."""

    OK = "ok"
    REPEAT = "repeat"
    MISMATCH = "mismatch"


class Event(Struct, frozen=True, kw_only=True, gc=False):
    """The facts of an event beside its contents. ``present``: the contents are still there."""

    id: str
    type: str
    secret: str
    sender: str
    receiver: str
    created_at: float
    ttl_hours: int
    status: Status = Status.SENT
    present: bool = True
    burns: bool = False
    received_by: tuple[str, ...] = ()
    received_at: float | None = None
    burned_at: float | None = None
    updated_at: float | None = None
    completed_at: float | None = None
    verified_at: float | None = None
    expired_at: float | None = None


class Pointer(Struct, frozen=True, kw_only=True, gc=False):
    """An event that the relay keeps, with its contents as JSON. Its partition is itself.

    ``receiver_id`` is the agent that may read it, None until an agent of the receiver's name is there. ``made_by``,
    ``read_by`` and ``verified_by`` stand for the requests that did so; a repeat gets the same answer. ``receiver_key``
    and ``sender_key`` are the hashes of the keys of both at that time. A later agent with the id, or with the
    receiver's name, needs the same key. ``ends_at`` is the end of the contents, and after that the time when the event
    is forgotten. ``address`` is the sender's.
    """

    id: str
    version: int
    event: Event
    content: bytes
    sender_name: str
    receiver_name: str
    receiver_id: str | None
    made_by: str
    ends_at: float
    read_by: str | None = None
    verified_by: str | None = None
    receiver_key: str | None = None
    sender_key: str | None = None
    address: str | None = None

    @property
    def partition_key(self) -> str:
        return "event:" + self.id

    @property
    def origin(self) -> Origin:
        """The address and the agent that it counts for."""
        return Origin(self.address, holder(self.event.sender, self.sender_key))

    @property
    def index_keys(self) -> tuple[str, ...]:
        return (KNOWN, sent_by(self.event.sender), *(() if self.event.present else (OVER,)))

    @property
    def weight(self) -> int:
        return len(self.content)

    @property
    def footprint(self) -> int:
        event = self.event
        texts = (event.id, event.type, event.sender, event.receiver, self.sender_name, self.receiver_name)
        readers = sum(map(text_bytes, event.received_by))
        return _RECORD_BYTES + len(self.content) + sum(map(text_bytes, texts)) + readers


KNOWN = " events"
OVER = " events that are over"


def sent_by(agent_id: str) -> str:
    """Return the index key of the events that an agent has sent."""
    return "sent by " + agent_id


def changed(pointer: Pointer, event: Event, **fields: Any) -> Pointer:
    """Return a pointer's next version."""
    return replace(pointer, version=pointer.version + 1, event=event, **fields)


def lapse(pointer: Pointer, now: float) -> Pointer | None:
    """Return the remains of a pointer whose time is over; None if it is to be forgotten."""
    if not pointer.event.present and not pointer.content:
        return None
    event = expire(pointer.event, now) if pointer.event.present else pointer.event
    return changed(pointer, event, content=b"", ends_at=now + DEFAULT_REGISTRY_TTL_HOURS * HOUR)


# -- fields of contents ----------------------------------------------------------------------------------------------


def ttl_hours(content: Mapping[str, Any]) -> int:
    """Return for how many hours the contents ask to be kept, a day if they do not say. Raises BadRequest."""
    asked = content.get("ttl_hours")
    if not asked:
        within: Any = content
        for name in ("payload", "content", "ttl_hours"):
            within = within.get(name) if isinstance(within, Mapping) else None
        asked = within
    hours = whole_hours(asked)
    if hours is not None and hours > MAX_TTL_HOURS:
        raise BadRequest(
            f"ttl_hours may be {MAX_TTL_HOURS} at most, and is {hours}",
            field="ttl_hours",
            limit=MAX_TTL_HOURS,
            actual=hours,
        )
    return max(1, DEFAULT_TTL_HOURS if hours is None else hours)


def whole_hours(value: Any) -> int | None:
    """Read a foreign number of hours; None if it is no number, and a billion at most."""
    try:
        return max(-_MANY_HOURS, min(int(value), _MANY_HOURS))
    except (TypeError, ValueError, OverflowError):
        return None


def burns(content: Mapping[str, Any], meta: Mapping[str, Any] | None = None) -> bool:
    """Return True if the contents ask to be gone once they are read."""
    return bool(content.get("burn_on_read") or (meta or {}).get("burn_on_read"))


def handed_on(content: Mapping[str, Any], updates: Mapping[str, Any], event: Event) -> dict[str, Any]:
    """Return the contents of the next event: those of this one with the updates, from this one's receiver.

    It goes to the ``receiver_agent`` or ``next_agent`` that the updates name, or else back to this one's sender.
    """
    to = updates.get("receiver_agent") or updates.get("next_agent") or event.sender
    return {**content, **updates, "sender_agent": event.receiver, "receiver_agent": to}


def require_fillable(following: Event, event: Event, id: str, editor: str) -> None:
    """Refuse to fill a next event that is read, gone, or of another sender. Raises WrongState.

    A next event is the editor's own, or belongs to the sender of the event before it: that sender made the chain.
    """
    whose = following.sender in (editor, event.sender)
    if not whose or following.received_by or not following.present or following.id != id:
        raise in_use(id, following.id)


# -- steps of an event -----------------------------------------------------------------------------------------------


def send(
    id: str, type: str, content: Mapping[str, Any], *, sender: object, receiver: object, secret: str, now: float
) -> Event:
    """Return a new event. Raises BadRequest."""
    if type == COMPLETION:
        raise BadRequest(f"{COMPLETION} is what completes an event, and no event itself; use cmp", field="type")
    return Event(
        id=require_id(id),
        type=require_type(type),
        secret=require_secret(secret),
        sender=require_party(sender, "sender_agent", id),
        receiver=require_party(receiver, "receiver_agent", id),
        created_at=now,
        ttl_hours=ttl_hours(content),
        burns=burns(content),
    )


def require_said(event: Event, type: str) -> None:
    """Refuse a line whose type is not that of its event. Raises BadRequest."""
    if type != event.type:
        raise BadRequest(
            f"the line is of type {type!r}, and event {event.id!r} of type {event.type!r}: it is not its line",
            field="type",
        )


def receive(event: Event, reader: str, now: float) -> Event:
    """Return the event after a read by ``reader``. A later state stays. Raises UnknownEvent if all is gone."""
    require_present(event)
    status = event.status if event.status in (Status.COMPLETED, Status.VERIFIED) else Status.RECEIVED
    by = event.received_by if reader in event.received_by else (*event.received_by, reader)
    read = replace(event, status=status, received_by=by, received_at=now)
    if not event.burns:
        return read
    return replace(
        read, status=Status.BURNED if status is Status.RECEIVED else status, present=False, burned_at=now, burns=False
    )


def require_present(event: Event, sender: str | None = None) -> None:
    """Refuse to read gone contents, with the reason; ``sender`` is the sender's shown name. Raises UnknownEvent."""
    if event.present:
        return
    why = "its contents are gone"
    if event.status is Status.EXPIRED:
        why = f"it expired after {event.ttl_hours} h"
    elif event.burned_at is not None:
        why = "it was burned when it was read"
    raise UnknownEvent(
        f"event {event.id!r} cannot be read: {why}; ask {sender or event.sender} to send it again", field="event_id"
    )


def update(event: Event, now: float) -> Event:
    """Return the event with new contents, also after the first ones were burned. Raises UnknownEvent if it expired."""
    if event.status is Status.EXPIRED:
        require_present(replace(event, present=False))
    status = event.status if event.status in (Status.COMPLETED, Status.VERIFIED) else Status.UPDATED
    return replace(event, status=status, present=True, updated_at=now)


def require_received(event: Event, reader: str) -> None:
    """Refuse to complete an unread event. Raises WrongState."""
    if reader not in event.received_by:
        raise WrongState(
            f"event {event.id!r} was not received here, so it cannot be completed: receive its line first",
            field="event_id",
            current=event.status.value,
        )


def complete(event: Event, reader: str, secret: str | None, now: float) -> Event:
    """Return the event as completed by its reader; a given secret must be right.

    Raises WrongState, BadRequest.
    """
    require_received(event, reader)
    if not event.secret:
        raise UnknownEvent(f"Missing secret for event {event.id}: its record was lost", field="event_id")
    if secret and not (isinstance(secret, str) and same_secret(secret, event.secret)):
        raise BadRequest(
            f"Secret mismatch for event {event.id}: leave it out to use the one that was received", field="secret"
        )
    status = event.status if event.status is Status.VERIFIED else Status.COMPLETED
    return replace(event, status=status, completed_at=now)


def verify(event: Event, secret: str, now: float) -> tuple[Verdict, Event]:
    """Return the verdict on a CMP, and the event after it. Only the first right one changes anything.

    Raises UnknownEvent if there is nothing to compare with, WrongState for the right secret of an unread event.
    """
    if not event.secret:
        raise UnknownEvent(f"No event metadata available for {event.id}; cannot verify {COMPLETION}", field="event_id")
    if not (same_secret(secret, event.secret) | same_secret(_undressed(secret), event.secret)):
        return Verdict.MISMATCH, event
    if not event.received_by:
        raise WrongState(
            f"event {event.id!r} was not received yet, so no {COMPLETION} of it counts: its receiver has to "
            "receive its line first",
            field="event_id",
            current=event.status.value,
        )
    if event.verified_at is not None:
        return Verdict.REPEAT, event
    return Verdict.OK, replace(event, status=Status.VERIFIED, verified_at=now)


def _undressed(secret: str) -> str:
    """Return a secret without the text around its line: quotes, marks, and the end of a sentence."""
    inner = _TAG.sub("", secret).lstrip(_AROUND)
    return _INNER_END.split(inner, maxsplit=1)[0].rstrip(_AROUND)


def expires_at(event: Event) -> float:
    """Return when the contents are gone, read or not."""
    return event.created_at + event.ttl_hours * HOUR


def expire(event: Event, now: float) -> Event:
    """Return the event without its contents; it is still known, so that a CMP can be verified."""
    return replace(event, status=Status.EXPIRED, present=False, expired_at=now)


def same_secret(given: str, secret: str) -> bool:
    """Compare two secrets in a time that tells nothing of them."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), secret.encode("utf-8", "surrogatepass"))
