"""Ids sorted as text: whatever comes and goes, they are those of a plain sorted list."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable
from random import Random

from msgspec.structs import replace

from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery
from clawlink.store.base import Drop, Put
from clawlink.store.ids import PIECE, SORTED_PIECE, SortedIds
from clawlink.store.memory import MemoryStore
from clawlink.store.tables import Table
from tests.domain.agents import agent
from tests.store.contract import delivery
from tests.tables import each


def test_they_are_those_of_a_sorted_list_whatever_comes_and_goes() -> None:
    random = Random(7)
    ids, model = SortedIds(), set[str]()
    for round in range(6):
        grows = round % 2 == 0
        for _ in range(3 * SORTED_PIECE):
            id = f"{random.getrandbits(16):04x}"
            if grows:
                ids.add(id)
                model.add(id)
            elif not grows and model:
                gone = model.pop()
                ids.remove(gone)
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


async def test_the_first_question_sorts_them_while_others_come_and_go() -> None:
    store = MemoryStore()
    known = [delivery(f"{number:04x}") for number in range(3000)]
    for d in known:
        await store.commit(d.mailbox, Put(d))
    turns = 0

    async def change() -> None:
        nonlocal turns
        for d in known[::100]:
            await store.commit(d.mailbox, Drop(d))
            await store.commit(d.mailbox, Put(d))
            await asyncio.sleep(0)
            turns += not asked.done()
        for d in known[::50]:
            await store.commit(d.mailbox, Drop(d))

    asked = asyncio.ensure_future(store.ids("", "g", 10**6))
    again = asyncio.ensure_future(store.ids("0", "g", 10**6))
    await change()
    assert turns > 1  # others had their turn meanwhile
    assert set(await asked) <= {d.id for d in known}
    assert list(await again) == sorted(await asked)
    left = sorted({d.id for d in known} - {d.id for d in known[::50]})
    assert list(await store.ids("", "g", 10**6)) == left
    await store.commit("mia", Put(delivery("0abc7")))
    assert list(await store.ids("0abc", "0abcg", 9)) == ["0abc", "0abc7"]
    assert await store.get(Delivery, "0abc7") is not None


def one_that_ends(number: int) -> Delivery:
    return replace(delivery(f"{number:08x}"), expires_at=float(number % 7))


def one_that_never_ends(number: int) -> Agent:
    return agent(f"{number:08x}")


@each("made", [one_that_ends, one_that_never_ends])
def test_no_step_of_the_first_question_copies_many_ids(made: Callable[[int], Delivery | Agent]) -> None:
    count = 20 * PIECE
    table = Table()
    for number in range(count):
        record = made(number)
        table.add(record.id, record, 0)
    steps, found = 0, None
    tracemalloc.start()
    try:
        while found is None:
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            found = table.sort_some()
            assert tracemalloc.get_traced_memory()[1] - before < count * 8 / 4, steps
            steps += 1
    finally:
        tracemalloc.stop()
    assert steps > count / SORTED_PIECE
    assert found.between("", "g", count) == [f"{number:08x}" for number in range(count)]


async def test_what_moves_to_another_second_while_ids_are_sorted_is_found() -> None:
    store = MemoryStore()
    known = [replace(delivery(f"{number:04x}"), expires_at=1000.0 + number) for number in range(2000)]
    for d in known:
        await store.commit(d.mailbox, Put(d))
    asked = asyncio.ensure_future(store.ids("", "g", 10**6))
    await asyncio.sleep(0)
    for d in known[::-1]:  # to before the first
        await store.commit(d.mailbox, Put(replace(d, version=2, expires_at=1.0)))
    assert not asked.done()
    assert list(await asked) == [d.id for d in known]
