"""A reader of a mailbox: it claims, and waits in between."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery
from clawlink.domain.pool import Pool
from clawlink.domain.task import Event
from clawlink.relay.core import Core
from clawlink.relay.mailbox.pools import Pools, Waiter
from clawlink.store.base import Signal

# Where an index may be late, what was signalled and is not there is looked for again after such parts of that time.
_LAG_PARTS = (0.1, 0.4, 1.0)
# An agent at its limit of open tasks looks this often whether it may have more.
_FULL_SECONDS = 5.0


class Taken(NamedTuple):
    """The messages that a claim leased, and the steps of earlier owners of its tasks, by id."""

    deliveries: list[Delivery]
    reported: dict[str, tuple[Event, ...]]


class Claimer(Protocol):
    """Leases messages for a reader; see ``Claims``."""

    async def full(self, agent_id: str) -> bool: ...

    async def take(
        self, mailbox: str, by: str, limit: int, seconds: float, reported: dict[str, tuple[Event, ...]]
    ) -> list[Delivery]: ...

    async def take_with_pools(
        self, by: str, pools: Sequence[Pool], limit: int, seconds: float, reported: dict[str, tuple[Event, ...]]
    ) -> list[Delivery]: ...

    async def undo(self, agent_id: str, taken: Iterable[Delivery]) -> None: ...

    async def pass_on(self, agent_id: str) -> None: ...


class Reader:
    """Reads the mailbox of one agent, and the pools that it is eligible for. ``signal`` is given when to look again.

    Between two reads it listens on, so it knows whether anything has come since the last one.
    """

    def __init__(self, core: Core, pools: Pools, claims: Claimer, agent: Agent, signal: Signal | None) -> None:
        self._core = core
        self._pools = pools
        self._claims = claims
        self._agent_id = agent.id
        self._waiter = None if signal is None else Waiter(agent, signal)
        self._limit = 0
        self._lease = 0.0
        self._tick: Callable[[], Any] | None = None
        self._emptied = False  # the last read left nothing that was due
        self._full = False  # it left pools alone, since the agent has as much as it may have
        self._lent: Sequence[Pool] = ()  # the pools that it looked into
        self._taken: list[Delivery] = []
        self._reported: dict[str, tuple[Event, ...]] = {}

    async def next(
        self, agent: Agent, *, limit: int, wait: float, lease: float, tick: Callable[[], Any] | None = None
    ) -> Taken:
        """Lease up to ``limit`` messages for ``lease`` seconds, waiting up to ``wait`` seconds for the first.

        They come from the agent's own mailbox, and at most one from all the pools it is eligible for: so those who poll
        share what is there. One with as many open tasks as it may have gets none from pools. ``tick`` is awaited now
        and then while waiting. Whoever calls this must settle or release what it got.
        """
        self._taken, self._reported = [], {}
        self._limit, self._lease, self._tick = limit, lease, tick
        try:
            if self._waiter is None or not wait:
                await self._read()
            else:
                self._waiter.become(agent)
                await self._wait(self._waiter, wait)
        except BaseException:  # whoever asked has gone: nobody will read what was taken
            self._emptied = False
            await self._claims.undo(self._agent_id, self._taken)
            raise
        finally:
            self._tick = None
        self._emptied = len(self._taken) < limit
        return Taken(self._taken, self._reported)

    def wake(self) -> None:
        """Look again, which awaits ``tick``."""
        if self._waiter is not None:
            self._waiter.signal.give()

    async def _read(self) -> bool:
        """Take what there is, and tell whether it was anything."""
        if self._tick is not None:
            await self._tick()
        id, claims = self._agent_id, self._claims
        pools = await self._pools.of(id)
        self._full = bool(pools) and await claims.full(id)
        self._lent = lent = () if self._full else pools
        if not lent:
            self._taken = await claims.take(id, id, self._limit, self._lease, self._reported)
            return bool(self._taken)
        self._taken = await claims.take_with_pools(id, lent, self._limit, self._lease, self._reported)
        if self._taken:  # there may be more in the pools, for which only this agent was woken
            await self._pools.pass_on(lent)
        return bool(self._taken)

    async def _wait(self, waiter: Waiter, seconds: float) -> None:
        """Read until something was there, or ``seconds`` are over; woken for work of pools too, unless full.

        As in ``wait_loop``, one listens first, then reads, then sleeps, and the event loop's time counts the seconds.
        """
        core, pools, signal = self._core, self._pools, waiter.signal
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        lags = self._lags()
        woken = False  # for work of a pool, at which it has not looked yet
        # Work may have come to a pool while this one was not waiting; to the mailbox none has.
        asleep = self._emptied and not signal.given and not await pools.any()
        pools.enlist(waiter)
        try:
            while True:
                if not asleep:
                    signal.clear()
                    woken = waiter.woken
                    await pools.awake(waiter)
                    found = await self._read()
                    if self._full:
                        pools.dismiss(waiter)
                        if woken or waiter.woken:
                            waiter.woken = False
                            await self._claims.pass_on(self._agent_id)
                    woken = False
                    if found or core.draining or loop.time() >= until:
                        return
                    if not (self._full or waiter.enlisted):  # work may have come while it was full
                        pools.enlist(waiter)
                        continue
                asleep = False
                pause = min(
                    await self._next_at() - core.clock(),
                    next(lags, _FULL_SECONDS if self._full else math.inf),
                    until - loop.time(),
                    max(core.limits.stale_after / 2, 1.0),
                )
                await signal.wait(pause)
                if signal.given:
                    lags = self._lags()
        finally:
            pools.dismiss(waiter)
            if woken or waiter.woken:
                await asyncio.shield(self._claims.pass_on(self._agent_id))

    def _lags(self) -> Iterator[float]:
        lag = self._core.store.index_lag
        return iter([part * lag for part in _LAG_PARTS] if lag else ())

    async def _next_at(self) -> float:
        """Return when the next message is due, as far as is known; infinity if none is there."""
        store = self._core.store
        times = [await store.next_due_at(self._agent_id)]
        for pool in self._lent:
            times.append(await store.next_due_at(pool.id))
        return min((at for at in times if at is not None), default=math.inf)
