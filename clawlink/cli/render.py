"""Display: pure functions from facts to text.

Text of other agents passes through ``cell`` (one line) or ``lines`` (several), which make it harmless.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from clawlink.domain.iso_time import read_iso
from clawlink.domain.terminal import UNSAFE, cell

if TYPE_CHECKING:
    from clawlink.protocol.replies import ListedAgent, RecipientInfo

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def harmless_json(encoded: bytes) -> bytes:
    """Escape the characters in JSON on which a terminal would act. The value stays the same."""

    def escape(found: re.Match[str]) -> str:
        units = found[0].encode("utf-16-be")
        return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))

    text = encoded.decode()
    return encoded if text.isascii() else _UNSAFE_IN_JSON.sub(escape, text).encode()


# JSON has escaped the C0 controls itself; line ends between its lines stay.
_UNSAFE_IN_JSON = re.compile(UNSAFE.pattern.replace("\x00-\x1f", "", 1).replace("\ud800-\udfff", "", 1))


def named(name: str, agent_id: str) -> str:
    """Show an agent: the name in quotes, because the agent chose it, and the id."""
    quoted = cell(name).replace('"', '\\"')
    return f'"{quoted}" ({cell(agent_id)})'


def quoted(text: str, most: int) -> str:
    """Show foreign text within a line: in quotes, with at most ``most`` characters."""
    shown = cell(text)
    shown = shown if len(shown) <= most else shown[: most - 3] + "..."
    return '"' + shown.replace('"', '\\"') + '"'


def width(text: str) -> int:
    """Return how many columns the text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def wrapped(line: str, columns: int) -> list[str]:
    """Cut a line into pieces of at most ``columns``, at words where there are any."""
    line = line.expandtabs(4)
    pieces: list[str] = []
    piece = ""
    used = 0
    for c in line:
        takes = width(c)
        while used + takes > columns and piece:  # the rest after a word and this character may be too wide again
            at = len(piece) if c == " " else piece.rfind(" ") + 1
            at = at or len(piece)
            pieces.append(piece[:at])
            piece = piece[at:]
            used = width(piece)
        piece += c
        used += takes
    return [*pieces, piece]


# The colour of a state, by its first word.
_STATE_STYLES = {
    "online": "green",
    "stale": "yellow",
    "queued": "blue",
    "stored": "blue",
    "delivered": "cyan",
    "in_progress": "cyan",
    "input_required": "yellow",
    "acked": "green",
    "completed": "green",
    "answered": "green",
    "failed": "red",
    "rejected": "red",
    "expired": "red",
    "dead": "red",
    "cancelled": "yellow",
    "returned": "yellow",
}


def state_style(state: str) -> str | None:
    """Return the colour of a state; None if it has none."""
    return _STATE_STYLES.get(re.split("[ ,:]", state, maxsplit=1)[0])


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Align rows as plain text, two spaces apart."""
    table = [list(row) for row in rows]
    widths = [max(width(row[at]) for row in table) for at in range(len(table[0]))]
    return [
        "  ".join(text + " " * (room - width(text)) for text, room in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def duration(seconds: float) -> str:
    """Say how long, roughly. A clock that runs ahead is no reason for a negative age."""
    seconds = max(0.0, seconds)
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR:
        return f"{seconds // _MINUTE:.0f} min"
    if seconds < 2 * _DAY:
        return f"{seconds // _HOUR:.0f} h"
    return f"{seconds // _DAY:.0f} days"


def epoch(stamp: str) -> float | None:
    """Read a time of the wire, or return None if it is none."""
    try:
        return read_iso(stamp).timestamp()
    except (ValueError, OverflowError):
        return None


def ago(stamp: str | None, now: float) -> str:
    """Say when, as an age: ``5 min ago``."""
    at = None if stamp is None else epoch(stamp)
    return "-" if at is None else f"{duration(now - at)} ago"


def time_of_day(at: float, now: float) -> str:
    """Return the time of day here; with its date if that is not the date of ``now``."""
    try:
        then, today = datetime.fromtimestamp(at), datetime.fromtimestamp(now).date()
    except (ValueError, OverflowError, OSError):  # more than the system can tell
        return "?"
    return f"{then:%H:%M:%S}" if then.date() == today else f"{then:%Y-%m-%d %H:%M:%S}"


def when(stamp: str | None, now: float) -> str:
    """Return an age and the time of day: ``12 s ago (14:03:10)``."""
    at = None if stamp is None else epoch(stamp)
    return "-" if at is None else f"{duration(now - at)} ago ({time_of_day(at, now)})"


def presence(status: str, last_heartbeat: float, now: float) -> str:
    """Say whether an agent is there, and if not, since when."""
    if status == "online":
        return "online"
    return f"{cell(status)}: last seen {duration(now - last_heartbeat)} ago"


def reached(to: RecipientInfo | ListedAgent, now: float) -> str:
    """Say whether an agent is there, or through which door it is reached."""
    from msgspec import UNSET

    return presence(to.status, to.last_heartbeat, now) if to.through is UNSET else f"through the {cell(to.through)}"


def size(count: float) -> str:
    """Say how many bytes."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= factor:
            return f"{count / factor:.4g} {unit}"
    return f"{count:g} bytes"


def plural(count: int, one: str, several: str | None = None) -> str:
    """Count something: ``1 message``, ``2 messages``."""
    return f"{count} {one if count == 1 else several or one + 's'}"
