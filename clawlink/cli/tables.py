"""The columns of a table that a terminal has room for, and their widths. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from clawlink.cli.render import width

# Space, divider, space.
GAP = 3
# A column of sentences reads well from this width on.
_READABLE = 16
# With cut ids there is little room, so its lines are shorter.
_READ_SLOWLY = 10


class Layout(NamedTuple):
    """The columns that are shown, each with its width, and the titles of those that are not."""

    columns: dict[int, int]
    left_out: list[str]


def layout(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    room: int,
    *,
    whole: str | None = None,
    least: Sequence[str] = (),
    tight: bool = False,
) -> Layout:
    """Fit a table into the width of a terminal, in columns.

    Without room, the columns of ``least`` are left out, the first one first. The column ``whole`` is never narrower
    than its cells. Other columns may be as narrow as their longest word, or as a short line; ``tight`` makes that line
    shorter.
    """
    natural = [max(width(title), *(width(row[at]) for row in rows)) for at, title in enumerate(head)]
    line = _READ_SLOWLY if tight else _READABLE
    needed = [
        natural[at] if title == whole else min(natural[at], max(line, _longest_word(title, at, rows)))
        for at, title in enumerate(head)
    ]
    shown = list(range(len(head)))
    left_out = []
    for title in least:
        if _total(needed, shown) <= room or len(shown) == 1:
            break
        if title in head:
            shown.remove(head.index(title))
            left_out.append(title)
    widths = {at: needed[at] for at in shown}
    _shrink(widths, room, head.index(whole) if whole in head else None)
    _widen(widths, natural, room)
    return Layout(widths, [title for title in head if title in left_out])


def shortened(rows: Sequence[Sequence[str]], at: int, begins: int) -> list[Sequence[str]]:
    """Cut the ids of a column to this many characters, or to as many as it takes to tell them apart."""
    ids = {row[at] for row in rows}
    while len({id[:begins] for id in ids}) < len(ids):
        begins += 1
    return [(*row[:at], row[at][:begins], *row[at + 1 :]) for row in rows]


def _longest_word(title: str, at: int, rows: Sequence[Sequence[str]]) -> int:
    return max(width(word) for text in (title, *(row[at] for row in rows)) for word in (text.split() or [""]))


def _total(widths: Sequence[int], shown: Sequence[int]) -> int:
    return sum(widths[at] for at in shown) + GAP * (len(shown) - 1)


def _shrink(widths: dict[int, int], room: int, keep: int | None) -> None:
    """Narrow the widest column until all fit; lines then break within words."""
    over = sum(widths.values()) + GAP * (len(widths) - 1) - room
    while over > 0:
        widest = max((at for at in widths if at != keep), key=lambda at: widths[at], default=None)
        if widest is None or widths[widest] <= 1:
            return
        widths[widest] -= 1
        over -= 1


def _widen(widths: dict[int, int], natural: Sequence[int], room: int) -> None:
    """Give the remaining width to the columns that need more, evenly."""
    left = room - sum(widths.values()) - GAP * (len(widths) - 1)
    while left > 0:
        wanting = [at for at in widths if widths[at] < natural[at]]
        if not wanting:
            return
        for at in wanting[:left]:
            widths[at] += 1
        left -= len(wanting[:left])
