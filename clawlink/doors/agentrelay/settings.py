"""The limits of the events that a relay keeps: flags of ``clawlink serve``."""

from __future__ import annotations

from dataclasses import dataclass

from clawlink.domain.limits import MIB
from clawlink.doors.registry import option


@dataclass(frozen=True)
class Settings:
    """The limits of the events that a relay keeps."""

    max_events: int = option("--max-events", "known events of AgentRelay", default=100_000, unit="events")
    max_events_bytes: int = option(
        "--max-events-bytes", "contents of all events of AgentRelay together", default=64 * MIB, unit="bytes"
    )
