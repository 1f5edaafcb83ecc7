"""Token buckets by key: how fast each agent, pair of agents or address may go on."""

from __future__ import annotations

from collections.abc import Hashable

from clawlink.domain import rate
from clawlink.domain.rate import Bucket


class Buckets:
    """A token bucket a key. A ``rate`` of 0 is no limit.

    A bucket that is unused for its fill time is full again, and need not be kept. So buckets are kept in two
    generations of that length. A bucket that was not used in the newer one is forgotten with the older, without a cost
    for each bucket.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._newer: dict[Hashable, Bucket] = {}
        self._older: dict[Hashable, Bucket] = {}
        self._since = 0.0
        self._deepest = 0.0  # the largest debt so far: a bucket in debt takes longer to fill

    def wait(self, key: Hashable, now: float) -> float:
        """Return the seconds until there is a token, 0 if there is one."""
        return rate.wait_for_one(self._left(key, now), rate=self.rate) if self.rate else 0.0

    def take(self, key: Hashable, now: float, tokens: float = 1) -> None:
        """Take some tokens. The bucket goes into debt if it has fewer."""
        if self.rate:
            left = self._left(key, now) - tokens
            self._deepest = max(self._deepest, -left)
            if now - self._since >= (self.burst + self._deepest) / self.rate:
                self._older, self._newer, self._since = self._newer, {}, now
            self._newer[key] = Bucket(left, now)

    def _left(self, key: Hashable, now: float) -> float:
        bucket = self._newer.get(key) or self._older.get(key)
        return rate.refilled(bucket, now=now, rate=self.rate, burst=self.burst)
