"""Times as the wire shows them."""

from __future__ import annotations

import time

_second = -1
_prefix = ""


def iso(at: float) -> str:
    """Write seconds since the epoch as ISO-8601 in UTC, to the millisecond: ``2026-05-13T06:51:00.250+00:00``.

    The part up to the second is kept for the next call: a relay asks for the same second many times.
    """
    global _second, _prefix
    milliseconds = int(at * 1000)
    second = milliseconds // 1000
    if second != _second:
        _prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _second = second
    return f"{_prefix}.{milliseconds - second * 1000:03d}+00:00"


def iso_or_none(at: float | None) -> str | None:
    """Write a time that may not have come yet."""
    return None if at is None else iso(at)
