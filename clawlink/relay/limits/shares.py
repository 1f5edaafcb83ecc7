"""The refusal of a piece that would pass a limit, or a fair share of it; the rule is in ``domain.shares``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from msgspec import Struct

from clawlink.domain import shares
from clawlink.domain.shares import Level, Origin, Share, Used
from clawlink.errors import OverLimit, StorageFull
from clawlink.store.base import Store, Usage

# A store counts shares from the first question on; of this many records at most that takes it a millisecond.
_ASKED_FROM_COUNT = 1000
# A place that is empty meanwhile may lose its counts, so the relay asks again after this many records.
_ASKED_AFTER_COUNT = 64
_MOST_PLACES = 4096


Held = tuple[Usage, Usage]
"""The usage of an address, and that of an agent at it."""


class Limit(NamedTuple):
    """A limit on a number or on bytes, before a new piece of ``size``.

    ``used`` is the usage of all. With newcomers it may grow to ``most``, twice the limit if it is not given. A refusal
    names the ``flag`` that raises the limit, if it is given.
    """

    limit: float
    used: int
    size: int
    most: float | None = None
    flag: str | None = None


class Calm(Struct, frozen=True, gc=False):
    """A number of records and bytes below which neither a limit nor a share of it refuses anything."""

    records: float
    size: float


class FairShares:
    """The shares of one relay. With 100 percent the agent that comes first may have all of a limit."""

    def __init__(self, store: Store, percent: int) -> None:
        self.percent = percent
        self._store = store
        self._asked_from = 1.0 if percent == 100 else shares.unasked(percent)
        self._asked_at: dict[str, int] = {}  # the number of records at the last question

    def calm(self, limit: float, bytes_limit: float) -> Calm:
        """Return the usage that is far from a limit on a number of records, and from a limit on their bytes."""
        if self.percent == 100:
            return Calm(limit - 1, bytes_limit)
        return Calm(min(_ASKED_FROM_COUNT, limit * self._asked_from) - 1, bytes_limit * self._asked_from)

    def bound(self, limit: int) -> int:
        """Return the amount of a limit that all may hold together. Without shares it is the limit."""
        return limit if self.percent == 100 else shares.bound(limit)

    def asks(self, place: str, count: Limit, bytes: Limit) -> bool:
        """Return True if the relay has to ask for the shares of a place before it takes a piece.

        It asks near a limit. It also asks now and then from 1,000 records on: a store begins to count at the first
        question, and there is little to count by then.
        """
        if self._near(count) or self._near(bytes):
            return True
        if self.percent == 100 or count.used < _ASKED_FROM_COUNT - 1:
            return False
        asked_at = self._asked_at.get(place)
        if asked_at is not None and 0 <= count.used - asked_at < _ASKED_AFTER_COUNT:
            return False
        if len(self._asked_at) >= _MOST_PLACES:
            self._asked_at.clear()
        self._asked_at[place] = count.used
        return True

    async def under(self, origin: Origin, *places: tuple[type[Any], str]) -> Held:
        """Return an origin's usage by the records under index keys of their kinds."""
        found = [await self._store.usage_from(kind, key, *origin) for kind, key in places]
        address, agent = [a for a, _ in found], [a for _, a in found]
        return (
            Usage(sum(u.count for u in address), sum(u.bytes for u in address)),
            Usage(sum(u.count for u in agent), sum(u.bytes for u in agent)),
        )

    def allow(self, theirs: Held, origin: Origin, piece: Limit, more: int) -> bool:
        """Return True if this many more bytes may come after a piece that fits, in one piece or in several.

        False may mean that only some may come.
        """
        by_address, by_agent = theirs
        # A share may take the first piece of a holder that holds nothing, so ask for the others beside it.
        first = piece.size
        used = Used(piece.used + first, by_address.bytes + first, by_agent.bytes + first, origin.address is not None)
        return self._over(piece, used, more) is None

    async def require(
        self,
        error: type[OverLimit] | type[StorageFull],
        origin: Origin,
        held: Callable[[], Awaitable[Held]],
        *,
        count: Limit | None = None,
        bytes: Limit | None = None,
        records: int = 0,
        fair: bool = True,
        holds: str,
        what: str,
        then: str,
        retry_after: float | None = None,
    ) -> None:
        """Refuse a piece that would pass a limit, or a share of it. Raises ``error``.

        ``held`` returns their usage, and is called only near a limit; ``records`` is the number of all records. A piece
        that is not ``fair`` has no share: it may come until all have as much as they may hold together. The sentence is
        "{holds} 95 of 100 {what}, 71 of them from you, and your fair share is 71 at this moment; {then}".
        """
        if not self._contended(count, bytes, records):
            return
        theirs = await held() if fair and self.percent < 100 else None
        for limit, unit in ((count, what), (bytes, f"bytes of {what}")):
            if limit is None:
                continue
            if theirs is None:
                most = self._most(limit)
                over = Share(Level.ALL, most, limit.used) if limit.used + limit.size > most else None
            else:
                address, agent = (usage.count if limit is count else usage.bytes for usage in theirs)
                used = Used(limit.used, address, agent, origin.address is not None)
                over = self._over(limit, used, limit.size)
            if over is not None:
                higher = "" if limit.flag is None else f", or start the relay with a higher {limit.flag}"
                raise error(
                    f"{holds} {limit.used} of {int(limit.limit)} {unit}{_why(over, limit)}; {then}{higher}",
                    limit=over.most,
                    actual=over.used + limit.size,
                    retry_after=retry_after,
                    current=told(over, free=error is StorageFull),
                )

    def _over(self, limit: Limit, used: Used, size: int) -> Share | None:
        """Return the share that a piece would pass, or the limit itself if there are no shares."""
        most = self._most(limit)
        if self.percent == 100:
            return Share(Level.ALL, most, used.by_all) if used.by_all + size > most else None
        return shares.used_up(int(limit.limit), used, size, self.percent, most)

    def _most(self, limit: Limit) -> int:
        return self.bound(int(limit.limit)) if limit.most is None else int(limit.most)

    def _contended(self, count: Limit | None, bytes: Limit | None, records: int) -> bool:
        if self.percent < 100 and max(records, 0 if count is None else count.used) >= _ASKED_FROM_COUNT:
            return True
        return (count is not None and self._near(count)) or (bytes is not None and self._near(bytes))

    def _near(self, limit: Limit) -> bool:
        near = limit.limit * self._asked_from  # without ``most``, the bound is no less than the limit
        return limit.used + limit.size > (near if limit.most is None else min(near, limit.most))


def less(all: Held, part: Held) -> Held:
    """Return an origin's usage without a part of it. Indexes may lag, so nothing is below 0."""
    address, agent = (
        Usage(max(a.count - b.count, 0), max(a.bytes - b.bytes, 0)) for a, b in zip(all, part, strict=True)
    )
    return address, agent


def _why(over: Share, limit: Limit) -> str:
    """Return the sentence of the refusal after the used part of a limit."""
    if over.level is Level.ALL:
        why = "" if over.most == int(limit.limit) else f", and no more than {over.most} fit"
    else:
        why = f", {over.used} of them from {holder(over)}, {share(over)}"
    return why if limit.size == 1 else f"{why}, and this needs {limit.size} more"


def holder(over: Share) -> str:
    """Return the words for the holder of a share."""
    return "you" if over.level is Level.AGENT else "your address"


def share(over: Share) -> str:
    """Return the words for a share of an agent or an address."""
    whose = "your fair share" if over.level is Level.AGENT else "the fair share of your address"
    return f"and {whose} is {over.most} at this moment"


def told(over: Share, *, free: bool) -> dict[str, Any] | None:
    """Return ``current`` of a refusal; with what is ``free``, if it says that."""
    room = {"free": max(over.most - over.used, 0)} if free else {}
    if over.level is not Level.ALL:
        return {"share_of": over.level.value, "used": over.used, **room}
    return room or None
