"""The words of ``clawlink portal`` about what was done."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from clawlink.cli.exits import Exit
from clawlink.cli.render import epoch
from clawlink.domain.iso_time import read_iso

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
    """Return a date or time that a person has typed, in the time zone here; a text that is none as it is."""
    try:
        return read_iso(text).astimezone().isoformat()
    except (ValueError, OverflowError, OSError):
        return text
