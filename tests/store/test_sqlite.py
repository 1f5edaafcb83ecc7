"""The store over SQLite: it keeps the contract, over a restart too, and says why it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from clawlink.domain.delivery import Delivery
from clawlink.domain.record import Record
from clawlink.domain.task import Task, by_owner
from clawlink.store.base import Batch, Conflict, Failed, Full, Put, Store, Usage
from clawlink.store.contents import LostWrites
from clawlink.store.sqlite.database import APPLICATION_ID, VERSION, DataFolderError
from clawlink.store.sqlite.store import SqliteStore
from tests.store.asking import load, total
from tests.store.contract import (
    NOW,
    StoreContract,
    delivery,
    drop,
    put,
    task,
)
from tests.store.durable import DurableContract, Failing


class TestSqliteStore(StoreContract):
    """The contract."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return SqliteStore(tmp_path / "clawlink.db", sync="normal")


class TestDurable(DurableContract):
    """The contract over a restart."""

    @pytest.fixture
    def errors(self) -> list[Exception]:
        """Errors that keep the next transactions from the disk."""
        return []

    @pytest.fixture
    def again(self, tmp_path: Path, errors: list[Exception]) -> Callable[[], Store]:
        def before_commit() -> None:
            for error in errors:
                raise error

        return lambda: SqliteStore(tmp_path / "clawlink.db", before_commit=before_commit)

    @pytest.fixture
    def store(self, again: Callable[[], Store]) -> Store:
        return again()

    @pytest.fixture
    def failing(self, errors: list[Exception]) -> Failing:
        @contextlib.contextmanager
        def fails(error: Exception) -> Iterator[None]:
            errors.append(error)
            yield
            errors.clear()

        no_room, no_disk = OSError(errno.ENOSPC, "no room"), sqlite3.OperationalError("disk I/O error")
        return lambda store: [fails(no_room), fails(no_disk), fails(LostWrites(errno.EIO, "an fsync failed"))]

    @pytest.fixture
    def later(self, tmp_path: Path) -> Callable[[], Awaitable[object]]:
        async def write() -> None:
            make(tmp_path / "clawlink.db", f"PRAGMA user_version = {VERSION + 1}")

        return write


async def opened(path: Path, **options: Any) -> SqliteStore:
    """Return an open store."""
    store = SqliteStore(path, **options)
    await store.open()
    return store


async def reopened(path: Path, *records: Record) -> None:
    """Open a database and see that it has these records."""
    store = await opened(path)
    try:
        for record in records:
            assert await store.get(type(record), record.id) == record
    finally:
        await store.close()


async def test_a_closed_store_leaves_all_in_the_database_and_no_log(tmp_path: Path) -> None:
    store = await opened(tmp_path / "clawlink.db")
    await put(store, delivery("d"))
    await store.close()
    assert os.listdir(tmp_path) == ["clawlink.db"]


async def test_a_record_that_only_the_disk_remembers_is_not_stored_twice(tmp_path: Path) -> None:
    path = tmp_path / "clawlink.db"
    store = await opened(path)
    await put(store, delivery("d"), task("t"))
    await store.close()
    store = await opened(path)
    for changes in (
        (Put(delivery("d")),),
        (Put(delivery("d")), Put(task("new"))),
        (Put(task("new")), Put(delivery("d"))),
        (Put(delivery("new")), Put(replace(task("t"), version=3))),
    ):
        with pytest.raises(Conflict):
            await store.commit("mia", *changes)
        assert await store.get(Task, "new") is None
        assert await store.get(Delivery, "new") is None
    await store.commit("mia", Put(task("new")), Put(delivery("new")))
    assert await load(store, "mia") == Usage(2, 8)
    await store.close()


async def test_commits_that_wait_share_a_transaction_and_each_is_all_or_nothing(tmp_path: Path) -> None:
    transactions: list[None] = []
    store = await opened(tmp_path / "clawlink.db", before_commit=lambda: transactions.append(None))
    await put(store, delivery("old", "box7"))
    transactions.clear()
    results = await asyncio.gather(
        *(store.commit(f"box{n}", Put(delivery(f"d{n}", f"box{n}"))) for n in range(50)),
        store.commit("box7", Put(delivery("new", "box7")), Put(delivery("old", "box7"))),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [*[type(None)] * 50, Conflict]
    assert len(transactions) < 10
    assert await store.get(Delivery, "new") is None
    assert await total(store) == Usage(51, 51 * 4)
    await store.close()


async def test_a_full_disk_refuses_writes_and_leaves_all_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "clawlink.db"
    store = await opened(path)
    await put(store, delivery("d"))
    pages = await limit_pages(store, more=8)
    refused = await asyncio.gather(
        *(store.commit("mia", Put(delivery(f"large{n}", body=b"x" * 9000))) for n in range(20)), return_exceptions=True
    )
    assert {type(result) for result in refused if result is not None} == {Full}
    (result,) = await store.commit_many([Batch("mia", (Put(delivery("larger", body=b"x" * 90_000)),))])
    assert isinstance(result, Full)
    there = await total(store)
    assert await store.get(Delivery, "d") == delivery("d")
    await drop(store, delivery("d"))
    await limit_pages(store, more=pages + 1000)
    await put(store, delivery("larger", body=b"x" * 90_000))
    assert (await total(store)).count == there.count
    await store.close()
    await reopened(path, delivery("larger", body=b"x" * 90_000))


async def limit_pages(store: SqliteStore, *, more: int) -> int:
    """Let the database grow by some pages at most; return how many it has."""

    def ask(db: sqlite3.Connection) -> int:
        pages: int = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages + more}").fetchone()
        return pages

    answers: list[int] = []
    await store.ask("pages", ask, answers.append)
    return answers[0]


async def test_a_value_that_no_column_takes_harms_no_commit_beside_it(tmp_path: Path) -> None:
    store = await opened(tmp_path / "clawlink.db")
    results = await asyncio.gather(
        store.commit("mia", Put(delivery("d"))),
        store.commit("mia", Put(replace(delivery("e"), sort_key=2**63))),
        store.commit("mia", Put(delivery("f"))),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), Failed, type(None)]
    await put(store, delivery("e"))
    assert (await total(store)).count == 3
    await store.close()


async def test_a_cancelled_commit_is_whole_and_is_counted(tmp_path: Path) -> None:
    store = await opened(tmp_path / "clawlink.db")
    work = asyncio.ensure_future(store.commit("mia", Put(delivery("d")), Put(task("t"))))
    await asyncio.sleep(0)
    work.cancel()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    there = [await store.get(Delivery, "d") is not None, await store.get(Task, "t") is not None]
    assert there == [True, True], "it was not decided when the call raised"
    assert await load(store, "mia") == Usage(1, 4)
    await store.close()


async def test_counts_are_true_while_commits_are_on_their_way(tmp_path: Path) -> None:
    store = await opened(tmp_path / "clawlink.db")
    asked_at_once = await asyncio.gather(
        *(store.commit("mia", Put(task(f"t{n}"))) for n in range(40)),
        store.usage(Task, by_owner("mia")),
        store.usage_from(Task, by_owner("mia"), None, "otto"),
        store.usage(Task, by_owner("mia")),
        *(store.commit("mia", Put(task(f"u{n}"))) for n in range(40)),
    )
    assert asked_at_once[40] == asked_at_once[42] == Usage(80, 240)  # behind all that waited with it
    assert await store.usage(Task, by_owner("mia")) == Usage(80, 240)
    assert (await store.usage_from(Task, by_owner("mia"), None, "otto"))[1] == Usage(80, 240)
    await store.close()


async def test_the_bytes_that_are_counted_are_those_of_the_file(tmp_path: Path) -> None:
    """SQLite leaves room on each page, and most of all with rows that are a little longer than half of it."""
    for size in (0, 500, 1_700, 2_500, 4_500, 6_000, 20_000):
        path = tmp_path / f"{size}.db"
        store = await opened(path)
        empty = (await store.admission()).memory
        for start in range(0, 640, 32):
            ids = [hashlib.sha256(str(n).encode()).hexdigest()[:24] for n in range(start, start + 32)]
            tasks = [task(id, f"mailbox {n}", body=os.urandom(size)) for n, id in enumerate(ids)]
            results = await store.commit_many([Batch(t.partition_key, (Put(t),)) for t in tasks])
            assert not any(results)
        counted = (await store.admission()).memory - empty
        await store.close()
        assert 0.6 < path.stat().st_size / counted < 1.1, size


async def test_large_messages_that_memory_does_not_keep_are_due_all_the_same(tmp_path: Path) -> None:
    store = await opened(tmp_path / "clawlink.db", sync="normal")
    boxes = ["mia", "eve", "zoe"]
    for n in range(18):
        await put(store, delivery(f"d{n}", boxes[n % 3], arrival=n, body=bytes(2**20)))
    for at, box in enumerate(boxes):
        assert [d.id for d in await store.due(box, NOW, 9)] == [f"d{n}" for n in range(at, 18, 3)]
        assert await store.next_due_at(box) == NOW
    await store.close()


def make(path: Path, *statements: str) -> None:
    """Make a database."""
    db = sqlite3.connect(path)
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


async def test_what_is_not_ours_is_refused_with_a_sentence_and_stays_as_it_is(tmp_path: Path) -> None:
    foreign, text, later = tmp_path / "foreign.db", tmp_path / "text.db", tmp_path / "later.db"
    make(foreign, "CREATE TABLE t (x)")
    text.write_bytes(b"a diary, and no database at all\n" * 200)
    make(later, f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {VERSION + 1}")
    for path, why in ((foreign, "of other software"), (text, "no SQLite database"), (later, "by a later ClawLink")):
        before, store = path.read_bytes(), SqliteStore(path)
        with pytest.raises(DataFolderError, match=why) as raised:
            await store.open()
        await store.close()
        assert store.broken is None
        assert str(path) in raised.value.message
        assert path.read_bytes() == before, why


async def test_a_damaged_page_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "clawlink.db"
    store = await opened(path)
    await put(store, *(delivery(f"d{n}", body=b"x" * 500) for n in range(200)))
    await store.close()
    whole = path.read_bytes()
    damaged = whole[: 4096 * 8] + b"\xff" * (len(whole) - 4096 * 8)
    path.write_bytes(damaged)
    with pytest.raises(DataFolderError, match=r"damaged .* clawlink doctor --data"):
        await opened(path)
    assert path.read_bytes() == damaged


async def test_an_empty_file_that_a_crash_left_is_filled(tmp_path: Path) -> None:
    path = tmp_path / "clawlink.db"
    path.touch()
    store = await opened(path)
    await put(store, delivery("d"))
    await store.close()
    await reopened(path, delivery("d"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows shows no open files")
async def test_a_start_that_fails_leaves_no_file_open(tmp_path: Path) -> None:
    path = tmp_path / "clawlink.db"
    await (await opened(path)).close()
    make(path, "ALTER TABLE kind RENAME TO kinds")
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(DataFolderError, match="kind"):
        await opened(path)
    assert len(os.listdir("/dev/fd")) == before
