"""Measure for how long the upkeep of events holds the event loop."""

from __future__ import annotations

from clawlink.bench.upkeep_scenarios import START, Scene, Step, Work
from clawlink.doors.agentrelay.rules import Event, Pointer
from clawlink.doors.agentrelay.server.events import KIND
from clawlink.doors.agentrelay.settings import Settings


async def _events(scene: Scene) -> Work:
    settings = Settings()
    scene.relay.keep(KIND)

    def pointer(n: int) -> Pointer:
        event = Event(id=f"e{n}", type="t", sender="s", receiver="r", secret="", created_at=START, ttl_hours=1)
        return Pointer(
            id=f"e{n}",
            version=1,
            event=event,
            content=b"{}",
            sender_name="s",
            receiver_name="r",
            receiver_id="r",
            made_by="m",
            ends_at=START + 3600,
        )

    await scene.put(map(pointer, range(scene.many(settings.max_events))))
    scene.now += 3601
    return scene.sweep


STEPS: dict[str, Step] = {"100,000 events end at once": _events}
