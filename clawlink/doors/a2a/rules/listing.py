"""Times and places in a list of tasks."""

from __future__ import annotations

import base64
import re
from datetime import timezone

from clawlink.domain.iso_time import read_iso
from clawlink.doors.a2a.wire.base64s import from_base64
from clawlink.doors.a2a.wire.failures import A2AError

_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)


def instant(text: str, field: str) -> str:
    """Return a time as ``stamp`` writes it, so that texts compare as times. Raises A2AError."""
    try:
        if _INSTANT.fullmatch(text) is None:
            raise ValueError(text)
        at = read_iso(text).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise A2AError(
            "INVALID_PARAMS", f"{field} is a time with its zone, as 2026-05-13T06:51:00.250Z", field=field
        ) from None
    return at.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def token(place: tuple[str, str]) -> str:
    """Return the token of the page that begins behind a place, in a list with the newest state first."""
    return base64.urlsafe_b64encode(" ".join(place).encode()).decode().rstrip("=")


def place(page_token: str) -> tuple[str, str]:
    """Return the time and the id that a token stands for. Raises A2AError."""
    try:
        at, _, id = from_base64(page_token).decode().partition(" ")
        if not id or instant(at, "pageToken") != at:
            raise ValueError
    except (ValueError, A2AError):
        raise A2AError(
            "INVALID_PARAMS",
            "pageToken takes the nextPageToken of the page before, and this is another text",
            field="pageToken",
        ) from None
    return at, id
