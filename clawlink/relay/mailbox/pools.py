"""Pools: work for any agent that can do it, and which waiting agent is woken for it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

from msgspec.structs import replace

from clawlink.domain.agent import Agent, Presence, by_capability, by_name, presence
from clawlink.domain.delivery import Delivery, by_lender
from clawlink.domain.pool import OF_CAPABILITIES, POOLS, Pool, by_member, eligible, is_pool, keys_of, skills_of
from clawlink.domain.shares import Origin
from clawlink.domain.task import Task
from clawlink.errors import RelayFull
from clawlink.relay.core import Core
from clawlink.relay.limits.memory import size_of
from clawlink.relay.limits.shares import Limit
from clawlink.relay.time_slices import SLICE, Turns
from clawlink.store.base import Conflict, Drop, Failed, Put, each_of, together
from clawlink.store.events import Event, Signal

_FULL_RETRY_SECONDS = 30.0
_COUNT_SECONDS = 1.0
_FEW = 256  # agents that are looked through each time
# A count of more agents lasts longer, a second for this many: counting takes about a thousandth of the time.
_COUNTED_A_SECOND = 1000
# The most waiters that stand in no queue yet; filing as many takes a fraction of a millisecond.
_MOST_UNFILED = 64
# Long enough for any index to have caught up with the last piece of work.
_EMPTY_SECONDS = 60.0


class Waiter:
    """A consumer that waits for work of any pool it is eligible for. It is woken for one piece of work at a time.

    A waiter with a lower ``number`` has waited longer. A waiter that was ``woken`` is passed over until it looks at its
    pools.
    """

    __slots__ = ("agent", "enlisted", "number", "queues", "signal", "skills", "woken")

    def __init__(self, agent: Agent, signal: Signal) -> None:
        self.agent = agent
        self.skills = skills_of(agent)
        self.signal = signal
        self.number = 0
        self.enlisted = False
        self.woken = False
        self.queues: tuple[str | frozenset[str], ...] = ()  # where it is filed, if it is

    def become(self, agent: Agent) -> None:
        """Wait as the agent that it is by now."""
        if agent is not self.agent:
            self.agent = agent
            self.skills = skills_of(agent)


class Queues:
    """The waiting agents, in queues: by id, by name, and by the set of capabilities.

    Agents with the same capabilities stand in the same queue. So of a thousand that wait, a few queues are looked at.

    Most waiters wait for a moment, until the next message in their own mailbox. So a waiter is filed in its queues once
    there is work in a pool, or once many are not filed. All that are filed have waited longer than all that are not.
    """

    def __init__(self) -> None:
        self._last_number = 0
        self._unfiled: dict[int, Waiter] = {}
        self._waiting: dict[str | frozenset[str], dict[int, Waiter]] = {}
        self._by_skill: dict[str, dict[frozenset[str], None]] = {}

    def __bool__(self) -> bool:
        return bool(self._unfiled or self._waiting)

    def enlist(self, waiter: Waiter) -> None:
        """Wake the consumer for work of the pools from now on. It waits behind all others."""
        if waiter.enlisted:
            self.dismiss(waiter)
        self._last_number = waiter.number = self._last_number + 1
        waiter.enlisted = True
        waiter.woken = False
        self._unfiled[waiter.number] = waiter
        if len(self._unfiled) > _MOST_UNFILED:
            self._file()

    def awake(self, waiter: Waiter, agent: Agent) -> None:
        """Note that the consumer looks at its pools again, as the agent that it is by now."""
        waiter.become(agent)
        if waiter.enlisted and waiter.queues and waiter.queues != _queues_of(waiter):
            self.enlist(waiter)
        waiter.woken = False

    def _file(self) -> None:
        """Put all waiters into their queues."""
        for waiter in self._unfiled.values():
            waiter.queues = _queues_of(waiter)
            for key in waiter.queues:
                queue = self._waiting.get(key)
                if queue is None:
                    queue = self._waiting[key] = {}
                    if isinstance(key, frozenset):
                        for skill in key:
                            self._by_skill.setdefault(skill, {})[key] = None
                queue[waiter.number] = waiter
        self._unfiled.clear()

    def dismiss(self, waiter: Waiter) -> None:
        """Wake the consumer for nothing more."""
        if not waiter.enlisted:
            return
        waiter.enlisted = False
        if self._unfiled.pop(waiter.number, None) is not None:
            return
        for key in waiter.queues:
            queue = self._waiting[key]
            del queue[waiter.number]
            if not queue:
                del self._waiting[key]
                if isinstance(key, frozenset):
                    for skill in key:
                        del self._by_skill[skill][key]
                        if not self._by_skill[skill]:
                            del self._by_skill[skill]
        waiter.queues = ()

    def first(self, pool: Pool) -> Waiter | None:
        """Return the waiter that may claim from the pool and has waited longest without being woken."""
        self._file()
        return min(self._candidates(pool), key=lambda waiter: waiter.number, default=None)

    def _candidates(self, pool: Pool) -> Iterator[Waiter]:
        """Give the first of each queue whose waiters may claim from the pool."""
        keys: Iterable[str | frozenset[str]]
        if pool.any_of:
            keys = map(by_member, pool.any_of)
        elif pool.name is not None:
            keys = (by_name(pool.name),)
        else:
            rarest = min((self._by_skill.get(skill, {}) for skill in pool.capabilities), key=len)
            keys = [skills for skills in rarest if skills.issuperset(pool.capabilities)]
        for key in keys:
            for waiter in self._waiting.get(key, {}).values():
                if not waiter.woken and eligible(pool, waiter.agent, waiter.skills):
                    yield waiter
                    break


def _queues_of(waiter: Waiter) -> tuple[str | frozenset[str], ...]:
    """Return the keys of the queues in which a waiter belongs."""
    return (by_member(waiter.agent.id), by_name(waiter.agent.name), waiter.skills)


class Pools:
    """The pools with work, and the agents that wait. A piece of work wakes the agent that has waited longest."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._most = core.shares.bound(core.limits.max_pools)
        self.queues = Queues()
        self._counted: dict[str, tuple[float, float, int]] = {}  # when, for how long, how many
        self.some = False
        """There were pools at the last look."""

    async def any(self) -> bool:
        """Return True if there is a pool at all."""
        self.some = (await self._core.store.usage(Pool, POOLS)).count > 0
        return self.some

    async def of(self, agent_id: str) -> Sequence[Pool]:
        """Return the pools that the agent may claim from, in no order."""
        store = self._core.store
        there, agent = await together(self.any(), store.get(Agent, agent_id))
        return await self._open_to(agent) if there and agent is not None else ()

    async def _open_to(self, agent: Agent) -> Sequence[Pool]:
        store = self._core.store
        found: dict[str, Pool] = {}
        skills = skills_of(agent)
        for page in await each_of([store.page(Pool, key, limit=self._most) for key in keys_of(agent)]):
            for pool in page.records:
                if eligible(pool, agent, skills) and not await self._owned(pool):
                    found[pool.id] = pool
        return list(found.values())

    async def _owned(self, pool: Pool) -> bool:
        """Return True if an agent has the pool's mailbox for its own by now. Then no other agent claims there."""
        return not is_pool(pool.id) and await self._core.store.get(Agent, pool.id) is not None

    async def using(
        self, wanted: Pool, origin: Origin | None = None, *, make_room: bool = False, rename: bool = False
    ) -> Put:
        """Return the change that lists a pool, for the commit of a piece of work. Raises RelayFull.

        A new pool counts for its ``origin``. Work that is taken back finds room always: ``make_room``. ``rename`` where
        the agent of a mailbox leaves, which may have had another name or key when it left before.
        """
        found = await self._core.store.get(Pool, wanted.id)
        if found is None and not make_room:
            await self._make_room(origin or Origin(None, ""))
        if found is None and origin is not None:
            wanted = replace(wanted, address=origin.address, opened_by=origin.agent)
        if found is None and not make_room:
            await self._core.memory.require(size_of(wanted), wanted.origin)
        if found is not None and rename:
            found = replace(found, name=wanted.name, key_hash=wanted.key_hash, left=wanted.left)
        if found is not None:
            found = replace(found, returns_at=wanted.returns_at)
        return Put((found or wanted).used(self._core.clock()))

    async def _make_room(self, origin: Origin) -> None:
        """Find room for a pool. If there is none, forget an empty pool. Raises RelayFull."""
        while True:
            try:
                return await self._require_room(origin)
            except RelayFull:
                if not await self._drop_an_empty_one():
                    raise

    async def _require_room(self, origin: Origin) -> None:
        """Refuse a pool too many, of all or of an origin's share. Raises RelayFull."""
        shares = self._core.shares
        pools = await self._core.store.usage(Pool, OF_CAPABILITIES)
        await shares.require(
            RelayFull,
            origin,
            lambda: shares.under(origin, (Pool, OF_CAPABILITIES)),
            count=Limit(self._core.limits.max_pools, pools.count, 1),
            holds="the relay keeps",
            what="combinations of capabilities with waiting work",
            then="try again when some of it is done, or raise --max-pools",
            retry_after=_FULL_RETRY_SECONDS,
        )

    async def drop_if_empty(self, pool: Pool, *, unused_for: float = _EMPTY_SECONDS) -> bool:
        """Forget a pool that has had no work for a while. Raises Conflict if some comes at this moment."""
        core = self._core
        if pool.left is not None or core.clock() - pool.used_at < unused_for or await self.in_use(pool):
            return False
        await self.drop(pool)
        return True

    async def drop(self, pool: Pool) -> None:
        """Forget a pool. Raises Conflict if some work comes at this moment."""
        await self._core.commit(pool.partition_key, Drop(pool), quiet=True)
        self._counted.pop(pool.id, None)

    async def _drop_an_empty_one(self) -> bool:
        """Forget one pool that has no work, however short that is; return False if all have work."""
        lag = self._core.store.index_lag
        turns = Turns()
        for pool in (await self._core.store.page(Pool, OF_CAPABILITIES, limit=self._most)).records:
            try:
                if await self.drop_if_empty(pool, unused_for=2 * lag):
                    return True
            except Conflict:  # some work has come at this moment
                pass
            await turns.next()
        return False

    async def in_use(self, pool: Pool) -> bool:
        """Return True if there is work in the pool, or may come back to it from one of its name."""
        store = self._core.store
        lent = by_lender(pool.id)
        read = await store.admission((pool.id,), ((Delivery, lent), (Task, lent)))
        if read.mailboxes[0].count and await store.next_due_at(pool.id) is not None:  # dead letters are no work
            return True
        return pool.name is not None and any(usage.count for usage in read.indexes)

    async def online(self, pool: Pool) -> int:
        """Count the agents online that may claim here: at most a second ago, or a second for each 1,000 of them."""
        core = self._core
        now = core.clock()
        counted = self._counted.get(pool.id)
        if counted is not None and 0 <= now - counted[0] < counted[1]:
            return counted[2]
        count = seen = 0
        turns = Turns()
        async for agents in self._candidates(pool):
            for agent in agents:
                count += eligible(pool, agent) and presence(agent, now, core.limits) is Presence.ONLINE
            seen += len(agents)
            await turns.next(len(agents))
        if count or seen > _FEW:  # where nobody of a few is online, each call counts again
            self._counted[pool.id] = (now, _COUNT_SECONDS * max(1.0, seen / _COUNTED_A_SECOND), count)
        return count

    async def _candidates(self, pool: Pool) -> AsyncIterator[Sequence[Agent]]:
        """Give the agents that may be eligible, some at a time."""
        store = self._core.store
        if pool.any_of:
            found = [await store.get(Agent, agent_id) for agent_id in pool.any_of]
            yield [agent for agent in found if agent is not None]
            return
        keys = [by_name(pool.name)] if pool.name is not None else [by_capability(c) for c in pool.capabilities]
        counts = [(await store.usage(Agent, key)).count for key in keys]
        rarest = keys[counts.index(min(counts))]
        after: str | None = None
        while True:
            page = await store.page(Agent, rarest, after, SLICE)
            yield page.records
            after = page.after
            if after is None:
                return

    # -- wake ------------------------------------------------------------------------------------------------

    def wake_one(self, pool: Pool) -> None:
        """Wake the agent that may claim here and has waited longest without being woken.

        If nobody waits here, the other relays look for one.
        """
        if not self._wake_here(pool) and self._core.peers is not None:
            self._core.peers.tell(Event(pool.id, pool=True))

    def _wake_here(self, pool: Pool) -> bool:
        found = self.queues.first(pool)
        if found is None:
            return False
        found.woken = True
        found.signal.give()
        return True

    async def heard(self, pool_id: str) -> None:
        """Wake an agent that waits here, for work of a pool that another relay has told of."""
        if self.queues:
            with contextlib.suppress(Failed):
                pool = await self._core.store.get(Pool, pool_id)
                if pool is not None:
                    self._wake_here(pool)

    async def pass_on(self, pools: Iterable[Pool]) -> None:
        """Wake another for each pool that has work, now or later: it learns when that is due, and waits until then."""
        turns = Turns()
        for pool in pools:
            if await self._core.store.next_due_at(pool.id) is not None:
                self.wake_one(pool)
            await turns.next()

    async def wake_in_place_of(self, agent: Agent) -> None:
        """Wake another for each pool that has work and that this agent may claim from, or might before it changed."""
        if await self.any():
            await self.pass_on(await self._open_to(agent))
