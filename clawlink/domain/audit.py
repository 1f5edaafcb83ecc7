"""Acts of the operator, as the relay keeps them."""

from __future__ import annotations

import msgspec

from clawlink.domain.record import text_bytes

ACTS = " acts of the operator"
"""The index key and the partition of all acts."""

# The relay keeps an act for this long, and the newest acts alone.
KEPT_SECONDS = 90 * 24 * 3600.0
MAX_ACTS = 10_000
# The bytes that an act takes beside its texts.
_RECORD_BYTES = 200


class Act(msgspec.Struct, frozen=True, gc=False):
    """An act: what, on what, from which address, and ``by`` which right. ``facts`` are encoded JSON."""

    id: str
    version: int
    at: float
    act: str
    target: str
    address: str | None
    by: str
    facts: bytes
    ends_at: float

    @property
    def partition_key(self) -> str:
        return ACTS

    @property
    def index_keys(self) -> tuple[str, ...]:
        return (ACTS,)

    @property
    def weight(self) -> int:
        return len(self.facts)

    @property
    def footprint(self) -> int:
        return _RECORD_BYTES + len(self.facts) + text_bytes(self.target)
