"""Ids in the order in which they were added, each with a number; and ids sorted as text.

A dict keeps order and drops fast, but a dict of 100,000 ids takes 6 ms to grow, and cannot be entered in the middle.
Here ids stand in dicts of at most 4,096: each grows in a tenth of a millisecond, and a page begins at the right dict.

One sorted list of a million ids takes half a millisecond to enter in the middle. Here ids stand in lists of at most
1,024, each entered in a tenth of a microsecond.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import chain

PIECE = 4096
SORTED_PIECE = 1024


class Ids:
    """Ids and their numbers. Numbers only grow, so a page goes on after an id that is gone."""

    __slots__ = ("_before", "earlier", "last")

    def __init__(self) -> None:
        self.last: dict[str, int] = {}
        """The newest ids. A table with room in them adds an id here itself."""
        self.earlier = 0
        """The number of all other ids."""
        self._before: list[dict[str, int]] | None = None  # full ones, oldest first

    def __len__(self) -> int:
        return self.earlier + len(self.last)

    def __bool__(self) -> bool:
        return bool(self.last) or self._before is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.last) if self._before is None else chain(*self._before, self.last)

    def __reversed__(self) -> Iterator[str]:
        if self._before is None:
            return reversed(self.last)
        return chain(reversed(self.last), *map(reversed, reversed(self._before)))

    def add(self, id: str, number: int) -> None:
        """Add an id that is not here, with a number that is at least the last one."""
        if len(self.last) == PIECE:
            if self._before is None:
                self._before = []
            self._before.append(self.last)
            self.earlier += PIECE
            self.last = {}
        self.last[id] = number

    def remove(self, id: str) -> None:
        """Remove an id. Raises KeyError if it is not here."""
        if self.last.pop(id, None) is not None:
            return
        before = self._before or []
        for place, piece in enumerate(before):
            if piece.pop(id, None) is not None:
                self.earlier -= 1
                if not piece:
                    del before[place]
                    self._before = before or None
                return
        raise KeyError(id)

    def number(self, id: str) -> int:
        """Return the number of an id that is here."""
        return next(piece[id] for piece in self.pieces() if id in piece)

    def after(self, number: int, limit: int, *, newest: bool) -> list[str]:
        """Return up to ``limit`` ids with greater numbers, oldest first; or with smaller ones, ``newest`` first."""
        found: list[str] = []
        pieces = self.pieces()
        for piece in reversed(pieces) if newest else pieces:
            ends = next(reversed(piece.values()), None), next(iter(piece.values()), None)
            if ends[0] is None or ends[1] is None or (ends[1] >= number if newest else ends[0] <= number):
                continue
            ids, room = list(piece), limit - len(found)
            if newest:
                at = bisect_left(ids, number, key=piece.__getitem__)
                found += ids[max(at - room, 0) : at][::-1]
            else:
                at = bisect_right(ids, number, key=piece.__getitem__)
                found += ids[at : at + room]
            if len(found) == limit:
                break
        return found

    def pieces(self) -> list[dict[str, int]]:
        """Return the ids in pieces, oldest first."""
        return [*(self._before or ()), self.last]


class SortedIds:
    """A sorted set of ids, so that those with the same first characters stand beside each other.

    ``_starts`` are the least ids that may stand in each piece."""

    __slots__ = ("_pieces", "_starts")

    def __init__(self) -> None:
        self._starts = [""]
        self._pieces: list[list[str]] = [[]]

    def add(self, id: str) -> None:
        """Add an id, unless it is here."""
        at = bisect_right(self._starts, id) - 1
        piece = self._pieces[at]
        place = bisect_left(piece, id)
        if place < len(piece) and piece[place] == id:
            return
        piece.insert(place, id)
        if len(piece) > SORTED_PIECE:
            rest = piece[SORTED_PIECE // 2 :]
            del piece[SORTED_PIECE // 2 :]
            self._starts.insert(at + 1, rest[0])
            self._pieces.insert(at + 1, rest)

    def remove(self, id: str) -> None:
        """Remove an id, if it is here."""
        at = bisect_right(self._starts, id) - 1
        piece = self._pieces[at]
        place = bisect_left(piece, id)
        if place == len(piece) or piece[place] != id:
            return
        del piece[place]
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
