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

from clawlink.store.base import Failed, Full, LostWrites
from clawlink.store.sqlite.jobs import Change, Commit, Job, Question
from clawlink.store.sqlite.room import Room, is_io_error
from clawlink.store.sqlite.table import Table

# The most partitions that share a transaction, so that the first of them does not wait for too many others.
_MOST_HOMES = 256
_IDLE_SECONDS = 5.0
_MARK_SECONDS = 1.0
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
        self._table = Table(db)
        self._marked_at = 0.0
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
            old = self._table.stored(change.id, change.number)
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
                conflict = self._table.apply(partition_key, changes, commit.done, new_kinds)
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
        self._table.learn(new_kinds)
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
        self._table.forget()
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

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
