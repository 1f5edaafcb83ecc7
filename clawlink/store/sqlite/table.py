"""The rows of records and of their entries in indexes, as one transaction after the other changes them."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Sequence
from itertools import repeat

from clawlink.store.base import Conflict
from clawlink.store.sqlite.jobs import Change
from clawlink.store.sqlite.rows import Facts, Row, pack, unpack

# The records that were written last are known without asking. Others are let go one at a time: to free thousands at
# once would hold the event loop.
MOST_KNOWN = 10_000
_NUMBERS_AT_ONCE = 1 << 20

_OLD = (
    "SELECT row, version, partition_key, held, address, agent, weight, cost, ends_at, entries FROM record "
    "WHERE id = ? AND kind = ?"
)
_INSERT = (
    "INSERT INTO record (version, sort_key, ready_at, later, held, address, agent, weight, cost, data, "
    "entries, ends_at, kind, id, partition_key) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (id, kind) DO NOTHING"
)
_UPDATE = (
    "UPDATE record SET version = ?, sort_key = ?, ready_at = ?, later = ?, held = ?, address = ?, agent = ?, "
    "weight = ?, cost = ?, data = ?, entries = ? WHERE row = ?"
)
_UPDATE_WITH_END = _UPDATE.replace(" WHERE", ", ends_at = ? WHERE")
_DELETE = "DELETE FROM record WHERE row = ?"
_ENTER = "INSERT INTO entry (kind, key, number, row, weight) VALUES (?, ?, ?, ?, ?)"
_LEAVE = "DELETE FROM entry WHERE kind = ? AND key = ? AND number = ?"
_WEIGH = "UPDATE entry SET weight = ? WHERE kind = ? AND key = ? AND number = ?"


class Table:
    """The tables behind the writing connection. Its caller begins and ends the transactions."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._cursor = db.cursor()  # one for all statements: each of them is done when the next begins
        self._execute, self._executemany = self._cursor.execute, self._cursor.executemany
        self._kinds = {number for (number,) in db.execute("SELECT number FROM kind")}
        self._number = self._last_number = 0
        self._known: OrderedDict[tuple[str, int], Row] = OrderedDict()

    def close(self) -> None:
        """Let go of the connection: with a statement that is not ended, SQLite keeps it open behind its close."""
        self._cursor.close()

    def forget(self) -> None:
        """Forget what a transaction wrote that is undone, and the numbers that it reserved."""
        self._number = self._last_number = 0
        self._known = OrderedDict()

    def learn(self, kinds: set[int]) -> None:
        """Note kinds that have a name once their transaction is committed."""
        self._kinds |= kinds

    def apply(
        self, partition_key: str, changes: Sequence[Change], done: list[Change], new_kinds: set[int]
    ) -> Conflict | None:
        """Compare all versions of one partition, and change its records if they fit. Return a conflict if not.

        The first new record is compared by its insertion, behind all others. The changes then come to ``done``, those
        too that only ask for a record's absence. Numbers of kinds without a name so far come to ``new_kinds``.
        """
        new: Change | None = None
        for change in changes:
            follows = change.follows
            if new is None and follows == 0 and change.row is not None:
                new = change  # its insertion finds out whether it is there, before anything else is changed
                continue
            change.old = old = self.stored(change.id, change.number)
            if old is None:
                if follows != 0:
                    return _conflict(change)
            elif old.version != follows or old.facts.partition_key != partition_key:
                return _conflict(change)
        if new is not None and not self._insert(new, new_kinds):
            return _conflict(new)
        known = self._known
        for change in changes:
            old, row = change.old, change.row
            if row is not None:
                if old is not None:
                    self._update(change, old, row)
                elif change is not new and not self._insert(change, new_kinds):
                    raise sqlite3.IntegrityError(f"{change.id} is twice in a commit")
                key = change.id, change.number
                known[key] = row
                if old is not None:
                    known.move_to_end(key)
            elif old is not None:
                self._delete(change.number, old)
                known.pop((change.id, change.number), None)
        while len(known) > MOST_KNOWN:
            known.popitem(last=False)
        done += changes
        return None

    def stored(self, id: str, number: int) -> Row | None:
        """Return the compared and counted fields of a stored record."""
        known = self._known.get((id, number))
        if known is not None:
            return known
        found = self._execute(_OLD, (id, number)).fetchone()
        if found is None:
            return None
        rowid, version, partition_key, held, address, agent, weight, cost, ends_at, packed = found
        entries = unpack(packed)
        origin = None if agent is None else (address, agent)
        facts = Facts(partition_key, tuple([key for key, _ in entries]), weight, held, origin, cost)
        return Row(facts, version, ends_at, rowid, tuple([place for _, place in entries]))

    def _insert(self, change: Change, new_kinds: set[int]) -> bool:
        """Insert a new record. Return False if it is there."""
        number, new = change.number, change.row
        if new is None:
            return True
        if number not in self._kinds:
            self._name_kind(change, new_kinds)
        facts = new.facts
        keys, packed = facts.keys, None
        if keys:
            place = self._next_number()
            new.places = (place,) * len(keys)
            packed = pack(tuple(zip(keys, repeat(place))))
        inserted = self._execute(_INSERT, (*change.values, packed, new.ends_at, number, change.id, facts.partition_key))
        if not inserted.rowcount:
            return False
        new.rowid = rowid = inserted.lastrowid or 0
        if keys:
            self._executemany(_ENTER, zip(repeat(number), keys, repeat(place), repeat(rowid), repeat(facts.weight)))
        return True

    def _name_kind(self, change: Change, new_kinds: set[int]) -> None:
        if change.number not in new_kinds:
            from clawlink.store import records  # only for the first record of a kind

            name = records.kinds()[change.kind].name
            self._execute("INSERT INTO kind (number, name) VALUES (?, ?)", (change.number, name))
            new_kinds.add(change.number)

    def _delete(self, number: int, old: Row) -> None:
        self._execute(_DELETE, (old.rowid,))
        if old.places:
            self._executemany(_LEAVE, zip(repeat(number), old.facts.keys, old.places))

    def _update(self, change: Change, old: Row, new: Row) -> None:
        number, rowid, before = change.number, old.rowid, old.facts
        facts, weight = new.facts, new.facts.weight
        keys, places = facts.keys, old.places
        if keys != before.keys:
            kept = dict(zip(before.keys, places, strict=True))
            place = self._next_number()
            places = tuple([kept.get(key, place) for key in keys])
            gone = [(number, key, kept[key]) for key in before.keys if key not in keys]
            if gone:
                self._executemany(_LEAVE, gone)
            come = [(number, key, place, rowid, weight) for key in keys if key not in kept]
            if come:
                self._executemany(_ENTER, come)
        if weight != before.weight:
            for key, place in zip(keys, places, strict=True):
                if key in before.keys:
                    self._execute(_WEIGH, (weight, number, key, place))
        new.rowid, new.places = rowid, places
        packed = pack(list(zip(keys, places, strict=True)))
        if new.ends_at == old.ends_at:
            self._execute(_UPDATE, (*change.values, packed, rowid))
        else:
            self._execute(_UPDATE_WITH_END, (*change.values, packed, new.ends_at, rowid))

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
    why = f"is not at version {change.follows}" if change.follows else "exists"
    return Conflict(change.kind, change.id, why)
