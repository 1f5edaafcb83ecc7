"""Places in a list: how a reader of pages says where the next page begins."""

from __future__ import annotations

from clawlink.errors import BadRequest

# SQLite sorts by whole numbers up to this one, so no page ends at a larger one.
_MOST = 2**63 - 1
_DIGITS = len(str(_MOST))


def number_of(after: str | None) -> int | None:
    """Return the number that a page begins behind; None for the beginning.

    Anything but digits means the beginning. Raises BadRequest for a number that no page ends at.
    """
    if after is None or not (after.isascii() and after.isdigit()):
        return None
    digits = after.lstrip("0") or "0"
    if len(digits) > _DIGITS or int(digits) > _MOST:
        raise no_place(after, limit=_MOST)
    return int(digits)


def no_place(after: str, *, limit: float | None = None) -> BadRequest:
    """Return the refusal of an ``after`` that no reply of the list gave. ``limit`` is the largest number in it."""
    return BadRequest(
        f"after takes the next of the reply before, not {after[:64]!r}; leave after out to begin the list again",
        field="after",
        limit=limit,
    )
