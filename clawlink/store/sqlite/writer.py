"""The only writing connection: all waiting commits become one transaction, and each is answered after its fsync.

With ``--sync normal`` the answer does not wait for the fsync.

The event loop begins a transaction. A thread ends it, for that waits for the disk, and does all that may take long. One
of the two has the connection at any moment.

A commit names the versions that it follows. The writer compares all of them before it changes anything for that
partition, so a conflict needs no savepoint. The other partitions of the transaction do not notice.

The writer puts the log into the database itself, after the answers of a transaction. So it learns what fails there.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue
from time import monotonic, perf_counter, time
from typing import Any

from clawlink.store.base import Failed, Full
from clawlink.store.contents import LostWrites
from clawlink.store.sqlite.database import NOTED
from clawlink.store.sqlite.jobs import Change, Commit, Job, Question, Work
from clawlink.store.sqlite.room import Room, is_io_error, note_code
from clawlink.store.sqlite.table import Table

IDLE_SECONDS = 5.0
_MARK_SECONDS = 1.0
# The log goes into the database once it has about 4,000 pages, or 200 while the relay is idle. A transaction counts as
# one page, a change as three and its bytes.
_LOG_PAGES, _IDLE_LOG_PAGES = 4000, 200
_PAGE_BYTES = 4096
# The event loop begins a transaction for this long, and leaves larger commits to the writing thread.
_HERE_SECONDS, LARGE_BYTES = 0.002, 1024 * 1024
# If it was held for longer, because pages came from a slow disk, it begins none for a pause, which doubles each time.
_HELD_SECONDS, SHORTEST_PAUSE, _LONGEST_PAUSE = 0.004, 0.05, 2.0
# The milliseconds that the writing thread waits for another process that writes.
_BUSY_MS = 5000
# The seconds until a commit that was answered before is on the disk.
_LAZY_SECONDS = 1.0
# A change of a record that adds no more bytes than this may use the reserve.
_GROWTH_BYTES = 1024
# While idle, free pages go back to the file system, some at a time, if there are more than this many.
_FREE_PAGES = 1000
_VACUUMED_AT_ONCE = 500


class _TakenOver(Exception):
    """Another relay wrote its name into the database."""


class Writer:
    """The writing connection, and the thread that waits for the disk.

    It calls:

    - ``settled`` with the done jobs, on the event loop of their futures;
    - ``before_commit`` on the thread, before each transaction ends: it puts the files of the records on the disk;
    - ``leaving`` on the thread, before the log goes into the database, and what that returned afterwards;
    - ``clock``, once it is set, for the time to store as the relay's last moment;
    - ``uptime`` for the name of the machine's start, and the seconds of its steady clock.

    A ``lazy`` writer answers a commit before it is on the disk.
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
        self._unsynced_since: float | None = None  # of a lazy writer
        self.clock: Callable[[], float] | None = None
        self.uptime: Callable[[], tuple[str, float] | None] = lambda: None
        self._before_commit = before_commit
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._busy = False  # True while one of the two threads has the connection
        self._pause_until, self._pause = 0.0, SHORTEST_PAUSE  # of transactions that begin on the event loop
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

    def submit(self, jobs: Sequence[Job]) -> None:
        """Have jobs done, in this order and after all before. Call it on the event loop, or when that has ended.

        Their transaction begins here if the connection is free, and the thread ends it. The thread has all of it while
        pages come slowly from the disk, or the disk is nearly full. Most statements take microseconds. A thread that
        runs them beside the event loop waits longer than that for the interpreter's lock, before each.
        """
        work = Work(jobs)
        with self._lock:
            free = not self._busy
            if free:
                self._busy = True
            else:
                self._queue.put(work)
        if free:
            try:
                self._start(work)
            finally:
                self._queue.put(work)

    def read(self, sql: str, values: Sequence[Any]) -> list[Any] | None:
        """Return the rows of a query, on the event loop; None if the connection is in use, or cannot read.

        Between two transactions it sees what all others see. It has the pages that it wrote in its cache, and a
        connection that reads alone forgets its own at each commit.
        """
        if self.broken is not None or not self._take():
            return None
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error:
            return None
        finally:
            self._release()

    def finish(self) -> None:
        """Do all submitted jobs, and end the thread."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def close(self) -> None:
        """Close the connection, after ``finish``."""
        self._table.close()
        self._db.close()

    def _start(self, work: Work) -> None:
        """Begin a transaction, with as many commits as fit in a moment."""
        if self.broken is not None or self._room.low or not work.commits:
            return
        began = perf_counter()
        if began < self._pause_until:
            return
        try:
            self._open(work)
            self._apply(work, began + _HERE_SECONDS)
        except BaseException as error:  # the thread does all of it again, and learns which commit has the fault
            self._undo(work)
            if not isinstance(error, Exception):
                raise
        ended = perf_counter()
        if ended - began > _HELD_SECONDS:
            self._pause_until = ended + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        else:
            self._pause = SHORTEST_PAUSE

    def _run(self) -> None:
        while True:
            try:
                work = self._queue.get(timeout=IDLE_SECONDS if self._unsynced_since is None else _LAZY_SECONDS)
            except Empty:
                if self._take():
                    self._idle()
                    self._release()
                continue
            if work is None:
                break
            self._do(work)
            since = self._unsynced_since
            if self._log_pages >= _LOG_PAGES or (since is not None and monotonic() - since >= _LAZY_SECONDS):
                self._answer(work.jobs)
                self._empty_log()
                self._release()
            else:
                self._release()  # first, for the answer brings the next jobs
                self._answer(work.jobs)
        self._mark()

    def _take(self) -> bool:
        """Take the connection for the calling thread. Return False if it is taken already, or jobs wait for it."""
        with self._lock:
            free = not self._busy
            self._busy = True
        return free

    def _release(self) -> None:
        """Let the next caller begin its jobs, unless some wait already."""
        with self._lock:
            self._busy = not self._queue.empty()

    def _do(self, work: Work) -> None:
        if work.commits:
            self._commit(work)
        for job in work.jobs:
            if isinstance(job, Question):
                try:
                    with self._patient():
                        job.answer = job.ask(self._db)
                except Exception as error:
                    job.failure = error

    def _answer(self, jobs: Iterable[Job]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[Job]] = {}
        for job in jobs:
            by_loop.setdefault(job.future.get_loop(), []).append(job)
        for loop, theirs in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop has ended, and no caller waits
                loop.call_soon_threadsafe(self._settled, theirs)

    # -- one transaction ---------------------------------------------------------------------------------------------

    def _commit(self, work: Work) -> None:
        commits = work.commits
        if self.broken is not None:
            _fail(commits, Failed(self.broken))
            return
        if self._room.low and not work.begun:
            refused = [commit for commit in commits if not self._makes_room(commit)]
            if refused and not self._room.keep():
                _fail(refused, Full("the disk is full, and the rest of it is for work that makes room"))
                work = Work([commit for commit in commits if commit not in refused])
                commits = work.commits
                if not commits:
                    return
        try:
            self._attempt(work)
        except LostWrites as error:
            self._break(work, f"a name of a content failed ({error}); look at the disk, and start the relay again")
        except Exception as error:  # of SQLite, of the disk, or of a value that no column takes: the thread goes on
            note_code(self._db, error)
            self._undo(work)
            if self.broken is not None:
                _fail(commits, Failed(self.broken))
            elif len(commits) > 1:  # nothing took effect: the fault of one shall not be that of the others
                for commit in commits:
                    self._commit(Work([commit]))
            elif not self._room.is_full(error):
                _fail(commits, Failed(f"a commit failed: {error}"))
            elif self._make_room(commits[0]):
                self._commit(work)
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

    def _open(self, work: Work) -> None:
        """Begin a transaction. Raises sqlite3.Error if another process is writing."""
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        work.begun = True
        if not self._owns:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('owner', ?)", (self._owner,))
        elif db.execute("SELECT value FROM meta WHERE name = 'owner'").fetchone() != (self._owner,):
            raise _TakenOver

    def _apply(self, work: Work, until: float = math.inf) -> None:
        """Make the changes of commits, from the first that is not made, until that moment or one that may take long."""
        for commit in work.commits[work.applied :]:
            if until is not math.inf and (perf_counter() > until or commit.size > LARGE_BYTES):
                return
            commit.done, commit.results = [], []
            for partition_key, changes in commit.batches:
                result = self._table.apply(partition_key, changes, commit.done, work.new_kinds)
                commit.results.append(result)
                if result is not None and commit.in_order:
                    break
            work.applied += 1

    def _attempt(self, work: Work) -> None:
        db = self._db
        try:
            if not work.begun:
                with self._patient():
                    self._open(work)
        except _TakenOver:
            self._break(work, "another relay has taken the database; stop one of the two")
            return
        self._apply(work)
        if self.clock is not None and self.clock() - self._marked_at >= _MARK_SECONDS:
            self._note_time(self.clock())
        self._before_commit()
        try:
            db.execute("COMMIT")
        except sqlite3.Error as error:
            note_code(db, error)
            if not self._room.is_full(error):  # the log may have it or not, and the system's cache cannot be trusted
                self._break(work, f"a commit failed ({error}); look at the disk, and start the relay again")
                return
            raise
        self._owns = True
        self._table.learn(work.new_kinds)
        self._log_pages += 1 + sum([commit.size for commit in work.commits]) // _PAGE_BYTES
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
            note_code(self._db, error)
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

    def _break(self, work: Work, why: str) -> None:
        """Write nothing any more."""
        self._stop_writing(why, work)
        _fail(work.commits, Failed(why))

    def _stop_writing(self, why: str, work: Work | None = None) -> None:
        self.broken = why
        self._undo(work)

    def _undo(self, work: Work | None = None) -> None:
        self._table.forget()
        if work is not None:
            work.begun, work.applied = False, 0
            work.new_kinds.clear()
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    # -- in between --------------------------------------------------------------------------------------------------

    def _note_time(self, now: float) -> None:
        boot, seconds = self.uptime() or (None, None)
        facts = (("alive", now), ("boot", boot), ("uptime", seconds), (NOTED, time()))
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", facts)
        self._marked_at = now

    def _mark(self) -> None:
        """Note that the relay is there."""
        if self.clock is not None and self.broken is None:
            with self._unless_the_disk_fails(), self._patient():  # a disk that is full: the next commit says so
                self._note_time(self.clock())
                self._log_pages += 1

    def _idle(self) -> None:
        """Empty the log, keep the reserve, note that the relay is there, and give free pages back."""
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
                # Each step gives one page back, and ``execute`` makes one step where no rows come.
                self._db.executescript(f"PRAGMA incremental_vacuum({_VACUUMED_AT_ONCE})")
                self._log_pages += _VACUUMED_AT_ONCE

    @contextlib.contextmanager
    def _patient(self) -> Iterator[None]:
        """Wait for another process that writes, as the event loop never does."""
        self._db.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        try:
            yield
        except sqlite3.Error as error:
            note_code(self._db, error)
            raise
        finally:
            self._db.execute("PRAGMA busy_timeout = 0")

    @contextlib.contextmanager
    def _unless_the_disk_fails(self) -> Iterator[None]:
        """Go on after a failure of SQLite, but write nothing any more if it is the disk's."""
        try:
            yield
        except sqlite3.Error as error:
            note_code(self._db, error)
            if is_io_error(error) and not self._room.is_full(error):
                self._stop_writing(f"the disk failed ({error}); look at it, and start the relay again")


def _fail(commits: Iterable[Commit], failure: Failed) -> None:
    for commit in commits:
        commit.done = []
        commit.results = [failure for _ in commit.batches]
