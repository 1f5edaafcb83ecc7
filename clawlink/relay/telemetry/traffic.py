"""The traffic of the last hour, minute by minute, from the counters."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

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
