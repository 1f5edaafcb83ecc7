"""Prints what an event is said to take, as a share of what it takes; see ``tests.store.footprints``."""

from __future__ import annotations

from clawlink.doors.agentrelay.rules import Event, Pointer
from tests.store.footprints import BOXES, at, main, text


def pointer(n: int) -> Pointer:
    event = Event(
        id=f"E{n}",
        type=text(n, 16),
        secret=f"{n:06d}",
        sender=BOXES[0],
        receiver=f"bob{n}",
        created_at=at(n),
        ttl_hours=24,
    )
    return Pointer(
        id=f"e{n}",
        version=1,
        event=event,
        content=bytes(200),
        sender_name=text(n, 10),
        receiver_name=text(n, 11),
        receiver_id=None,
        made_by=f"{n:024x}",
        ends_at=at(n) + 86_400,
    )


if __name__ == "__main__":
    main({"event": lambda n: [pointer(n)]})
