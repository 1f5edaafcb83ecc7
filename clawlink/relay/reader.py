"""One who reads a mailbox over and over, and waits in between."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery
from clawlink.domain.pool import Pool
from clawlink.domain.task import Event
from clawlink.relay import waiting
from clawlink.relay.core import Core
from clawlink.relay.pools import Pools
from clawlink.store.base import Signal

if TYPE_CHECKING:
    from clawlink.relay.claims import Claims

# Where an index may be late, what was signalled and is not there is looked for again after such parts of that time.
_LAG_PARTS = (0.1, 0.4, 1.0)
_EARLY_SECONDS = 0.01
# One with as many open tasks as it may have looks so often whether it still has.
_FULL_SECONDS = 5.0


class Taken(NamedTuple):
    """What one claim leased, and what earlier owners of its tasks did and reported, by id."""

    deliveries: list[Delivery]
    reported: dict[str, tuple[Event, ...]]


class Reader:
    """Reads the mailbox of one agent, and the pools that it is eligible for. ``signal`` is given when to look again.

    Between two reads it listens on, so it knows whether anything has come since the last one.
    """

    def __init__(self, core: Core, pools: Pools, claims: Claims, agent_id: str, signal: Signal | None) -> None:
        self._core = core
        self._pools = pools
        self._claims = claims
        self._agent_id = agent_id
        self._signal = signal
        self._emptied = False  # the last read left nothing that was due
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

        async def read() -> list[Delivery]:
            if tick is not None:
                await tick()
            return await self._read(limit, lease)

        try:
            if self._signal is None or not wait:
                await read()
            else:
                await self._wait(agent, self._signal, wait, read)
        except BaseException:  # whoever asked has gone: nobody will read what was taken
            self._emptied = False
            await self._claims.undo(self._agent_id, self._taken)
            raise
        self._emptied = len(self._taken) < limit
        return Taken(self._taken, self._reported)

    def wake(self) -> None:
        """Look again, which awaits ``tick``."""
        if self._signal is not None:
            self._signal.give()

    async def _read(self, limit: int, lease: float) -> list[Delivery]:
        lent = await self._lent()
        if not lent:
            self._taken = await self._claims.take(self._agent_id, self._agent_id, limit, lease, self._reported)
            return self._taken
        self._taken = await self._claims.take_with_pools(self._agent_id, lent, limit, lease, self._reported)
        if self._taken:  # there may be more in the pools, for which only this agent was woken
            await self._pools.pass_on(lent)
        return self._taken

    async def _lent(self) -> Sequence[Pool]:
        pools = await self._pools.of(self._agent_id)
        return () if pools and await self._claims.full(self._agent_id) else pools

    def _lags(self) -> Iterator[float]:
        lag = self._core.store.index_lag
        return iter([part * lag for part in _LAG_PARTS] if lag else ())

    async def _next_at(self) -> float | None:
        store = self._core.store
        times = [await store.next_due_at(id) for id in (self._agent_id, *(pool.id for pool in await self._lent()))]
        return min((at for at in times if at is not None), default=None)

    async def _wait(self, agent: Agent, signal: Signal, seconds: float, read: Callable[[], Any]) -> None:
        """Read until something was there, or ``seconds`` are over; woken for work of pools too, unless full."""
        core = self._core
        if not self._emptied or signal.given:
            signal.clear()
            if await read():
                return
        until = core.clock() + seconds
        while not await self._wait_as(agent, signal, until, read, full=await self._claims.full(self._agent_id)):
            pass

    async def _wait_as(
        self, agent: Agent, signal: Signal, until: float, read: Callable[[], Any], *, full: bool
    ) -> bool:
        """Wait for as long as it does not change whether the agent is full; return whether the wait is over."""
        core = self._core
        lags = self._lags()
        asleep_until = math.inf
        changed = False

        async def next_at() -> float | None:
            nonlocal asleep_until
            due_at = await self._next_at()
            lag = next(lags, _FULL_SECONDS if full else None)
            if lag is not None:
                due_at = min(core.clock() + lag, math.inf if due_at is None else due_at)
            asleep_until = until if due_at is None else min(due_at, until)
            return due_at

        with self._pools.waiting(agent, signal, lends=not full) as waiter:

            async def read_anew() -> list[Delivery]:
                nonlocal lags, changed
                woken = waiter.woken
                if core.clock() < asleep_until - _EARLY_SECONDS:  # by a signal
                    lags = self._lags()
                if full or woken:
                    changed = await self._claims.full(self._agent_id) != full
                if not full and not changed:
                    await self._pools.awake(waiter)
                try:
                    found: list[Delivery] = await read()
                except BaseException:
                    waiter.woken = woken  # for what it was woken, another is to be
                    raise
                return found

            try:
                found = await waiting.first(
                    signal,
                    read=read_anew,
                    next_at=next_at,
                    clock=core.clock,
                    until=until,
                    over=lambda: core.draining or changed,
                    tick=max(core.limits.stale_after / 2, 1.0),
                    # Work may have come to a pool while this one was not waiting; to the mailbox none has.
                    asleep=not signal.given and not await self._pools.any(),
                )
            finally:
                if waiter.woken:
                    await asyncio.shield(self._claims.pass_on(self._agent_id))
        return bool(found) or core.draining or core.clock() >= until
