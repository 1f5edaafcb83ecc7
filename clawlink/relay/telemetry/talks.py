"""Counts of messages from agent to agent, since the relay started."""

from __future__ import annotations

from collections.abc import Callable
from heapq import nlargest
from typing import NamedTuple

from clawlink.domain.delivery import Delivery
from clawlink.domain.pool import is_pool

# A pair takes about 250 bytes.
MAX_PAIRS = 20_000
_FORGOTTEN_AT_ONCE = 1000


class Pair(NamedTuple):
    """The messages from one agent to another, and when the last one was stored."""

    sender: str
    to: str
    messages: int
    last_at: float


class Talks:
    """Counts delegations, answers, reports and plain messages of each pair.

    Copies of broadcasts, and what the relay itself tells, are no talk. Beyond ``MAX_PAIRS`` the pairs that were silent
    for longest are forgotten, and counted in ``dropped``.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.since = clock()
        self.dropped = 0
        self._pairs: dict[tuple[str, str], list[float]] = {}

    def __len__(self) -> int:
        return len(self._pairs)

    def count(self, d: Delivery) -> None:
        """Count a message that was stored, if it is talk."""
        key = d.sender, d.mailbox
        pair = self._pairs.get(key)
        if pair is not None:
            pair[0] += 1
            pair[1] = d.stored_at
        elif d.sender != d.mailbox and not is_pool(d.mailbox) and not d.id.endswith(":" + d.mailbox):
            if len(self._pairs) >= MAX_PAIRS:
                self._forget()
            self._pairs[key] = [1, d.stored_at]

    def _forget(self) -> None:
        oldest = sorted(self._pairs, key=lambda key: self._pairs[key][1])[:_FORGOTTEN_AT_ONCE]
        for key in oldest:
            del self._pairs[key]
        self.dropped += len(oldest)

    def most(self, limit: int, agent: str | None = None) -> list[Pair]:
        """Return the pairs with most messages, of one agent or of all."""
        found = (
            Pair(*key, int(count), last_at)
            for key, (count, last_at) in self._pairs.items()
            if agent is None or agent in key
        )
        return nlargest(limit, found, key=lambda pair: pair[2:])
