"""A limit for log lines: write a number of lines a second, and count the others."""

from __future__ import annotations

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
