"""Broadcasts: what was told to everyone, and to whom it went."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from clawlink.domain.record import SETTLED


class Broadcast(msgspec.Struct, frozen=True, gc=False):
    """The record of a broadcast. It is its own home; each recipient's copy is a delivery at the recipient's.

    ``recipients`` are agent ids, fixed when the broadcast was accepted. ``refused`` counts those whose mailboxes were
    full; it is None until every recipient has been tried, so that a repeat goes on where a crash stopped. Times are
    seconds since the epoch.
    """

    id: str
    version: int
    sender: str
    body: bytes
    recipients: tuple[str, ...]
    stored_at: float
    ends_at: float
    refused: int | None = None

    @property
    def home(self) -> str:
        return "broadcast:" + self.id

    @property
    def index_keys(self) -> tuple[str, ...]:
        return (SETTLED,)

    @property
    def weight(self) -> int:
        return len(self.body) + sum(map(len, self.recipients))

    def done(self, refused: int) -> Broadcast:
        """Return the broadcast once every recipient has been tried."""
        return replace(self, version=self.version + 1, refused=refused)
