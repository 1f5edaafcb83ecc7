"""How many records there are, and how many bytes: of each mailbox from the start, of an index from the first question.

The counts belong to the event loop. They follow the commits in the order in which the writer made them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from clawlink.store.base import Usage
from clawlink.store.sqlite.rows import Facts, Origin, Row
from clawlink.store.tables import NOTHING, Origins, Shares

# The most indexes of a kind, and shares of mailboxes and of indexes, that are counted: those that were learnt last.
_MOST_INDEXES = 50_000
_MOST_SHARES = 500
_NOBODY: Origin = (None, "")

Place = tuple[type[Any], str]
"""An index: the kind of its records, and its key."""


class Counts:
    """The counts of one store."""

    def __init__(self) -> None:
        self.held = NOTHING
        self.cost = 0
        self._mailboxes: dict[str, Usage] = {}
        self._indexes: defaultdict[type[Any], dict[str, Usage]] = defaultdict(dict)
        self.origins = Origins()  # the bytes that records take on the disk, and the messages that mailboxes hold
        self._mailbox_shares: dict[str, Shares] = {}
        self._index_shares: dict[Place, Shares] = {}

    # -- read --------------------------------------------------------------------------------------------------------

    def mailbox(self, mailbox: str) -> Usage:
        return self._mailboxes.get(mailbox, NOTHING)

    def index(self, kind: type[Any], key: str) -> Usage | None:
        """Return the count of an index; None if it is not known yet."""
        return self._indexes[kind].get(key)

    def shares(self, mailbox: str) -> Shares | None:
        """Return where the messages of a mailbox come from; None if it is not known yet."""
        return self._mailbox_shares.get(mailbox)

    def index_shares(self, place: Place) -> Shares | None:
        """Return where the records of an index come from; None if it is not known yet."""
        return self._index_shares.get(place)

    # -- learn -------------------------------------------------------------------------------------------------------

    def learn_records(self, rows: Iterable[tuple[str, str | None, str | None, int | None, int]]) -> None:
        """Take all records, as partition, address, agent, bytes in a mailbox if they are in one, and cost."""
        mailboxes: dict[str, list[int]] = {}
        cost = 0
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
        self._mailboxes = {mailbox: Usage(*usage) for mailbox, usage in mailboxes.items()}
        for (address, agent), (size, held_bytes, held_count) in origins.items():
            self.held = Usage(self.held.count + held_count, self.held.bytes + held_bytes)
            if agent is not None:
                self.origins.enter((address, agent), size, held_bytes, held_count)

    def learn_index(self, place: Place, usage: Usage) -> None:
        kind, key = place
        _make_room(self._indexes[kind], key, _MOST_INDEXES)
        self._indexes[kind][key] = usage

    def learn_shares(self, mailbox: str, shares: Shares) -> None:
        _make_room(self._mailbox_shares, mailbox, _MOST_SHARES)
        self._mailbox_shares[mailbox] = shares

    def learn_index_shares(self, place: Place, shares: Shares) -> None:
        _make_room(self._index_shares, place, _MOST_SHARES)
        self._index_shares[place] = shares

    # -- follow ------------------------------------------------------------------------------------------------------

    def change(self, kind: type[Any], old: Row | None, new: Row | None) -> None:
        """Count one record again."""
        if old is not None and new is not None and old.facts.origin == new.facts.origin:
            self._count_again(kind, old.facts, new.facts)
            return
        if new is not None:
            self._count(kind, new.facts, 1)
        if old is not None:
            self._count(kind, old.facts, -1)

    def _count(self, kind: type[Any], facts: Facts, sign: int) -> None:
        """Count a record in, or out again."""
        if facts.keys:
            self._enter(kind, facts, sign)
        held = facts.held
        if held is None:
            self._hold(facts, sign * facts.cost, 0, 0)
        else:
            self._hold(facts, sign * facts.cost, sign, sign * held)

    def _count_again(self, kind: type[Any], old: Facts, new: Facts) -> None:
        """Count the difference between two versions of one origin."""
        if old.keys != new.keys or old.weight != new.weight:
            self._enter(kind, new, 1)
            self._enter(kind, old, -1)
        size = new.cost - old.cost
        count = held = 0
        if old.held != new.held:
            count = (new.held is not None) - (old.held is not None)
            held = (new.held or 0) - (old.held or 0)
        if size or count or held:
            self._hold(new, size, count, held)

    def _enter(self, kind: type[Any], facts: Facts, sign: int) -> None:
        """Count a record into its indexes, or out again."""
        weight, indexes = sign * facts.weight, self._indexes[kind]
        for key in facts.keys:
            if key in indexes:
                usage = indexes[key]
                indexes[key] = Usage(usage.count + sign, usage.bytes + weight)
        if self._index_shares:
            for key in facts.keys:
                if (shares := self._index_shares.get((kind, key))) is not None:
                    shares.change(facts.origin or _NOBODY, sign, weight)

    def _hold(self, facts: Facts, size: int, count: int, held: int) -> None:
        """Count bytes of the disk, and messages and their bytes in a mailbox."""
        self.cost += size
        origin = facts.origin
        if not count and not held:
            if origin is not None:
                self.origins.change(origin, size)
            return
        if origin is not None:
            self.origins.enter(origin, size, held, count)
        mailbox, usage = facts.partition_key, self.held
        self.held = Usage(usage.count + count, usage.bytes + held)
        usage = self._mailboxes.get(mailbox, NOTHING)
        messages = usage.count + count
        if messages:
            self._mailboxes[mailbox] = Usage(messages, usage.bytes + held)
        else:
            del self._mailboxes[mailbox]
        if (shares := self._mailbox_shares.get(mailbox)) is not None:
            shares.change(origin or _NOBODY, count, held)


def _make_room(table: dict[Any, Any], key: Any, most: int) -> None:
    """Let go of the count that was learnt first, if there is no room for another key."""
    if len(table) >= most and key not in table:
        del table[next(iter(table))]
