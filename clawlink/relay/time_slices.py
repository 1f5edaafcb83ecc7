"""Long pieces of work, cut so that other requests get their turn."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")

# Records that a long piece of work touches before other requests get their turn.
SLICE = 32
# A record may be large. So the turn ends after this time too: a fifth of the 5 ms that no step may take.
TURN_SECONDS = 0.001


def parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cut a sequence into parts of this size; the last may be smaller."""
    return (items[at : at + size] for at in range(0, len(items), size))


class Turns:
    """Counts the records of a long piece of work, and lets the event loop run after each slice of it.

    A slice is ``SLICE`` records, or as many as take ``TURN_SECONDS``.
    """

    __slots__ = ("_done", "_since")

    def __init__(self) -> None:
        self._done = 0
        self._since = perf_counter()

    async def next(self, records: int = 1) -> None:
        """Count some records as done. If the slice is full, let other requests run first."""
        self._done += records
        if self._done >= SLICE or perf_counter() - self._since >= TURN_SECONDS:
            await asyncio.sleep(0)
            self._done = 0
            self._since = perf_counter()
