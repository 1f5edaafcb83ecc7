"""The reading connection on the event loop, and the records that were read or committed last."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Container, Sequence
from time import perf_counter
from typing import Any, NamedTuple

from clawlink.store import records
from clawlink.store.base import Failed, R
from clawlink.store.sqlite.rows import Kinds

# Records that were committed or read last are kept decoded, twice this many bytes of them at most. Others are let go a
# few at a time, as many as take the bytes of the next ones: to free thousands at once would hold the event loop.
CACHE_BYTES = 8 * 1024 * 1024
_LEAST_BYTES = 256
_SLICE_SECONDS = 0.001
_SLICE_BYTES = 256 * 1024

_GET = "SELECT data FROM record WHERE id = ? AND kind = ?"
_BY_ROW = "SELECT data FROM record WHERE row = ?"


class Hint(NamedTuple):
    """The place of a record, its version and its size, as an index tells them."""

    row: int
    id: str
    version: int
    cost: int


class Reading:
    """Reads records, each once as long as it is kept decoded.

    ``read_warm`` asks a connection that has more pages in its cache. It returns None if that has no time.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        kinds: Kinds,
        read_warm: Callable[[str, tuple[Any, ...]], list[Any] | None],
    ) -> None:
        self._db = db
        self._kinds = kinds
        self._read_warm = read_warm
        self._newer: dict[tuple[type[Any], str], Any] = {}
        self._older: dict[tuple[type[Any], str], Any] = {}
        self._leaving: dict[tuple[type[Any], str], Any] = {}
        self._newer_bytes = 0

    def forget(self, key: tuple[type[Any], str]) -> None:
        """Forget a record that has gone."""
        self._newer.pop(key, None)
        self._older.pop(key, None)

    def read(self, sql: str, values: tuple[Any, ...]) -> list[Any]:
        """Return the rows of a query. Raises Failed."""
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise Failed(f"SQLite: {error}") from error

    def get(self, kind: type[R], id: str) -> R | None:
        """Return a record as last committed. Raises Failed."""
        key = (kind, id)
        record: R | None = self._newer.get(key)
        if record is not None:
            return record
        record = self._older.get(key)
        if record is None:
            values = (id, self._kinds[kind])
            found = self._read_warm(_GET, values)
            if found is None:
                found = self.read(_GET, values)
            if not found:
                return None
            record = _decoded(found[0][0])
        self.keep(key, record, record.footprint)
        return record

    def keep(self, key: tuple[type[Any], str], record: Any, size: int) -> None:
        """Keep the last version of a record decoded. Those that were not asked for lately go."""
        if self._newer_bytes > CACHE_BYTES:
            self._leaving, self._older, self._newer, self._newer_bytes = self._older, self._newer, {}, 0
        self._newer_bytes += size
        self._newer[key] = record
        leaving = self._leaving
        if leaving:
            for _ in range(min(1 + size // _LEAST_BYTES, len(leaving))):
                leaving.popitem()

    def _cached(self, kind: type[R], hint: Hint) -> R | None:
        key = (kind, hint.id)
        record: R | None = self._newer.get(key) or self._older.get(key)
        return record if record is not None and record.version == hint.version else None

    async def load(self, kind: type[R], hints: Sequence[Hint]) -> list[R]:
        """Return records in the order of their hints, with turns for others. Those that have gone are left out."""
        found: list[R] = []
        until, size = perf_counter() + _SLICE_SECONDS, 0
        for hint in hints:
            record = self._cached(kind, hint)
            if record is None:
                if size > _SLICE_BYTES or perf_counter() > until:
                    await asyncio.sleep(0)
                    until, size = perf_counter() + _SLICE_SECONDS, 0
                size += hint.cost
                data = self.read(_BY_ROW, (hint.row,))
                record = _decoded(data[0][0]) if data else None
                if record is None or type(record) is not kind or record.id != hint.id:
                    continue
            found.append(record)
        return found

    def some(self, sql: str, values: tuple[Any, ...], limit: int, but: Container[str]) -> list[Hint]:
        """Return the first hints, without those of unwanted ids."""
        found: list[Hint] = []
        if limit <= 0:
            return found
        try:
            rows = self._db.execute(sql, values)
            try:
                for row in rows:
                    if row[1] not in but:
                        found.append(Hint(*row))
                        if len(found) == limit:
                            break
            finally:
                rows.close()  # an open one would keep later reads at this moment
        except sqlite3.Error as error:
            raise Failed(f"SQLite: {error}") from error
        return found


def _decoded(data: bytes) -> Any:
    try:
        return records.decode(data)
    except ValueError as error:
        raise Failed(f"a record cannot be read: {error}") from error
