"""The delay of the answer to a wrong token. Answers to right tokens never wait."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from clawlink.domain.backoff import backoff

# The answers to this many wrong tokens do not wait. Each pause adds one to them.
FREE = 10
PAUSE_SECONDS = 6.0
FIRST_SECONDS = 0.05
MOST_SECONDS = 2.0
# Most waiting answers. Further answers do not wait, so that the delay cannot fill the relay.
MOST_HELD_ADDRESS = 16
MOST_HELD = 256
_MOST_ADDRESSES = 1024
_STEPS = 6  # from the first delay to the longest


class AuthThrottle:
    """Counts wrong tokens by address, of the latest addresses alone."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, tuple[float, float]] = OrderedDict()  # how many of late, and when the last was
        self._held: Counter[str] = Counter()
        self.held = 0

    def __len__(self) -> int:
        return len(self._of)

    def delay(self, whose: str, now: float) -> float:
        """Count a wrong token of an address, and return the seconds that its answer waits."""
        count, at = self._of.pop(whose, (0.0, now))
        count = min(max(0.0, count - (now - at) / PAUSE_SECONDS), FREE + _STEPS) + 1
        self._of[whose] = (count, now)
        if len(self._of) > _MOST_ADDRESSES:
            self._of.popitem(last=False)
        if count <= FREE:
            return 0.0
        return backoff(1 + int(count - FREE - 1e-9), first=FIRST_SECONDS, most=MOST_SECONDS)

    def may_hold(self, whose: str) -> bool:
        """Return True if another answer to this address may wait."""
        return self.held < MOST_HELD and self._held[whose] < MOST_HELD_ADDRESS

    @contextmanager
    def hold(self, whose: str) -> Iterator[None]:
        """Count an answer that waits until the context ends."""
        self.held += 1
        self._held[whose] += 1
        try:
            yield
        finally:
            self.held -= 1
            self._held[whose] -= 1
            if not self._held[whose]:
                del self._held[whose]
