"""Times in ISO-8601, read alike on every Python."""

from __future__ import annotations

import re
from datetime import datetime

# Python 3.10 reads no "Z", no zone without a colon, and no fraction of other than three or six digits.
_TIME = re.compile(
    r"(.{11}\d\d(?::\d\d(?::\d\d)?)?)(?:[.,](\d+))?(?:(Z)|([+-]\d\d)(?::?(\d\d))?)?", re.ASCII | re.IGNORECASE
)


def read_iso(text: str) -> datetime:
    """Return a time that is written as ISO-8601 with hyphens and colons. Digits beyond microseconds are dropped.

    The result has a zone if the text has one. Raises ValueError for any other text.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        return datetime.fromisoformat(text)
    second, fraction, utc, hours, minutes = found.groups()
    fraction = "" if fraction is None else f".{fraction[:6].ljust(6, '0')}"
    zone = "+00:00" if utc else "" if hours is None else f"{hours}:{minutes or '00'}"
    return datetime.fromisoformat(f"{second}{fraction}{zone}")
