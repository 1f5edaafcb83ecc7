"""The facts that the server keeps of a record beside its bytes: the scripts keep indexes and counts by them."""

from __future__ import annotations

from typing import Any

import msgspec

from clawlink.domain.delivery import DEAD, PENDING, Delivery

# About the bytes that the server takes for a record beside its bytes, and for an entry of an index beside its key.
_RECORD_BYTES = 300
_ENTRY_BYTES = 120


class Facts(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The facts of a record, in the order in which the scripts read them.

    ``held`` are its bytes in a mailbox, None if it is not in one. ``by_address`` and ``by_agent`` are the ends of the
    names of its counts, None if it has no origin. A pending delivery has ``sort_key`` and ``visible_at``; it is
    ``ready`` if it waits for no time.
    """

    version: int
    partition_key: str
    keys: tuple[str, ...]
    weight: int
    held: int | None
    by_address: str | None
    by_agent: str | None
    cost: int
    ends_at: float | None
    sort_key: int | None
    visible_at: float | None
    ready: bool


_encode = msgspec.msgpack.Encoder().encode


def ends_of(address: str | None, agent: str) -> tuple[str, str]:
    """Return the ends of the names under which an address, and an agent at it, are counted."""
    by_address = "\0" if address is None else f"\0={address}"
    return by_address, f"{by_address}\0{agent}"


def facts_of(record: Any, size: int) -> bytes:
    """Return the facts of a record whose bytes take ``size``."""
    keys: tuple[str, ...] = record.index_keys
    address, agent = getattr(record, "origin", (None, None))
    by_address, by_agent = (None, None) if agent is None else ends_of(address, agent)
    held = sort_key = visible_at = None
    ready = False
    if type(record) is Delivery:
        state = record.state
        if state is PENDING:
            sort_key, visible_at = record.sort_key, record.visible_at
            ready = record.version == 1 and record.visible_at <= record.stored_at
        if state is PENDING or state is DEAD:
            held = len(record.body)
    return _encode(
        Facts(
            record.version,
            record.partition_key,
            keys,
            record.weight if keys else 0,
            held,
            by_address,
            by_agent,
            max(size, record.footprint) + _RECORD_BYTES + sum([_ENTRY_BYTES + len(key) for key in keys]),
            record.ends_at,
            sort_key,
            visible_at,
            ready,
        )
    )
