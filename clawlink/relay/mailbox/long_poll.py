"""A reader of a mailbox: it claims, and waits in between."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery
from clawlink.domain.pool import POOLS, Pool, keys_of
from clawlink.domain.task import Event
from clawlink.errors import UnknownAgent
from clawlink.relay.core import Core
from clawlink.relay.handoffs import Handoff, Leased
from clawlink.relay.mailbox.pools import Pools, Waiter
from clawlink.store.base import SKIPPED, Index
from clawlink.store.events import Signal

# Where an index may be late, what was signalled and is not there is looked for again after such parts of that time.
_LAG_PARTS = (0.1, 0.4, 1.0)
# An agent at its limit of open tasks looks this often whether it may have more.
_FULL_SECONDS = 5.0

Tick = Callable[[], Awaitable[Agent | None]]
"""A sign of life. Returns the agent as it is now, or None without a look at it. Raises if it may read no more."""


class Closed(Exception):
    """The reader was closed while it waited."""


class Taken(NamedTuple):
    """The messages that a claim leased, and the steps of earlier owners of its tasks, by id."""

    deliveries: list[Delivery]
    reported: dict[str, tuple[Event, ...]]


class Claimant(Protocol):
    """The reader of a claim: its ``agent`` as last read, and for how many ``seconds`` it leases what it gets.

    ``reported`` takes what was done before about tasks, by id.
    """

    agent: Agent
    seconds: float
    reported: dict[str, tuple[Event, ...]]

    async def again(self) -> Agent:
        """Read the agent again. Raises UnknownAgent if it has left, and what else keeps it from reading."""


class Found(NamedTuple):
    """The deliveries that a claim leased, and when the next is due, if that is known; infinity if none is there."""

    deliveries: list[Delivery]
    next_due_at: float | None


class Claimer(Protocol):
    """Leases messages for a reader; see ``Claims``."""

    async def full(self, agent_id: str) -> bool: ...

    async def take(self, mailbox: str, limit: int, claimant: Claimant, *, unless: Index | None = None) -> Found: ...

    async def take_with_pools(self, pools: Sequence[Pool], limit: int, claimant: Claimant) -> list[Delivery]: ...

    def lease_new(self, d: Delivery, claimant: Claimant, now: float) -> Leased | None: ...

    async def receive(self, leased: Leased, claimant: Claimant) -> list[Delivery]: ...

    async def release(self, agent_id: str, taken: Sequence[Delivery]) -> None: ...

    def begin_release(self, agent_id: str, taken: Sequence[Delivery]) -> None: ...


class LongPoll:
    """Reads the mailbox of one agent, and the pools that it is eligible for. ``signal`` is given when to look again.

    Between two reads it listens on, so it knows whether anything has come since the last one. It is the claimant of its
    claims.
    """

    def __init__(self, core: Core, pools: Pools, claims: Claimer, agent: Agent, signal: Signal | None) -> None:
        self._core = core
        self._loop = asyncio.get_running_loop()  # a system call each time, before Python 3.12
        self._pools = pools
        self._claims = claims
        self._agent_id = agent.id
        self.agent = agent
        self.signal = signal
        self._waiter = None if signal is None else Waiter(agent, signal)
        self._look_seconds = max(core.limits.stale_after / 2, 1.0)
        self._limit = 0
        self.seconds = 0.0
        self._tick: Tick | None = None
        self._emptied = False  # the last read left nothing that was due
        self._full = False  # it left pools alone, since the agent has as much as it may have
        self._pools_read: Sequence[Pool] = ()  # the pools into which the last read looked
        self._next_own: float | None = None  # when the next message in its mailbox is due, if that is known
        self._taken: list[Delivery] = []
        self.reported: dict[str, tuple[Event, ...]] = {}
        self._closed = False
        self._due_at = math.inf  # when something is due for which it does not sleep any longer
        self.handoff: Handoff | None = None

    async def next(self, agent: Agent, *, limit: int, wait: float, lease: float, tick: Tick | None = None) -> Taken:
        """Lease up to ``limit`` messages for ``lease`` seconds, waiting up to ``wait`` seconds for the first.

        They come from the agent's own mailbox, and at most one message from all the pools that it is eligible for: so
        agents that poll share the work. An agent at its limit of open tasks gets none from pools. ``tick`` is awaited
        now and then while waiting. The caller must settle or release the messages.
        """
        self._taken, self.reported = [], {}
        self._limit, self.seconds, self._tick = limit, lease, tick
        self.agent = agent
        try:
            if self._waiter is None or not wait:
                await self._read()
            else:
                if agent is not self._waiter.agent:
                    self._waiter.become(agent)
                await self._wait(self._waiter, wait)
        except BaseException:  # the caller has gone: nobody will read the messages
            self._emptied = False
            await self._claims.release(self._agent_id, self._taken)
            raise
        finally:
            self._tick = None
        self._emptied = len(self._taken) < limit
        return Taken(self._taken, self.reported)

    def close(self) -> None:
        """Read no more: what waits for a message ends with Closed."""
        self._closed = True
        self.wake()

    def wake(self) -> None:
        """Look again, which awaits ``tick``."""
        if self.signal is not None:
            self.signal.give()

    async def again(self) -> Agent:
        """Read the agent again. Raises UnknownAgent if it has left, Closed, and whatever ``tick`` raises."""
        if self._closed:
            raise Closed
        agent = None if self._tick is None else await self._tick()
        if agent is None:
            agent = await self._core.store.get(Agent, self._agent_id)
        if agent is None:
            raise UnknownAgent(
                f"agent {self._agent_id!r} has left; register it again to read messages", field="agent_id"
            )
        self.agent = agent
        return agent

    async def _read(self) -> bool:
        """Lease what is due in the mailbox and the pools. Return True if that is at least one message."""
        id, claims = self._agent_id, self._claims
        if not self._pools.some:  # most relays have none: then the claim itself looks for them, in one trip
            self._full, self._pools_read = False, ()
            found = await self._read_own(unless=(Pool, POOLS))
            if self._next_own != SKIPPED:
                return found
        pools = await self._pools.of(id)
        self._full = bool(pools) and await claims.full(id)
        self._pools_read = read = () if self._full else pools
        if not read:
            return await self._read_own()
        self._taken = await claims.take_with_pools(read, self._limit, self)
        self._next_own = None
        if self._taken:  # there may be more in the pools, for which only this agent was woken
            await self._pools.pass_on(read)
        return bool(self._taken)

    async def _read_own(self, unless: Index | None = None) -> bool:
        """Lease what is due in the agent's mailbox, ``unless`` that index has records.

        Return True if that is at least one message.
        """
        self._taken, self._next_own = await self._claims.take(self._agent_id, self._limit, self, unless=unless)
        return bool(self._taken)

    async def _wait(self, waiter: Waiter, seconds: float) -> None:
        """Read until a message is leased or ``seconds`` are over. Work of pools wakes it too, unless the agent is full.

        As in ``wait_loop``, it listens first, then reads, then sleeps. The event loop's time counts the seconds.
        """
        core, queues, signal = self._core, self._pools.queues, waiter.signal
        loop = self._loop
        until = loop.time() + seconds
        lag = core.store.index_lag
        late = tuple(part * lag for part in _LAG_PARTS) if lag else ()
        # A message that another relay stored, or that an index shows late, comes first and may not be known here.
        hands_over = core.peers is None and not lag
        lags = iter(late)
        woken: Agent | None = None  # for work of a pool, at which it has not looked yet: the agent as it was then
        # Work may have come to a pool while this one was not waiting; to the mailbox none has.
        asleep = self._emptied and not signal.given and not await self._pools.any()
        fresh = not signal.given  # else the agent may have changed since it was read
        queues.enlist(waiter)
        try:
            while True:
                if not asleep:
                    signal.clear()
                    agent = self.agent if fresh else await self.again()
                    woken = waiter.agent if waiter.woken else None
                    queues.awake(waiter, agent)
                    found = await self._read()
                    if self._full:
                        queues.dismiss(waiter)
                        woken = woken or (waiter.agent if waiter.woken else None)
                        waiter.woken = False
                    if woken is not None and (self._full or keys_of(woken) != keys_of(agent)):
                        await self._pools.wake_in_place_of(woken)
                    woken = None
                    if found or core.draining or loop.time() >= until:
                        return
                    if not (self._full or waiter.enlisted):  # work may have come while it was full
                        queues.enlist(waiter)
                        continue
                asleep = fresh = False
                next_at = math.inf if core.time.stopped else await self._next_at()
                pause = min(
                    next_at - core.clock(),
                    next(lags, _FULL_SECONDS if self._full else math.inf),
                    until - loop.time(),
                    self._look_seconds,
                )
                if hands_over and waiter.enlisted:
                    self._due_at = next_at
                    if await self._sleep(signal, pause):
                        return
                else:
                    await signal.wait(pause)
                if not signal.given:
                    continue
                lags = iter(late)
                if waiter.enlisted and not waiter.woken:  # another is woken for what comes to a pool
                    signal.clear()
                    if await self._read_own():
                        return
        finally:
            queues.dismiss(waiter)
            if waiter.woken:
                woken = woken or waiter.agent
            if woken is not None:
                await asyncio.shield(self._pools.wake_in_place_of(woken))

    async def _sleep(self, signal: Signal, seconds: float) -> bool:
        """Sleep until a signal, or for ``seconds``. Return True if a new message was handed to this reader."""
        handoffs, mailbox = self._core.handoffs, self._agent_id
        handoffs.sleep(mailbox, self)
        try:
            await signal.wait(seconds)
            while self.handoff is not None and self.handoff.under_way:
                signal.clear()
                await signal.wait(None)
        except BaseException:
            if self.handoff is not None:
                self.handoff.abandon()
            raise
        finally:
            handoffs.awake(mailbox, self)
            handoff, self.handoff = self.handoff, None
        if handoff is None or handoff.leased is None:
            return False
        signal.clear()  # what else has come is found by its time; the agent is read again now
        self._next_own = None
        self._taken = await self._claims.receive(handoff.leased, self)
        return bool(self._taken)

    def lease_new(self, d: Delivery) -> Leased | None:
        """Lease a message that is not stored yet to this reader, which sleeps.

        Return None if something may be due that came before.
        """
        core, signal = self._core, self.signal
        if signal is None or signal.given or core.time.stopped or (now := core.clock()) >= self._due_at:
            return None
        return self._claims.lease_new(d, self, now)

    def begin_release(self, taken: Sequence[Delivery]) -> None:
        """Begin to release messages that nobody will read."""
        self._claims.begin_release(self._agent_id, taken)

    async def _next_at(self) -> float:
        """Return when the next message is due, as far as is known; infinity if none is there."""
        store, soonest = self._core.store, self._next_own
        if soonest is None:
            soonest = await store.next_due_at(self._agent_id)
        for pool in self._pools_read:
            at = await store.next_due_at(pool.id)
            soonest = at if soonest is None or (at is not None and at < soonest) else soonest
        return math.inf if soonest is None else soonest
