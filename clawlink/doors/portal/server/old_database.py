"""``portal.db`` of Agent P2P, of any release. It is only ever read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, TypeVar

from clawlink.doors.portal.rules.file_parts import MAX_PART_BYTES
from clawlink.doors.portal.rules.import_rows import MAX_TEXT_BYTES
from clawlink.errors import BadRequest
from clawlink.store.sqlite import sqlite3

T = TypeVar("T")
Row = dict[str, Any]
"""A row, by the names of its columns in small letters."""

_KNOWN = ("contacts", "messages")
_WAIT_SECONDS = 5.0
_BATCH_ROWS = 64
_BATCH_BYTES = 256 * 1024
# Values that are longer than these do not come, and their first bytes tell that.
_MOST_VALUE_BYTES = MAX_TEXT_BYTES + 1
_MOST_CHUNK_BYTES = MAX_PART_BYTES + 1


class Unreadable(BadRequest):
    """A file is no database of Agent P2P, or cannot be read. The page has texts for the ``reason``."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message, field="database")
        self.reason = reason


class OldDatabase:
    """An open database. Names of tables and columns are taken in any case, as the releases differ. Call ``close``.

    It may be used from one thread after the other.
    """

    def __init__(self, path: Path, *, name: str | None = None) -> None:
        """Open it and read all of it once; sentences call it by its path, or the ``name``. Raises BadRequest.

        The file stays as it is.
        """
        self.path = path
        self._name = name or str(path)
        self.folder = path.resolve().parent
        try:
            self._db = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=_WAIT_SECONDS, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise self._unreadable(error) from None
        try:
            self._db.text_factory = lambda data: data.decode("utf-8", "replace")
            self._db.execute("PRAGMA trusted_schema=OFF")
            self._db.execute("PRAGMA ignore_check_constraints=ON")  # else the check below runs what the file says
            self._tables = self._named()
            self._columns = {table: self._columns_of(name) for table, name in self._tables.items()}
            self._require_whole()
            if not all(name in self._tables for name in _KNOWN):
                raise Unreadable(
                    f"{self._name} is no database of Agent P2P: it has no tables contacts and messages; on the old "
                    "server the file is DATABASE_PATH, or data/portal.db below /opt/agent-p2p",
                    "foreign",
                )
        except sqlite3.Error as error:
            self._db.close()
            raise self._unreadable(error) from None
        except BadRequest:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> OldDatabase:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _named(self) -> dict[str, str]:
        """Return the real tables: a view, or a table of an extension, is no table that Agent P2P made."""
        found = self._db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
        return {
            str(name).lower(): str(name)
            for name, sql in found
            if not str(sql or "").lstrip().upper().startswith("CREATE VIRTUAL")
        }

    def _columns_of(self, table: str) -> list[str]:
        """Return the columns of a table. Raises BadRequest for computed ones, of which a few bytes make gigabytes."""
        found = self._db.execute(f"PRAGMA table_xinfo({_quoted(table)})").fetchall()
        if any(hidden for *_, hidden in found):
            raise Unreadable(
                f"{self._name} is no database of Agent P2P: its table {table[:64]!r} has computed columns",
                "computed",
            )
        return [str(name) for _, name, *_ in found]

    def _require_whole(self) -> None:
        (said,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if said != "ok":
            raise sqlite3.DatabaseError(str(said).splitlines()[0])

    def _unreadable(self, error: sqlite3.Error) -> Unreadable:
        text = str(error)
        if not self.path.is_file():
            reason, why = "missing", "there is no such file"
        elif "locked" in text or "busy" in text:
            reason, why = "locked", "the old portal holds it; stop the old portal first"
        elif "not a database" in text:
            reason, why = "no_database", "it is no SQLite database"
        else:
            reason = "damaged"
            why = (
                f"it is damaged, or may not be read ({text[:120]}); copy it with 'sqlite3 portal.db .recover' and retry"
            )
        return Unreadable(f"{self._name} cannot be read: {why}; nothing was changed", reason)

    def count(self, table: str) -> int:
        """Return how many rows a table has; 0 for a table that this release did not have."""
        if table not in self._tables:
            return 0
        (count,) = self._read(f"SELECT count(*) FROM {_quoted(self._tables[table])}").__next__()  # noqa: S608 - quoted
        return int(count)

    def highest(self, table: str) -> Any:
        """Return the highest id of the rows of a table; None if there is none."""
        if table not in self._tables:
            return None
        (highest,) = next(self._read(f"SELECT max(rowid) FROM {_quoted(self._tables[table])}"))  # noqa: S608
        return highest

    def rows(self, table: str, *, newest: bool = False) -> Iterator[Row]:
        """Give the rows of a table in the order of their making, or the newest first. Raises BadRequest."""
        if table not in self._tables:
            return
        order = "DESC" if newest else "ASC"
        yield from self._dicts(table, _MOST_VALUE_BYTES, f"ORDER BY rowid {order}")

    async def read(self, table: str, *, newest: bool = False) -> AsyncIterator[Row]:
        """Give the rows as ``rows`` does, a few at a time from a thread. Raises BadRequest."""
        batches = _batches(self.rows(table, newest=newest))
        while batch := await self._in_thread(batches):
            for row in batch:
                yield row

    async def read_chunks(self, file_id: str) -> AsyncIterator[bytes]:
        """Give the parts of a file in their order, from a thread. Raises BadRequest."""
        chunks = ([data] for data in self.chunks(file_id))
        while found := await self._in_thread(chunks):
            yield found[0]

    async def _in_thread(self, batches: Iterator[list[T]]) -> list[T]:
        """Return the next batch, [] after the last one. The file is not closed before the thread is done with it."""
        empty: list[T] = []
        reading = asyncio.ensure_future(asyncio.to_thread(next, batches, empty))
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            self._db.interrupt()
            await asyncio.wait([reading])
            raise

    def chunks(self, file_id: str) -> Iterator[bytes]:
        """Give the parts of a file in their order."""
        if "file_chunks" not in self._tables:
            return
        for row in self._dicts("file_chunks", _MOST_CHUNK_BYTES, "WHERE file_id = ? ORDER BY chunk_index", file_id):
            data = row.get("data")
            yield data if isinstance(data, bytes) else str(data or "").encode()

    def _dicts(self, table: str, most: int, which: str, *values: Any) -> Iterator[Row]:
        """Give rows. Of a value with more than ``most`` bytes, give the first ones: it is too long in any case."""
        columns = ", ".join(
            f"CASE WHEN length(CAST({column} AS BLOB)) > {most} THEN substr(CAST({column} AS BLOB), 1, {most}) "
            f"ELSE {column} END"
            for column in map(_quoted, self._columns[table])
        )
        query = f"SELECT {columns} FROM {_quoted(self._tables[table])} {which}"  # noqa: S608 - quoted
        names = [column.lower() for column in self._columns[table]]
        with contextlib.closing(self._db.cursor()) as cursor:
            try:
                cursor.execute(query, values)
                while (row := cursor.fetchone()) is not None:
                    yield dict(zip(names, row, strict=True))
            except sqlite3.Error as error:
                raise self._unreadable(error) from None

    def _read(self, query: str) -> Iterator[Any]:
        try:
            yield from self._db.execute(query)
        except sqlite3.Error as error:
            raise self._unreadable(error) from None


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Give rows in batches that take the interpreter for a millisecond at most, but for rows that take longer."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(len(value) for value in row.values() if isinstance(value, str | bytes))
        if len(batch) >= _BATCH_ROWS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
