"""Events as the wire has them."""

from __future__ import annotations

import msgspec

from clawlink.doors.agentrelay import names
from clawlink.doors.agentrelay.rules import Event, Pointer
from clawlink.doors.agentrelay.wire import line as lines
from clawlink.doors.agentrelay.wire.exchange import (
    EventMeta,
    EventRead,
    EventUpdated,
)
from clawlink.relay.timestamps import StoppableTime


def updated(pointer: Pointer) -> EventUpdated:
    """Return the reply to an update."""
    event = pointer.event
    line = lines.announce(event.type, event.id)
    ptr = names.pointer(event.id)
    parties = (pointer.sender_name, pointer.receiver_name)
    return EventUpdated(event.id, ptr, line, event.sender, event.receiver, *parties)


def read(pointer: Pointer, event: Event, time: StoppableTime) -> EventRead:
    """Return the reply to a read."""
    meta = EventMeta(
        event_id=event.id,
        type=event.type,
        secret=event.secret,
        created_at=time.iso(event.created_at),
        sender=event.sender,
        receiver=event.receiver,
        ttl_hours=event.ttl_hours,
        sender_name=pointer.sender_name,
        receiver_name=pointer.receiver_name,
    )
    return EventRead(meta, names.pointer(event.id), msgspec.Raw(pointer.content), event.status.value, not event.present)
