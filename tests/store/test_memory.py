"""The store in memory: it keeps the contract, and nothing longer than it has to."""

from __future__ import annotations

import asyncio
import gc

import pytest
from msgspec.structs import replace

from clawlink.domain import delivery_steps
from clawlink.domain.agent import REGISTERED, Agent
from clawlink.domain.delivery import Delivery
from clawlink.domain.record import Record
from clawlink.store.base import Failed, Store, Usage, together
from clawlink.store.mailbox import Mailbox
from clawlink.store.memory import MemoryStore
from tests.store.asking import total
from tests.store.contract import KEEP, NOW, TTL, StoreContract, ack, agent, delivery, drop, due, file, lease, put, task


class TestMemoryStore(StoreContract):
    """The contract."""

    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


def sizes(store: MemoryStore) -> dict[str, int]:
    """Return how much the store holds, by part."""
    kinds = store._kinds.values()
    boxes = store._mailboxes.values()
    return {
        "records": sum(len(k.records) for k in kinds),
        "index keys": sum(len(k.indexes) for k in kinds),
        "days": sum(len(k.calendar) for k in kinds),
        "mailboxes": len(boxes),
        "ready": sum(len(b.ready) for b in boxes),
        "later": sum(len(b.later) + len(b.older) for b in boxes),
    }


async def test_nothing_is_left_once_everything_is_dropped() -> None:
    store = MemoryStore()
    held: list[Record] = []
    for n in range(50):
        d = delivery(f"d{n}", f"box{n % 3}", arrival=n, merge="file:a" if n % 2 else None)
        t = task(f"t{n}", f"box{n % 3}")
        await put(store, d, t, agent(f"a{n}", "go", f"skill{n}"), file(f"f{n}"))
        steps: list[Delivery] = [
            lease(d, seconds=n + 1),
            *([ack(lease(d, seconds=n + 1))] if n % 5 == 1 else []),
            *([delivery_steps.bury(lease(d, seconds=n + 1), now=NOW, keep=KEEP)] if n % 5 == 2 else []),
            *([delivery_steps.nack(lease(d, seconds=n + 1), receipt="r", now=NOW, delay=n)] if n % 5 == 3 else []),
        ]
        steps = steps if n % 5 else []
        await put(store, *steps)
        held += [steps[-1] if steps else d, t, agent(f"a{n}", "go", f"skill{n}"), file(f"f{n}")]
        await due(store, NOW + n, f"box{n % 3}")
        await store.page(Agent, REGISTERED, "1", 5)
    assert all(sizes(store).values())
    await drop(store, *held)
    assert not any(sizes(store).values()), sizes(store)
    assert await total(store) == Usage(0, 0)


async def test_leases_that_never_lapse_pile_up_nowhere() -> None:
    store = MemoryStore()
    await put(store, delivery("stays", body=b""))
    for n in range(5_000):
        d = delivery(f"d{n}", arrival=n)
        await put(store, d, lease(d), ack(lease(d)))
        await drop(store, ack(lease(d)))
    assert sizes(store)["records"] == 1
    assert sizes(store)["later"] < 100
    assert sizes(store)["ready"] == 1


async def test_a_lease_that_is_lengthened_for_ever_piles_up_nowhere() -> None:
    store = MemoryStore()
    held = lease(delivery("d"))
    await put(store, delivery("d"), held)
    for n in range(5_000):
        held = delivery_steps.extend(held, receipt="r", now=NOW + n, seconds=60)
        await put(store, held)
    assert sizes(store)["later"] < 100
    assert sizes(store)["days"] == 1


async def test_no_commit_cleans_more_than_a_few_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    looked = most = 0
    filed = Mailbox._filed

    def counted(self: Mailbox, entry: tuple[float, str, int]) -> Delivery | None:
        nonlocal looked
        looked += 1
        return filed(self, entry)

    monkeypatch.setattr(Mailbox, "_filed", counted)
    held = [delivery(f"d{n}", arrival=n) for n in range(500)]
    await put(store, *held)
    for turn in range(20):
        for n, d in enumerate(held):
            held[n] = replace(d, version=d.version + 1, visible_at=NOW + turn + n / 1000)
            looked = 0
            await put(store, held[n])
            most = max(most, looked)
    assert most <= 16
    assert sizes(store)["later"] < 10 * len(held)
    for _ in range(20):
        found = await due(store, NOW + 100, limit=1000)
    assert found == [d.id for d in held]


async def test_compacting_keeps_every_lease_and_delay_that_still_counts() -> None:
    store = MemoryStore()
    kept = [delivery(f"k{n}", arrival=n, delay=1 + n) for n in range(20)]
    await put(store, *kept)
    for n in range(1_000):
        d = delivery(f"d{n}", arrival=100 + n)
        await put(store, d, lease(d), ack(lease(d)))
    assert await due(store, NOW + 30) == [d.id for d in kept]


async def test_messages_of_one_rank_go_out_in_order_and_each_leaves_for_itself() -> None:
    store = MemoryStore()
    await put(store, *(delivery(id) for id in "abc"))
    await put(store, lease(delivery("b")))
    assert await due(store, NOW) == ["a", "c"]
    assert sorted(await due(store, NOW + 60)) == ["a", "b", "c"]


async def test_looking_for_what_ends_after_a_long_silence_finds_all_of_it() -> None:
    store = MemoryStore()
    ends = [NOW + 5, NOW + 5.5, NOW + 40 * TTL]
    await put(store, *(replace(delivery(str(n)), expires_at=end) for n, end in enumerate(ends)))
    assert len(await store.ending(Delivery, NOW + 20 * TTL, 10)) == 2
    assert len(await store.ending(Delivery, NOW + 100 * TTL, 10)) == 3
    assert len(await store.ending(Delivery, NOW + 20 * TTL, 10)) == 2


async def test_others_have_their_turn_while_leases_that_lapse_by_the_thousand_are_found() -> None:
    store = MemoryStore()
    many = 3_000
    for n in range(many):
        d = delivery(f"d{n}", arrival=n)
        await put(store, d, lease(d, seconds=5))
    found = asyncio.ensure_future(store.due("mia", NOW + 6, many))
    turns = 0
    while not found.done():
        await asyncio.sleep(0)
        turns += 1
    seen = found.result()
    assert [d.sort_key for d in seen] == sorted(d.sort_key for d in seen)
    assert len(seen) == many
    assert turns >= 5


async def test_entries_of_leases_that_were_settled_are_passed_some_at_a_time() -> None:
    store = MemoryStore()
    stays = delivery("stays", arrival=5_000, delay=100)
    await put(store, stays)
    for n in range(2_000):
        d = delivery(f"d{n}", arrival=n)
        await put(store, d, lease(d, seconds=5))
    for n in range(2_000):
        d = delivery(f"d{n}", arrival=n)
        await put(store, ack(lease(d, seconds=5)))
    asked = 0
    while (at := await store.next_due_at("mia")) != stays.visible_at:
        assert at is not None
        assert at <= NOW + 5
        asked += 1
    assert asked <= 10


async def test_a_long_list_is_paged_while_most_of_it_goes() -> None:
    store = MemoryStore()
    people = [agent(f"a{n}", "go") for n in range(500)]
    await put(store, *people)
    first = await store.page(Agent, REGISTERED, None, 100)
    second = await store.page(Agent, REGISTERED, first.after, 100)
    await drop(store, *people[:150], *people[210:490])
    await put(store, agent("new", "go"))
    rest = await store.page(Agent, REGISTERED, second.after, 100)
    assert [a.id for a in rest.records] == [*(f"a{n}" for n in (*range(200, 210), *range(490, 500))), "new"]
    assert rest.after is None
    back = await store.page(Agent, REGISTERED, second.after, 20, newest=True)
    assert [a.id for a in back.records] == [f"a{n}" for n in range(198, 178, -1)]


@pytest.mark.filterwarnings("error")
async def test_a_read_beside_one_that_fails_is_given_up() -> None:
    store = MemoryStore()

    async def fails() -> None:
        raise Failed("away")

    with pytest.raises(Failed):
        await together(fails(), store.get(Delivery, "d"))
    gc.collect()  # a coroutine that nobody awaited would warn
    assert await together(store.get(Delivery, "d"), store.usage(Delivery, "d")) == (None, Usage(0, 0))
