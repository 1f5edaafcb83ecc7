"""The ``Store`` over SQLite.

Reads run on the event loop, over a connection of their own: SQLite answers from its cache in microseconds, and a reader
never waits for the writer. A commit runs on the writer's thread and is answered after its fsync.

An index may be ahead of ``get`` for a moment, between a commit's fsync and its answer. Nobody was told of it then.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from clawlink.domain.delivery import PENDING, Delivery, by_dead
from clawlink.store import records
from clawlink.store.base import (
    SKIPPED,
    Absent,
    Admission,
    Batch,
    Conflict,
    Drop,
    Failed,
    Index,
    Page,
    Put,
    R,
    S,
    Usage,
    number_of,
    probe,
)
from clawlink.store.claims import Claims
from clawlink.store.sqlite import mailboxes, queries
from clawlink.store.sqlite.counts import Counts, Place
from clawlink.store.sqlite.database import DataFolderError, connect, migrate, open_writer, said
from clawlink.store.sqlite.jobs import Change, Jobs
from clawlink.store.sqlite.mailboxes import Mailboxes
from clawlink.store.sqlite.open_files import OpenFiles
from clawlink.store.sqlite.reading import Hint, Reading
from clawlink.store.sqlite.room import Room
from clawlink.store.sqlite.rows import Kinds
from clawlink.store.sqlite.writer import Writer
from clawlink.store.tables import NOTHING, Shares

# Due deliveries of a mailbox at which one read looks; then others have their turn.
_LAPSED_AT_ONCE = 512
# An index of fewer records is counted on the event loop.
_FEW = 500


class SqliteStore:
    """A ``Store`` in an SQLite database."""

    index_lag = 0.0
    partitions_at_once = 32

    def __init__(
        self,
        path: Path,
        *,
        sync: str = "full",
        room: Room | None = None,
        before_commit: Callable[[], None] = lambda: None,
        leaving: Callable[[], Callable[[], None]] = lambda: lambda: None,
    ) -> None:
        """Take the database at ``path``; ``open`` opens it.

        ``before_commit`` puts on the disk what the records lean on. ``leaving`` returns what removes the files that
        no record names, to be called once all commits so far are on the disk.
        """
        self._path = path
        self._sync = sync
        self._room = room
        self._before_commit = before_commit
        self._leaving = leaving
        self._db: sqlite3.Connection
        self._writer: Writer
        self._kinds: Kinds
        self._jobs: Jobs
        self._files: OpenFiles
        self._opened = self._closed = False
        self.last_alive: float | None = None
        """When a relay was here last, in its time; None in a new folder."""
        self.last_uptime: tuple[str, float] | None = None
        """The name of the machine's start at that moment, and its steady clock."""
        self._counts = Counts()
        self._mailboxes = Mailboxes(self._counts)
        self._claims = Claims(self)

    async def open(self) -> None:
        self.open_now()

    def open_now(self) -> None:
        """Open the database, made if need be, without an event loop. Raises DataFolderError."""
        path = self._path
        writing = open_writer(path, sync=self._sync)
        reading: sqlite3.Connection | None = None
        try:
            reading = self._db = connect(path, reads_only=True, leaves_log=True)
            self._counts.learn_records(self._db.execute(queries.HELD))
            self._kinds = Kinds(self._db.execute("SELECT number, name FROM kind"))
            self._jobs = Jobs(self._kinds, lambda jobs: self._writer.submit(jobs), self._follow)
            meta = dict(self._db.execute("SELECT name, value FROM meta WHERE name IN ('alive', 'boot', 'uptime')"))
            self._writer = Writer(
                writing,
                self._jobs.settled,
                room=self._room or Room(path.parent),
                lazy=self._sync == "normal",
                before_commit=self._before_commit,
                leaving=self._leaving,
            )
        except BaseException as error:
            if reading is not None:
                reading.close()
            writing.close()
            if isinstance(error, sqlite3.Error):
                raise DataFolderError(said(path, error)) from None
            raise
        self.last_alive = meta.get("alive")
        boot, uptime = meta.get("boot"), meta.get("uptime")
        self.last_uptime = None if boot is None or uptime is None else (boot, uptime)
        self._reading = Reading(self._db, self._kinds, self._writer.read)
        self._files = OpenFiles(path)
        self._files.moved()  # learns which they are
        self._opened = True
        self._writer.start()

    async def migrate(self) -> int:
        steps: list[int] = []
        await self.ask(object(), migrate, steps.append)
        return steps[0]

    async def health(self) -> str | None:
        return self.broken or await probe(self)

    @property
    def broken(self) -> str | None:
        """The reason why nothing is written any more; None if all is well.

        A look notices that a file of the database has left its place.
        """
        if not self._opened:
            return None
        if self._writer.broken is None and not self._closed and (why := self._files.moved()) is not None:
            self._writer.broken = f"{why}; put it back, or restore a backup, and start the relay again"
        return self._writer.broken

    def keep_time(
        self, clock: Callable[[], float], uptime: Callable[[], tuple[str, float] | None] = lambda: None
    ) -> None:
        """Note from now on when the relay is here: ``last_alive`` and ``last_uptime`` at the next start."""
        self._writer.uptime = uptime
        self._writer.clock = clock

    def all(self, *kinds: type[Any]) -> Iterator[Any]:
        """Give all records of these kinds in one pass, before anything else is asked. Raises DataFolderError."""
        places = ", ".join("?" * len(kinds))
        one_of = f"SELECT data FROM record WHERE kind IN ({places})"  # noqa: S608
        try:
            for (data,) in self._db.execute(one_of, [self._kinds[kind] for kind in kinds]):
                yield records.decode(data)
        except (sqlite3.Error, ValueError) as error:
            raise DataFolderError(f"a record of {self._path} cannot be read: {error}") from None

    async def close(self) -> None:
        self.close_now()

    def close_now(self) -> None:
        """Finish what was begun, and let go of the database, without an event loop."""
        if self._closed or not self._opened:
            return
        self._closed = True
        left = self._jobs.rest()
        if left:
            self._writer.submit(left)
        self._writer.finish()
        if self.broken is None:
            self._db.close()  # first: the last to close puts the log into the database
            self._writer.close()
        else:  # nobody knows what is in the log, and the next start reads what the disk has of it
            self._writer.close()
            self._db.close()

    # -- records -----------------------------------------------------------------------------------------------------

    async def get(self, kind: type[R], id: str) -> R | None:
        return self._reading.get(kind, id)

    async def get_many(self, kind: type[R], ids: Sequence[str]) -> Sequence[R | None]:
        return [self._reading.get(kind, id) for id in ids]

    async def get_both(
        self, first: tuple[type[R], Sequence[str]], second: tuple[type[S], Sequence[str]]
    ) -> tuple[Sequence[R | None], Sequence[S | None]]:
        return await self.get_many(*first), await self.get_many(*second)

    async def ids(self, first: str, end: str, limit: int) -> Sequence[str]:
        return [id for (id,) in self._reading.read(queries.IDS, (first, end, limit))]

    # -- indexes -----------------------------------------------------------------------------------------------------

    async def page(
        self, kind: type[R], key: str, after: str | None = None, limit: int = 100, *, newest: bool = False
    ) -> Page[R]:
        place = (self._kinds[kind], key)
        order = "ORDER BY e.number DESC LIMIT ?" if newest else "ORDER BY e.number LIMIT ?"
        number = number_of(after)
        if number is None:
            found = self._reading.read(f"{queries.LISTED} {order}", (*place, limit + 1))
        else:
            beyond = "AND e.number < ?" if newest else "AND e.number > ?"
            found = self._reading.read(f"{queries.LISTED} {beyond} {order}", (*place, number, limit + 1))
        listed = await self._reading.load(kind, [Hint(*row[:4]) for row in found[:limit]])
        return Page(listed, str(found[limit - 1][4]) if len(found) > limit > 0 else None)

    async def first_of(self, kind: type[R], keys: Sequence[str]) -> Sequence[R | None]:
        firsts: list[R | None] = []
        for key in keys:
            found = (await self.page(kind, key, limit=1)).records
            firsts.append(found[0] if found else None)
        return firsts

    async def usage(self, kind: type[R], key: str) -> Usage:
        known = self._counts.index(kind, key)
        if known is not None:
            return known
        place, values = (kind, key), (self._kinds[kind], key)
        if not self._jobs.unsettled:  # nothing is on its way that would be counted twice
            ((count, size),) = self._reading.read(queries.COUNT_FEW, (*values, _FEW))
            if count < _FEW:
                known = Usage(count, size)
                self._counts.learn_index(place, known)
                return known

        def take(answer: tuple[int, int]) -> None:
            self._counts.learn_index(place, Usage(*answer))

        await self.ask(place, lambda db: db.execute(queries.COUNT, values).fetchone(), take)
        return self._counts.index(kind, key) or NOTHING

    async def usage_from(self, kind: type[R], key: str, address: str | None, agent: str) -> tuple[Usage, Usage]:
        place: Place = (kind, key)
        shares = self._counts.index_shares(place)
        if shares is None:
            values = (self._kinds[kind], key)

            def take(rows: list[Any]) -> None:
                self._counts.learn_index_shares(place, _shares(rows))

            await self.ask(("from", place), lambda db: db.execute(queries.ORIGINS_OF_INDEX, values).fetchall(), take)
            shares = self._counts.index_shares(place)
        return (shares or Shares()).of(address, agent)

    async def admission(self, mailboxes: Sequence[str] = (), indexes: Sequence[Index] = ()) -> Admission:
        """Count as ``Store.admission``. ``memory`` is about how many bytes of the disk all records take."""
        counts = self._counts
        usages = [counts.index(*index) or await self.usage(*index) for index in indexes] if indexes else ()
        return Admission(list(map(counts.mailbox, mailboxes)), usages, counts.held, counts.cost)

    async def load_from(self, mailbox: str | None, address: str | None, agent: str) -> tuple[Usage, Usage]:
        if mailbox is None:
            return self._counts.origins.held_of(address, agent)
        shares = self._counts.shares(mailbox)
        if shares is None:
            values = {"partition_key": mailbox, "kind": self._kinds[Delivery], "dead": by_dead(mailbox)}

            def take(rows: list[Any]) -> None:
                self._counts.learn_shares(mailbox, _shares(rows))

            await self.ask(
                ("load", mailbox), lambda db: db.execute(queries.ORIGINS_OF_MAILBOX, values).fetchall(), take
            )
            shares = self._counts.shares(mailbox)
        return (shares or Shares()).of(address, agent)

    async def memory_from(self, address: str | None, agent: str) -> tuple[int, int]:
        return self._counts.origins.memory_of(address, agent)

    async def due(self, mailbox: str, now: float, limit: int) -> Sequence[Delivery]:
        pending = self._mailboxes.pending(mailbox)
        if pending is not None:
            return mailboxes.due(pending, now, limit)
        found: list[Any] = []
        at, row = -math.inf, 0
        while True:
            rows = self._reading.read(queries.DUE, (mailbox, now, at, row, _LAPSED_AT_ONCE, mailbox, limit))
            if len(rows) < _LAPSED_AT_ONCE:
                break
            lapsed = [one for one in rows if one[5] is not None]
            if len(lapsed) < _LAPSED_AT_ONCE:
                break
            found = _first_of(found + lapsed, limit)
            at, row = lapsed[-1][5], lapsed[-1][0]
            await asyncio.sleep(0)
        found = _first_of(found + rows, limit)
        return await self._reading.load(Delivery, [Hint(*row[:4]) for row in found])

    async def pending(self, mailbox: str, limit: int, but: Container[str] = ()) -> Sequence[Delivery]:
        found = self._reading.some(queries.ALL_READY, (mailbox,), limit, but)
        found += self._reading.some(queries.WAITING, (mailbox,), limit - len(found), but)
        return await self._reading.load(Delivery, found)

    async def next_due_at(self, mailbox: str) -> float | None:
        pending = self._mailboxes.pending(mailbox)
        if pending is not None:
            return mailboxes.next_due_at(pending)
        read = self._reading.read
        ready = read(queries.FIRST_READY, (mailbox,)) or read(queries.FIRST_LATER, (mailbox,))
        return ready[0][0] if ready else None

    async def ending(self, kind: type[R], now: float, limit: int, but: Container[str] = ()) -> Sequence[R]:
        return await self._reading.load(kind, self._reading.some(queries.ENDING, (self._kinds[kind], now), limit, but))

    async def ask(self, what: object, ask: Callable[[sqlite3.Connection], Any], take: Callable[[Any], None]) -> None:
        """Ask the writer's connection behind all commits so far, and have ``take`` told the answer.

        What is asked already is asked once.
        """
        await self._jobs.ask(what, ask, take)

    # -- commits -----------------------------------------------------------------------------------------------------

    async def claim(
        self,
        mailbox: str,
        now: float,
        limit: int,
        rule: Callable[[Sequence[Delivery]], Sequence[Put]],
        *,
        unless: Index | None = None,
    ) -> float | None:
        if unless is not None and (await self.usage(*unless)).count:
            return SKIPPED
        pending = self._mailboxes.pending(mailbox)
        if pending is not None:
            next_at = mailboxes.next_due_at(pending)
            if next_at is None or next_at > now:
                return next_at

        async def due() -> tuple[Sequence[Delivery], float | None]:
            found = await self.due(mailbox, now, limit)
            return found, None if found else await self.next_due_at(mailbox)

        return await self._claims.claim(mailbox, due, rule)

    async def commit(self, partition_key: str, *changes: Put | Drop | Absent) -> None:
        (result,) = await self._jobs.commit((Batch(partition_key, changes),))
        if result is not None:
            raise result

    async def commit_many(self, batches: Sequence[Batch]) -> Sequence[Conflict | Failed | None]:
        return await self._jobs.commit(batches) if batches else []

    async def commit_in_order(self, batches: Sequence[Batch]) -> Sequence[Conflict | Failed | None]:
        return await self._jobs.commit(batches, in_order=True) if batches else []

    def _follow(self, changes: Sequence[Change]) -> None:
        reading, counts, boxes = self._reading, self._counts, self._mailboxes
        for change in changes:
            kind, row, record = change.kind, change.row, change.record
            if record is None:
                continue
            if row is None:
                reading.forget((kind, change.id))
            else:
                reading.keep((kind, change.id), record, row.facts.cost)
            counts.change(kind, change.old, row)
            if kind is Delivery:
                boxes.follow(record, pending=row is not None and record.state is PENDING)


def _first_of(rows: list[Any], limit: int) -> list[Any]:
    return sorted(rows, key=lambda row: (row[4], row[0]))[:limit]


def _shares(rows: list[Any]) -> Shares:
    shares = Shares()
    for address, agent, count, size in rows:
        shares.change((address, agent or ""), count, size)
    return shares
