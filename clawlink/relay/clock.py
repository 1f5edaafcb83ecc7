"""Times as the wire shows them."""

from __future__ import annotations

import math
import time
from functools import lru_cache

# What was written of late, by millisecond: a relay asks for now, and for when leases of now end, again and again.
_written: dict[int, str] = {}
_MOST_WRITTEN = 64


def iso(at: float) -> str:
    """Write seconds since the epoch as ISO-8601 in UTC, to the millisecond: ``2026-05-13T06:51:00.250+00:00``."""
    millisecond = int(at * 1000)
    text = _written.get(millisecond)
    if text is None:
        if len(_written) >= _MOST_WRITTEN:
            _written.clear()
        second = millisecond // 1000
        text = _written[millisecond] = f"{_to_the_second(second)}.{millisecond - second * 1000:03d}+00:00"
    return text


@lru_cache(maxsize=64)
def _to_the_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def iso_or_none(at: float | None) -> str | None:
    """Write a time that may not have come yet, or never comes."""
    return None if at is None or at == math.inf else iso(at)
