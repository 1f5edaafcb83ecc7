"""The log of the agents' work: joins, leaves, delegations, and tasks that were taken back.

A line names agents and tasks, never the text of a task. Text of agents, such as their names, is a field of the line,
which the log makes harmless.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

_log = logging.getLogger("clawlink.relay")


LINES_A_SECOND = 20


class Flood:
    """Lets the first ``most`` lines of each second through. Times are in seconds, of any clock."""

    def __init__(self, most: int = LINES_A_SECOND) -> None:
        self._most = most
        self._since = float("-inf")
        self._written = 0
        self._left_out = 0

    def passes(self, now: float) -> bool:
        """Return True if a line may be written now; else count it."""
        if not 0 <= now - self._since < 1:
            self._since, self._written = now, 0
        if self._written < self._most:
            self._written += 1
            return True
        self._left_out += 1
        return False

    def left_out(self, now: float) -> int:
        """Return how many lines were left out in the second that is over, once; 0 while it lasts."""
        if 0 <= now - self._since < 1:
            return 0
        count, self._left_out = self._left_out, 0
        return count


class ActivityLog:
    """Logs events at level info, 20 lines a second at most, and counts the others. ``tell`` is called often."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._flood = Flood()

    def takes(self) -> bool:
        """Return True if the log takes a line now; else count it. A busy caller asks before it gathers facts."""
        if not _log.isEnabledFor(logging.INFO):
            return False
        self.tell()
        return self._flood.passes(self._clock())

    def write(self, event: str, **facts: object) -> None:
        """Log an event that the log takes. None stands for a fact that there is not."""
        _log.info(event, extra={name: fact for name, fact in facts.items() if fact is not None})

    def note(self, event: str, **facts: object) -> None:
        """Log an event with its facts, if the log takes it."""
        if self.takes():
            self.write(event, **facts)

    def tell(self) -> None:
        """Say how many lines were left out in the last second."""
        count = self._flood.left_out(self._clock())
        if count:
            _log.info("and %d more", count)
