"""The relay at a glance: counts of agents, tasks and mailboxes, and what waits for a person."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sequence
from typing import TypeVar

from clawlink.domain.agent import OPERATOR, REGISTERED, Agent
from clawlink.domain.delivery import ALL_DEAD, Delivery
from clawlink.domain.pool import POOLS, Pool
from clawlink.domain.task import FINAL, OPEN, Task, TaskState, in_state
from clawlink.protocol.admin import NeedsYou, Overview, OverviewQuery, TrafficMinute, UnwokenAgent, Waiting, WaitingPool
from clawlink.protocol.replies import Stop
from clawlink.relay.agents.agents import Agents
from clawlink.relay.core import Core
from clawlink.relay.mailbox.admission import Admission
from clawlink.relay.mailbox.pools import Pools
from clawlink.relay.telemetry.traffic import Traffic
from clawlink.relay.time_slices import SLICE, Turns
from clawlink.relay.timestamps import iso, iso_or_none
from clawlink.version import VERSION

# An overview is made at most four times a second, however many look.
_FRESH_SECONDS = 0.25
_SHOWN = 20
_LOOKED_AT = 1000
# A task that has expired needs a person for this long.
_RECENT_SECONDS = 3600.0
# The mailboxes that are counted in one turn of the event loop: 0.2 ms.
_COUNTED = 256
_ENDED = tuple(state for state in TaskState if state in FINAL)

T = TypeVar("T", Agent, Pool)


class Overviews:
    """Makes overviews, in slices, and keeps the last one for a moment."""

    def __init__(
        self,
        core: Core,
        agents: Agents,
        pools: Pools,
        admission: Admission,
        *,
        contents: bool,
        started_at: float,
        stuck: Callable[[], int],
    ) -> None:
        """``stuck`` counts the records that upkeep cannot settle."""
        self._stuck = stuck
        self._core = core
        self._agents = agents
        self._pools = pools
        self._admission = admission
        self._contents = contents
        self._started_at = started_at
        self.traffic = Traffic(core.steady, core.stats)
        self._making = asyncio.Lock()
        self._made: tuple[float, Overview] | None = None

    async def overview(self, ask: OverviewQuery) -> Overview:
        """Return the overview, a quarter of a second old at most."""
        asked_at = asyncio.get_running_loop().time()
        async with self._making:
            if self._made is None or self._made[0] < asked_at - _FRESH_SECONDS:
                began = asyncio.get_running_loop().time()
                self._made = (began, await self.make())
            return self._made[1]

    async def make(self) -> Overview:
        """Make an overview now."""
        core = self._core
        revision = core.commits
        online, stale = await self._agents.directory.presence()
        open_tasks = {state.value: await self._tasks(state) for state in OPEN}
        ended = {state.value: await self._tasks(state) for state in _ENDED}
        deepest, unread = await self._deepest(Agent, REGISTERED)
        mailboxes = [await self._waiting(*found) for found in deepest]
        unwoken = await self._unwoken()
        unserved, pools = await self._look_at_pools()
        held = (await core.store.admission()).total
        stops = list(self._admission.stops)
        named = [box.agent_id for box in mailboxes]
        named += [*(id for stop in stops for id in stop.agents), *(id for pool in pools for id in pool.to_any_of)]
        return Overview(
            server_time=core.time.stamp(),
            started_at=iso(self._started_at),
            version=VERSION,
            revision=revision,
            contents=self._contents,
            draining=core.draining,
            stopped_at=iso_or_none(core.time.standstill.since),
            agents_online=online,
            agents_stale=stale,
            open_tasks=open_tasks,
            ended_tasks=ended,
            needs_you=NeedsYou(
                questions=open_tasks[TaskState.INPUT_REQUIRED.value],
                dead_letters=(await core.store.usage(Delivery, ALL_DEAD)).count,
                expired=await self._expired(ended[TaskState.EXPIRED.value]),
                unserved_pools=unserved,
                stops=[Stop(stop.at, stop.code, stop.agents) for stop in stops],
                unread_mailboxes=unread,
                stuck_records=self._stuck(),
                unwoken_agents=len(unwoken),
                unwoken=unwoken[:_SHOWN],
                inbox=(await core.store.admission((OPERATOR,))).mailboxes[0].count,
            ),
            mailboxes=mailboxes,
            pools=pools,
            traffic=[
                TrafficMinute(iso(60 * m.minute), m.delegated, m.answered, m.failed) for m in self.traffic.minutes()
            ],
            messages_held=held.count,
            bytes_held=held.bytes,
            memory_bytes=await core.memory.used(),
            memory_limit=core.memory.limit,
            on_disk=core.memory.on_disk,
            names=await self._agents.names(named),
        )

    async def _tasks(self, state: TaskState) -> int:
        """Count the tasks in a state: those with a record, and those that are their delivery alone."""
        read = await self._core.store.admission((), ((Task, in_state(state)), (Delivery, in_state(state))))
        return sum(usage.count for usage in read.indexes)

    async def _expired(self, kept: int) -> int:
        """Count the tasks that have expired in the last hour: up to 1,000 if ended tasks are kept for longer."""
        if self._core.limits.retention <= _RECENT_SECONDS or not kept:
            return kept
        since, turns = self._core.clock() - _RECENT_SECONDS, Turns()
        count = 0
        after: str | None = None
        while count < _LOOKED_AT:
            page = await self._core.store.page(Task, in_state(TaskState.EXPIRED), after, SLICE, newest=True)
            recent = sum(task.finished_at is not None and task.finished_at > since for task in page.records)
            count += recent
            after = page.after
            if after is None or recent < len(page.records):
                break
            await turns.next(len(page.records))
        return min(count, _LOOKED_AT)

    async def _unwoken(self) -> list[UnwokenAgent]:
        """Return the agents whose last wake failed, and that have not come since."""
        core, turns = self._core, Turns()
        found = []
        for failed in core.unwoken.all():
            agent = await core.store.get(Agent, failed.agent_id)
            wake = failed.wake
            if agent is None or agent.last_heartbeat > wake.at:
                core.unwoken.over(failed.agent_id)
            else:
                note = wake.note if self._contents else None
                at = core.time.iso(wake.at)
                name = self._agents.shown_name(agent)
                found.append(UnwokenAgent(agent.id, name, failed.message_id, at, wake.adapter, wake.result, note))
            await turns.next()
        return found

    async def _deepest(self, kind: type[T], key: str) -> tuple[Sequence[tuple[T, int, int]], int]:
        """Return the agents or pools whose mailboxes hold most messages, with their messages and bytes.

        Count the mailboxes with messages whose agents are stale, too. What waits for the operator is counted elsewhere.
        """
        silent = self._core.clock() - self._core.limits.stale_after
        unread = 0
        found: list[tuple[int, int, int, T]] = []
        after: str | None = None
        turns = Turns()
        place = 0
        while True:
            page = await self._core.store.page(kind, key, after, _COUNTED)
            read = await self._core.store.admission([one.id for one in page.records])
            for one, usage in zip(page.records, read.mailboxes, strict=True):
                place += 1
                if usage.count:
                    unread += isinstance(one, Agent) and one.id != OPERATOR and one.last_heartbeat <= silent
                    entry = (usage.count, usage.bytes, -place, one)
                    if len(found) < _SHOWN:
                        heapq.heappush(found, entry)
                    elif entry > found[0]:
                        heapq.heapreplace(found, entry)
            await turns.next(len(page.records))
            after = page.after
            if after is None:
                return [(one, count, size) for count, size, _, one in sorted(found, reverse=True)], unread

    async def _waiting(self, agent: Agent, messages: int, size: int) -> Waiting:
        core = self._core
        pending = await core.store.pending(agent.id, _LOOKED_AT)
        oldest = min((d.stored_at for d in pending), default=None)
        await asyncio.sleep(0)
        return Waiting(agent.id, self._agents.shown_name(agent), messages, size, core.time.iso_or_none(oldest))

    async def _look_at_pools(self) -> tuple[int, list[WaitingPool]]:
        """Count the pools with work that no online agent may claim. Return the pools with most work."""
        store, turns = self._core.store, Turns()
        unserved = 0
        after: str | None = None
        while True:
            page = await store.page(Pool, POOLS, after, SLICE)
            read = await store.admission([pool.id for pool in page.records])
            for pool, usage in zip(page.records, read.mailboxes, strict=True):
                unserved += bool(usage.count) and not await self._pools.online(pool)
                await turns.next()
            after = page.after
            if after is None:
                break
        shown = []
        for pool, tasks, _ in (await self._deepest(Pool, POOLS))[0]:
            online = await self._pools.online(pool)
            shown.append(WaitingPool(list(pool.capabilities), list(pool.any_of), pool.name, tasks, online))
        return unserved, shown
