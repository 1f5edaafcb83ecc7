"""Wakes: attempts of a program to make an idle agent notice a message. A wake is no delivery and no sign of life."""

from __future__ import annotations

import msgspec

from clawlink.domain.limits import MAX_WAKES
from clawlink.domain.record import text_bytes

# Measured, without the texts.
_RECORD_BYTES = 100


class Wake(msgspec.Struct, frozen=True, gc=False):
    """An attempt to wake the reader of a message, as the reader's own program told it.

    ``result`` is ``started``, ``queued``, ``failed`` or ``given_up``; ``references/protocol.md`` says more. ``key``
    tells a repeated request from a new wake.
    """

    at: float
    adapter: str
    result: str
    note: str | None = None
    key: str | None = None

    @property
    def footprint(self) -> int:
        return _RECORD_BYTES + sum(map(text_bytes, (self.adapter, self.result, self.note, self.key)))


def added(wakes: tuple[Wake, ...], new: Wake) -> tuple[Wake, ...]:
    """Add a wake, and keep the last ``MAX_WAKES``. A wake whose key is there already changes nothing."""
    if new.key is not None and any(wake.key == new.key for wake in wakes):
        return wakes
    return (*wakes, new)[-MAX_WAKES:]
