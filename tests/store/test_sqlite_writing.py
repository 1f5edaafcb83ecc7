"""The parts of a transaction over SQLite: the event loop does what takes no time, and a thread does what waits."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clawlink.domain.delivery import Delivery
from clawlink.store.base import Drop, Failed, Put
from clawlink.store.sqlite import database, jobs, reading, table, writer
from clawlink.store.sqlite.jobs import Gathering, Job, Question
from tests.store.contract import delivery, newer, put
from tests.store.test_sqlite import opened
from tests.waiting import PATIENCE, until


class Watch:
    """The statements of the writing connection, and whether each ran on the thread of the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[str, bool]] = []
        self.on_begin: Callable[[], None] = lambda: None
        here, real = threading.get_ident(), database.connect

        def see(statement: str) -> None:
            what = statement.split(" ")[0]
            self.seen.append((what, threading.get_ident() == here))
            if what == "BEGIN":
                self.on_begin()

        def connect(path: Path, **options: bool) -> sqlite3.Connection:
            db = real(path, **options)
            db.set_trace_callback(see)
            return db

        monkeypatch.setattr(database, "connect", connect)

    def here(self, what: str) -> list[bool]:
        """Return whether each statement of this kind ran on the event loop."""
        return [here for seen, here in self.seen if seen == what]


async def test_the_event_loop_changes_records_and_never_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    store = await opened(tmp_path / "clawlink.db")
    await put(store, delivery("before"))
    watch.seen.clear()
    await put(store, delivery("d"))
    assert (watch.here("BEGIN"), watch.here("COMMIT")) == ([True], [False])
    assert True in watch.here("INSERT")
    assert False not in watch.here("INSERT")

    watch.seen.clear()
    large = delivery("large", body=b"x" * writer.LARGE_BYTES)
    await asyncio.gather(store.commit("mia", Put(newer(delivery("d")))), store.commit("mia", Put(large)))
    assert watch.here("BEGIN") == [True], "both share a transaction"
    assert watch.here("UPDATE") == [True]
    assert watch.here("INSERT") == [False], "large commits take longer"
    assert await store.get(Delivery, "large") == large
    await store.close()


async def test_a_read_uses_the_writing_connection_between_transactions_alone(tmp_path: Path) -> None:
    going, on = threading.Event(), threading.Event()

    def before_commit() -> None:
        going.set()
        assert on.wait(PATIENCE)

    on.set()
    store = await opened(tmp_path / "clawlink.db", before_commit=before_commit)
    await put(store, delivery("there"))
    on.clear()
    going.clear()
    commit = asyncio.create_task(store.commit("mia", Put(delivery("new")), Drop(delivery("there"))))
    await until(going.is_set)
    assert await store.get(Delivery, "new") is None, "it is not on the disk yet, and the read does not wait"
    assert await store.get(Delivery, "there") is not None
    on.set()
    await commit
    assert await store.get(Delivery, "there") is None
    assert await store.get(Delivery, "new") == delivery("new")
    await store.close()


async def test_a_slow_disk_leaves_transactions_to_the_thread_for_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    store = await opened(tmp_path / "clawlink.db")
    await put(store, delivery("before"))
    now = [1000.0]
    monkeypatch.setattr(writer, "perf_counter", lambda: now[0])

    def take_long() -> None:
        now[0] += 0.1

    pause = writer.SHORTEST_PAUSE
    for number in range(3):  # each pause is longer
        watch.on_begin = take_long
        await put(store, delivery(f"slow{number}"))
        watch.on_begin = lambda: None
        now[0] += pause * 0.9
        watch.seen.clear()
        await put(store, delivery(f"meanwhile{number}"))
        assert watch.here("BEGIN") == [False], number
        now[0] += pause * 0.2
        pause *= 2
    watch.seen.clear()
    await put(store, delivery("after"))
    assert watch.here("BEGIN") == [True]
    await store.close()


async def test_another_process_that_writes_holds_up_commits_and_not_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    store = await opened(tmp_path / "clawlink.db")
    await put(store, delivery("before"))
    watch.seen.clear()
    other = sqlite3.connect(tmp_path / "clawlink.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    commit = asyncio.ensure_future(store.commit("mia", Put(delivery("d"))))
    await until(lambda: False in watch.here("BEGIN"))  # the thread waits
    assert await store.get(Delivery, "before") == delivery("before")
    assert not commit.done()
    other.execute("ROLLBACK")
    await commit
    other.execute("INSERT OR REPLACE INTO meta VALUES ('owner', 'another')")
    other.close()
    with pytest.raises(Failed, match="another relay has taken the database"):
        await put(store, delivery("e"))
    await store.close()


class Loop:
    """An event loop whose turns a test takes."""

    def __init__(self, now: list[float]) -> None:
        self.now = now
        self.soon: list[Callable[[], None]] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def call_soon(self, call: Callable[[], None]) -> None:
        self.soon.append(call)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Any:
        timer = (seconds, call)
        self.timers.append(timer)
        return type("Handle", (), {"cancel": lambda _: self.timers.remove(timer)})()

    def turn(self) -> None:
        calls, self.soon = self.soon, []
        for call in calls:
            call()


class Gathered:
    """A gathering over such a loop, and the sizes of what it submitted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = [100.0]
        monkeypatch.setattr(jobs, "perf_counter", lambda: self.now[0])
        self.loop: Any = Loop(self.now)
        self.sizes: list[int] = []
        self.gathering = Gathering(lambda jobs: self.sizes.append(len(jobs)))

    def add(self, count: int) -> None:
        for _ in range(count):
            job: Job = Question(lambda _: None, lambda _: None, None)  # type: ignore[arg-type]
            self.gathering.add(job, self.loop)

    def settle(self, *, after: float) -> None:
        self.now[0] += after
        self.gathering.settled()


def test_jobs_go_at_once_on_a_fast_disk_and_gather_while_others_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    lots = Gathered(monkeypatch)
    lots.add(1)
    lots.loop.turn()
    assert lots.sizes == [1], "a lone caller waits for nothing"
    lots.add(20)
    lots.loop.turn()
    assert lots.sizes == [1]
    lots.settle(after=0.0005)
    lots.loop.turn()
    assert lots.sizes == [1, 20]
    lots.add(5)  # fewer than before: others may come in the next turns
    lots.settle(after=0.0005)
    for more in (3, 2, 0, 0):
        lots.loop.turn()
        lots.add(more)
    assert lots.sizes == [1, 20]
    lots.loop.turn()
    assert lots.sizes == [1, 20, 10]
    lots.add(300)
    lots.settle(after=0.0005)
    lots.loop.turn()
    lots.settle(after=0.0005)
    for _ in range(3):
        lots.loop.turn()
    assert lots.sizes == [1, 20, 10, 256, 44]
    assert not lots.loop.timers


def test_on_a_slow_disk_jobs_wait_for_as_many_as_the_last_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    lots = Gathered(monkeypatch)
    lots.add(8)
    for _ in range(3):
        lots.loop.turn()
    lots.settle(after=0.004)
    lots.add(4)
    for _ in range(3):
        lots.loop.turn()
    ((seconds, call),) = lots.loop.timers
    assert (lots.sizes, seconds) == ([8], pytest.approx(0.002))
    lots.add(3)
    assert lots.sizes == [8]
    lots.add(1)
    assert (lots.sizes, lots.loop.timers) == ([8, 8], [])

    lots.settle(after=1.0)
    lots.add(2)
    for _ in range(3):
        lots.loop.turn()
    ((seconds, call),) = lots.loop.timers
    assert seconds == jobs.LONGEST_PAUSE_SECONDS
    call()  # no more came
    assert lots.sizes == [8, 8, 2]
    lots.loop.timers.clear()
    lots.settle(after=1.0)
    lots.add(2)
    lots.now[0] += 2 * jobs.LONGEST_GATHERING_SECONDS
    lots.loop.turn()
    assert lots.sizes == [8, 8, 2, 2], "as many as before go at once"


def test_a_loop_that_has_ended_does_not_hold_up_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    lots = Gathered(monkeypatch)
    lots.add(1)
    lots.loop.turn()
    lots.add(1)  # its loop ends before the first is settled
    lots.loop = Loop(lots.now)
    lots.add(1)
    for _ in range(3):
        lots.loop.turn()
    assert lots.sizes == [1, 2]


async def test_an_idle_store_gives_free_pages_back_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "IDLE_SECONDS", 0.01)
    path = tmp_path / "clawlink.db"
    store = await opened(path)
    many = [delivery(f"d{n}", body=b"x" * 20_000) for n in range(600)]
    await asyncio.gather(*(store.commit("mia", Put(d)) for d in many))
    await until(lambda: path.stat().st_size > 12_000_000)
    await put(store, kept := delivery("kept"))
    await asyncio.gather(*(store.commit("mia", Drop(d)) for d in many))
    await until(lambda: path.stat().st_size < 4_500_000)
    assert (store.broken, await store.get(Delivery, "kept")) == (None, kept)
    await store.close()
    again = await opened(path)
    assert list(again.all(Delivery)) == [kept]
    await again.close()


async def test_what_is_kept_in_memory_is_let_go_a_little_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To free the records of a whole cache at once holds the event loop. The blocks that each commit frees tell."""
    kept = 500
    monkeypatch.setattr(table, "MOST_KNOWN", kept)
    monkeypatch.setattr(reading, "CACHE_BYTES", kept * delivery("d").footprint)
    store = await opened(tmp_path / "clawlink.db")
    gc.collect()
    gc.disable()
    try:
        most, before = 0, sys.getallocatedblocks()
        for number in range(4 * kept):
            await put(store, delivery(f"d{number}"))
            blocks = sys.getallocatedblocks()
            most, before = max(most, before - blocks), blocks
    finally:
        gc.enable()
    assert most < kept, "a record has several blocks"
    await store.close()


async def test_a_record_that_is_written_often_stays_known_to_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that is not known costs a query before its change."""
    monkeypatch.setattr(table, "MOST_KNOWN", 3)
    watch = Watch(monkeypatch)
    store = await opened(tmp_path / "clawlink.db")
    often = delivery("often")
    await put(store, often)
    watch.seen.clear()
    for number in range(9):
        often = newer(often)
        await put(store, often)
        await put(store, delivery(f"d{number}"))
    seen = [what for what, _ in watch.seen]
    assert seen.count("SELECT") == seen.count("BEGIN"), "each transaction asks whose the database is, and nothing else"
    await store.close()
