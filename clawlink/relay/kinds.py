"""Kinds of records that a door keeps in the relay's store, beside the relay's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from clawlink.domain.record import Record


class Kind(NamedTuple):
    """A kind of record.

    ``lapse`` takes a record whose ``ends_at`` has come and the time, and returns its next version; None forgets it.
    ``history`` is the index key of the records that may go when the relay's memory is full.
    """

    record: type[Any]
    lapse: Callable[[Any, float], Record | None]
    history: str | None = None
