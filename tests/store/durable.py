"""The duties of a store that keeps its records when a relay ends: ``DurableContract``.

A store's own test class gives four fixtures. ``store`` is a store over a new place, not open yet, and ``again`` makes
another one over the same place. ``failing`` makes the engine fail, and ``later`` leaves what a later version writes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest
from msgspec.structs import replace

from clawlink.domain.agent import REGISTERED, Agent
from clawlink.domain.delivery import ACKED, DEAD, PENDING, Delivery, by_dead
from clawlink.domain.file import PRESENT, SharedFile
from clawlink.domain.pool import POOLS, Pool
from clawlink.domain.record import Record
from clawlink.domain.task import Task, by_owner
from clawlink.errors import ClawLinkError
from clawlink.store.base import Absent, Batch, Conflict, Drop, Failed, Put, Store
from tests.store.contract import (
    BROADCAST,
    KNOWLEDGE_OF_IT,
    NOW,
    POOL,
    TTL,
    Opened,
    ack,
    agent,
    delivery,
    drop,
    file,
    ids,
    lease,
    newer,
    put,
    task,
    walk,
)

ADDRESS = "192.0.2.1"
Failing = Callable[[Store], Sequence[AbstractContextManager[object]]]


def dead(id: str) -> Delivery:
    """Return the last version of a delivery that nobody settled."""
    return newer(lease(delivery(id)), state=DEAD, receipt=None)  # type: ignore[no-any-return]


def steps() -> list[Record]:
    """Return the versions of records to commit, each by itself and in this order."""
    away = replace(delivery("away", body=b"from there"), address=ADDRESS)
    acked, held = delivery("acked"), delivery("held", arrival=1, merge="m")
    return [
        delivery("low", level=3), delivery("high", level=1), delivery("waits", arrival=2, delay=90.0), away,
        held, lease(held, receipt="mine", seconds=45.0), acked, lease(acked),
        ack(lease(acked)), delivery("dead"), lease(delivery("dead")), dead("dead"),
        delivery("other", "eve", body=b"for eve"), task("t"), replace(task("u"), address=ADDRESS),
        agent("zoe", "go"), agent("abe"), newer(agent("zoe", "go"), machine="moved"), file("f"), POOL, BROADCAST,
        KNOWLEDGE_OF_IT, delivery("gone"),
    ]  # fmt: skip


KEPT = {(type(record), record.id): record for record in steps() if record.id != "gone"}
"""The last versions, by kind and id."""
_PLACES: Sequence[tuple[type[Any], str]] = (
    (Delivery, by_dead("mia")),
    (Agent, REGISTERED),
    (Task, by_owner("mia")),
    (SharedFile, PRESENT),
    (Pool, POOLS),
)


async def answers(store: Store) -> dict[str, Any]:
    """Return what a store answers to every kind of question, with its name."""
    found: dict[str, Any] = {f"get {kind.__name__} {id}": await store.get(kind, id) for kind, id in KEPT}
    found["get Delivery gone"] = await store.get(Delivery, "gone")
    found["ids"] = list(await store.ids("", "\U0010ffff", 100))
    for kind, key in _PLACES:
        asked = f"{kind.__name__} under {key!r}"
        found[f"page of {asked}"] = await walk(store, kind, key, 1)
        found[f"newest of {asked}"] = await walk(store, kind, key, 10, newest=True)
        found[f"first of {asked}"] = ids([r for r in await store.first_of(kind, [key]) if r is not None])
        found[f"usage of {asked}"] = await store.usage(kind, key)
        found[f"usage from an address of {asked}"] = await store.usage_from(kind, key, ADDRESS, "otto")
    for mailbox in ("mia", "eve"):
        found[f"pending of {mailbox}"] = sorted(ids(await store.pending(mailbox, 100)))
        found[f"next_due_at of {mailbox}"] = await store.next_due_at(mailbox)
        found[f"due of {mailbox}"] = ids(await store.due(mailbox, NOW, 100))
    for box in ("mia", None):
        for address in (ADDRESS, None):
            found[f"load of {box} from {address}"] = await store.load_from(box, address, "otto")
    for address in (ADDRESS, None):
        found[f"memory from {address}"] = await store.memory_from(address, "otto")
    for kind in (Delivery, Task):
        for after in (3_601.0, TTL + 1):
            found[f"ending {kind.__name__} after {after}"] = sorted(ids(await store.ending(kind, NOW + after, 100)))
    admission = await store.admission(("mia", "eve"), _PLACES)
    found["admission"] = (list(admission.mailboxes), list(admission.indexes), admission.total, admission.memory)
    return found


class DurableContract(Opened):
    """The records of a relay that has ended are there when another one opens its store."""

    @pytest.fixture
    def again(self, store: Store) -> Callable[[], Store]:
        """Return what makes another store over the place of ``store``, not open yet."""
        raise NotImplementedError("a store's own test class gives this fixture")

    @pytest.fixture
    def failing(self) -> Failing:
        """Return what gives for an open store the ways in which its commits fail, each for as long as its context."""
        raise NotImplementedError("a store's own test class gives this fixture")

    @pytest.fixture
    def later(self, store: Store) -> Callable[[], Awaitable[object]]:
        """Return what leaves at the place of the closed ``store`` what a later version of it writes."""
        raise NotImplementedError("a store's own test class gives this fixture")

    @pytest.fixture
    async def reopen(self, again: Callable[[], Store]) -> AsyncIterator[Callable[[Store], Awaitable[Store]]]:
        """Close a store, and return another one over its place, open."""
        made: list[Store] = []

        async def reopened(store: Store) -> Store:
            await store.close()
            made.append(new := again())
            await new.open()
            return new

        yield reopened
        for store in made:
            await store.close()

    async def test_all_that_was_committed_is_there(
        self, store: Store, reopen: Callable[[Store], Awaitable[Store]]
    ) -> None:
        await put(store, *steps())
        await drop(store, delivery("gone"))
        before = await answers(store)
        for (kind, id), record in KEPT.items():
            assert before[f"get {kind.__name__} {id}"] == record
        assert before["due of mia"] == ["high", "away", "low"]
        assert before["get Delivery gone"] is None
        assert before[f"page of Agent under {REGISTERED!r}"] == ["zoe", "abe"]
        for _ in range(2):
            store = await reopen(store)
            found = await answers(store)
            wrong = {name: (said, found[name]) for name, said in before.items() if found[name] != said}
            assert not wrong, f"before and after: {wrong}"
        assert await store.migrate() == 0
        for after, more in ((44.0, []), (46.0, ["held"]), (91.0, ["held", "waits"])):
            assert ids(await store.due("mia", NOW + after, 100)) == ["high", "away", *more, "low"], after

    async def test_the_work_goes_on(self, store: Store, reopen: Callable[[Store], Awaitable[Store]]) -> None:
        held = lease(delivery("held"), receipt="mine", seconds=45.0)
        await put(store, delivery("held"), held, agent("mia"), task("t"))
        store = await reopen(store)
        for change in (Put(delivery("held")), Put(newer(newer(held))), Drop(delivery("held")), Absent(Task, "t")):
            with pytest.raises(Conflict):
                await store.commit("mia", Put(task("new")), change)
        assert await store.get(Task, "new") is None
        await put(store, agent("abe"), delivery("next", arrival=1))
        assert await walk(store, Agent, REGISTERED, 1) == ["mia", "abe"], "a later arrival comes after those before"
        assert await store.claim("mia", NOW, 9, lambda found: [Put(lease(d, receipt="new")) for d in found]) is None
        await put(store, ack(held, receipt="mine"))
        store = await reopen(store)
        assert [d and (d.state, d.receipt) for d in await store.get_many(Delivery, ["held", "next"])] == [
            (ACKED, "mine"), (PENDING, "new")
        ]  # fmt: skip
        assert await store.next_due_at("mia") == NOW + 60

    async def test_after_a_failure_the_place_says_what_the_store_says(
        self, store: Store, failing: Failing, reopen: Callable[[Store], Awaitable[Store]]
    ) -> None:
        ways = len(failing(store))
        assert ways, "the engine fails in no way"
        for way in range(ways):
            mine = f"box{way}"
            old, new = delivery(f"old{way}", mine), delivery(f"new{way}", mine, body=b"other")
            gone, more = task(f"gone{way}", mine), task(f"more{way}", mine)
            await put(store, old, gone)
            with failing(store)[way]:
                with pytest.raises(Failed):
                    await store.commit(mine, Put(lease(old)), Put(new), Drop(gone))
                (result,) = await store.commit_many([Batch(mine, (Put(more),))])
                assert isinstance(result, Failed)
                *_, result = await store.commit_in_order(
                    [
                        Batch(mine, (Put(delivery(f"outward{way}", mine)),)),
                        Batch(f"other{way}", (Put(delivery(f"own{way}", f"other{way}")),)),
                    ]
                )
                assert isinstance(result, Failed)

            async def there(store: Store, mine: str = mine, way: int = way) -> list[Any]:
                return [
                    await store.get_many(Delivery, [f"old{way}", f"new{way}"]),
                    await store.get_many(Task, [f"gone{way}", f"more{way}"]),
                    await store.get_many(Delivery, [f"outward{way}", f"own{way}"]),
                    ids(await store.due(mine, NOW, 9)),
                    await walk(store, Task, by_owner(mine), 9),
                    (await store.admission([mine], [(Task, by_owner(mine))])).mailboxes,
                ]

            said, broken = await there(store), store.broken
            store = await reopen(store)
            found = await there(store)
            if broken is None:  # one that can commit no more says nothing of its place
                assert found == said, f"failure {way}"
            (first, second), (third, fourth), (outward, own), *_ = found
            assert [first, second, third] in ([old, None, gone], [lease(old), new, None]), f"half of failure {way}"
            assert fourth in (None, more)
            assert outward is not None or own is None, f"failure {way} turned the order of partitions"
            await put(store, newer(first), delivery(f"after{way}", mine))

    async def test_a_place_is_closed_twice_and_opened_again(self, store: Store, again: Callable[[], Store]) -> None:
        await put(store, delivery("d"))
        for _ in range(2):
            await store.close()
            await store.close()
            store = again()
            await store.open()
            assert (await store.get(Delivery, "d"), await store.health(), store.broken) == (delivery("d"), None, None)
        await store.close()

    async def test_what_a_later_version_wrote_is_refused_and_stays(
        self, store: Store, later: Callable[[], Awaitable[object]], again: Callable[[], Store]
    ) -> None:
        await put(store, delivery("d"))
        await store.close()
        await later()
        said = []
        for _ in range(2):
            new = again()
            with pytest.raises(ClawLinkError) as raised:
                await new.open()
            said.append(raised.value.message)
            await new.close()
        assert said[0] == said[1]
        assert len(said[0]) > 20, "the operator needs a sentence"
