"""The rows of records and of their entries in indexes, as one transaction after the other changes them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from clawlink.store.base import Conflict
from clawlink.store.sqlite.jobs import Change, Done
from clawlink.store.sqlite.rows import NO_ORIGIN, Entry, Facts, pack, unpack

# The records that were written last are known without asking, twice this many at most. Others are let go one at a time:
# to free thousands at once would hold the event loop.
MOST_KNOWN = 5000
_NUMBERS_AT_ONCE = 1 << 20

_OLD = (
    "SELECT row, version, partition_key, held, address, agent, weight, cost, ends_at, entries FROM record "
    "WHERE id = ? AND kind = ?"
)
_INSERT = (
    "INSERT INTO record (kind, id, version, partition_key, ends_at, sort_key, ready_at, later, held, address, agent, "
    "weight, cost, entries, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (id, kind) DO NOTHING"
)
_UPDATE = (
    "UPDATE record SET version = ?, sort_key = ?, ready_at = ?, later = ?, held = ?, address = ?, agent = ?, "
    "weight = ?, cost = ?, entries = ?, data = ? WHERE row = ?"
)
_UPDATE_WITH_END = _UPDATE.replace(" WHERE", ", ends_at = ? WHERE")
_DELETE = "DELETE FROM record WHERE row = ?"
_ENTER = "INSERT INTO entry (kind, key, number, row, weight) VALUES (?, ?, ?, ?, ?)"
_LEAVE = "DELETE FROM entry WHERE kind = ? AND key = ? AND number = ?"
_WEIGH = "UPDATE entry SET weight = ? WHERE kind = ? AND key = ? AND number = ?"


class _Stored(msgspec.Struct, frozen=True, gc=False):
    """A stored record, as far as the writer looks at it."""

    row: int
    version: int
    ends_at: float | None
    facts: Facts
    entries: tuple[Entry, ...]


class Table:
    """The tables behind the writing connection. Its caller begins and ends the transactions."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._cursor = db.cursor()  # one for all statements: each of them is done when the next begins
        self._execute, self._executemany = self._cursor.execute, self._cursor.executemany
        self._kinds = {number for (number,) in db.execute("SELECT number FROM kind")}
        self._number = self._last_number = 0
        self._newer: dict[tuple[str, int], _Stored] = {}
        self._older: dict[tuple[str, int], _Stored] = {}
        self._leaving: dict[tuple[str, int], _Stored] = {}

    def close(self) -> None:
        """Let go of the connection: with a statement that is not ended, SQLite keeps it open behind its close."""
        self._cursor.close()

    def forget(self) -> None:
        """Forget what a transaction wrote that is undone, and the numbers that it reserved."""
        self._number = self._last_number = 0
        self._newer, self._older = {}, {}

    def learn(self, kinds: set[int]) -> None:
        """Note kinds that have a name once their transaction is committed."""
        self._kinds |= kinds

    def apply(
        self, partition_key: str, changes: Sequence[Change], done: list[Done], new_kinds: set[int]
    ) -> Conflict | None:
        """Compare all versions of one partition, and change its records if they fit.

        Changes that took effect come to ``done``, and numbers of kinds without a name so far to ``new_kinds``.
        """
        found: list[_Stored | None] = []
        new: Change | None = None
        first = True
        for change in changes:
            if first and change.follows == 0 and change.row is not None:
                old = self._known(change.id, change.number)
                if old is None:  # the insertion finds out whether it is there, before anything else is changed
                    new = change
            else:
                old = self.stored(change.id, change.number)
            first = first and change.absent
            if change.absent:
                if old is not None:
                    return Conflict(change.kind, change.id, "exists")
            elif (
                change.follows != 0
                if old is None
                else old.version != change.follows or old.facts.partition_key != partition_key
            ):
                return _conflict(change)
            found.append(old)
        if new is not None:
            self._name_kind(new, new_kinds)
            if not self._insert(new):
                return _conflict(new)
        for change, old in zip(changes, found, strict=True):
            if not change.absent:
                done.append((change, None if old is None else old.facts))
                if change is not new:
                    self._name_kind(change, new_kinds)
                    self._write(change, old)
        return None

    def stored(self, id: str, number: int) -> _Stored | None:
        """Return the compared and counted fields of a stored record. The last ones are cached."""
        known = self._known(id, number)
        if known is not None:
            return known
        found = self._execute(_OLD, (id, number)).fetchone()
        if found is None:
            return None
        row, version, partition_key, held, address, agent, weight, cost, ends_at, packed = found
        entries = unpack(packed)
        origin = None if agent is None else (address, agent)
        facts = Facts(partition_key, tuple([entry.key for entry in entries]), weight, held, origin, cost)
        return _Stored(row, version, ends_at, facts, entries)

    def _known(self, id: str, number: int) -> _Stored | None:
        key = (id, number)
        return self._newer.get(key) or self._older.get(key)

    def _know(self, change: Change, stored: _Stored | None) -> None:
        """Note a record's new fields. A rollback forgets all of them."""
        key = (change.id, change.number)
        if stored is None:
            self._newer.pop(key, None)
        else:
            if len(self._newer) >= MOST_KNOWN:
                self._leaving, self._older, self._newer = self._older, self._newer, {}
            self._newer[key] = stored
            if self._leaving:
                self._leaving.popitem()
        self._older.pop(key, None)

    def _name_kind(self, change: Change, new_kinds: set[int]) -> None:
        if change.number not in self._kinds and change.number not in new_kinds:
            from clawlink.store import records  # only for the first record of a kind

            name = records.kinds()[change.kind].name
            self._execute("INSERT INTO kind (number, name) VALUES (?, ?)", (change.number, name))
            new_kinds.add(change.number)

    def _insert(self, change: Change) -> bool:
        """Insert a new record. Return False if it is there."""
        new = change.row
        if new is None:
            return True
        facts = new.facts
        entries = self._entries(facts.keys, ()) if facts.keys else ()
        inserted = self._execute(
            _INSERT,
            (
                change.number, change.id, new.version, facts.partition_key, new.ends_at, new.sort_key, new.ready_at,
                new.later, facts.held, *(facts.origin or NO_ORIGIN), facts.weight, facts.cost, pack(entries), new.data,
            ),
        )  # fmt: skip
        if not inserted.rowcount:
            return False
        row = inserted.lastrowid or 0
        if entries:
            number, weight = change.number, facts.weight
            self._executemany(_ENTER, [(number, entry.key, entry.number, row, weight) for entry in entries])
        self._know(change, _Stored(row, new.version, new.ends_at, facts, entries))
        return True

    def _write(self, change: Change, old: _Stored | None) -> None:
        number, new = change.number, change.row
        if old is None:
            if new is not None and not self._insert(change):
                raise sqlite3.IntegrityError(f"{change.id} is twice in a commit")
            return
        row, before = old.row, old.entries
        if new is None:
            self._execute(_DELETE, (row,))
            if before:
                self._executemany(_LEAVE, [(number, entry.key, entry.number) for entry in before])
            self._know(change, None)
            return
        facts = new.facts
        entries = before if facts.keys == old.facts.keys else self._entries(facts.keys, before)
        values = (
            new.version, new.sort_key, new.ready_at, new.later, facts.held, *(facts.origin or NO_ORIGIN), facts.weight,
            facts.cost, pack(entries), new.data,
        )  # fmt: skip
        if new.ends_at == old.ends_at:
            self._execute(_UPDATE, (*values, row))
        else:
            self._execute(_UPDATE_WITH_END, (*values, new.ends_at, row))
        weight = facts.weight
        if entries is not before:
            left = [(number, entry.key, entry.number) for entry in before if entry not in entries]
            if left:
                self._executemany(_LEAVE, left)
            entered = [(number, entry.key, entry.number, row, weight) for entry in entries if entry not in before]
            if entered:
                self._executemany(_ENTER, entered)
        if weight != old.facts.weight:
            for entry in entries:
                if entry in before:
                    self._execute(_WEIGH, (weight, number, entry.key, entry.number))
        self._know(change, _Stored(row, new.version, new.ends_at, facts, entries))

    def _entries(self, keys: Iterable[str], before: Sequence[Entry]) -> tuple[Entry, ...]:
        """Return the entries for these keys: an existing key keeps its place, a new one gets the last."""
        kept = {entry.key: entry for entry in before}
        number = self._next_number()
        return tuple([kept.get(key) or Entry(key, number) for key in keys])

    def _next_number(self) -> int:
        """Return the next number of an entry. They are reserved in blocks, so that none comes twice after a crash."""
        if self._number == self._last_number:
            found = self._execute("SELECT value FROM meta WHERE name = 'numbers'").fetchone()
            self._number = 0 if found is None else found[0]
            self._last_number = self._number + _NUMBERS_AT_ONCE
            self._execute("INSERT OR REPLACE INTO meta VALUES ('numbers', ?)", (self._last_number,))
        self._number += 1
        return self._number


def _conflict(change: Change) -> Conflict:
    return Conflict(change.kind, change.id, f"is not at version {change.follows}")
