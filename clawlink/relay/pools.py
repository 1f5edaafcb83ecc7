"""Pools: work for whoever can do it, and who of those that wait is woken for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from clawlink.domain.agent import Agent, Presence, by_capability, presence
from clawlink.domain.delivery import Delivery, by_lender
from clawlink.domain.pool import POOLS, Pool, eligible, is_pool, keys_of
from clawlink.domain.task import Task
from clawlink.errors import RelayFull
from clawlink.relay.core import Core
from clawlink.store.base import Drop, Put, Signal

_FULL_RETRY_SECONDS = 30.0
_COUNT_SECONDS = 1.0
_FEW = 256  # agents that are looked through each time
# Long enough for any index to have caught up with the last piece of work.
_EMPTY_SECONDS = 60.0


class Waiter:
    """A consumer that waits for work of any pool it is eligible for. It is woken for one piece of work at a time.

    ``turn`` tells who has waited longer. ``own`` are the keys of the agent, as its record is by now; ``keys`` are those
    by which the consumer is found, none while it does not wait.
    """

    __slots__ = ("agent", "keys", "own", "signal", "turn", "woken")

    def __init__(self, agent: Agent, signal: Signal) -> None:
        self.agent = agent
        self.own = keys_of(agent)
        self.signal = signal
        self.turn = 0
        self.keys: tuple[str, ...] = ()
        self.woken = False

    @property
    def enlisted(self) -> bool:
        """Whether it may be woken."""
        return bool(self.keys)

    def become(self, agent: Agent) -> None:
        """Wait as the agent that it is by now."""
        if agent is not self.agent:
            self.agent = agent
            self.own = keys_of(agent)


class Pools:
    """The pools with work, and those who wait for some: one is woken a piece of work, whoever has waited longest."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._waiting: dict[str, dict[int, Waiter]] = {}
        self._turn = 0
        self._counted: dict[str, tuple[float, int]] = {}

    async def any(self) -> bool:
        """Tell whether there is a pool at all."""
        return (await self._core.store.usage(Pool, POOLS)).count > 0

    async def of(self, agent_id: str) -> Sequence[Pool]:
        """Return the pools that the agent may claim from, in no order."""
        store = self._core.store
        if not await self.any():
            return ()
        agent = await store.get(Agent, agent_id)
        if agent is None:
            return ()
        found: dict[str, Pool] = {}
        for key in keys_of(agent):
            for pool in await store.first(Pool, key, self._core.limits.max_pools):
                if eligible(pool, agent) and not await self._owned(pool):
                    found[pool.id] = pool
        return list(found.values())

    async def _owned(self, pool: Pool) -> bool:
        """Tell whether an agent has the pool's mailbox for its own by now: then it is nobody else's."""
        return not is_pool(pool.id) and await self._core.store.get(Agent, pool.id) is not None

    async def using(self, wanted: Pool, *, make_room: bool = False, rename: bool = False) -> Put:
        """Return what makes sure, with the commit of a piece of work, that its pool is found. Raises RelayFull.

        Work that is taken back finds room always: ``make_room``. ``rename`` where the agent of a mailbox leaves, which
        may have had another name when it left before.
        """
        store, limit = self._core.store, self._core.limits.max_pools
        found = await store.get(Pool, wanted.id)
        if found is None and not make_room:
            pools = await store.usage(Pool, POOLS)
            if pools.count >= limit:
                raise RelayFull(
                    f"{pools.count} combinations of capabilities have work waiting, and the relay keeps no more than "
                    f"{limit}; try again when some of it is done, or raise --max-pools",
                    limit=limit,
                    actual=pools.count,
                    retry_after=_FULL_RETRY_SECONDS,
                )
        if found is not None and rename:
            found = replace(found, name=wanted.name)
        return Put((found or wanted).used(self._core.clock()))

    async def drop_if_empty(self, pool: Pool) -> None:
        """Forget a pool that has had no work for a while. Raises Conflict if some comes at this moment."""
        core = self._core
        if core.clock() - pool.used_at >= _EMPTY_SECONDS and not await self._in_use(pool):
            await core.commit(pool.home, Drop(pool))
            self._counted.pop(pool.id, None)

    async def _in_use(self, pool: Pool) -> bool:
        """Tell whether there is work in the pool, or may come back to it from one of its name."""
        store = self._core.store
        if await store.pending(pool.id, 1):
            return True
        lent = by_lender(pool.id)
        return pool.name is not None and any([(await store.usage(kind, lent)).count for kind in (Delivery, Task)])

    async def online(self, pool: Pool) -> int:
        """Count the agents online that may claim here, at most a second ago."""
        now = self._core.clock()
        counted = self._counted.get(pool.id)
        if counted is not None and 0 <= now - counted[0] < _COUNT_SECONDS:
            return counted[1]
        count = 0
        candidates = await self._candidates(pool)
        for agent in candidates:
            count += eligible(pool, agent) and presence(agent, now, self._core.limits) is Presence.ONLINE
        if count or len(candidates) > _FEW:  # that nobody is there is news of which one should be sure
            self._counted[pool.id] = (now, count)
        return count

    async def _candidates(self, pool: Pool) -> Sequence[Agent]:
        store = self._core.store
        if pool.any_of:
            found = [await store.get(Agent, agent_id) for agent_id in pool.any_of]
            return [agent for agent in found if agent is not None]
        keys = [by_capability(capability) for capability in pool.capabilities]
        counts = [(await store.usage(Agent, key)).count for key in keys]
        return await store.first(Agent, keys[counts.index(min(counts))], self._core.limits.max_agents)

    # -- who is woken ------------------------------------------------------------------------------------------------

    def enlist(self, waiter: Waiter) -> None:
        """Wake the consumer for work of the pools from now on, as the last of those who wait."""
        self._turn += 1
        waiter.turn = self._turn
        waiter.woken = False
        self._find_by(waiter, waiter.own)

    def dismiss(self, waiter: Waiter) -> None:
        """Wake the consumer for nothing more."""
        self._find_by(waiter, ())

    async def awake(self, waiter: Waiter) -> None:
        """Note that the consumer looks at its pools again, as the agent that it is by now."""
        waiter.woken = False
        agent = await self._core.store.get(Agent, waiter.agent.id)
        if agent is not None and agent is not waiter.agent:
            waiter.become(agent)
            if waiter.enlisted:
                self._find_by(waiter, waiter.own)

    def _find_by(self, waiter: Waiter, keys: tuple[str, ...]) -> None:
        if keys == waiter.keys:
            return
        for key in waiter.keys:
            waiters = self._waiting[key]
            del waiters[waiter.turn]
            if not waiters:
                del self._waiting[key]
        for key in keys:
            self._waiting.setdefault(key, {})[waiter.turn] = waiter
        waiter.keys = keys

    def wake_one(self, pool: Pool) -> None:
        """Wake whoever may claim here and has waited longest without having been woken."""
        found: Waiter | None = None
        for key in pool.anchors:
            for waiter in self._waiting.get(key, {}).values():
                if not waiter.woken and eligible(pool, waiter.agent):
                    if found is None or waiter.turn < found.turn:
                        found = waiter
                    break
        if found is not None:
            found.woken = True
            found.signal.give()

    async def pass_on(self, pools: Iterable[Pool]) -> None:
        """Wake another for each pool that has work, now or later: it learns when that is due, and waits until then."""
        for pool in pools:
            if await self._core.store.next_due_at(pool.id) is not None:
                self.wake_one(pool)
