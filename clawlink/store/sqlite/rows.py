"""Records as rows: the queried fields are columns, and the record itself is bytes beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from clawlink.domain.delivery import DEAD, PENDING, Delivery
from clawlink.store import records

# The bytes of a row's columns beside its record, of its entries in SQLite's own indexes, and of an entry of an index
# beside its key, measured on large folders.
_COLUMN_BYTES = 110
_INDEXED_BYTES = 110
ENTRY_BYTES = 40
# The bytes of a page of the database, and those of it that are for rows. A row of more than ``_LONGEST`` keeps only a
# part there, at least ``_SHORTEST``. The others lie on pages of its own, ``_OWN_PAGE`` on each.
_PAGE_BYTES, _FOR_ROWS, _LONGEST, _SHORTEST, _OWN_PAGE = 4096, 4088, 4061, 489, 4092


class Kinds(dict[type[Any], int]):
    """The numbers of the kinds of records. A kind that was never stored gets the next one when it is asked for."""

    def __init__(self, stored: Iterable[tuple[int, str]]) -> None:
        super().__init__()
        self._numbers = {name: number for number, name in stored}

    def __missing__(self, kind: type[Any]) -> int:
        name = records.kinds()[kind].name
        number = self[kind] = self._numbers.setdefault(name, max(self._numbers.values(), default=0) + 1)
        return number


Origin = tuple[str | None, str]
NO_ORIGIN = (None, None)
"""The columns of a record that counts for no agent."""


class Facts(msgspec.Struct, frozen=True, gc=False):
    """The facts of a record that are counted. ``held`` are its bytes in a mailbox, None if it is not in one.

    ``origin`` is the address and the agent that it counts for, None if it counts for no agent.
    """

    partition_key: str
    keys: tuple[str, ...]
    weight: int
    held: int | None
    origin: Origin | None
    cost: int


class Row(msgspec.Struct, gc=False):
    """A row of the table of records, without the record.

    The table sets ``rowid``, and the place of the record under each key: a number, greater for a later record. The
    record keeps it as long as it has the key.
    """

    facts: Facts
    version: int
    ends_at: float | None
    rowid: int = 0
    places: tuple[int, ...] = ()


Values = tuple[Any, ...]
"""The columns of a row that each change writes: from the version to the cost, and the record's bytes."""


def row_of(record: Any, partition_key: str) -> tuple[Row, Values]:
    """Return the row of a record that lives at ``partition_key``, and its columns.

    A new message is ready at once unless it is stored to wait, or as leased. Any other pending one is filed by its
    time.
    """
    version, data = record.version, records.encode(record)
    keys: tuple[str, ...] = record.index_keys
    weight, cost, size = 0, _INDEXED_BYTES, _COLUMN_BYTES + len(data)
    if keys:
        weight, named = record.weight, len("".join(keys))
        cost += ENTRY_BYTES * len(keys) + named
        size += named
    cost += max(record.footprint, _on_pages(size))
    origin: Origin | None = getattr(record, "origin", None)
    address, agent = origin or NO_ORIGIN
    sort_key = ready_at = later = held = None
    if type(record) is Delivery:
        state = record.state
        if state is PENDING:
            sort_key, held, at = record.sort_key, len(record.body), record.visible_at
            if version == 1 and at <= record.stored_at:
                ready_at = at
            else:
                later = at
        elif state is DEAD:
            held = len(record.body)
    row = Row(Facts(partition_key, keys, weight, held, origin, cost), version, record.ends_at)
    return row, (version, sort_key, ready_at, later, held, address, agent, weight, cost, data)


def _on_pages(size: int) -> int:
    """Return the bytes that a row takes of the file: its share of a page with as many of its size as fit there."""
    own = 0
    if size > _LONGEST:
        left = _SHORTEST + (size - _SHORTEST) % _OWN_PAGE
        if left > _LONGEST:
            left = _SHORTEST
        own = -(-(size - left) // _OWN_PAGE) * _PAGE_BYTES
        size = left + 4
    return own + _PAGE_BYTES // (_FOR_ROWS // (size + 8) or 1)


Entry = tuple[str, int]
"""A key, and the place of a record under it."""

_entries = msgspec.msgpack.Decoder(tuple[Entry, ...])


def pack(entries: Sequence[Entry]) -> bytes | None:
    """Return entries as a row keeps them."""
    return msgspec.msgpack.encode(entries) if entries else None


def unpack(data: bytes | None) -> tuple[Entry, ...]:
    """Return the entries that a row keeps."""
    return _entries.decode(data) if data else ()
