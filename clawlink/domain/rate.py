"""Token buckets: how fast new work may come, and how much of it at once."""

from __future__ import annotations

import msgspec


class Bucket(msgspec.Struct, frozen=True, gc=False):
    """The tokens that were left at a time, in seconds since the epoch."""

    tokens: float
    at: float


def refilled(bucket: Bucket | None, now: float, rate: float, burst: float) -> float:
    """Return the tokens that a bucket has now; a bucket that was never used is full."""
    if bucket is None:
        return burst
    passed = now - bucket.at
    tokens = bucket.tokens + passed * rate if passed > 0 else bucket.tokens
    return tokens if tokens < burst else burst


def wait_for_one(tokens: float, *, rate: float) -> float:
    """Return the seconds until there is a token, 0 if there is one."""
    return 0.0 if tokens >= 1 else (1 - tokens) / rate
