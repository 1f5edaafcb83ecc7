"""The faulty store: without faults it is the store inside; with each fault it still tells the truth."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from clawlink.domain import delivery as rules
from clawlink.domain.agent import REGISTERED, Agent
from clawlink.domain.delivery import Delivery
from clawlink.domain.task import Task, by_owner
from clawlink.store.base import Absent, Batch, Conflict, Failed, Put, Store, Usage
from clawlink.store.memory import MemoryStore
from tests.store.asking import load
from tests.store.contract import NOW, StoreContract, TruthContract, agent, delivery, due, lease, newer, put, task
from tests.store.faulty import FaultyStore


def faulty(
    *, conflicts: float = 0, delays: float = 0, failures: float = 0, lost: float = 0, stale: float = 0, seed: int = 7
) -> FaultyStore:
    """Return a faulty store around an empty one, for which no time passes."""
    return FaultyStore(
        MemoryStore(),
        Random(seed),
        conflicts=conflicts,
        delays=delays,
        failures=failures,
        lost=lost,
        stale=stale,
        clock=lambda: 0.0,
    )


async def test_no_answer_is_later_than_the_index_may_lag() -> None:
    now = [0.0]
    store = FaultyStore(MemoryStore(), Random(7), stale=1, clock=lambda: now[0])
    await load(store, "mia")
    await put(store, delivery("d"))
    assert await load(store, "mia") == Usage(0, 0)
    now[0] += store.index_lag + 0.001
    assert await load(store, "mia") == Usage(1, 4)


class TestWithoutFaults(StoreContract):
    """It keeps the whole contract."""

    @pytest.fixture
    def store(self) -> Store:
        return faulty()


class TestWithDelays(StoreContract):
    """Delays alone change nothing for who is alone."""

    @pytest.fixture
    def store(self) -> Store:
        return faulty(delays=1)


class TestWithStaleIndexes(TruthContract):
    """``get`` and ``commit`` are true although the indexes are not."""

    @pytest.fixture
    def store(self) -> Store:
        return faulty(stale=1)


async def test_without_faults_nothing_is_injected() -> None:
    store = faulty()
    await put(store, delivery("d"), lease(delivery("d")))
    await due(store, NOW)
    assert not store.injected


# -- conflicts -----------------------------------------------------------------------------------------------------


async def test_an_injected_conflict_changes_nothing_and_the_repeat_succeeds() -> None:
    store = faulty(conflicts=0.5)
    conflicts = 0
    for n in range(50):
        while True:
            try:
                await store.commit("mia", Put(delivery(str(n))), Put(task(str(n))))
            except Conflict:
                conflicts += 1
                assert await store.get(Delivery, str(n)) is None
                assert await store.get(Task, str(n)) is None
            else:
                break
    assert 10 < conflicts < 200
    assert store.injected == {"conflicts": conflicts}
    assert await load(store, "mia") == Usage(50, 50 * 4)


# -- failures ------------------------------------------------------------------------------------------------------


async def test_a_failure_means_that_nothing_took_effect() -> None:
    store = faulty(failures=1)
    with pytest.raises(Failed):
        await put(store, delivery("d"))
    assert await store.get(Delivery, "d") is None
    assert store.injected == {"failures": 1}


async def test_a_lost_reply_means_that_everything_took_effect() -> None:
    store = faulty(lost=1)
    with pytest.raises(Failed):
        await store.commit("mia", Put(delivery("d")), Put(task("t")))
    assert await store.get(Delivery, "d") == delivery("d")
    assert await store.get(Task, "t") == task("t")
    assert store.injected == {"lost": 1}


async def test_a_real_conflict_is_never_hidden_by_a_lost_reply() -> None:
    store = faulty(lost=1)
    await put(store.inner, delivery("d"))
    with pytest.raises(Conflict):
        await put(store, delivery("d"))


async def test_a_real_presence_of_what_must_be_absent_is_never_hidden_by_a_lost_reply() -> None:
    store = faulty(lost=1)
    await put(store.inner, task("t"))
    with pytest.raises(Conflict):
        await store.commit("mia", Put(delivery("d")), Absent(Task, "t"))
    assert await store.get(Delivery, "d") is None


async def test_what_must_be_absent_is_looked_for_in_the_truth_and_not_in_an_index() -> None:
    store = faulty(stale=1)
    key = by_owner("mia")
    assert await store.usage(Task, key) == Usage(0, 0)
    await put(store, task("t"))
    assert await store.usage(Task, key) == Usage(0, 0)
    with pytest.raises(Conflict):
        await store.commit("mia", Absent(Task, "t"))


async def test_of_many_partitions_each_has_faults_of_its_own_and_the_result_is_true() -> None:
    store = faulty(conflicts=0.3, failures=0.3, lost=0.3)
    ids = [f"d{n}" for n in range(60)]
    results = await store.commit_many([Batch("box" + id, (Put(delivery(id, "box" + id)),)) for id in ids])
    kinds = Counter(type(result) for result in results)
    assert min(kinds[type(None)], kinds[Conflict], kinds[Failed]) > 2, kinds
    there = [d is not None for d in await store.get_many(Delivery, ids)]
    assert all(is_there for result, is_there in zip(results, there, strict=True) if result is None)
    assert not any(is_there for result, is_there in zip(results, there, strict=True) if isinstance(result, Conflict))
    assert sum(there) == kinds[type(None)] + store.injected["lost"]


# -- delays --------------------------------------------------------------------------------------------------------


async def test_with_delays_a_rival_comes_between_a_read_and_the_commit_after_it() -> None:
    store = faulty(delays=0.5)
    await put(store, agent("a"))
    lost = 0

    async def heartbeats() -> None:
        nonlocal lost
        for _ in range(20):
            found = await store.get(Agent, "a")
            assert found is not None
            try:
                await put(store, newer(found))
            except Conflict:
                lost += 1

    await asyncio.gather(*(heartbeats() for _ in range(4)))
    found = await store.get(Agent, "a")
    assert found is not None
    assert lost > 0
    assert found.version == 1 + 4 * 20 - lost


async def test_a_commit_cancelled_while_it_yields_took_effect_wholly_or_not_at_all() -> None:
    outcomes = set()
    for seed in range(40):
        store = faulty(delays=0.7, seed=seed)
        writer = asyncio.ensure_future(store.commit("mia", Put(delivery("d")), Put(task("t"))))
        await asyncio.sleep(0)
        if not writer.cancel():
            continue
        with pytest.raises(asyncio.CancelledError):
            await writer
        outcomes.add((await store.get(Delivery, "d") is None, await store.get(Task, "t") is None))
    assert outcomes == {(True, True), (False, False)}


# -- stale ---------------------------------------------------------------------------------------------------------


async def test_a_stale_mailbox_offers_what_has_just_been_taken() -> None:
    store = faulty(stale=1)
    await put(store, delivery("d"))
    assert await due(store, NOW) == ["d"]
    await put(store, lease(delivery("d")))
    assert list(await store.due("mia", NOW, 100)) == [delivery("d")]
    assert await store.get(Delivery, "d") == lease(delivery("d"))


async def test_every_index_answers_late_and_soon_tells_the_truth() -> None:
    store = faulty(stale=1)
    d = delivery("d", merge="file:a")
    key = rules.by_merge("mia", "file:a")

    async def ask() -> list[object]:
        read = await store.admission(("mia",))
        return [
            list(await store.due("mia", NOW, 9)),
            list(await store.pending("mia", 9)),
            list((await store.page(Delivery, key)).records),
            list((await store.page(Delivery, key, newest=True)).records),
            await store.usage(Delivery, key),
            *read.mailboxes,
            read.total,
            list(await store.ending(Delivery, d.ends_at + 1, 9)),
        ]

    before = await ask()
    await put(store, d)
    true: list[object] = [[d], [d], [d], [d], Usage(1, 4), Usage(1, 4), Usage(1, 4), [d]]
    late = await ask()
    assert late == before
    assert all(one != other for one, other in zip(late, true, strict=True))
    for _ in range(10):
        answers = [await ask() for _ in range(3)]
        assert true in answers
    assert store.injected["stale"] >= 8


async def test_questions_with_other_arguments_do_not_mix() -> None:
    store = faulty(stale=1)
    await put(store, delivery("d", "mia"), delivery("e", "eve"), *map(agent, "abc"))
    for _ in range(10):
        assert await due(store, NOW, "mia") == ["d"]
        assert await due(store, NOW, "eve") == ["e"]
        assert len((await store.page(Agent, REGISTERED, None, 2)).records) == 2
        assert len((await store.page(Agent, REGISTERED, None, 3)).records) == 3
        assert [a.id for a in (await store.page(Agent, REGISTERED, None, 3, newest=True)).records] == ["c", "b", "a"]


async def test_an_answer_is_forgotten_after_a_number_of_other_operations() -> None:
    store = faulty(stale=1)
    assert await load(store, "mia") == Usage(0, 0)
    await put(store, delivery("d"))
    for _ in range(50):
        await store.get(Delivery, "d")
    assert await load(store, "mia") == Usage(1, 4)


async def test_a_mailbox_never_hides_when_to_look_again_for_long() -> None:
    store = faulty(stale=1)
    d = delivery("d")
    assert await store.next_due_at("mia") is None
    await put(store, d)
    answers = [await store.next_due_at("mia") for _ in range(10)]
    assert None in answers
    assert all(NOW in pair for pair in pairwise(answers))


async def test_a_stale_time_to_look_again_is_early_or_none_but_never_late() -> None:
    store = faulty(stale=0.8)
    d = delivery("d")
    await put(store, d)
    true = []
    for n in range(200):
        d = newer(d, visible_at=NOW + (n * 37) % 100)  # now later than before, now earlier
        await put(store, d)
        at = await store.next_due_at("mia")
        assert at is None or at <= d.visible_at
        true.append(at == d.visible_at)
    assert {True, False} == set(true)
