"""Ids sorted as text, so that those with the same first characters stand beside each other.

One sorted list of a million ids takes half a millisecond to enter in the middle. Here ids stand in lists of at most
1,024, each entered in a tenth of a microsecond.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort

PIECE = 1024


class SortedIds:
    """A sorted set of ids. ``_starts`` are the least ids that may stand in each piece."""

    __slots__ = ("_pieces", "_starts")

    def __init__(self) -> None:
        self._starts = [""]
        self._pieces: list[list[str]] = [[]]

    def add(self, id: str) -> None:
        """Add an id that is not here."""
        at = bisect_right(self._starts, id) - 1
        piece = self._pieces[at]
        insort(piece, id)
        if len(piece) > PIECE:
            rest = piece[PIECE // 2 :]
            del piece[PIECE // 2 :]
            self._starts.insert(at + 1, rest[0])
            self._pieces.insert(at + 1, rest)

    def remove(self, id: str) -> None:
        """Remove an id that is here."""
        at = bisect_right(self._starts, id) - 1
        piece = self._pieces[at]
        del piece[bisect_left(piece, id)]
        if not piece and at:
            del self._starts[at], self._pieces[at]

    def between(self, first: str, end: str, limit: int) -> list[str]:
        """Return up to ``limit`` ids from ``first`` up to, but not with, ``end``."""
        found: list[str] = []
        at = bisect_right(self._starts, first) - 1
        while at < len(self._pieces) and len(found) < limit:
            piece = self._pieces[at]
            begin, stop = bisect_left(piece, first), bisect_left(piece, end)
            found += piece[begin : min(stop, begin + limit - len(found))]
            if stop < len(piece):
                break
            at += 1
        return found
