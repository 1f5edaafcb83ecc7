"""Token buckets by key: how fast each agent, pair of agents or address may go on."""

from __future__ import annotations

import math
from collections.abc import Hashable

import msgspec

_FREED_AT_ONCE = 8


class Bucket(msgspec.Struct, gc=False):
    """The tokens that were left at a time, in seconds since the epoch."""

    tokens: float
    at: float


class Buckets:
    """A token bucket a key. A ``rate`` of 0 is no limit.

    A bucket that is unused for its fill time is full again, and need not be kept. So buckets are kept in two
    generations of at least that length. A new one begins with a new bucket. A bucket that was not used in the newer one
    is forgotten with the older one: a few with each new bucket, for to free a great many at once takes long.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._newer: dict[Hashable, Bucket] = {}
        self._older: dict[Hashable, Bucket] = {}
        self._leaving: dict[Hashable, Bucket] = {}
        self._deepest = 0.0  # the largest debt so far: a bucket in debt takes longer to fill
        self._since = 0.0
        self._until = 0.0  # the end of the newer generation

    def wait(self, key: Hashable, now: float) -> float:
        """Return the seconds until there is a token, 0 if there is one."""
        return self.wait_with(self.left(key, now))

    def wait_with(self, left: float) -> float:
        """Return the seconds until there is a token in a bucket that has these tokens, 0 if there is one."""
        return 0.0 if left >= 1 else (1 - left) / self.rate

    def take(self, key: Hashable, now: float, tokens: float = 1) -> None:
        """Take some tokens. The bucket goes into debt if it has fewer."""
        self.spend(self.filled(key, now), tokens)

    def spend(self, bucket: Bucket, tokens: float) -> None:
        """Take some tokens of a bucket that ``filled`` has just returned. It goes into debt if it has fewer."""
        bucket.tokens -= tokens
        if -bucket.tokens > self._deepest:
            self._deepest = -bucket.tokens
            self._until = self._since + self._fill_seconds

    def filled(self, key: Hashable, now: float) -> Bucket:
        """Return a bucket with the tokens that it has now, infinity without a limit, and keep it."""
        bucket = self._newer.get(key)
        if bucket is None:
            return self._kept(key, now)
        passed = now - bucket.at
        if passed > 0:
            tokens = bucket.tokens + passed * self.rate
            bucket.tokens = tokens if tokens < self.burst else self.burst
        bucket.at = now  # also after a clock that went back: else nothing came until it is there again
        return bucket

    def _kept(self, key: Hashable, now: float) -> Bucket:
        bucket = Bucket(self.left(key, now), now)
        if self.rate:
            leaving = self._leaving
            if leaving:
                for _ in range(min(_FREED_AT_ONCE, len(leaving))):
                    leaving.popitem()
            elif now >= self._until:
                self._leaving, self._older, self._newer, self._since = self._older, self._newer, {}, now
                self._until = now + self._fill_seconds
            self._newer[key] = bucket
        return bucket

    def left(self, key: Hashable, now: float) -> float:
        """Return the tokens in a bucket: infinity without a limit, and ``burst`` if it was never used."""
        if not self.rate:
            return math.inf
        bucket = self._newer.get(key) or self._older.get(key)
        if bucket is None:
            return self.burst
        passed = now - bucket.at
        tokens = bucket.tokens + passed * self.rate if passed > 0 else bucket.tokens
        return tokens if tokens < self.burst else self.burst

    @property
    def _fill_seconds(self) -> float:
        return (self.burst + self._deepest) / self.rate
