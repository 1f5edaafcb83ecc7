"""How many records there are, and how many bytes: of each mailbox from the start, of an index from the first question.

The counts belong to the event loop. They follow the commits in the order in which the writer made them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from clawlink.store.base import Usage
from clawlink.store.sqlite.rows import Facts, Origin
from clawlink.store.tables import NOTHING, Origins, Shares

# Of indexes and of mailboxes, the counts that were asked for last are kept.
_MOST_INDEXES = 50_000
_MOST_SHARES = 500
_NOBODY: Origin = (None, "")

Place = tuple[type[Any], str]
"""An index: the kind of its records, and its key."""


class Counts:
    """The counts of one store."""

    def __init__(self) -> None:
        self.held = [0, 0]
        self.cost = 0
        self._mailboxes: dict[str, list[int]] = {}
        self._indexes: dict[Place, list[int]] = {}
        self.origins = Origins()  # the bytes that records take on the disk, and the messages that mailboxes hold
        self._mailbox_shares: dict[str, Shares] = {}
        self._index_shares: dict[Place, Shares] = {}

    # -- read --------------------------------------------------------------------------------------------------------

    def mailbox(self, mailbox: str) -> Usage:
        found = self._mailboxes.get(mailbox)
        return NOTHING if found is None else Usage(found[0], found[1])

    def held_in(self, mailbox: str) -> int:
        """Return how many messages a mailbox holds."""
        found = self._mailboxes.get(mailbox)
        return 0 if found is None else found[0]

    def index(self, place: Place) -> Usage | None:
        """Return the count of an index; None if it is not known yet."""
        found = self._indexes.get(place)
        return None if found is None else Usage(found[0], found[1])

    def shares(self, mailbox: str) -> Shares | None:
        """Return where the messages of a mailbox come from; None if it is not known yet."""
        return self._mailbox_shares.get(mailbox)

    def index_shares(self, place: Place) -> Shares | None:
        """Return where the records of an index come from; None if it is not known yet."""
        return self._index_shares.get(place)

    # -- learn -------------------------------------------------------------------------------------------------------

    def learn_records(self, rows: Iterable[tuple[str, str | None, str | None, int | None, int]]) -> None:
        """Take all records, as partition, address, agent, bytes in a mailbox if they are in one, and cost."""
        mailboxes, cost = self._mailboxes, 0
        origins: dict[tuple[str | None, str | None], list[int]] = {}  # cost; and of those in mailboxes, bytes and count
        for partition_key, address, agent, held, size in rows:
            cost += size
            origin = origins.get((address, agent))
            if origin is None:
                origin = origins[address, agent] = [0, 0, 0]
            origin[0] += size
            if held is not None:
                origin[1] += held
                origin[2] += 1
                mailbox = mailboxes.get(partition_key)
                if mailbox is None:
                    mailboxes[partition_key] = [1, held]
                else:
                    mailbox[0] += 1
                    mailbox[1] += held
        self.cost += cost
        for (address, agent), (size, held_bytes, held_count) in origins.items():
            self.held[0] += held_count
            self.held[1] += held_bytes
            if agent is not None:
                self.origins.enter((address, agent), size, held_bytes, held_count)

    def learn_index(self, place: Place, count: int, size: int) -> None:
        _make_room(self._indexes, _MOST_INDEXES)
        self._indexes[place] = [count, size]

    def learn_shares(self, mailbox: str, shares: Shares) -> None:
        _make_room(self._mailbox_shares, _MOST_SHARES)
        self._mailbox_shares[mailbox] = shares

    def learn_index_shares(self, place: Place, shares: Shares) -> None:
        _make_room(self._index_shares, _MOST_SHARES)
        self._index_shares[place] = shares

    # -- follow ------------------------------------------------------------------------------------------------------

    def change(self, kind: type[Any], old: Facts | None, new: Facts | None) -> None:
        """Count one record again."""
        if old is None or new is None or old.origin != new.origin or old.partition_key != new.partition_key:
            if old is not None:
                self._count(kind, old, -1)
            if new is not None:
                self._count(kind, new, 1)
            return
        origin = new.origin
        grown = new.cost - old.cost
        if grown:
            self.cost += grown
            if origin is not None:
                self.origins.change(origin, grown)
        if old.keys != new.keys or old.weight != new.weight:
            self._enter(kind, old.keys, origin, -1, -old.weight)
            self._enter(kind, new.keys, origin, 1, new.weight)
        if old.held != new.held:
            if old.held is not None:
                self._hold(new.partition_key, origin, -1, -old.held)
            if new.held is not None:
                self._hold(new.partition_key, origin, 1, new.held)

    def _count(self, kind: type[Any], facts: Facts, sign: int) -> None:
        """Count a record in, or out again."""
        size, origin, held = sign * facts.cost, facts.origin, facts.held
        self.cost += size
        if origin is not None and sign > 0:
            self.origins.change(origin, size)
        if facts.keys:
            self._enter(kind, facts.keys, origin, sign, sign * facts.weight)
        if held is not None:
            self._hold(facts.partition_key, origin, sign, sign * held)
        if origin is not None and sign < 0:  # last: an origin without records is forgotten
            self.origins.change(origin, size)

    def _enter(self, kind: type[Any], keys: Iterable[str], origin: Origin | None, count: int, size: int) -> None:
        indexes, index_shares = self._indexes, self._index_shares
        for key in keys:
            place = (kind, key)
            known = indexes.get(place)
            if known is not None:
                known[0] += count
                known[1] += size
            if index_shares and (shares := index_shares.get(place)) is not None:
                shares.change(origin or _NOBODY, count, size)

    def _hold(self, mailbox: str, origin: Origin | None, count: int, size: int) -> None:
        if origin is not None:
            self.origins.hold(origin, count, size)
        shares = self._mailbox_shares.get(mailbox)
        if shares is not None:
            shares.change(origin or _NOBODY, count, size)
        self.held[0] += count
        self.held[1] += size
        known = self._mailboxes.get(mailbox)
        if known is None:
            self._mailboxes[mailbox] = [count, size]
            return
        known[0] += count
        known[1] += size
        if not known[0]:
            del self._mailboxes[mailbox]


def _make_room(table: dict[Any, Any], most: int) -> None:
    if len(table) >= most:
        del table[next(iter(table))]
