"""Ids sorted as text: whatever comes and goes, they are those of a plain sorted list."""

from __future__ import annotations

from random import Random

from clawlink.store.ids import SORTED_PIECE, SortedIds


def test_they_are_those_of_a_sorted_list_whatever_comes_and_goes() -> None:
    random = Random(7)
    ids, model = SortedIds(), set[str]()
    for round in range(6):
        grows = round % 2 == 0
        for _ in range(3 * SORTED_PIECE):
            id = f"{random.getrandbits(16):04x}"
            if grows and id not in model:
                ids.add(id)
                model.add(id)
            elif not grows and model:
                gone = model.pop()
                ids.remove(gone)
        ordered = sorted(model)
        for first, end, limit in (
            ("", "g", 10**6),
            ("4", "5", 100),
            ("4", "5", 1),
            ("8000", "8000g", 9),
            ("g", "h", 9),
        ):
            inside = [id for id in ordered if first <= id < end][:limit]
            assert ids.between(first, end, limit) == inside, (round, first, end, limit)
