"""The only writing thread: all waiting commits become one transaction, and each is answered after its fsync.

A commit names the versions that it follows. The writer compares all of them before it changes anything for that
partition, so a conflict needs no savepoint. The other partitions of the transaction do not notice.

The writer puts the log into the database itself, after the answers of a transaction. So it learns what fails there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, NamedTuple

from clawlink.store.base import Conflict, Failed, Full, LostWrites
from clawlink.store.sqlite.room import Room, is_io_error
from clawlink.store.sqlite.rows import Entry, Facts, Row, pack, unpack

# The most partitions that share a transaction, so that the first of them does not wait for too many others.
_MOST_HOMES = 256
# The records that were written last are known without asking, twice this many at most.
_MOST_KNOWN = 5000
_IDLE_SECONDS = 5.0
_MARK_SECONDS = 1.0
_NUMBERS_AT_ONCE = 1 << 20
# The log goes into the database once it has about 2,000 pages, or 200 while the relay is idle. A transaction counts as
# one page, a change as three and one for each 4 KiB.
_LOG_PAGES, _IDLE_LOG_PAGES = 2000, 200
_PAGES_OF_CHANGE, _PAGE_BYTES = 3, 4096
# A transaction waits this long for as many jobs as the last one had: the callers whom that answered ask again. So a
# lone caller waits for nothing. Windows has no wait as short.
_GATHER_SECONDS = 0.001 if os.name == "posix" else 0.0
# The seconds until a commit that was answered before is on the disk.
_LAZY_SECONDS = 1.0
# A change of a record that adds no more bytes than this may use the reserve.
_GROWTH_BYTES = 1024
# While idle, free pages go back to the file system, some at a time, if there are more than this many.
_FREE_PAGES = 1000
_VACUUMED_AT_ONCE = 500

_OLD = (
    "SELECT row, version, home, held, address, agent, weight, cost, ends_at, entries FROM record "
    "WHERE id = ? AND kind = ?"
)
_INSERT = (
    "INSERT INTO record (kind, id, version, home, ends_at, rank, ready_at, later, held, address, agent, weight, cost, "
    "entries, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_UPDATE = (
    "UPDATE record SET version = ?, rank = ?, ready_at = ?, later = ?, held = ?, address = ?, agent = ?, weight = ?, "
    "cost = ?, entries = ?, data = ? WHERE row = ?"
)
_UPDATE_WITH_END = _UPDATE.replace(" WHERE", ", ends_at = ? WHERE")
_DELETE = "DELETE FROM record WHERE row = ?"
_ENTER = "INSERT INTO entry (kind, key, number, row, weight) VALUES (?, ?, ?, ?, ?)"
_LEAVE = "DELETE FROM entry WHERE kind = ? AND key = ? AND number = ?"
_WEIGH = "UPDATE entry SET weight = ? WHERE kind = ? AND key = ? AND number = ?"


class Change(NamedTuple):
    """A change of a record. It ``follows`` the stored version, 0 for none; without a ``row`` the record goes.

    ``absent`` changes nothing, and asks only that there is no such record.
    """

    kind: type[Any]
    number: int
    id: str
    follows: int
    row: Row | None
    record: Any
    absent: bool = False
    ends_work: bool = False


class Done(NamedTuple):
    """A change that took effect."""

    change: Change
    old: Facts | None


class _Stored(NamedTuple):
    """A stored record, as far as the writer looks at it."""

    row: int
    version: int
    ends_at: float | None
    facts: Facts
    entries: tuple[Entry, ...]


class Commit:
    """Changes of one or several partitions, and the future of their caller.

    It is ``settled`` once the event loop has counted them, and ``fate`` is done then.
    """

    __slots__ = ("batches", "done", "fate", "future", "results", "settled")

    def __init__(self, batches: Sequence[tuple[str, Sequence[Change]]], future: asyncio.Future[Any]) -> None:
        self.batches = batches
        self.future = future
        self.done: list[Done] = []
        self.results: list[Conflict | Failed | None] = []
        self.settled = False
        self.fate: asyncio.Future[None] | None = None  # of a waiter that was cancelled


class Question:
    """A query that runs behind all commits so far, and the function for its answer on the event loop."""

    __slots__ = ("answer", "ask", "failure", "future", "take")

    def __init__(
        self, ask: Callable[[sqlite3.Connection], Any], take: Callable[[Any], None], future: asyncio.Future[Any]
    ) -> None:
        self.ask = ask
        self.take = take
        self.future = future
        self.answer: Any = None
        self.failure: Exception | None = None


Job = Commit | Question


class Writer:
    """The writing connection and its thread.

    ``settled`` takes the done jobs, on the event loop of their futures. ``before_commit`` is called on the thread
    before each transaction ends, to put the files of its records on the disk. ``leaving`` is called before the log is
    put on the disk, and what it returns afterwards. ``lazy`` answers a commit before it is on the disk. ``clock``, once
    set, gives the time to store as the relay's last moment. ``uptime`` gives the name of
    the machine's start, and seconds by a steady clock.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        settled: Callable[[Sequence[Job]], None],
        *,
        room: Room,
        lazy: bool = False,
        before_commit: Callable[[], None] = lambda: None,
        leaving: Callable[[], Callable[[], None]] = lambda: lambda: None,
    ) -> None:
        self._db = db
        self._settled = settled
        self._room = room
        self._lazy = lazy
        self._leaving = leaving
        self._log_pages = 0  # about how many of the log are not in the database
        self._together = 1  # the jobs of the last transaction
        self._unsynced_since: float | None = None  # of a lazy writer
        self.clock: Callable[[], float] | None = None
        self.uptime: Callable[[], tuple[str, float] | None] = lambda: None
        self._before_commit = before_commit
        self._queue: SimpleQueue[list[Job] | None] = SimpleQueue()
        self._kinds = {number for (number,) in db.execute("SELECT number FROM kind")}
        self._marked_at = 0.0
        self._number = self._last_number = 0
        self._newer: dict[tuple[str, int], _Stored] = {}
        self._older: dict[tuple[str, int], _Stored] = {}
        self._owner = secrets.token_hex(8)
        self._owns = False  # until the first commit has said so
        self._thread = threading.Thread(target=self._run, name="clawlink-sqlite", daemon=True)
        self.broken: str | None = None
        """The reason why nothing is written any more."""

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def submit(self, jobs: list[Job]) -> None:
        """Have jobs done, in this order and after all before."""
        self._queue.put(jobs)

    def finish(self) -> None:
        """Do all submitted jobs, and end the thread."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def close(self) -> None:
        """Close the connection, after ``finish``."""
        self._db.close()

    def _run(self) -> None:
        ended = False
        while not ended:
            jobs: list[Job] = []
            try:
                some = self._queue.get(timeout=_IDLE_SECONDS if self._unsynced_since is None else _LAZY_SECONDS)
            except Empty:
                self._idle()
                continue
            wait_until = monotonic() + _GATHER_SECONDS
            while some is not None:
                jobs += some
                if len(jobs) >= _MOST_HOMES:
                    break
                left = wait_until - monotonic() if len(jobs) < self._together else 0.0
                try:
                    some = self._queue.get(timeout=left) if left > 0 else self._queue.get_nowait()
                except Empty:
                    break
            else:
                ended = True
            self._together = len(jobs)
            self._do(jobs)
            since = self._unsynced_since
            if self._log_pages >= _LOG_PAGES or (since is not None and monotonic() - since >= _LAZY_SECONDS):
                self._empty_log()
        self._mark()

    def _do(self, jobs: Sequence[Job]) -> None:
        commits = [job for job in jobs if isinstance(job, Commit)]
        if commits:
            self._commit(commits)
        for job in jobs:
            if isinstance(job, Question):
                try:
                    job.answer = job.ask(self._db)
                except Exception as error:
                    job.failure = error
        by_loop: dict[asyncio.AbstractEventLoop, list[Job]] = {}
        for job in jobs:
            by_loop.setdefault(job.future.get_loop(), []).append(job)
        for loop, theirs in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop has ended, and no caller waits
                loop.call_soon_threadsafe(self._settled, theirs)

    # -- one transaction ---------------------------------------------------------------------------------------------

    def _commit(self, commits: Sequence[Commit]) -> None:
        if self.broken is not None:
            _fail(commits, Failed(self.broken))
            return
        if self._room.low:
            refused = [commit for commit in commits if not self._makes_room(commit)]
            if refused and not self._room.keep():
                _fail(refused, Full("the disk is full, and the rest of it is for work that makes room"))
                commits = [commit for commit in commits if commit not in refused]
                if not commits:
                    return
        try:
            self._attempt(commits)
        except LostWrites as error:
            self._break(commits, f"a name of a content failed ({error}); look at the disk, and start the relay again")
        except Exception as error:  # of SQLite, of the disk, or of a value that no column takes: the thread goes on
            self._undo()
            if self.broken is not None:
                _fail(commits, Failed(self.broken))
            elif len(commits) > 1:  # nothing took effect: the fault of one shall not be that of the others
                for commit in commits:
                    self._commit([commit])
            elif not self._room.is_full(error):
                _fail(commits, Failed(f"a commit failed: {error}"))
            elif self._make_room(commits[0]):
                self._commit(commits)
            else:
                _fail(commits, Full(f"the disk is full: {error}"))

    def _make_room(self, commit: Commit) -> bool:
        """Return True if a commit that found no room may find some now."""
        if self._log_pages and self._empty_log():
            return True  # the next pages of the log take the place of its first ones
        return self.broken is None and self._makes_room(commit) and self._room.spend()

    def _makes_room(self, commit: Commit) -> bool:
        """Return True if a commit stores nothing new, or only the end of some work."""
        return all(self._may_use_reserve(change) for _, changes in commit.batches for change in changes)

    def _may_use_reserve(self, change: Change) -> bool:
        if change.row is None or change.ends_work:
            return True
        try:
            old = self._stored(change.id, change.number)
        except sqlite3.Error:
            return False
        return old is not None and change.row.facts.cost <= old.facts.cost + _GROWTH_BYTES

    def _attempt(self, commits: Sequence[Commit]) -> None:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        if not self._owns:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('owner', ?)", (self._owner,))
        elif db.execute("SELECT value FROM meta WHERE name = 'owner'").fetchone() != (self._owner,):
            self._break(commits, "another relay has taken the database; stop one of the two")
            return
        new_kinds: set[int] = set()
        pages = 1
        for commit in commits:
            commit.done, commit.results = [], []
            for partition_key, changes in commit.batches:
                conflict = self._apply(partition_key, changes, commit.done, new_kinds)
                commit.results.append(conflict)
            for change, _ in commit.done:
                pages += _PAGES_OF_CHANGE + (0 if change.row is None else len(change.row.data) // _PAGE_BYTES)
        if self.clock is not None and self.clock() - self._marked_at >= _MARK_SECONDS:
            self._note_time(self.clock())
        self._before_commit()
        try:
            db.execute("COMMIT")
        except sqlite3.Error as error:
            if not self._room.is_full(error):  # the log may have it or not, and the system's cache cannot be trusted
                self._break(commits, f"a commit failed ({error}); look at the disk, and start the relay again")
                return
            raise
        self._owns = True
        self._kinds |= new_kinds
        self._log_pages += pages
        if self._lazy and self._unsynced_since is None:
            self._unsynced_since = monotonic()

    def _empty_log(self) -> bool:
        """Put the log into the database. Return True if all of it is there."""
        if self.broken is not None:
            return False
        gone = self._leaving()
        pages, self._log_pages = self._log_pages, 0
        try:
            _, log, done = self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            if self._room.is_full(error):  # the log has all of it, and is tried again later
                self._log_pages = _IDLE_LOG_PAGES
            else:
                self._stop_writing(f"the log failed ({error}); look at the disk, and start the relay again")
            return False
        if log != done:  # a reader still looks at the database as it was before
            self._log_pages = pages // 2
            return False
        self._unsynced_since = None
        gone()
        return True

    def _break(self, commits: Sequence[Commit], why: str) -> None:
        """Write nothing any more."""
        self._stop_writing(why)
        _fail(commits, Failed(why))

    def _stop_writing(self, why: str) -> None:
        self.broken = why
        self._undo()

    def _undo(self) -> None:
        self._number = self._last_number = 0  # reserved numbers may be undone with the rest
        self._newer, self._older = {}, {}
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _apply(
        self, partition_key: str, changes: Sequence[Change], done: list[Done], new_kinds: set[int]
    ) -> Conflict | None:
        """Compare all versions of one partition, and change its records if they fit."""
        found = []
        for change in changes:
            old = self._stored(change.id, change.number)
            if change.absent:
                if old is not None:
                    return Conflict(change.kind, change.id, "exists")
            elif (
                change.follows != 0
                if old is None
                else old.version != change.follows or old.facts.partition_key != partition_key
            ):
                return Conflict(change.kind, change.id, f"is not at version {change.follows}")
            found.append(old)
        for change, old in zip(changes, found, strict=True):
            if not change.absent:
                if change.number not in self._kinds and change.number not in new_kinds:
                    self._name_kind(change)
                    new_kinds.add(change.number)
                done.append(Done(change, None if old is None else old.facts))
                self._write(change, old)
        return None

    def _stored(self, id: str, number: int) -> _Stored | None:
        """Return the compared and counted fields of a stored record. The last ones are cached."""
        key = (id, number)
        known = self._newer.get(key) or self._older.get(key)
        if known is not None:
            return known
        found = self._db.execute(_OLD, key).fetchone()
        if found is None:
            return None
        row, version, partition_key, held, address, agent, weight, cost, ends_at, packed = found
        entries = unpack(packed)
        facts = Facts(partition_key, tuple([entry.key for entry in entries]), weight, held, address, agent, cost)
        return _Stored(row, version, ends_at, facts, entries)

    def _know(self, change: Change, stored: _Stored | None) -> None:
        """Note a record's new fields. A rollback forgets all of them."""
        key = (change.id, change.number)
        if stored is None:
            self._newer.pop(key, None)
        else:
            if len(self._newer) >= _MOST_KNOWN:
                self._older, self._newer = self._newer, {}
            self._newer[key] = stored
        self._older.pop(key, None)

    def _name_kind(self, change: Change) -> None:
        from clawlink.store import records  # only for the first record of a kind

        name = records.kinds()[change.kind].name
        self._db.execute("INSERT INTO kind (number, name) VALUES (?, ?)", (change.number, name))

    def _write(self, change: Change, old: _Stored | None) -> None:
        db, number, new = self._db, change.number, change.row
        if new is None:
            if old is not None:
                db.execute(_DELETE, (old.row,))
                for entry in old.entries:
                    db.execute(_LEAVE, (number, entry.key, entry.number))
            self._know(change, None)
            return
        facts = new.facts
        if old is None:
            entries = self._entries(facts.keys, ())
            row = db.execute(
                _INSERT,
                (
                    number, change.id, new.version, facts.partition_key, new.ends_at, new.sort_key, new.ready_at,
                    new.later, facts.held, facts.address, facts.agent, facts.weight, facts.cost, pack(entries),
                    new.data,
                ),
            ).lastrowid  # fmt: skip
            for entry in entries:
                db.execute(_ENTER, (number, entry.key, entry.number, row, facts.weight))
            self._know(change, _Stored(row or 0, new.version, new.ends_at, facts, entries))
            return
        row, before = old.row, old.entries
        entries = before if facts.keys == old.facts.keys else self._entries(facts.keys, before)
        values = (
            new.version, new.sort_key, new.ready_at, new.later, facts.held, facts.address, facts.agent, facts.weight,
            facts.cost, pack(entries), new.data,
        )  # fmt: skip
        if new.ends_at == old.ends_at:
            db.execute(_UPDATE, (*values, row))
        else:
            db.execute(_UPDATE_WITH_END, (*values, new.ends_at, row))
        if entries is not before:
            for entry in before:
                if entry not in entries:
                    db.execute(_LEAVE, (number, entry.key, entry.number))
        weighs = facts.weight != old.facts.weight
        if entries is not before or weighs:
            for entry in entries:
                if entry not in before:
                    db.execute(_ENTER, (number, entry.key, entry.number, row, facts.weight))
                elif weighs:
                    db.execute(_WEIGH, (facts.weight, number, entry.key, entry.number))
        self._know(change, _Stored(row, new.version, new.ends_at, facts, entries))

    def _entries(self, keys: Iterable[str], before: Sequence[Entry]) -> tuple[Entry, ...]:
        """Return the entries for these keys: an existing key keeps its place, a new one gets the last."""
        kept = {entry.key: entry for entry in before}
        number = self._next_number()
        return tuple([kept.get(key) or Entry(key, number) for key in keys])

    def _next_number(self) -> int:
        """Return the next number of an entry. They are reserved in blocks, so that none comes twice after a crash."""
        if self._number == self._last_number:
            found = self._db.execute("SELECT value FROM meta WHERE name = 'numbers'").fetchone()
            self._number = 0 if found is None else found[0]
            self._last_number = self._number + _NUMBERS_AT_ONCE
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('numbers', ?)", (self._last_number,))
        self._number += 1
        return self._number

    # -- in between --------------------------------------------------------------------------------------------------

    def _note_time(self, now: float) -> None:
        boot, seconds = self.uptime() or (None, None)
        facts = (("alive", now), ("boot", boot), ("uptime", seconds))
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", facts)
        self._marked_at = now

    def _mark(self) -> None:
        """Note that the relay is there."""
        if self.clock is not None and self.broken is None:
            with self._unless_the_disk_fails():  # one that is full: the next commit says so
                self._note_time(self.clock())
                self._log_pages += 1

    def _idle(self) -> None:
        """Note that the relay is there, and give free pages back."""
        if self.broken is not None:
            return
        if self._log_pages >= _IDLE_LOG_PAGES or self._unsynced_since is not None:
            self._empty_log()
        if self._room.low:
            self._room.keep()
        self._mark()
        with self._unless_the_disk_fails():
            (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
            if free > _FREE_PAGES:
                self._db.execute(f"PRAGMA incremental_vacuum({_VACUUMED_AT_ONCE})").fetchall()
                self._log_pages += _VACUUMED_AT_ONCE

    @contextlib.contextmanager
    def _unless_the_disk_fails(self) -> Iterator[None]:
        """Go on after a failure of SQLite, but write nothing any more if it is the disk's."""
        try:
            yield
        except sqlite3.Error as error:
            if is_io_error(error) and not self._room.is_full(error):
                self._stop_writing(f"the disk failed ({error}); look at it, and start the relay again")


def _fail(commits: Iterable[Commit], failure: Failed) -> None:
    for commit in commits:
        commit.done = []
        commit.results = [failure for _ in commit.batches]
