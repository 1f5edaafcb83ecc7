"""Times in ISO-8601, read alike on every Python."""

from __future__ import annotations

import re
from datetime import datetime

# Python 3.10 reads no "Z", no zone without a colon, and no fraction of other than three or six digits. Newer versions
# also read weeks, and times without hyphens.
_TIME = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)"
    r"(?:(?P<time>.\d\d(?::\d\d(?::\d\d(?:[.,](?P<fraction>\d+))?)?)?)"
    r"(?:(?P<utc>Z)|(?P<hours>[+-]\d\d)(?::?(?P<minutes>\d\d))?)?)?",
    re.ASCII | re.IGNORECASE,
)


def read_iso(text: str) -> datetime:
    """Return a time that is written as ISO-8601 with hyphens and colons. Digits beyond microseconds are dropped.

    The result has a zone if the text has one. Raises ValueError for any other text.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError("a time is written as 2026-05-13T06:51:00.250+00:00")
    time, fraction = found["time"] or "", found["fraction"]
    if fraction is not None:
        time = f"{time[: -len(fraction) - 1]}.{fraction[:6].ljust(6, '0')}"
    zone = "+00:00" if found["utc"] else ""
    if found["hours"] is not None:
        zone = f"{found['hours']}:{found['minutes'] or '00'}"
    return datetime.fromisoformat(f"{found['day']}{time}{zone}")
