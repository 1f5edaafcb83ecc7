"""Refuse what would pass a fair share of a limit; the rule is in ``domain.shares``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from clawlink.domain import shares
from clawlink.domain.shares import Origin
from clawlink.errors import OverLimit, StorageFull
from clawlink.store.base import Store, Usage

# A store counts shares from the first question on; of this many records at most that takes it a millisecond.
_ASKED_FROM_COUNT = 1000

Held = tuple[Usage, Usage]
"""The usage of an address, and the usage of an agent."""


class Limit(NamedTuple):
    """A limit on a number, or on bytes, of which a piece of some ``size`` is about to take more."""

    limit: float
    used: int
    size: int


class Calm(NamedTuple):
    """A number of records and bytes below which neither a limit nor a share of it refuses anything."""

    records: float
    size: float


class FairShares:
    """The shares of one relay. With 100 percent the agent that comes first may have all of a limit."""

    def __init__(self, store: Store, percent: int) -> None:
        self.percent = percent
        self._store = store
        self._asked_from = (percent / 100) ** 2  # no share ends before so much of the limit is in use

    def calm(self, limit: float, bytes_limit: float) -> Calm:
        """Return what is far from a limit on a number of records, and from a limit on their bytes."""
        if self.percent == 100:
            return Calm(limit - 1, bytes_limit)
        return Calm(min(_ASKED_FROM_COUNT, limit * self._asked_from) - 1, bytes_limit * self._asked_from)

    async def under(self, origin: Origin, *places: tuple[type[Any], str]) -> Held:
        """Return what an origin has of the records under index keys of their kinds."""
        found = [await self._store.usage_from(kind, key, *origin) for kind, key in places]
        address, agent = [a for a, _ in found], [a for _, a in found]
        return (
            Usage(sum(u.count for u in address), sum(u.bytes for u in address)),
            Usage(sum(u.count for u in agent), sum(u.bytes for u in agent)),
        )

    def allow(self, theirs: Held, origin: Origin, piece: Limit, pieces: int) -> bool:
        """Return True if so many pieces may come one after the other. False may mean that only some may come."""
        by_address, by_agent = theirs
        # A share always takes the first piece of a holder that holds nothing, so ask for the others beside it.
        first = piece.size
        used = shares.Used(
            piece.used + first, None if origin.address is None else by_address.bytes + first, by_agent.bytes + first
        )
        return shares.used_up(int(piece.limit), used, first * (pieces - 1), self.percent) is None

    async def require(
        self,
        error: type[OverLimit] | type[StorageFull],
        origin: Origin,
        held: Callable[[], Awaitable[Held]],
        *,
        count: Limit | None = None,
        bytes: Limit | None = None,
        records: int = 0,
        holds: str,
        what: str,
        then: str,
        retry_after: float | None = None,
    ) -> None:
        """Refuse a piece that would pass the share of its agent, or of the agent's address. Raises ``error``.

        ``held`` tells what they have, and is asked only if somebody may have a share; ``records`` is how many there are
        of all. The sentence is "{holds} 77 {what} from agent X, and a fair share is 77 at this moment; {then}".
        """
        if not self._contended(count, bytes, records):
            return
        by_address, by_agent = await held()
        known = origin.address is not None
        for limit, unit, address, agent in (
            (count, what, by_address.count, by_agent.count),
            (bytes, f"bytes of {what}", by_address.bytes, by_agent.bytes),
        ):
            if limit is None:
                continue
            used = shares.Used(limit.used, address if known else None, agent)
            over = shares.used_up(int(limit.limit), used, limit.size, self.percent)
            if over is None:
                continue
            whose = f"agent {origin.agent}" if over.level is shares.Level.AGENT else "your address"
            more = "" if limit.size == 1 else f", which {limit.size} more would pass"
            raise error(
                f"{holds} {over.used} {unit} from {whose}, and a fair share is {over.most} at this moment{more}; "
                f"{then}",
                limit=over.most,
                actual=over.used + limit.size,
                retry_after=retry_after,
                current={"share_of": over.level.value, "used": over.used},
            )

    def _contended(self, count: Limit | None, bytes: Limit | None, records: int) -> bool:
        if self.percent == 100:
            return False
        if records >= _ASKED_FROM_COUNT or (count is not None and count.used >= _ASKED_FROM_COUNT):
            return True
        return any(x is not None and x.used + x.size > x.limit * self._asked_from for x in (count, bytes))
