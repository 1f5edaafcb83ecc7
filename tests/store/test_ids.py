"""Ids in pieces are in the order of a plain list, whatever was added and removed."""

from __future__ import annotations

from random import Random

import pytest

from clawlink.store import ids as module
from clawlink.store.ids import Ids


def test_ids_are_those_of_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 4)
    chance = Random(20261129)
    for _ in range(50):
        ids, plain = Ids(), dict[str, int]()
        for number in range(chance.randrange(1, 60)):
            if plain and chance.random() < 0.4:
                gone = chance.choice(list(plain))
                ids.remove(gone)
                del plain[gone]
            else:
                ids.add(f"i{number}", number)
                plain[f"i{number}"] = number
            assert (len(ids), list(ids), list(reversed(ids))) == (len(plain), list(plain), [*plain][::-1])
            assert bool(ids) is bool(plain)
        for number in range(-1, 61):
            for limit in (1, 3, 100):
                later = [id for id, its in plain.items() if its > number][:limit]
                earlier = [id for id, its in plain.items() if its < number][::-1][:limit]
                assert ids.after(number, limit, newest=False) == later
                assert ids.after(number, limit, newest=True) == earlier
        assert [ids.number(id) for id in plain] == list(plain.values())
        with pytest.raises(KeyError):
            ids.remove("never here")
        assert len(ids) == len(plain)
