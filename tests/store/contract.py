"""The duties of every store: subclass ``StoreContract`` and give it a ``store`` fixture that makes one.

The suite opens and closes it.

``TruthContract`` is what holds even while the indexes are out of date: it asks only ``get`` and ``commit``.
``IndexContract`` is what the indexes say once they have caught up.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from clawlink.domain import delivery as rules
from clawlink.domain import delivery_steps, task_steps
from clawlink.domain import task as task_rules
from clawlink.domain.agent import REGISTERED, Agent, by_capability, by_name
from clawlink.domain.broadcast import KNOWLEDGE, Broadcast, Knowledge, by_author, by_tag, by_topic
from clawlink.domain.delivery import Delivery
from clawlink.domain.file import PRESENT, Content, SharedFile, Version
from clawlink.domain.message import Priority
from clawlink.domain.pool import POOLS, Pool, by_member, pool_for, waiting_for
from clawlink.domain.record import SETTLED, Record
from clawlink.domain.task import Task, TaskState, by_assignee, by_owner, by_requester
from clawlink.errors import BadRequest
from clawlink.store.base import SKIPPED, Absent, Batch, Conflict, Drop, Put, R, Store, Usage
from tests.store.asking import load, memory, total

NOW = 1_000_000.0
KEEP = 3_600.0
TTL = 86_400.0


def delivery(
    id: str,
    mailbox: str = "mia",
    *,
    level: int = Priority.NORMAL.level,
    arrival: int = 0,
    body: bytes = b"body",
    delay: float = 0.0,
    merge: str | None = None,
) -> Delivery:
    """Return a new delivery stored at ``NOW``; ``delay`` is for one that is stored to wait."""
    sort_key = rules.sort_key(level, arrival)
    return Delivery(id, 1, mailbox, "otto", sort_key, body, NOW, NOW + delay, NOW + TTL, merge=merge)


def task(id: str, assignee: str = "mia", *, body: bytes = b"ask") -> Task:
    """Return a new task."""
    return Task(id, 1, assignee, "otto", assignee, body, NOW, NOW + TTL)


def report(t: Task, state: TaskState, response: bytes = b"answer") -> Task:
    """Return the task as its assignee reports on it."""
    by = str(t.assignee)
    return task_steps.respond(t, by=by, receipt=None, state=state, response=response, now=NOW, ttl=TTL, keep=KEEP)


def asked(id: str, mailbox: str = "mia", *, body: bytes = b"body", requester: str = "otto") -> Delivery:
    """Return a new delivery that is all there is of a task."""
    return replace(delivery(id, mailbox, body=body), sender=requester, is_task=True)


def fetch(d: Delivery, *, by: str = "mia", seconds: float = 60.0, alone: bool = True) -> Delivery:
    """Return the delivery of a task as ``by`` has claimed it."""
    return delivery_steps.lease_task(d, by=by, receipt="r", now=NOW, seconds=seconds, alone=alone)


def agent(id: str, *capabilities: str, name: str | None = None) -> Agent:
    """Return a new agent."""
    return Agent(
        id=id,
        version=1,
        name=name or id,
        capabilities=capabilities,
        machine="",
        description="",
        registered_at=NOW,
        last_heartbeat=NOW,
    )


def file(id: str, content: bytes = b"text") -> SharedFile:
    """Return a new file."""
    return SharedFile(id=id, version=1, revision=1, versions=(written(content),))


def written(content: bytes) -> Version:
    """Return a first version."""
    return Version(
        revision=1,
        content=Content(hashlib.sha256(content).hexdigest(), len(content)),
        file_type="text",
        content_type="text/plain",
        editor="mia",
        written_at=NOW,
    )


def lease(d: Delivery, *, receipt: str = "r", now: float = NOW, seconds: float = 60.0, attempts: int = 5) -> Delivery:
    """Return the delivery leased."""
    return delivery_steps.lease(d, receipt=receipt, now=now, seconds=seconds, max_attempts=attempts, keep=KEEP)


def ack(d: Delivery, *, receipt: str = "r", now: float = NOW) -> Delivery:
    """Return the delivery acked."""
    return delivery_steps.ack(d, receipt=receipt, now=now, keep=KEEP)


BROADCAST = Broadcast("b", 1, "otto", b"news", ("mia", "eve"), NOW, NOW + TTL)
KNOWLEDGE_OF_IT = Knowledge("b", 1, "otto", b"news", "topic", ("tag",), NOW, NOW + TTL, 2)
POOL = replace(pool_for(["python"], []), version=1)


def newer(record: Any, **fields: Any) -> Any:
    """Return the record's next version."""
    return replace(record, version=record.version + 1, **fields)


async def put(store: Store, *records: Record) -> None:
    """Commit each record by itself."""
    for record in records:
        await store.commit(record.partition_key, Put(record))


async def drop(store: Store, *records: Record) -> None:
    """Drop each record by itself."""
    for record in records:
        await store.commit(record.partition_key, Drop(record))


async def walk(store: Store, kind: type[R], key: str, limit: int, *, newest: bool = False) -> list[str]:
    """Return the ids on all pages."""
    found: list[str] = []
    after: str | None = None
    while True:
        page = await store.page(kind, key, after, limit, newest=newest)
        assert len(page.records) <= limit
        found.extend(record.id for record in page.records)
        if page.after is None:
            return found
        after = page.after


def ids(records: Sequence[Record]) -> list[str]:
    """Return the records' ids."""
    return [record.id for record in records]


async def due(store: Store, now: float, mailbox: str = "mia", limit: int = 100) -> list[str]:
    """Return the ids of what is due."""
    return ids(await store.due(mailbox, now, limit))


class Opened:
    """Open the store before each test, and close it after."""

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError("a store's own test class gives this fixture")

    @pytest.fixture(autouse=True)
    async def opened(self, store: Store) -> AsyncIterator[None]:
        await store.open()
        yield
        await store.close()


class TruthContract(Opened):
    """The promises of ``get`` and ``commit``, and of the life of a store."""

    async def test_an_open_store_is_well_and_has_nothing_to_migrate(self, store: Store) -> None:
        await put(store, delivery("d"))
        for _ in range(2):
            assert (await store.migrate(), await store.health(), store.broken) == (0, None, None)
        assert await store.get(Delivery, "d") == delivery("d")
        await put(store, lease(delivery("d")))

    async def test_a_store_is_closed_once_and_again(self, store: Store) -> None:
        await put(store, delivery("d"))
        await store.close()
        await store.close()

    async def test_what_was_never_stored_is_not_there(self, store: Store) -> None:
        assert await store.get(Delivery, "d") is None
        assert await store.get(Task, "") is None

    @pytest.mark.parametrize(
        "record",
        [
            delivery("d", body=b"\x00\xff", merge="file:a"),
            task("t"),
            agent("m", "go", "Straße"),
            file("a/b", b""),
            Broadcast("b", 1, "mia", b"news", ("otto", "eve"), NOW, NOW + 1.5),
            Knowledge("k", 1, "mia", b"news", "build.linux", ("rain",), NOW, NOW + 1.5),
            pool_for(["go"], ["mia", "eve"]).used(NOW),
            waiting_for("mia", "Mia").used(NOW),
            replace(fetch(asked("a", pool_for(["go"], []).id)), version=1),
            replace(report(task("r"), TaskState.INPUT_REQUIRED), version=1),
        ],
        ids=lambda record: type(record).__name__,
    )
    async def test_a_record_comes_back_as_it_was_put(self, store: Store, record: Record) -> None:
        await put(store, record)
        assert await store.get(type(record), record.id) == record

    async def test_the_next_version_takes_the_place_of_the_one_before(self, store: Store) -> None:
        first = delivery("d")
        second = lease(first)
        await put(store, first, second)
        assert await store.get(Delivery, "d") == second

    async def test_two_kinds_may_use_one_id(self, store: Store) -> None:
        await store.commit("mia", Put(delivery("x")), Put(task("x")))
        await drop(store, delivery("x"))
        assert await store.get(Delivery, "x") is None
        assert await store.get(Task, "x") == task("x")

    async def test_what_exists_cannot_be_created_again(self, store: Store) -> None:
        await put(store, delivery("d"))
        with pytest.raises(Conflict):
            await put(store, delivery("d", body=b"other"))
        assert await store.get(Delivery, "d") == delivery("d")

    @pytest.mark.parametrize("version", [0, 1, 2, 4, 5])
    async def test_only_the_version_that_follows_the_stored_one_is_taken(self, store: Store, version: int) -> None:
        stored = newer(delivery("d"))
        await put(store, delivery("d"), stored)
        with pytest.raises(Conflict):
            await put(store, replace(stored, version=version, body=b"other"))
        assert await store.get(Delivery, "d") == stored

    @pytest.mark.parametrize("version", [2, 3])
    async def test_a_later_version_of_what_is_not_there_is_refused(self, store: Store, version: int) -> None:
        with pytest.raises(Conflict):
            await put(store, replace(delivery("d"), version=version))
        assert await store.get(Delivery, "d") is None

    async def test_of_two_that_read_the_same_version_one_loses(self, store: Store) -> None:
        read = delivery("d")
        await put(store, read, lease(read, receipt="one"))
        with pytest.raises(Conflict):
            await put(store, lease(read, receipt="other"))
        held = await store.get(Delivery, "d")
        assert held is not None
        assert held.receipt == "one"

    async def test_a_dropped_record_is_gone_and_its_id_is_free(self, store: Store) -> None:
        await put(store, delivery("d"), newer(delivery("d")))
        await drop(store, newer(delivery("d")))
        assert await store.get(Delivery, "d") is None
        await put(store, delivery("d", body=b"other"))
        assert await store.get(Delivery, "d") == delivery("d", body=b"other")

    @pytest.mark.parametrize("version", [1, 3])
    async def test_a_record_is_dropped_only_at_its_version(self, store: Store, version: int) -> None:
        stored = newer(delivery("d"))
        await put(store, delivery("d"), stored)
        with pytest.raises(Conflict):
            await drop(store, replace(stored, version=version))
        assert await store.get(Delivery, "d") == stored

    async def test_what_is_not_there_cannot_be_dropped(self, store: Store) -> None:
        with pytest.raises(Conflict):
            await drop(store, delivery("d"))

    @pytest.mark.parametrize("version", [1, 2])
    async def test_an_id_that_exists_at_another_partition_cannot_be_put(self, store: Store, version: int) -> None:
        await put(store, delivery("d", "mia"))
        with pytest.raises(Conflict):
            await put(store, replace(delivery("d", "eve"), version=version))
        assert await store.get(Delivery, "d") == delivery("d", "mia")

    async def test_an_id_that_exists_at_another_partition_cannot_be_dropped_from_here(self, store: Store) -> None:
        await put(store, delivery("d", "mia"))
        with pytest.raises(Conflict):
            await drop(store, delivery("d", "eve"))
        assert await store.get(Delivery, "d") == delivery("d", "mia")

    async def test_all_changes_of_a_commit_take_effect(self, store: Store) -> None:
        old = delivery("old")
        gone = task("gone")
        await put(store, old, gone)
        await store.commit("mia", Put(lease(old)), Drop(gone), Put(delivery("new")), Put(agent("mia")))
        assert await store.get(Delivery, "old") == lease(old)
        assert await store.get(Task, "gone") is None
        assert await store.get(Delivery, "new") == delivery("new")
        assert await store.get(Agent, "mia") == agent("mia")

    async def test_a_commit_of_nothing_changes_nothing(self, store: Store) -> None:
        await store.commit("mia")
        assert await store.get(Delivery, "d") is None

    @pytest.mark.parametrize("at", range(4))
    @pytest.mark.parametrize(
        "bad",
        [Put(delivery("old")), Drop(task("never")), Drop(newer(delivery("old"))), Put(newer(task("never")))],
        ids=["exists", "not there", "other version", "too late a version"],
    )
    async def test_one_conflict_anywhere_in_a_commit_undoes_all_of_it(
        self, store: Store, bad: Put | Drop, at: int
    ) -> None:
        gone = task("gone")
        await put(store, delivery("old"), gone)
        changes: list[Put | Drop] = [Put(delivery("new")), Drop(gone), Put(task("new"))]
        changes.insert(at, bad)
        with pytest.raises(Conflict):
            await store.commit("mia", *changes)
        assert await store.get(Delivery, "old") == delivery("old")
        assert await store.get(Delivery, "new") is None
        assert await store.get(Task, "gone") == gone
        assert await store.get(Task, "new") is None
        assert await store.get(Task, "never") is None

    async def test_a_conflict_names_the_record(self, store: Store) -> None:
        await put(store, delivery("old"), task("t"))
        for change, kind, id in (
            (Put(delivery("old")), Delivery, "old"),
            (Drop(newer(task("t"))), Task, "t"),
            (Drop(task("never")), Task, "never"),
            (Absent(Task, "t"), Task, "t"),
        ):
            with pytest.raises(Conflict) as raised:
                await store.commit("mia", Put(delivery("new")), change)
            (found,) = await store.commit_many([Batch("mia", (Put(delivery("new")), change))])
            for conflict in (raised.value, found):
                assert isinstance(conflict, Conflict), change
                assert (conflict.kind, conflict.id) == (kind, id), change
                assert id in str(conflict), change

    async def test_of_many_partitions_each_commits_all_or_nothing_on_its_own(self, store: Store) -> None:
        await put(store, delivery("old", "b"), task("gone", "c"), task("there", "e"))
        results = await store.commit_many(
            [
                Batch("a", (Put(delivery("new-a", "a")),)),
                Batch("b", (Put(task("new-b", "b")), Put(delivery("old", "b")))),
                Batch("c", (Drop(task("gone", "c")), Put(delivery("new-c", "c", merge="m")))),
                Batch("d", ()),
                Batch("e", (Put(delivery("new-e", "e")), Absent(Task, "there"))),
                Batch("f", (Put(delivery("new-f", "f", delay=5)),)),
            ]
        )
        assert [type(result) for result in results] == [type(None), Conflict, *[type(None)] * 2, Conflict, type(None)]
        ids = ["new-a", "old", "new-c", "new-e", "new-f", "never"]
        found = await store.get_many(Delivery, ids)
        assert [d and (d.id, d.mailbox) for d in found] == [
            ("new-a", "a"), ("old", "b"), ("new-c", "c"), None, ("new-f", "f"), None
        ]  # fmt: skip
        assert await store.get_many(Task, ["new-b", "gone"]) == [None, None]
        assert await store.get_many(Delivery, []) == []
        assert await store.commit_many([]) == []

    async def test_partitions_in_order_commit_up_to_the_first_that_does_not(self, store: Store) -> None:
        assert await store.commit_in_order([]) == []
        first = Batch("a", (Put(delivery("new", "a")), Absent(Task, "new")))
        await put(store, task("moved", "b"), task("gone", "c"))
        moved = replace(task("moved", "b"), version=2)
        second = Batch("b", (Put(moved), Put(delivery("beside", "b"))))
        assert await store.commit_in_order([first, Batch("d", ()), second]) == [None] * 3
        assert await store.get_many(Delivery, ["new", "beside"]) == [delivery("new", "a"), delivery("beside", "b")]
        assert await store.get(Task, "moved") == moved
        # Nothing behind a conflict takes effect, and all before it does.
        third = Batch("c", (Drop(task("gone", "c")), Put(delivery("other", "c"))))
        for batches, expected in (
            ([first, third], [Conflict]),
            ([Batch("a", (Put(delivery("more", "a")),)), second, third], [type(None), Conflict]),
            ([Batch("d", (Put(delivery("last", "d")),)), third, second], [type(None), type(None), Conflict]),
        ):
            results = await store.commit_in_order(batches)
            assert [type(result) for result in results] == expected
            conflict = results[-1]
            assert isinstance(conflict, Conflict)
            assert conflict.id in ("new", "moved")
            assert (await store.get(Task, "gone") is None) == (len(results) == 3)
        found = await store.get_many(Delivery, ["more", "last", "other"])
        assert [d and d.mailbox for d in found] == ["a", "d", "c"]
        with pytest.raises(ValueError, match="lives at"):
            await store.commit_in_order([Batch("a", (Put(delivery("astray", "b")),))])

    async def test_records_of_two_kinds_are_read_in_one_call(self, store: Store) -> None:
        many = [f"d{n}" for n in range(70)]
        await store.commit("mia", Put(agent("mia")), *(Put(delivery(id)) for id in many))
        asked = [*many, "never", "d3"]
        agents, found = await store.get_both((Agent, ["mia"]), (Delivery, asked))
        assert list(agents) == [agent("mia")]
        assert [d and d.id for d in found] == [*many, None, "d3"]
        both: Any = await store.get_both((Delivery, []), (Agent, ["eve"]))
        assert [list(some) for some in both] == [[], [None]]

    async def test_many_partitions_at_once_are_as_many_commits(self, store: Store) -> None:
        partitions = [f"box{n}" for n in range(store.partitions_at_once)]
        batches = [
            Batch(partition_key, (Put(delivery(f"d-{partition_key}", partition_key)),)) for partition_key in partitions
        ]
        assert await store.commit_many(batches) == [None] * len(partitions)
        again = await store.commit_many(batches)
        assert [result and (result.kind, result.id) for result in again if isinstance(result, Conflict)] == [
            (Delivery, f"d-{partition_key}") for partition_key in partitions
        ]

    async def test_what_must_be_absent_and_is_changes_nothing_itself(self, store: Store) -> None:
        await store.commit("mia", Absent(Task, "t"), Put(delivery("d")), Absent(Delivery, "e"))
        assert await store.get(Delivery, "d") == delivery("d")
        assert await store.get(Task, "t") is None
        assert await store.get(Delivery, "e") is None
        await store.commit("mia", Absent(Task, "t"))
        await store.commit("mia", Put(task("t")))
        assert await store.get(Task, "t") == task("t")

    @pytest.mark.parametrize("at", range(4))
    async def test_what_must_be_absent_and_is_there_undoes_all_of_the_commit(self, store: Store, at: int) -> None:
        gone = task("gone")
        await put(store, delivery("old"), gone)
        changes: list[Put | Drop | Absent] = [Put(delivery("new")), Drop(gone), Put(task("new"))]
        changes.insert(at, Absent(Delivery, "old"))
        with pytest.raises(Conflict):
            await store.commit("mia", *changes)
        assert await store.get(Delivery, "old") == delivery("old")
        assert await store.get(Delivery, "new") is None
        assert await store.get(Task, "gone") == gone
        assert await store.get(Task, "new") is None

    async def test_one_kind_is_absent_whatever_another_has_under_its_id(self, store: Store) -> None:
        await put(store, task("x"))
        await store.commit("mia", Absent(Delivery, "x"), Put(agent("mia")))
        assert await store.get(Agent, "mia") == agent("mia")
        with pytest.raises(Conflict):
            await store.commit("mia", Absent(Task, "x"))
        assert await store.get(Task, "x") == task("x")

    async def test_what_was_dropped_is_absent(self, store: Store) -> None:
        await put(store, task("t"), newer(task("t")))
        await drop(store, newer(task("t")))
        await store.commit("mia", Absent(Task, "t"), Put(delivery("d")))
        assert await store.get(Delivery, "d") == delivery("d")

    async def test_of_two_that_find_a_record_absent_and_put_another_both_win(self, store: Store) -> None:
        """Only what is put or dropped is fought over."""
        await store.commit("mia", Absent(Task, "t"), Put(delivery("d")))
        await store.commit("mia", Absent(Task, "t"), Put(delivery("e")))
        assert await store.get(Delivery, "e") == delivery("e")

    @pytest.mark.parametrize("at", range(2))
    @pytest.mark.parametrize("stray", [Put(delivery("stray", "eve")), Drop(delivery("eves", "eve")), Put(file("mia"))])
    async def test_a_commit_that_spans_two_partitions_is_a_mistake_and_changes_nothing(
        self, store: Store, stray: Put | Drop, at: int
    ) -> None:
        await put(store, delivery("eves", "eve"))
        changes: list[Put | Drop] = [Put(delivery("new"))]
        changes.insert(at, stray)
        with pytest.raises(ValueError, match="lives at"):
            await store.commit("mia", *changes)
        assert await store.get(Delivery, "new") is None
        assert await store.get(Delivery, "stray") is None
        assert await store.get(SharedFile, "mia") is None
        assert await store.get(Delivery, "eves") == delivery("eves", "eve")


class IndexContract(Opened):
    """The contents of the indexes, once they have caught up."""

    async def test_a_question_for_its_health_leaves_nothing_behind(self, store: Store) -> None:
        before = (await store.admission(), list(await store.ids("", "\uffff", 9)))
        assert await store.health() is None
        assert (await store.admission(), list(await store.ids("", "\uffff", 9))) == before

    async def test_memory_grows_with_every_kind_of_record_and_is_back_once_they_are_dropped(self, store: Store) -> None:
        records: list[Any] = [
            delivery("d"),
            task("t"),
            agent("a", "python"),
            file("f"),
            BROADCAST,
            KNOWLEDGE_OF_IT,
            POOL,
        ]
        for record in records:
            before = await memory(store)
            await put(store, record)
            assert await memory(store) >= before + record.footprint, record
            await drop(store, record)
            assert await memory(store) == before, record

    # -- ids ---------------------------------------------------------------------------------------------------------

    async def test_ids_of_all_kinds_are_found_by_their_first_characters(self, store: Store) -> None:
        made = [f"{n:04x}" for n in range(0, 4000, 12)]
        await store.commit("mia", *(Put(delivery(id)) for id in (*made, "0abc:mia")))
        await put(store, task("0abc"), agent("0abc"), agent("0abz"))
        both = sorted({*made, "0abc", "0abc:mia", "0abz"})
        for first, end, limit in (
            ("0abc", "0abcg", 9),  # a whole id and its copy, and no other
            ("0a", "0ag", 1000),
            ("0a", "0ag", 7),
            ("", "g", 100_000),
            ("0abc;", "0ag", 1000),
            ("f", "g", 9),
            ("0ag", "0a", 9),
        ):
            inside = [id for id in both if first <= id < end][:limit]
            assert list(await store.ids(first, end, limit)) == inside, (first, end, limit)
        await store.commit("mia", *(Drop(delivery(id)) for id in made[:300]))
        await drop(store, task("0abc"))
        left = sorted({*made[300:], "0abc", "0abc:mia", "0abz"})
        assert list(await store.ids("", "g", 100_000)) == left
        await drop(store, agent("0abc"))
        assert list(await store.ids("0abc", "0abcg", 9)) == ["0abc:mia"]

    async def test_copies_of_one_message_count_where_the_store_has_counted_before(self, store: Store) -> None:
        """A store may keep numbers up to date from the first question on."""
        boxes = ("anna", "berta", "clara")
        of_otto = {box: await store.load_from(box, None, "otto") for box in boxes}
        assert set(of_otto.values()) == {(Usage(0, 0), Usage(0, 0))}
        for number, count in enumerate((1, 2, 3), 1):
            copies = [delivery(f"{number}:{box}", box, arrival=number) for box in boxes]
            assert list(await store.commit_many([Batch(d.mailbox, (Put(d),)) for d in copies])) == [None] * len(boxes)
            for box in boxes:
                assert await store.load_from(box, None, "otto") == (Usage(count, 4 * count), Usage(count, 4 * count))
            assert (await store.admission(boxes)).mailboxes == [Usage(count, 4 * count)] * len(boxes)
            listed = [f"{n}:{box}" for n in range(1, number + 1) for box in boxes]
            assert list(await store.ids("", "~", 100)) == listed

    # -- page --------------------------------------------------------------------------------------------------------

    async def test_a_page_of_nothing_is_empty(self, store: Store) -> None:
        page = await store.page(Agent, REGISTERED)
        assert (list(page.records), page.after) == ([], None)

    async def test_records_are_listed_in_the_order_they_came(self, store: Store) -> None:
        order = ["m", "z", "a", "q"]
        await put(store, *map(agent, order))
        page = await store.page(Agent, REGISTERED)
        assert list(page.records) == [agent(id) for id in order]
        assert page.after is None

    @pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 100])
    async def test_paging_gives_each_record_once_and_ends(self, store: Store, limit: int) -> None:
        order = ["m", "z", "a", "q", "b", "y", "c"]
        await put(store, *map(agent, order))
        assert await walk(store, Agent, REGISTERED, limit) == order

    async def test_an_update_that_keeps_the_key_keeps_the_place(self, store: Store) -> None:
        await put(store, agent("a"), agent("b"), newer(agent("a"), last_heartbeat=NOW + 1))
        page = await store.page(Agent, REGISTERED)
        assert ids(page.records) == ["a", "b"]
        assert page.records[0].last_heartbeat == NOW + 1

    async def test_a_record_is_found_under_its_present_keys_only(self, store: Store) -> None:
        first = agent("a", "go", "python", name="ann")
        await put(store, first, newer(first, capabilities=("python", "rust"), name="anna"))
        found = {
            key: await walk(store, Agent, key, 10)
            for key in (by_capability("go"), by_capability("python"), by_capability("rust"), by_name("ann"))
        }
        assert found == {
            by_capability("go"): [],
            by_capability("python"): ["a"],
            by_capability("rust"): ["a"],
            by_name("ann"): [],
        }
        assert await walk(store, Agent, by_name("anna"), 10) == ["a"]

    async def test_a_record_that_comes_back_under_a_key_is_the_last_there(self, store: Store) -> None:
        a, b = agent("a", "go"), agent("b", "go")
        away = newer(a, capabilities=())
        await put(store, a, b, away, newer(away, capabilities=("go",)))
        assert await walk(store, Agent, by_capability("go"), 10) == ["b", "a"]

    async def test_a_dropped_record_is_listed_no_more(self, store: Store) -> None:
        await put(store, agent("a"), agent("b"))
        await drop(store, agent("a"))
        assert await walk(store, Agent, REGISTERED, 10) == ["b"]

    async def test_two_kinds_under_one_key_are_listed_apart(self, store: Store) -> None:
        done = ack(lease(delivery("d")))
        await put(store, delivery("d"), lease(delivery("d")), done)
        await put(store, Broadcast("b", 1, "mia", b"news", (), NOW, NOW + 9, refused=0))
        assert await walk(store, Delivery, SETTLED, 10) == ["d"]
        assert await walk(store, Broadcast, SETTLED, 10) == ["b"]
        assert await walk(store, Task, SETTLED, 10) == []

    async def test_a_walk_goes_on_where_it_was_when_the_last_record_seen_has_gone(self, store: Store) -> None:
        await put(store, *map(agent, "abcdef"))
        page = await store.page(Agent, REGISTERED, None, 2)
        await drop(store, agent("b"))
        rest = await store.page(Agent, REGISTERED, page.after, 10)
        assert ids(rest.records) == ["c", "d", "e", "f"]

    async def test_a_walk_meets_those_who_come_while_it_goes_on(self, store: Store) -> None:
        await put(store, *map(agent, "abc"))
        page = await store.page(Agent, REGISTERED, None, 2)
        await drop(store, agent("a"))
        await put(store, agent("d"))
        rest = await store.page(Agent, REGISTERED, page.after, 10)
        assert ids(rest.records) == ["c", "d"]

    async def test_a_walk_goes_on_although_all_have_gone_and_others_come(self, store: Store) -> None:
        await put(store, *map(agent, "abc"))
        page = await store.page(Agent, REGISTERED, None, 2)
        await drop(store, *map(agent, "abc"))
        await put(store, *map(agent, "de"))
        rest = await store.page(Agent, REGISTERED, page.after, 10)
        assert ids(rest.records) == ["d", "e"]

    @pytest.mark.parametrize("seed", range(5))
    async def test_a_walk_meets_everyone_who_stays_once_whoever_comes_goes_or_changes_meanwhile(
        self, store: Store, seed: int
    ) -> None:
        dice = random.Random(seed)
        there = {str(n): agent(str(n), "go") for n in range(40)}
        await put(store, *there.values())
        stayed = set(there)
        met: list[str] = []
        after: str | None = None
        for step in range(1_000):
            page = await store.page(Agent, by_capability("go"), after, dice.randint(1, 4))
            met += ids(page.records)
            after = page.after
            if after is None:
                break
            for _ in range(dice.randint(0, 3)):
                changed = newer(there[dice.choice(list(there))])
                there[changed.id] = changed
                await put(store, changed)
            if dice.random() < 0.5:
                gone = there.pop(dice.choice(list(there)))
                stayed.discard(gone.id)
                await drop(store, gone)
            if dice.random() < 0.3:
                there[f"new{step}"] = agent(f"new{step}", "go")
                await put(store, there[f"new{step}"])
        assert len(met) == len(set(met))
        assert set(there) <= set(met)
        assert [id for id in met if id in stayed] == sorted(stayed, key=int)

    @pytest.mark.parametrize("after", ["", "nonsense", "-1", "a", "\u0661"])
    async def test_a_walk_from_nowhere_starts_at_the_beginning(self, store: Store, after: str) -> None:
        await put(store, *map(agent, "abc"))
        assert ids((await store.page(Agent, REGISTERED, after, 2)).records) == ["a", "b"]
        assert ids((await store.page(Agent, REGISTERED, after, 2, newest=True)).records) == ["c", "b"]

    async def test_a_place_beyond_all_numbers_is_refused(self, store: Store) -> None:
        """SQLite has no larger number. Another store must not take for a place what this one cannot."""
        await put(store, agent("a"))
        for most in (str(2**63 - 1), "0" * 30 + "7"):
            assert ids((await store.page(Agent, REGISTERED, most)).records) == []
        for key, newest in ((REGISTERED, False), (REGISTERED, True), ("none", False)):
            for beyond in (str(2**63), "9" * 500):
                with pytest.raises(BadRequest, match="leave after out to begin the list again") as refused:
                    await store.page(Agent, key, beyond, newest=newest)
                assert (refused.value.field, refused.value.limit) == ("after", 2**63 - 1)

    async def test_a_page_of_the_newest_of_nothing_is_empty(self, store: Store) -> None:
        page = await store.page(Agent, REGISTERED, newest=True)
        assert (list(page.records), page.after) == ([], None)

    @pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 100])
    async def test_paging_from_the_newest_gives_each_record_once_in_the_other_order(
        self, store: Store, limit: int
    ) -> None:
        order = ["m", "z", "a", "q", "b", "y", "c"]
        await put(store, *map(agent, order))
        assert await walk(store, Agent, REGISTERED, limit, newest=True) == order[::-1]

    async def test_the_newest_is_what_came_under_the_key_last(self, store: Store) -> None:
        a, b = agent("a", "go"), agent("b", "go")
        away = newer(a, capabilities=())
        await put(store, a, b, newer(b, last_heartbeat=NOW + 1), away, newer(away, capabilities=("go",)))
        assert await walk(store, Agent, by_capability("go"), 1, newest=True) == ["a", "b"]
        assert await walk(store, Agent, REGISTERED, 1, newest=True) == ["b", "a"]

    async def test_a_walk_from_the_newest_goes_on_where_it_was_when_the_last_record_seen_has_gone(
        self, store: Store
    ) -> None:
        await put(store, *map(agent, "abcdef"))
        page = await store.page(Agent, REGISTERED, None, 2, newest=True)
        await drop(store, agent("e"))
        rest = await store.page(Agent, REGISTERED, page.after, 10, newest=True)
        assert ids([*page.records, *rest.records]) == ["f", "e", "d", "c", "b", "a"]

    async def test_a_walk_from_the_newest_never_meets_those_who_come_while_it_goes_on(self, store: Store) -> None:
        await put(store, *map(agent, "abcd"))
        page = await store.page(Agent, REGISTERED, None, 2, newest=True)
        await put(store, agent("e"))
        await drop(store, agent("b"))
        rest = await store.page(Agent, REGISTERED, page.after, 10, newest=True)
        assert (ids(page.records), ids(rest.records), rest.after) == (["d", "c"], ["a"], None)

    async def test_a_walk_from_the_newest_ends_although_all_have_gone_and_others_come(self, store: Store) -> None:
        await put(store, *map(agent, "abc"))
        page = await store.page(Agent, REGISTERED, None, 2, newest=True)
        await drop(store, *map(agent, "abc"))
        await put(store, *map(agent, "de"))
        rest = await store.page(Agent, REGISTERED, page.after, 10, newest=True)
        assert (ids(rest.records), rest.after) == ([], None)

    async def test_a_walk_may_turn_round(self, store: Store) -> None:
        await put(store, *map(agent, "abcdef"))
        there = await store.page(Agent, REGISTERED, None, 4)
        back = await store.page(Agent, REGISTERED, there.after, 10, newest=True)
        assert (ids(there.records), ids(back.records)) == (["a", "b", "c", "d"], ["c", "b", "a"])

    @pytest.mark.parametrize("seed", range(5))
    async def test_a_walk_from_the_newest_meets_everyone_who_stays_once_whoever_comes_goes_or_changes_meanwhile(
        self, store: Store, seed: int
    ) -> None:
        dice = random.Random(seed)
        there = {str(n): agent(str(n), "go") for n in range(40)}
        await put(store, *there.values())
        stayed = set(there)
        met: list[str] = []
        after: str | None = None
        for step in range(1_000):
            page = await store.page(Agent, by_capability("go"), after, dice.randint(1, 4), newest=True)
            met += ids(page.records)
            after = page.after
            if after is None:
                break
            for _ in range(dice.randint(0, 3)):
                changed = newer(there[dice.choice(list(there))])
                there[changed.id] = changed
                await put(store, changed)
            if dice.random() < 0.5:
                gone = there.pop(dice.choice(list(there)))
                stayed.discard(gone.id)
                await drop(store, gone)
            if dice.random() < 0.3:
                there[f"new{step}"] = agent(f"new{step}", "go")
                await put(store, there[f"new{step}"])
        assert len(met) == len(set(met))
        assert not any(id.startswith("new") for id in met)
        assert [id for id in met if id in stayed] == sorted(stayed, key=int, reverse=True)

    async def test_open_tasks_and_finished_ones_are_listed_apart(self, store: Store) -> None:
        t = task("t")
        await put(store, t, task("other", "eve"))
        assert await walk(store, Task, by_owner("mia"), 10) == ["t"]
        await put(store, report(t, TaskState.COMPLETED))
        assert await walk(store, Task, by_owner("mia"), 10) == []
        assert await walk(store, Task, by_assignee("mia", TaskState.COMPLETED), 10) == ["t"]
        assert await walk(store, Task, by_assignee("mia", TaskState.FAILED), 10) == []
        assert await walk(store, Task, SETTLED, 10) == ["t"]

    async def test_a_task_without_a_record_is_found_by_who_asked_and_counted_for_who_has_it(self, store: Store) -> None:
        pool = pool_for(["go"], []).id
        waits = asked("d", pool, body=b"12345")
        queued, delivered = (by_requester("otto", state) for state in (TaskState.QUEUED, TaskState.DELIVERED))
        await put(store, waits, asked("other", "eve", requester="eve"), delivery("plain"))
        assert await walk(store, Delivery, queued, 10) == ["d"]
        assert await store.usage(Delivery, by_owner(pool)) == Usage(1, 5)
        held = fetch(waits, by="mia")
        await put(store, held)
        assert (await walk(store, Delivery, queued, 10), await walk(store, Delivery, delivered, 10)) == ([], ["d"])
        assert await store.usage(Delivery, by_owner(pool)) == Usage(0, 0)
        assert await store.usage(Delivery, by_owner("mia")) == Usage(1, 5)
        kept = delivery_steps.ack_task(held, receipt="r", now=NOW, until=NOW + 120)
        await put(store, kept)
        assert await walk(store, Delivery, delivered, 10) == ["d"]
        assert await store.usage(Delivery, by_owner("mia")) == Usage(1, 5)
        assert await walk(store, Delivery, SETTLED, 10) == []
        await put(store, delivery_steps.take_back(kept, now=NOW, keep_receipt=False))
        assert (await walk(store, Delivery, queued, 10), await walk(store, Delivery, delivered, 10)) == ([], [])
        assert await store.usage(Delivery, by_owner("mia")) == Usage(0, 0)

    async def test_a_task_that_gets_a_record_moves_from_one_list_to_the_other_at_once(self, store: Store) -> None:
        held = fetch(asked("t"))
        task_from_delivery = task_rules.task_from_delivery(held)
        await put(store, asked("t"), held)
        beside = delivery_steps.beside_record(held, NOW + 60, expires_at=NOW + TTL)
        await store.commit("mia", Put(beside), Put(report(task_from_delivery, TaskState.IN_PROGRESS)))
        key = by_requester("otto", TaskState.IN_PROGRESS)
        assert (await walk(store, Task, key, 10), await walk(store, Delivery, by_owner("mia"), 10)) == (["t"], [])
        assert await walk(store, Task, by_owner("mia"), 10) == ["t"]
        assert await walk(store, Delivery, by_requester("otto", TaskState.DELIVERED), 10) == []

    async def test_a_pool_is_found_by_each_thing_that_may_lead_to_it(self, store: Store) -> None:
        one, other, left = pool_for(["go", "sql"], []), pool_for(["go"], ["mia", "eve"]), waiting_for("ann", "Ann")
        await put(store, *(pool.used(NOW) for pool in (one, other, left)))
        found = {
            key: await walk(store, Pool, key, 10)
            for key in (POOLS, by_capability("go"), by_member("mia"), by_member("eve"), by_name("ANN"))
        }
        assert found == {
            POOLS: [one.id, other.id, left.id],
            by_capability("go"): [one.id],
            by_member("mia"): [other.id],
            by_member("eve"): [other.id],
            by_name("ANN"): ["ann"],
        }

    async def test_what_was_told_is_found_by_topic_tag_and_author_the_newest_first(self, store: Store) -> None:
        for id, author, topic, tags in (("1", "mia", "build", ("a",)), ("2", "eve", "Build", ("A", "b"))):
            await put(store, Knowledge(id, 1, author, b"news", topic, tags, NOW, NOW + TTL))
        assert await walk(store, Knowledge, KNOWLEDGE, 1, newest=True) == ["2", "1"]
        assert await walk(store, Knowledge, by_topic("build"), 1, newest=True) == ["2", "1"]
        assert await walk(store, Knowledge, by_tag("a"), 1, newest=True) == ["2", "1"]
        assert await walk(store, Knowledge, by_tag("b"), 1) == ["2"]
        assert await walk(store, Knowledge, by_author("mia"), 1) == ["1"]

    async def test_an_unread_notice_is_found_by_what_it_is_about_until_it_is_read(self, store: Store) -> None:
        notice = delivery("n", merge="file:a")
        key = rules.by_merge("mia", "file:a")
        await put(store, notice, delivery("other", merge="file:b"))
        assert await walk(store, Delivery, key, 10) == ["n"]
        held = lease(notice)
        await put(store, held)
        assert await walk(store, Delivery, key, 10) == []
        await put(store, delivery_steps.release(held, receipt="r", now=NOW))
        assert await walk(store, Delivery, key, 10) == ["n"]

    # -- usage -------------------------------------------------------------------------------------------------------

    async def test_usage_counts_records_and_their_bytes(self, store: Store) -> None:
        assert await store.usage(SharedFile, PRESENT) == Usage(0, 0)
        await put(store, file("a", b"12345"), file("b", b""))
        assert await store.usage(SharedFile, PRESENT) == Usage(2, 5)
        await put(
            store, newer(file("a"), versions=(written(b"123"),)), newer(file("b"), versions=(written(b"1234567"),))
        )
        assert await store.usage(SharedFile, PRESENT) == Usage(2, 10)
        await drop(store, newer(file("a")))
        assert await store.usage(SharedFile, PRESENT) == Usage(1, 7)
        await put(store, newer(newer(file("b")), versions=(), ends_at=NOW + 1))
        assert await store.usage(SharedFile, PRESENT) == Usage(0, 0)

    async def test_usage_moves_with_the_keys_and_grows_with_the_record(self, store: Store) -> None:
        t = task("t", body=b"12345")
        done = report(t, TaskState.FAILED, b"123")
        await put(store, t)
        assert await store.usage(Task, by_owner("mia")) == Usage(1, 5)
        await put(store, done)
        assert await store.usage(Task, by_owner("mia")) == Usage(0, 0)
        assert await store.usage(Task, by_assignee("mia", TaskState.FAILED)) == Usage(1, 8)
        assert await store.usage(Task, SETTLED) == Usage(1, 8)
        await drop(store, done)
        assert await store.usage(Task, SETTLED) == Usage(0, 0)

    # -- load and total ----------------------------------------------------------------------------------------------

    async def test_a_mailbox_holds_what_is_pending_and_what_is_dead(self, store: Store) -> None:
        assert (await load(store, "mia"), await total(store)) == (Usage(0, 0), Usage(0, 0))
        d, e = delivery("d", body=b"12345"), delivery("e", body=b"123")
        await put(store, d, e)
        assert await load(store, "mia") == Usage(2, 8)
        await put(store, lease(d))
        assert await load(store, "mia") == Usage(2, 8)
        await put(store, delivery_steps.bury(e, now=NOW, keep=KEEP))
        assert await load(store, "mia") == Usage(2, 8)
        await put(store, ack(lease(d)))
        assert await load(store, "mia") == Usage(1, 3)
        await put(store, delivery_steps.expire(delivery_steps.bury(e, now=NOW, keep=KEEP), now=NOW, keep=KEEP))
        assert (await load(store, "mia"), await total(store)) == (Usage(0, 0), Usage(0, 0))

    async def test_a_task_is_in_its_mailbox_until_it_is_acked_and_again_when_it_is_taken_back(
        self, store: Store
    ) -> None:
        d = asked("d", body=b"12345")
        held = fetch(d)
        kept = delivery_steps.ack_task(held, receipt="r", now=NOW, until=NOW + 120)
        back = delivery_steps.take_back(kept, now=NOW + 120, keep_receipt=True)
        await put(store, d, held)
        assert (await load(store, "mia"), await due(store, NOW + 59), await due(store, NOW + 60)) == (
            Usage(1, 5),
            [],
            ["d"],
        )
        await put(store, kept)
        assert (await load(store, "mia"), await due(store, NOW + 500)) == (Usage(0, 0), [])
        assert await store.next_due_at("mia") is None
        await put(store, back)
        assert (await load(store, "mia"), await due(store, NOW + 119), await due(store, NOW + 120)) == (
            Usage(1, 5),
            [],
            ["d"],
        )

    async def test_many_questions_at_once_are_answered_in_their_order(self, store: Store) -> None:
        await put(store, delivery("d1", "a", merge="m", arrival=1), delivery("d2", "a", merge="m", arrival=2))
        await put(store, delivery("d3", "b", merge="m", body=b"long body"))
        boxes = ["b", "none", "a", "b"]
        keys = [(Delivery, rules.by_merge(box, "m")) for box in boxes]
        read = await store.admission(boxes, keys)
        assert read.mailboxes == [Usage(1, 9), Usage(0, 0), Usage(2, 8), Usage(1, 9)]
        assert read.indexes == [await store.usage(*key) for key in keys] == read.mailboxes
        assert read.total == Usage(3, 17)
        firsts = await store.first_of(Delivery, [rules.by_merge(box, "m") for box in boxes])
        assert [d and d.id for d in firsts] == ["d3", None, "d1", "d3"]

    async def test_a_mailbox_grows_with_what_it_holds(self, store: Store) -> None:
        notice = delivery("n", body=b"1", merge="file:a")
        newest = delivery_steps.supersede(notice, b"12345", now=NOW, ttl=TTL)
        assert newest is not None
        await put(store, notice, newest)
        assert (await load(store, "mia"), await total(store)) == (Usage(1, 5), Usage(1, 5))

    async def test_the_total_is_that_of_all_mailboxes(self, store: Store) -> None:
        await put(store, delivery("d", "mia", body=b"12"), delivery("e", "eve", body=b"345"))
        assert [await load(store, m) for m in ("mia", "eve", "otto")] == [Usage(1, 2), Usage(1, 3), Usage(0, 0)]
        assert await total(store) == Usage(2, 5)
        await drop(store, delivery("d", "mia", body=b"12"))
        assert (await load(store, "mia"), await total(store)) == (Usage(0, 0), Usage(1, 3))

    async def test_a_conflict_leaves_every_index_as_it_was(self, store: Store) -> None:
        old = delivery("old", body=b"12345")
        await put(store, old, agent("mia", "go"))
        with pytest.raises(Conflict):
            await store.commit(
                "mia",
                Put(lease(old)),
                Put(delivery("new", body=b"1")),
                Put(newer(agent("mia"), capabilities=("rust",))),
                Put(task("t")),
                Drop(task("never")),
            )
        assert await due(store, NOW) == ["old"]
        assert (await load(store, "mia"), await total(store)) == (Usage(1, 5), Usage(1, 5))
        assert await walk(store, Agent, by_capability("go"), 10) == ["mia"]
        assert await walk(store, Agent, by_capability("rust"), 10) == []
        assert await store.usage(Task, by_owner("mia")) == Usage(0, 0)
        assert ids(await store.ending(Delivery, NOW + TTL + 1, 10)) == ["old"]

    # -- due ---------------------------------------------------------------------------------------------------------

    async def test_nothing_is_due_in_an_unknown_mailbox(self, store: Store) -> None:
        assert await due(store, NOW) == []

    async def test_priority_goes_first_then_arrival(self, store: Store) -> None:
        order = ["urgent1", "urgent2", "high", "normal1", "normal2", "low"]
        ranked = [
            delivery("urgent1", level=Priority.URGENT.level, arrival=5),
            delivery("urgent2", level=Priority.URGENT.level, arrival=9),
            delivery("high", level=Priority.HIGH.level, arrival=8),
            delivery("normal1", level=Priority.NORMAL.level, arrival=2),
            delivery("normal2", level=Priority.NORMAL.level, arrival=6),
            delivery("low", level=Priority.LOW.level, arrival=1),
        ]
        random.Random(3).shuffle(ranked)
        await put(store, *ranked)
        assert await due(store, NOW) == order
        assert await due(store, NOW, limit=2) == order[:2]

    async def test_a_delivery_may_be_stored_as_it_is_leased(self, store: Store) -> None:
        message = replace(lease(delivery("d"), seconds=60), version=1)
        given = replace(fetch(asked("t"), seconds=30), version=1, sort_key=message.sort_key + 1)
        await put(store, message, given)
        assert [await store.get(Delivery, id) for id in "dt"] == [message, given]
        assert await due(store, NOW) == []
        assert await store.next_due_at("mia") == NOW + 30
        assert (await store.admission(("mia",))).mailboxes[0].count == 2
        for key in given.index_keys:
            assert (await store.page(Delivery, key)).records == [given]
        assert await due(store, NOW + 30) == ["t"]
        assert await due(store, NOW + 60) == ["d", "t"]
        await put(store, delivery_steps.ack(message, receipt="r", now=NOW + 61, keep=KEEP))
        assert await due(store, NOW + 61) == ["t"]

    async def test_a_mailbox_that_fills_and_empties_over_and_over_tells_what_is_due(self, store: Store) -> None:
        random_ = random.Random(14)
        there: dict[str, Delivery] = {}

        async def change(new: Delivery) -> None:
            await put(store, new)
            if new.state is rules.PENDING:
                there[new.id] = new
            else:
                there.pop(new.id, None)
            order = sorted(there.values(), key=lambda d: d.sort_key)
            assert await due(store, NOW, limit=200) == [d.id for d in order if d.visible_at <= NOW]
            at, soonest = await store.next_due_at("mia"), min([d.visible_at for d in order], default=None)
            assert (at is None) == (soonest is None)
            assert (at or 0) <= max(soonest or 0, NOW)

        numbers = iter(range(1000))
        for most in (2, 70, 1, 80, 3):
            while len(there) < most:
                n = next(numbers)
                new = delivery(f"d{n}", level=random_.randrange(4), arrival=n)
                await change(new)
                if n % 5 == 0:
                    await change(lease(new))
                if n % 9 == 0:
                    await change(delivery_steps.bury(there[new.id], now=NOW, keep=KEEP))
            while there:
                d = random_.choice(list(there.values()))
                if d.receipt is None:
                    await change(d := lease(d))
                await change(ack(d))

    async def test_a_claim_commits_what_its_rule_returns_for_what_is_due(self, store: Store) -> None:
        ranked = [delivery(f"d{n}", arrival=n) for n in range(4)]
        await put(store, *reversed(ranked), delivery("later", delay=9), delivery("eve's", "eve"))
        seen: list[Delivery] = []

        def rule(found: Sequence[Delivery]) -> list[Put]:
            seen[:] = found
            return [Put(lease(d)) for d in found[:2]]

        assert await store.claim("mia", NOW, 3, rule) is None
        assert seen == ranked[:3]
        assert await store.get_many(Delivery, ["d0", "d1", "d2"]) == [lease(ranked[0]), lease(ranked[1]), ranked[2]]
        assert await store.claim("mia", NOW, 3, lambda found: ()) is None  # it may leave all
        assert await due(store, NOW) == ["d2", "d3"]

    async def test_a_claim_that_finds_nothing_tells_when_the_next_is_due(self, store: Store) -> None:
        def never(found: Sequence[Delivery]) -> list[Put]:
            raise AssertionError(found)

        assert await store.claim("mia", NOW, 3, never) is None
        await put(store, delivery("later", delay=9), delivery("latest", delay=12))
        assert await store.claim("mia", NOW, 3, never) == NOW + 9

    async def test_a_claim_leaves_all_while_there_are_records_of_an_index(self, store: Store) -> None:
        def never(found: Sequence[Delivery]) -> list[Put]:
            raise AssertionError(found)

        d = delivery("d")
        await put(store, POOL)
        assert await store.claim("mia", NOW, 3, never, unless=(Pool, POOLS)) == SKIPPED  # the mailbox is empty
        await put(store, d)
        assert await store.claim("mia", NOW, 3, never, unless=(Pool, POOLS)) == SKIPPED
        assert await due(store, NOW) == ["d"]
        await drop(store, POOL)
        assert await store.claim("mia", NOW, 3, lambda found: [Put(lease(d))], unless=(Pool, POOLS)) is None
        assert await due(store, NOW) == []

    async def test_a_claim_whose_rule_fails_or_errs_changes_nothing(self, store: Store) -> None:
        a, b = delivery("a", arrival=1), delivery("b", arrival=2)
        await put(store, a, b, delivery("c", "eve"))

        def fails(found: Sequence[Delivery]) -> list[Put]:
            raise KeyError(found[0].id)

        with pytest.raises(KeyError):
            await store.claim("mia", NOW, 3, fails)
        with pytest.raises(Conflict):
            await store.claim("mia", NOW, 3, lambda found: [Put(lease(a)), Put(newer(lease(b)))])
        with pytest.raises(ValueError, match="lives at"):
            await store.claim("mia", NOW, 3, lambda found: [Put(lease(a)), Put(lease(delivery("c", "eve")))])
        assert await store.get_many(Delivery, ["a", "b"]) == [a, b]
        assert await due(store, NOW) == ["a", "b"]

    async def test_claims_that_meet_get_different_deliveries(self, store: Store) -> None:
        await put(store, *(delivery(f"d{n}", arrival=n) for n in range(12)))
        given: dict[int, Sequence[Delivery]] = {}

        async def claim(number: int) -> None:
            def rule(found: Sequence[Delivery]) -> list[Put]:
                given[number] = found
                return [Put(lease(d)) for d in found]

            await store.claim("mia", NOW, 3, rule)

        await asyncio.gather(*map(claim, range(5)))
        assert sorted(d.id for found in given.values() for d in found) == sorted(f"d{n}" for n in range(12))

    async def test_a_claim_whose_deliveries_go_meanwhile_does_not_return_as_if_it_had_them(self, store: Store) -> None:
        d = delivery("d")
        await put(store, d)
        others: list[asyncio.Future[None]] = []

        def rule(found: Sequence[Delivery]) -> list[Put]:
            others.append(asyncio.ensure_future(put(store, delivery_steps.expire(d, now=NOW, keep=KEEP))))
            return [Put(replace(lease(d), version=9))]  # meets a conflict, and nothing is due then

        with pytest.raises(Conflict):
            await store.claim("mia", NOW, 3, rule)
        await asyncio.gather(*others)

    async def test_due_gives_the_records_as_last_committed(self, store: Store) -> None:
        notice = delivery("n", merge="file:a")
        newest = delivery_steps.supersede(notice, b"news", now=NOW, ttl=TTL)
        assert newest is not None
        await put(store, notice, newest)
        assert list(await store.due("mia", NOW, 10)) == [newest]

    async def test_mailboxes_do_not_mix(self, store: Store) -> None:
        await put(store, delivery("d", "mia"), delivery("e", "eve"))
        assert (await due(store, NOW, "mia"), await due(store, NOW, "eve")) == (["d"], ["e"])

    async def test_what_is_stored_to_wait_is_due_when_its_time_has_come(self, store: Store) -> None:
        await put(store, delivery("d", delay=10))
        assert await due(store, NOW + 9.9) == []
        assert await due(store, NOW + 10) == ["d"]

    async def test_a_leased_message_is_not_due_until_its_lease_lapses(self, store: Store) -> None:
        d = delivery("d")
        await put(store, d, lease(d, seconds=60))
        assert await due(store, NOW + 59.9) == []
        assert list(await store.due("mia", NOW + 60, 10)) == [lease(d, seconds=60)]

    async def test_a_message_that_is_due_again_is_back_at_its_old_place(self, store: Store) -> None:
        a, b, c = (delivery(id, arrival=n) for n, id in enumerate("abc"))
        await put(store, a, b, c, lease(b, seconds=60))
        assert await due(store, NOW) == ["a", "c"]
        assert await due(store, NOW + 60) == ["a", "b", "c"]

    async def test_a_message_leased_anew_waits_for_the_new_lease(self, store: Store) -> None:
        d = delivery("d")
        once = lease(d, seconds=60)
        twice = lease(once, receipt="s", now=NOW + 60, seconds=60)
        await put(store, d, once)
        assert await due(store, NOW + 60) == ["d"]
        await put(store, twice)
        assert await due(store, NOW + 61) == []
        assert await due(store, NOW + 120) == ["d"]

    async def test_of_very_many_leases_that_lapse_at_once_the_lowest_rank_is_due_first(self, store: Store) -> None:
        waiting = [delivery(f"d{n:04}", arrival=2000 - n) for n in range(1100)]
        await store.commit("mia", *(Put(each) for each in waiting))
        await store.commit("mia", *(Put(lease(each)) for each in waiting))
        await put(store, delivery("later", arrival=3000))
        assert await due(store, NOW) == ["later"]
        assert (await due(store, NOW + 61))[:3] == ["d1099", "d1098", "d1097"]

    async def test_an_extended_lease_lapses_at_its_new_end_and_once(self, store: Store) -> None:
        d = delivery("d")
        held = lease(d, seconds=60)
        await put(store, d, held, delivery_steps.extend(held, receipt="r", now=NOW + 30, seconds=60))
        assert await due(store, NOW + 89.9) == []
        assert await due(store, NOW + 90) == ["d"]
        assert await due(store, NOW + 91) == ["d"]

    async def test_a_message_given_back_is_due_after_its_delay(self, store: Store) -> None:
        d = delivery("d")
        held = lease(d)
        await put(store, d, held, delivery_steps.nack(held, receipt="r", now=NOW + 1, delay=5))
        assert await due(store, NOW + 5.9) == []
        assert await due(store, NOW + 6) == ["d"]

    async def test_a_released_message_is_due_at_once(self, store: Store) -> None:
        d = delivery("d")
        await put(store, d, lease(d), delivery_steps.release(lease(d), receipt="r", now=NOW + 1))
        assert await due(store, NOW + 1) == ["d"]

    async def test_a_settled_message_is_never_due_again(self, store: Store) -> None:
        a, b, c = (delivery(id, arrival=n) for n, id in enumerate("abc"))
        await put(store, a, b, c, lease(a), ack(lease(a)))
        await put(store, delivery_steps.expire(b, now=NOW, keep=KEEP), delivery_steps.bury(c, now=NOW, keep=KEEP))
        assert await due(store, NOW + 10_000) == []

    async def test_a_redriven_message_is_due_at_its_old_place(self, store: Store) -> None:
        a, b, c = (delivery(id, arrival=n) for n, id in enumerate("abc"))
        dead = delivery_steps.bury(b, now=NOW, keep=KEEP)
        await put(store, a, b, c, dead, delivery_steps.redrive(dead, now=NOW + 1, ttl=TTL))
        assert await due(store, NOW + 1) == ["a", "b", "c"]

    async def test_an_id_stored_anew_is_due_once_whatever_was_filed_for_it_before(self, store: Store) -> None:
        d = delivery("d", delay=10)
        await put(store, delivery("other", level=Priority.LOW.level), d)
        await drop(store, d)
        await put(store, d)
        assert await due(store, NOW + 10) == ["d", "other"]

    async def test_an_id_stored_anew_keeps_its_lease_when_one_from_before_lapses(self, store: Store) -> None:
        d = delivery("d")
        before = lease(d, seconds=60)
        await put(store, delivery("other", level=Priority.LOW.level), d, before)
        await drop(store, before)
        await put(store, d, lease(d, now=NOW + 30, seconds=60))
        assert await due(store, NOW + 60) == ["other"]
        assert await due(store, NOW + 90) == ["d", "other"]

    @pytest.mark.parametrize("delay", [0.0, 60.0])
    async def test_an_id_stored_anew_and_settled_does_not_come_back_when_a_lease_from_before_lapses(
        self, store: Store, delay: float
    ) -> None:
        d = delivery("d")
        await put(store, delivery("other", level=Priority.LOW.level), d, lease(d, seconds=60))
        await drop(store, lease(d, seconds=60))
        anew = delivery("d", delay=delay)
        await put(store, anew, delivery_steps.expire(anew, now=NOW, keep=KEEP))
        assert await due(store, NOW + 60) == ["other"]
        assert ids(await store.pending("mia", 10)) == ["other"]

    async def test_an_id_stored_anew_in_another_mailbox_is_due_only_there(self, store: Store) -> None:
        d = delivery("d", "mia", delay=10)
        await put(store, delivery("other", "mia", level=Priority.LOW.level), d)
        await drop(store, d)
        await put(store, replace(d, mailbox="eve"))
        assert await due(store, NOW + 10, "mia") == ["other"]
        assert await due(store, NOW + 10, "eve") == ["d"]

    async def test_a_lease_lengthened_over_and_over_lapses_once(self, store: Store) -> None:
        d = delivery("d")
        held = lease(d, seconds=60)
        await put(store, d, held)
        for second in range(1, 500):
            held = delivery_steps.extend(held, receipt="r", now=NOW + second, seconds=60)
            await put(store, held)
            assert await store.next_due_at("mia") == NOW + second + 60
        assert await due(store, NOW + 558) == []
        assert await due(store, NOW + 559) == ["d"]

    # -- next_due_at -------------------------------------------------------------------------------------------------

    async def test_nothing_pending_has_no_time(self, store: Store) -> None:
        assert await store.next_due_at("mia") is None
        d = delivery("d")
        await put(store, d, lease(d), ack(lease(d)))
        assert await store.next_due_at("mia") is None

    async def test_a_dead_letter_has_no_time(self, store: Store) -> None:
        d = delivery("d")
        await put(store, d, delivery_steps.bury(d, now=NOW, keep=KEEP))
        assert await store.next_due_at("mia") is None

    async def test_while_something_is_due_the_time_is_past(self, store: Store) -> None:
        await put(store, delivery("a", delay=50), delivery("b"))
        at = await store.next_due_at("mia")
        assert at is not None
        assert at <= NOW

    async def test_the_earliest_lease_or_delay_says_when_to_look_again(self, store: Store) -> None:
        a, b = delivery("a"), delivery("b", arrival=1)
        held = lease(a, seconds=30)
        await put(store, a, b, held, lease(b, seconds=60), delivery("c", delay=45))
        assert await store.next_due_at("mia") == NOW + 30
        await put(store, delivery_steps.extend(held, receipt="r", now=NOW, seconds=90))
        assert await store.next_due_at("mia") == NOW + 45

    async def test_a_lapsed_lease_has_a_time_in_the_past(self, store: Store) -> None:
        d = delivery("d")
        await put(store, d, lease(d, seconds=30))
        await due(store, NOW + 40)
        assert await store.next_due_at("mia") == NOW + 30

    async def test_an_end_that_moves_within_its_second_is_found(self, store: Store) -> None:
        d = delivery("d")
        await put(store, d)
        moved = replace(d, version=2, expires_at=float(int(d.expires_at)) + 0.75)
        await put(store, moved)
        assert ids(await store.ending(Delivery, d.expires_at + 2, 10)) == ["d"]
        await put(store, replace(moved, version=3, expires_at=d.expires_at + 9))
        assert ids(await store.ending(Delivery, d.expires_at + 2, 10)) == []
        assert ids(await store.ending(Delivery, d.expires_at + 10, 10)) == ["d"]
        await drop(store, replace(moved, version=3, expires_at=d.expires_at + 9))
        assert ids(await store.ending(Delivery, d.expires_at + 10, 10)) == []

    # -- pending -----------------------------------------------------------------------------------------------------

    async def test_pending_is_all_that_is_not_settled(self, store: Store) -> None:
        records = {id: delivery(id, arrival=n) for n, id in enumerate("abcde")}
        waiting = delivery("later", delay=50)
        await put(store, *records.values(), waiting, delivery("eves", "eve"))
        await put(store, held := lease(records["b"]), lease(records["c"]), ack(lease(records["c"])))
        await put(
            store,
            delivery_steps.expire(records["d"], now=NOW, keep=KEEP),
            delivery_steps.bury(records["e"], now=NOW, keep=KEEP),
        )
        found = await store.pending("mia", 10)
        assert {d.id: d for d in found} == {"a": records["a"], "b": held, "later": waiting}
        assert len(found) == 3
        assert len(await store.pending("mia", 2)) == 2

    async def test_lists_step_over_ids_that_are_not_wanted(self, store: Store) -> None:
        await put(store, *(delivery(f"d{n}", arrival=n, delay=n % 2) for n in range(6)))
        for limit, but, expected in (
            (10, {"d0", "d1", "d9"}, {"d2", "d3", "d4", "d5"}),
            (10, {"d0", "d1", "d2", "d3", "d4", "d5"}, set()),
        ):
            assert set(ids(await store.pending("mia", limit, but))) == expected, but
            assert set(ids(await store.ending(Delivery, NOW + TTL + 1, limit, but))) == expected, but
        assert len(await store.pending("mia", 3, {"d0", "d1"})) == 3
        assert len(await store.ending(Delivery, NOW + TTL + 1, 3, {"d0", "d1"})) == 3

    async def test_a_mailbox_without_a_next_due_time_has_no_work_whatever_else_it_holds(self, store: Store) -> None:
        held = replace(delivery("held"), version=1, visible_at=math.inf)
        for record, works in (
            (delivery("d"), True),
            (delivery("later", delay=50), True),
            (held, True),
            (delivery_steps.bury(replace(delivery("dead"), version=0), now=NOW, keep=KEEP), False),
            (replace(ack(lease(delivery("done"))), version=1), False),
        ):
            await put(store, record)
            assert (await store.next_due_at("mia") is not None) is works, record
            assert bool(await store.pending("mia", 1)) is works, record
            await drop(store, record)
        assert await store.next_due_at("mia") is None

    async def test_nothing_is_pending_in_an_unknown_mailbox(self, store: Store) -> None:
        assert list(await store.pending("mia", 10)) == []

    # -- ending ------------------------------------------------------------------------------------------------------

    async def test_a_record_ends_when_its_time_has_come_and_up_to_a_second_later(self, store: Store) -> None:
        await put(store, delivery("d"))
        assert ids(await store.ending(Delivery, NOW + TTL - 0.001, 10)) == []
        assert ids(await store.ending(Delivery, NOW + TTL + 1, 10)) == ["d"]
        assert ids(await store.ending(Delivery, NOW + 10 * TTL, 10)) == ["d"]

    async def test_a_record_does_not_end_a_fraction_of_a_second_early(self, store: Store) -> None:
        await put(store, replace(delivery("d"), expires_at=NOW + 5.9), replace(delivery("e"), expires_at=NOW + 5.1))
        assert set(ids(await store.ending(Delivery, NOW + 5.5, 10))) <= {"e"}
        assert set(ids(await store.ending(Delivery, NOW + 6.9, 10))) == {"d", "e"}

    async def test_a_record_ends_at_its_present_time_only(self, store: Store) -> None:
        d = delivery("d")
        acked = ack(lease(d))
        await put(store, d, lease(d), acked)
        assert list(await store.ending(Delivery, NOW + KEEP + 1, 10)) == [acked]
        kept = newer(acked, expires_at=NOW + 3 * TTL)
        await put(store, kept)
        assert ids(await store.ending(Delivery, NOW + 2 * TTL, 10)) == []
        assert ids(await store.ending(Delivery, NOW + 3 * TTL + 1, 10)) == ["d"]

    async def test_a_task_without_a_record_ends_with_its_holders_time(self, store: Store) -> None:
        d = asked("d")
        held = fetch(d, seconds=60)
        await put(store, d)
        assert ids(await store.ending(Delivery, NOW + 61, 10)) == []
        await put(store, held)
        assert ids(await store.ending(Delivery, NOW + 59, 10)) == []
        assert ids(await store.ending(Delivery, NOW + 61, 10)) == ["d"]
        await put(store, delivery_steps.postpone(held, NOW + 300))
        assert ids(await store.ending(Delivery, NOW + 61, 10)) == []
        assert ids(await store.ending(Delivery, NOW + 301, 10)) == ["d"]

    async def test_a_task_ends_with_its_owners_time_or_its_own(self, store: Store) -> None:
        t = task_steps.claim(task("t"), by="mia", receipt="r", now=NOW, seconds=60)
        await put(store, task("t"), t)
        assert ids(await store.ending(Task, NOW + 61, 10)) == ["t"]
        await put(store, task_steps.lapse(t, now=NOW + 61, note="gone"))
        assert ids(await store.ending(Task, NOW + TTL - 1, 10)) == []
        assert ids(await store.ending(Task, NOW + TTL + 1, 10)) == ["t"]

    async def test_what_was_dropped_or_never_ends_does_not_end(self, store: Store) -> None:
        await put(store, delivery("d"), file("f"), agent("a"), pool_for(["go"], []).used(NOW))
        await drop(store, delivery("d"))
        for kind in (Delivery, SharedFile, Agent, Pool):
            found: Sequence[Record] = await store.ending(kind, NOW + 100 * TTL, 10)
            assert list(found) == []

    async def test_a_deleted_file_ends(self, store: Store) -> None:
        await put(store, file("f"), newer(file("f"), versions=(), ends_at=NOW + 5))
        assert ids(await store.ending(SharedFile, NOW + 6, 10)) == ["f"]

    async def test_kinds_end_apart(self, store: Store) -> None:
        await store.commit("mia", Put(delivery("d")), Put(task("t")))
        assert ids(await store.ending(Task, NOW + TTL + 1, 10)) == ["t"]

    async def test_no_more_than_asked_for_end_at_once_and_the_rest_after_them(self, store: Store) -> None:
        records = {str(n): replace(delivery(str(n)), expires_at=NOW + n / 3) for n in range(30)}
        await put(store, *records.values())
        ended: list[str] = []
        while found := await store.ending(Delivery, NOW + 11, 7):
            assert len(found) <= 7
            ended += ids(found)
            await drop(store, *found)
        assert sorted(ended, key=int) == list(records)

    async def test_ends_are_found_in_any_order_of_their_coming(self, store: Store) -> None:
        ends = [500.0, 3.0, 90_000.0, 3.5, 40.0, 1_000.0, -700.0]
        for n, end in enumerate(ends):
            await put(store, replace(delivery(str(n)), expires_at=NOW + end))
            assert {d.ends_at for d in await store.ending(Delivery, NOW + 50, 100)} == {
                NOW + e for e in ends[: n + 1] if e <= 50
            }
        assert len(await store.ending(Delivery, NOW + 2_000, 100)) == 6
        assert len(await store.ending(Delivery, NOW + 200_000, 100)) == 7


class StoreContract(TruthContract, IndexContract):
    """Everything a store promises."""

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError("a store's own test class gives this fixture")
