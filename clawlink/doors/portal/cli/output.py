"""The words of ``clawlink portal`` about what was done."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from clawlink.cli.exits import Exit
from clawlink.cli.render import epoch
from clawlink.domain.iso_time import read_iso
from clawlink.doors.portal.rules.texts import seconds

if TYPE_CHECKING:
    from clawlink.cli.context import Context


def done(ctx: Context, told: Any, said: str) -> Exit:
    """Show the answer of the portal as JSON, or in words."""
    if ctx.json:
        ctx.out.json(told)
    else:
        ctx.out.line(said)
    return Exit.DONE


def local(stamp: str) -> str:
    """Return a time of the wire as the clock here shows it, with its date."""
    at = epoch(stamp)
    try:
        return "?" if at is None else f"{datetime.fromtimestamp(at):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):  # more than the system can tell
        return "?"


def as_instant(text: str) -> str:
    """Return a date or time that a person has typed, in the time zone here. Raises UsageError for any other text."""
    try:
        instant = read_iso(text).astimezone().isoformat()
        seconds(instant)  # a year that not every zone can write is refused
    except (ValueError, OverflowError, OSError):
        from clawlink.cli.exits import UsageError

        raise UsageError(f"a date or a time is needed, as 2027-01-31, or never, not {text[:40]!r}") from None
    return instant
