"""A merge of two changes to one text, by lines. Only lines that both changed are left to decide. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

OURS, THEIRS, END = "<<<<<<<", "=======", ">>>>>>>"


class Merged(NamedTuple):
    """A text in which both changes are, and how many ``conflicts`` stand in it between markers."""

    text: str
    conflicts: int


class _Region(NamedTuple):
    """A stretch of the common text, with the text of each side in its place; ends are exclusive."""

    base: tuple[int, int]
    ours: tuple[int, int]
    theirs: tuple[int, int]


def merge(base: str, ours: str, theirs: str, *, names: tuple[str, str] = ("ours", "theirs")) -> Merged:
    """Return ``ours`` and ``theirs``, two changes of ``base``, in one text.

    A line that only one side has changed is that side's. If both changed the same or adjacent lines differently, both
    stand between markers with their ``names``, as ``git merge-file`` writes them. Where many lines are alike, such as
    blank ones, it may match other lines than git does.
    """
    if ours == theirs or theirs == base:
        return Merged(ours, 0)
    if ours == base:
        return Merged(theirs, 0)
    common, mine, others = split(base), split(ours), split(theirs)
    text: list[str] = []
    conflicts = 0
    for region in _regions(common, mine, others):
        was, my, their = common[slice(*region.base)], mine[slice(*region.ours)], others[slice(*region.theirs)]
        if my == their or their == was:
            text += my
        elif my == was:
            text += their
        else:
            conflicts += 1
            text += _conflict(my, their, names)
    return Merged("".join(text), conflicts)


def has_markers(text: str, names: tuple[str, str]) -> bool:
    """Return True if a conflict that ``merge`` has marked with these names is still undecided in a text."""
    markers = {f"{OURS} {names[0]}", f"{END} {names[1]}"}
    return any(line.rstrip("\r\n") in markers for line in split(text))


def split(text: str) -> list[str]:
    """Return the lines of a text with their ends. Only a line feed ends one: other separators are a text's own."""
    lines = text.split("\n")
    last = lines.pop()
    return [line + "\n" for line in lines] + ([last] if last else [])


def _conflict(ours: Sequence[str], theirs: Sequence[str], names: tuple[str, str]) -> Iterator[str]:
    """Yield both sides between markers, without their common beginnings and ends."""
    before = _alike(ours, theirs)
    after = min(_alike(ours[::-1], theirs[::-1]), min(len(ours), len(theirs)) - before)
    end = "\r\n" if all(line.endswith("\r\n") for line in (*ours, *theirs)) else "\n"
    yield from ours[:before]
    yield f"{OURS} {names[0]}{end}"
    yield from _ended(ours[before : len(ours) - after], end)
    yield f"{THEIRS}{end}"
    yield from _ended(theirs[before : len(theirs) - after], end)
    yield f"{END} {names[1]}{end}"
    yield from ours[len(ours) - after :]


def _alike(one: Sequence[str], other: Sequence[str]) -> int:
    count = 0
    for a, b in zip(one, other):  # noqa: B905 - the shorter one ends it
        if a != b:
            break
        count += 1
    return count


def _ended(lines: Sequence[str], end: str) -> Iterator[str]:
    """Give lines that all have an end: a marker follows."""
    for line in lines:
        yield line if line.endswith("\n") else line + end


def _regions(base: list[str], ours: list[str], theirs: list[str]) -> Iterator[_Region]:
    """Yield stretches in order that together cover all three texts: the common parts, and the parts between them."""
    at = (0, 0, 0)
    for start, (my, their), length in _in_common(base, ours, theirs):
        if (start, my, their) != at:
            yield _Region((at[0], start), (at[1], my), (at[2], their))
        at = (start + length, my + length, their + length)
        yield _Region((start, at[0]), (my, at[1]), (their, at[2]))
    end = (len(base), len(ours), len(theirs))
    if at != end:
        yield _Region((at[0], end[0]), (at[1], end[1]), (at[2], end[2]))


def _in_common(base: list[str], ours: list[str], theirs: list[str]) -> Iterator[tuple[int, tuple[int, int], int]]:
    """Give the stretches of the common text that both sides still have: where each has it, and how long it is."""
    mine, others = _matches(base, ours), _matches(base, theirs)
    i = j = 0
    while i < len(mine) and j < len(others):
        my_start, my, my_length = mine[i]
        their_start, their, their_length = others[j]
        start = max(my_start, their_start)
        end = min(my_start + my_length, their_start + their_length)
        if start < end:
            yield start, (my + start - my_start, their + start - their_start), end - start
        if my_start + my_length < their_start + their_length:
            i += 1
        else:
            j += 1


def _matches(base: list[str], side: list[str]) -> list[tuple[int, int, int]]:
    """Return the parts of the common text that a side has kept. Common beginnings and ends cost nothing to find."""
    before = _alike(base, side)
    after = min(_alike(base[::-1], side[::-1]), min(len(base), len(side)) - before)
    middle = SequenceMatcher(None, base[before : len(base) - after], side[before : len(side) - after], autojunk=False)
    found = [(before + b, before + s, length) for b, s, length in middle.get_matching_blocks() if length]
    ends = (len(base) - after, len(side) - after, after)
    return _slid(base, side, [match for match in ((0, 0, before), *found, ends) if match[2]])


def _slid(base: list[str], side: list[str], matches: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Move lines that were only added, or only removed, down as far as possible, as git does.

    The new line among several equal ones is not known, but it must be the same on both sides.
    """
    found: list[tuple[int, int, int]] = []
    b = s = 0  # where the stretch before ends
    for at_base, at_side, length in [*matches, (len(base), len(side), 0)]:
        only_added, only_removed = b == at_base, s == at_side
        steps = 0
        if only_added != only_removed:
            lines, start, end = (side, s, at_side) if only_added else (base, b, at_base)
            while steps < length and lines[start + steps] == lines[end + steps]:
                steps += 1
        if steps:
            found.append((b, s, steps))
        if length > steps:
            found.append((at_base + steps, at_side + steps, length - steps))
        b, s = (at_base + length, at_side + length) if length > steps else (b + steps, s + steps)
    return found
