"""The values of flags: numbers, lists and JSON, checked while the command line is read."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from clawlink.cli.arguments import may_be_empty

if TYPE_CHECKING:
    from argparse import ArgumentParser

PRIORITIES = ("low", "normal", "high", "urgent")
# Words of 1.0.x, which the relay maps to these.
OTHER_PRIORITIES = ("critical", "highest", "medium")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_LAST_PORT, _PORT_DIGITS = 65535, 5
STATUSES = ("in_progress", "input_required", "completed", "failed", "rejected")


def seconds(text: str) -> float:
    """Read a number of seconds from 0 up, a year at most."""
    from clawlink.config import MAX_TIMEOUT_SECONDS

    return _seconds(text, 0.0, MAX_TIMEOUT_SECONDS)


def _seconds(text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a number of seconds is needed, not {text!r}") from None
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"it must be from {least:g} to {most:.0f} seconds, not {text!r}")
    return value


def span(text: str) -> float:
    """Read a length of time in seconds: a number, or one with a unit as in ``30s``, ``10m``, ``2h``, ``1d``."""
    number = text.rstrip("smhd")
    try:
        value = float(number) * _UNITS[text[len(number) :]]
    except (ValueError, KeyError):
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"a length of time from 0 up is needed, as 90, 30s, 10m or 2h, not {text!r}")
    return value


def lifetime(text: str) -> float:
    """Read how long something is of use: a length of time that a relay takes."""
    from clawlink.domain.limits import MAX_DEADLINE_SECONDS

    return _span_to(text, MAX_DEADLINE_SECONDS, "d", "days")


def kept_span(text: str) -> float:
    """Read how long a file is kept."""
    from clawlink.domain.limits import MAX_FILE_TTL_SECONDS

    return _span_to(text, MAX_FILE_TTL_SECONDS, "d", "days")


def lock_span(text: str) -> float:
    """Read how long a file is locked."""
    from clawlink.domain.limits import MAX_LOCK_SECONDS

    return _span_to(text, MAX_LOCK_SECONDS, "h", "hours")


def _span_to(text: str, most: float, unit: str, units: str) -> float:
    value = span(text)
    if not 1 <= value <= most:
        raise argparse.ArgumentTypeError(f"it must be from 1 s to {most / _UNITS[unit]:g} {units}, not {text!r}")
    return value


def sha256(text: str) -> str:
    """Read a SHA-256 in hexadecimal."""
    import re

    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"64 hexadecimal digits are needed, not {text!r}")
    return text.lower()


def lease(text: str) -> float:
    """Read for how many seconds messages are held."""
    from clawlink.domain.limits import MAX_LEASE_SECONDS, MIN_LEASE_SECONDS

    return _seconds(text, MIN_LEASE_SECONDS, MAX_LEASE_SECONDS)


def note(text: str) -> str:
    """Read a note, which is short."""
    from clawlink.domain.limits import MAX_NOTE_LENGTH

    if len(text) > MAX_NOTE_LENGTH:
        raise argparse.ArgumentTypeError(f"it may have {MAX_NOTE_LENGTH} characters at most, and this has {len(text)}")
    return text


def task_id(text: str) -> str:
    """Read the id of a task. Raises UsageError for an empty one, as an unset variable gives."""
    return _id(text, "TASK")


def message_id(text: str) -> str:
    """Read the id of a message or task. Raises UsageError for an empty one, as an unset variable gives."""
    return _id(text, "ID")


def _id(text: str, what: str) -> str:
    from clawlink.cli.exits import UsageError

    if not text.strip():
        raise UsageError(f"{what} is empty; list yours with: clawlink task list")
    return text


def require_text(text: str, what: str, *, as_json: str) -> None:
    """Raise UsageError for an answer without a text, as an unset variable gives: only the first answer counts.

    ``as_json`` is the flag that sends an empty text all the same.
    """
    from clawlink.cli.exits import UsageError

    if not text.strip():
        raise UsageError(f"{what} is empty; give a text, or as an empty one: '\"\"' {as_json}")


def percent(text: str) -> float:
    """Read a number from 0 to 100; a % behind it does no harm."""
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"a number from 0 to 100 is needed, not {text!r}")
    return value


def count(text: str) -> int:
    """Read a whole number from 1 up."""
    value = whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 up is needed, not {text!r}")
    return value


def whole(text: str) -> int:
    """Read a whole number from 0 up."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"a whole number from 0 up is needed, not {text!r}")
    return int(text)


def port(text: str) -> int:
    """Read the port of a server."""
    if not (text.isascii() and text.isdigit() and len(text) <= _PORT_DIGITS and 1 <= int(text) <= _LAST_PORT):
        raise argparse.ArgumentTypeError(f"a port from 1 to {_LAST_PORT} is needed, not {text!r}")
    return int(text)


def names(text: str) -> list[str]:
    """Read a list: names separated by commas, one at least."""
    found = any_names(text)
    if not found:
        raise argparse.ArgumentTypeError(f"a name is needed, or several separated by commas, not {text!r}")
    return found


def any_names(text: str) -> list[str]:
    """Read a list that may be empty: names separated by commas."""
    return [name for name in (part.strip() for part in text.split(",")) if name]


def json_value(text: str, flag: str) -> Any:
    """Read JSON. Raises UsageError naming the flag."""
    import msgspec

    from clawlink.cli.exits import UsageError

    try:
        return msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise UsageError(f'{flag} is not JSON: {error}; quote it for your shell, as \'{{"key": "value"}}\'') from None


def json_object(text: str, flag: str) -> dict[str, Any]:
    """Read a JSON object. Raises UsageError naming the flag."""
    from clawlink.cli.exits import UsageError

    value = json_value(text, flag)
    if not isinstance(value, dict):
        raise UsageError(f'{flag} must be a JSON object, as \'{{"key": "value"}}\'')
    return value


def add_priority(parser: ArgumentParser) -> None:
    """Add --priority."""
    parser.add_argument(
        "--priority",
        choices=(*PRIORITIES, *OTHER_PRIORITIES),
        metavar="|".join(PRIORITIES),
        default="normal",
        help="order among waiting messages (default normal)",
    )


def add_caps(parser: ArgumentParser) -> None:
    """Add --caps. An agent that is known keeps its capabilities without it."""
    caps = parser.add_argument(
        "--caps", type=any_names, metavar="A,B", help="capabilities, separated by commas; an empty value none"
    )
    may_be_empty(caps)


def add_parent(parser: ArgumentParser) -> None:
    """Add --parent."""
    parent = parser.add_argument(
        "--parent",
        metavar="TASK",
        help="the task for which you do this; it stops work that goes in circles (default $CLAWLINK_PARENT_TASK)",
    )
    may_be_empty(parent)


def add_patience(parser: ArgumentParser) -> None:
    """Replace the common --timeout by the longest time to wait in all."""
    parser.add_argument(
        "--timeout",
        type=span,
        metavar="S",
        default=argparse.SUPPRESS,
        help="longest time to wait, as 90 or 10m (default: no limit)",
    )


def add_idempotency_key(parser: ArgumentParser, flag: str = "--key") -> None:
    """Add the flag for the idempotency key."""
    parser.add_argument(
        flag,
        metavar="K",
        dest="idempotency_key",
        help="idempotency key: a repeat with the same key does nothing (default: a new key)",
    )


def add_quiet(parser: ArgumentParser, what: str) -> None:
    """Add --quiet, which prints only an id, for scripts. ``what`` names the id's subject."""
    parser.add_argument("-q", "--quiet", action="store_true", help=f"print only the id of {what}; --json overrides it")
