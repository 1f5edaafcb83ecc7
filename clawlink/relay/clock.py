"""Times as the wire shows them."""

from __future__ import annotations

import math
import time
from functools import lru_cache

_millisecond = -1
_text = ""


def iso(at: float) -> str:
    """Write seconds since the epoch as ISO-8601 in UTC, to the millisecond: ``2026-05-13T06:51:00.250+00:00``.

    The last answer is kept, and some up to the second: a relay asks for now, and for when leases of now end, again and
    again.
    """
    global _millisecond, _text
    millisecond = int(at * 1000)
    if millisecond != _millisecond:
        second = millisecond // 1000
        _text = f"{_to_the_second(second)}.{millisecond - second * 1000:03d}+00:00"
        _millisecond = millisecond
    return _text


@lru_cache(maxsize=64)
def _to_the_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def iso_or_none(at: float | None) -> str | None:
    """Write a time that may not have come yet, or never comes."""
    return None if at is None or at == math.inf else iso(at)
