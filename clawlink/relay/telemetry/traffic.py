"""The traffic and the load of the last hour, minute by minute: the counters, and what the relay held."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import fields
from typing import NamedTuple

import msgspec

from clawlink.relay.telemetry.stats import Stats

MINUTES = 60
_SECONDS = 60


class Minute(msgspec.Struct, gc=False):
    """A minute: tasks delegated, tasks completed, and tasks that ended without success.

    ``minute`` counts minutes since the epoch.
    """

    minute: int
    delegated: int = 0
    answered: int = 0
    failed: int = 0


class Traffic:
    """Reads the counters now and then, and counts what is new for the present minute.

    It counts since this process started. ``sample`` is called twice a second.
    """

    def __init__(self, clock: Callable[[], float], stats: Stats) -> None:
        self._clock = clock
        self._stats = stats
        self._read = (0, 0, 0)
        self._minutes: deque[Minute] = deque([Minute(self._now())], maxlen=MINUTES)

    def _now(self) -> int:
        return int(self._clock()) // _SECONDS

    def sample(self) -> None:
        """Count what happened since the last sample."""
        stats, now = self._stats, self._now()
        failed = stats.answers_failed + stats.tasks_failed + stats.tasks_expired + stats.tasks_returned
        read = (stats.tasks_delegated, stats.tasks_answered - stats.answers_failed, failed)
        last = self._minutes[-1]
        for minute in range(max(last.minute + 1, now - MINUTES + 1), now + 1):
            last = Minute(minute)
            self._minutes.append(last)
        last.delegated += read[0] - self._read[0]
        last.answered += read[1] - self._read[1]
        last.failed += read[2] - self._read[2]
        self._read = read

    def minutes(self) -> list[Minute]:
        """Return the minutes of the last hour in which this process ran, the oldest first."""
        self.sample()
        return list(self._minutes)


COUNTED = tuple(field.name for field in fields(Stats))


class Held(NamedTuple):
    """The load of a moment, under the names of ``GET /metrics``: records of the relay, and agents that are online."""

    agents_online: int = 0
    agents_stale: int = 0
    messages_held: int = 0
    message_bytes_held: int = 0
    memory_bytes: int = 0
    shared_files: int = 0
    file_bytes: int = 0
    uploads: int = 0
    upkeep_stuck: int = 0
    connections: int = 0
    waiting_polls: int = 0


class LoadMinute(msgspec.Struct, gc=False):
    """A minute, counted since the epoch: what the counters grew by, and what the relay held at its end."""

    minute: int
    counted: list[int]
    held: Held


class LoadHistory:
    """Reads the counters now and then, and counts what is new for the present minute."""

    def __init__(self, clock: Callable[[], float], stats: Stats) -> None:
        self._clock = clock
        self._stats = stats
        self._read = [0] * len(COUNTED)
        self._minutes: deque[LoadMinute] = deque(maxlen=MINUTES)

    def sample(self, held: Held) -> None:
        """Count what happened since the last sample, and note what the relay holds."""
        now = int(self._clock()) // _SECONDS
        first = now if not self._minutes else max(self._minutes[-1].minute + 1, now - MINUTES + 1)
        for minute in range(first, now + 1):
            self._minutes.append(LoadMinute(minute, [0] * len(COUNTED), held))
        read = [getattr(self._stats, name) for name in COUNTED]
        last = self._minutes[-1]
        last.counted = [n + new - old for n, new, old in zip(last.counted, read, self._read, strict=True)]
        last.held = held
        self._read = read

    def minutes(self) -> list[LoadMinute]:
        """Return the minutes that were sampled, the oldest first."""
        return list(self._minutes)
