"""Counts of messages from agent to agent, since the relay started."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from clawlink.domain.delivery import Delivery
from clawlink.domain.pool import is_pool
from clawlink.relay.telemetry.stats import Stats
from clawlink.relay.time_slices import parts

# A pair takes about 250 bytes.
MAX_PAIRS = 20_000
_FORGOTTEN_AT_ONCE = 1000
# The most pairs that a reply has; this number is sorted in under a millisecond.
_FEW = 1000
_FRESH_SECONDS = 1.0


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

    def __init__(self, clock: Callable[[], float], stats: Stats) -> None:
        self.since = clock()
        self._stats = stats
        self._clock = clock
        self._sorted: tuple[float, list[tuple[str, str]]] | None = None
        self.dropped = 0
        self._pairs: dict[tuple[str, str], list[float]] = {}

    def __len__(self) -> int:
        return len(self._pairs)

    def count(self, d: Delivery) -> None:
        """Count a message that was stored, and its pair if it is talk."""
        self._stats.stored += 1
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

    async def most(self, limit: int, agent: str | None = None) -> list[Pair]:
        """Return the pairs with most messages, of one agent or of all.

        The order of many pairs is that of the last second, so that a thousand pages do not sort them each.
        """
        if agent is not None:
            keys = [key for key in list(self._pairs) if agent in key]
        elif len(self._pairs) <= _FEW:
            keys = list(self._pairs)
        else:
            if self._sorted is None or self._sorted[0] < self._clock() - _FRESH_SECONDS:
                self._sorted = self._clock(), await self._order()
            keys = self._sorted[1]
        await asyncio.sleep(0)
        found = [Pair(*key, int(of[0]), of[1]) for key in keys if (of := self._pairs.get(key)) is not None]
        return sorted(found, key=lambda pair: pair[2:], reverse=True)[:limit]

    async def _order(self) -> list[tuple[str, str]]:
        """Return the first of all pairs by their messages, and give other work its turn meanwhile."""
        best: list[tuple[float, float, tuple[str, str]]] = []
        for keys in parts(list(self._pairs), _FEW // 2):
            some = [(of[0], of[1], key) for key in keys if (of := self._pairs.get(key)) is not None]
            best = sorted([*best, *some], reverse=True)[:_FEW]
            await asyncio.sleep(0)
        return [key for _, _, key in best]
