"""A count of events that are too many for a log line each: one line a minute for each cause, with a count."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

TALLY_SECONDS = 60.0
_MOST_CAUSES = 1024


class Tally(Generic[K]):
    """Counts events by their cause. ``rest`` is the cause of all events that come while the table is full."""

    def __init__(self, rest: K, *, seconds: float = TALLY_SECONDS, most: int = _MOST_CAUSES) -> None:
        self._rest = rest
        self._seconds = seconds
        self._most = most
        # The causes in the order of their last lines: when the last line was, and how many events came after it.
        self._causes: OrderedDict[K, tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._causes)

    def note(self, cause: K, now: float) -> K | None:
        """Count an event. Return the cause that its log line names; None if ``due`` tells of it later."""
        if cause not in self._causes and len(self._causes) >= self._most:
            cause = self._rest
        if cause not in self._causes:
            self._causes[cause] = (now, 0)
            return cause
        at, count = self._causes[cause]
        self._causes[cause] = (at, count + 1)
        return None

    def due(self, now: float) -> list[tuple[K, int]]:
        """Return the causes whose minute is over, with their events since the last line. Forget the quiet ones."""
        told = []
        while self._causes:
            cause, (at, count) = next(iter(self._causes.items()))
            if now - at < self._seconds:
                break
            del self._causes[cause]
            if count:
                told.append((cause, count))
                self._causes[cause] = (now, 0)
        return told
