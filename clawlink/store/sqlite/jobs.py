"""The jobs of the writer, from their callers to a transaction and back: commits, and questions that run behind them.

The next transaction begins when the last one is on the disk. The callers whom that answered ask again, so a transaction
that waits for them spares an fsync: some turns of the event loop on a fast disk, and some milliseconds on a slow one.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import Any

import msgspec

from clawlink.store.base import Absent, Batch, Conflict, Failed, Put
from clawlink.store.sqlite.rows import Kinds, Row, Values, row_of

# A change of a record touches about three pages beside its bytes.
CHANGE_BYTES = 3 * 4096

# The most jobs that share a transaction, so that the first of them does not wait for too many others.
_MOST_JOBS = 256
# A disk is slow if the last transaction took longer. Then the next one pauses half as long for as many jobs.
_SLOW_SECONDS, LONGEST_PAUSE_SECONDS = 0.001, 0.005
# A transaction waits while jobs come, but for this long at most. A caller that was answered needs two turns of the
# event loop to ask again: one that reads its request, and one that handles it.
LONGEST_GATHERING_SECONDS, _STILL_TURNS = 0.002, 2


class Change(msgspec.Struct, gc=False):
    """A change of a record. It ``follows`` the stored version, 0 for none; without a ``row`` the record goes.

    Without a ``record`` it changes nothing, and asks only that there is none. The table sets ``old``, the row of the
    version before.
    """

    kind: type[Any]
    number: int
    id: str
    follows: int
    record: Any = None
    row: Row | None = None
    values: Values = ()
    ends_work: bool = False
    old: Row | None = None


class Commit(msgspec.Struct, eq=False):
    """Changes of one or several partitions, and the future of their caller.

    ``size`` is about how many bytes of the log they take. With ``in_order`` nothing behind a partition that has a
    conflict is changed. The commit is ``settled`` once the event loop has counted it, and ``fate`` is done then.
    """

    future: asyncio.Future[Any]
    in_order: bool
    batches: list[tuple[str, list[Change]]] = []
    size: int = 0
    done: list[Change] = []
    results: list[Conflict | Failed | None] = []
    settled: bool = False
    fate: asyncio.Future[None] | None = None  # of a waiter that was cancelled


class Question(msgspec.Struct, eq=False):
    """A query that runs behind all commits so far, and the function for its answer on the event loop."""

    ask: Callable[[sqlite3.Connection], Any]
    take: Callable[[Any], None]
    future: asyncio.Future[Any]
    answer: Any = None
    failure: Exception | None = None


Job = Commit | Question


class Work:
    """Jobs whose commits share a transaction. It has ``begun``, and has the first ``applied`` commits."""

    __slots__ = ("applied", "begun", "commits", "jobs", "new_kinds")

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.commits = [job for job in jobs if isinstance(job, Commit)]
        self.begun = False
        self.applied = 0
        self.new_kinds: set[int] = set()


class Gathering:
    """Gathers the jobs of one event loop at a time, and has ``submit`` take them together, one lot after the other."""

    def __init__(self, submit: Callable[[list[Job]], None]) -> None:
        self._submit = submit
        self._jobs: list[Job] = []
        self._loop: asyncio.AbstractEventLoop | None = None  # it has jobs that wait, or that are not done
        self._timer: asyncio.TimerHandle | None = None
        self._seen = self._still = 0  # the jobs that were here a turn ago, and since how many turns
        self._began = self._submitted = 0.0  # when this lot began to gather, and when the last one went
        self._last = 1  # the jobs of the last transaction
        self._took = 0.0

    def add(self, job: Job, loop: asyncio.AbstractEventLoop) -> None:
        """Have a job done, together with those that wait. A job of another event loop may come between them."""
        self._jobs.append(job)
        if self._loop is not loop:
            self._loop, self._timer = loop, None
            self._begin(loop)
        elif self._timer is not None and len(self._jobs) >= self._last:
            self._timer.cancel()
            self._go()

    def settled(self) -> None:
        """Begin to gather for the next transaction: the last one is done."""
        self._took = perf_counter() - self._submitted
        if self._jobs and self._loop is not None:
            self._begin(self._loop)
        else:
            self._loop = None

    def rest(self) -> list[Job]:
        """Take all jobs that wait."""
        jobs, self._jobs = self._jobs, []
        return jobs

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._seen, self._still, self._began = 0, 0, perf_counter()
        loop.call_soon(self._look)

    def _look(self) -> None:
        """Submit the jobs, unless it is better to wait for more of them."""
        count, loop, slow = len(self._jobs), self._loop, self._took > _SLOW_SECONDS
        if loop is not None and count < (_MOST_JOBS if slow else self._last):
            self._still = self._still + 1 if count == self._seen else 0
            self._seen = count
            if self._still < _STILL_TURNS and perf_counter() - self._began < LONGEST_GATHERING_SECONDS:
                loop.call_soon(self._look)
                return
            if slow and count < self._last:
                self._timer = loop.call_later(min(self._took / 2, LONGEST_PAUSE_SECONDS), self._go)
                return
        self._go()

    def _go(self) -> None:
        self._timer = None
        jobs, self._jobs = self._jobs[:_MOST_JOBS], self._jobs[_MOST_JOBS:]
        if jobs:
            self._last, self._submitted = len(jobs), perf_counter()
            self._submit(jobs)


class Jobs:
    """The jobs of one store. The writer takes lots of them by ``submit``, and calls ``settled`` once they are done.

    ``follow`` is told of the changes of each commit that took effect, in the order in which the writer made them.
    """

    def __init__(
        self, kinds: Kinds, submit: Callable[[list[Job]], None], follow: Callable[[Sequence[Change]], None]
    ) -> None:
        self._kinds = kinds
        self._follow = follow
        self._gathering = Gathering(submit)
        self._asked: dict[object, asyncio.Future[Any]] = {}
        self.unsettled = 0
        """How many jobs are not done."""

    async def commit(self, batches: Iterable[Batch], *, in_order: bool = False) -> Sequence[Conflict | Failed | None]:
        """Commit batches, each by itself; return the result of each, as ``Store.commit_many``."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Sequence[Conflict | Failed | None]] = loop.create_future()
        commit = Commit(future, in_order)
        for batch in batches:
            self._add(batch, commit)
        self.unsettled += 1
        self._gathering.add(commit, loop)
        try:
            return await future
        except asyncio.CancelledError:
            await _decided(commit)  # else the caller would undo now what takes effect in a moment
            raise

    def _add(self, batch: Batch, commit: Commit) -> None:
        """Add the changes of a batch to a commit. Raises ValueError."""
        partition_key, kinds, size = batch.partition_key, self._kinds, 0
        changes: list[Change] = []
        for change in batch.changes:
            if isinstance(change, Absent):
                changes.append(Change(change.kind, kinds[change.kind], change.id, 0))
                continue
            record: Any = change.record
            kind, id = type(record), record.id
            if record.partition_key != partition_key:
                raise ValueError(f"{kind.__name__} {id!r} lives at {record.partition_key!r}, not at {partition_key!r}")
            if type(change) is Put:
                row, values = row_of(record, partition_key)
                size += len(values[-1])
                changes.append(Change(kind, kinds[kind], id, row.version - 1, record, row, values, change.ends_work))
            else:
                changes.append(Change(kind, kinds[kind], id, record.version, record))
        commit.batches.append((partition_key, changes))
        commit.size += size + CHANGE_BYTES * len(changes)

    async def ask(self, what: object, ask: Callable[[sqlite3.Connection], Any], take: Callable[[Any], None]) -> None:
        """Ask as ``SqliteStore.ask``."""
        future, loop = self._asked.get(what), asyncio.get_running_loop()
        if future is None or future.get_loop() is not loop:
            future = self._asked[what] = loop.create_future()
            future.add_done_callback(lambda _: self._asked.pop(what, None))
            self.unsettled += 1
            self._gathering.add(Question(ask, take, future), loop)
        await asyncio.shield(future)

    def rest(self) -> list[Job]:
        """Take all jobs that wait."""
        return self._gathering.rest()

    def settled(self, jobs: Sequence[Job]) -> None:
        """Tell what took effect, and answer. The questions were asked behind all of these commits."""
        self.unsettled -= len(jobs)
        questions: list[Question] = []
        for job in jobs:
            if isinstance(job, Commit):
                self._follow(job.done)
                job.settled = True
                if not job.future.done():
                    job.future.set_result(job.results)
                elif job.fate is not None and not job.fate.done():
                    job.fate.set_result(None)
            else:
                questions.append(job)
        for job in questions:
            if job.failure is None:
                job.take(job.answer)
                if not job.future.done():
                    job.future.set_result(None)
            elif not job.future.done():
                job.future.set_exception(Failed(f"SQLite: {job.failure}"))
                job.future.exception()  # whoever asked may have been cancelled
        self._gathering.settled()


async def _decided(commit: Commit) -> None:
    """Wait until a commit has taken effect or not, however often the waiter is cancelled."""
    while not commit.settled:
        commit.fate = asyncio.get_running_loop().create_future()
        with contextlib.suppress(asyncio.CancelledError):
            await commit.fate
