"""The janitor: expires, forgets, and keeps what is settled within bounds. It calls the same rules as everyone else.

Each step stands alone: one that fails ends no other step, and a record that cannot be settled hides none behind it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import perf_counter
from typing import Any, TypeVar

from clawlink.domain import agent as agent_rules
from clawlink.domain.agent import REGISTERED, Agent
from clawlink.domain.broadcast import KNOWLEDGE, Knowledge
from clawlink.domain.delivery import Delivery, State
from clawlink.domain.file import SharedFile
from clawlink.domain.pool import POOLS, Pool
from clawlink.domain.record import SETTLED, Record
from clawlink.domain.task import Task
from clawlink.relay.agents.deregistration import Deregistration
from clawlink.relay.core import Core, retrying
from clawlink.relay.files.read import FileReads
from clawlink.relay.files.uploads import Uploads
from clawlink.relay.files.write import Files
from clawlink.relay.kinds import Kind
from clawlink.relay.limits.memory import SETTLED_KINDS
from clawlink.relay.mailbox.mailbox import Mailbox
from clawlink.relay.mailbox.pools import Pools
from clawlink.relay.retry_later import RetryLater, UpkeepFailures
from clawlink.relay.tasks.lifecycle import TaskLifecycle
from clawlink.relay.time_slices import Turns
from clawlink.store.base import Conflict, Drop, Failed, Put

# A page of records: how many one read of the store brings. Each of them is a step of its own.
_PAGE = 200
_POOLS_PAGE = 100
# A round looks at pools for this many seconds, then the next one goes on: waiters that can do almost the same cost
# most.
_POOLS_SECONDS = 0.01
_ENDING_KINDS: tuple[type[Any], ...] = (*SETTLED_KINDS, SharedFile, Knowledge, Pool)

T = TypeVar("T")


class Janitor:
    """Looks at what has ended. ``sweep`` is called twice a second; nothing depends on its being on time."""

    def __init__(
        self,
        core: Core,
        mailbox: Mailbox,
        lifecycle: TaskLifecycle,
        deregistration: Deregistration,
        pools: Pools,
        files: Files,
        file_reads: FileReads,
        uploads: Uploads,
    ) -> None:
        self._core = core
        self._mailbox = mailbox
        self._lifecycle = lifecycle
        self._deregistration = deregistration
        self._pools = pools
        self._files = files
        self._file_reads = file_reads
        self._uploads = uploads
        self._agents_after: str | None = None
        self._pools_after: str | None = None
        self._failures = UpkeepFailures(core.stats)
        self._retry_later = {kind: RetryLater() for kind in _ENDING_KINDS}
        self._lapses: dict[type[Any], Callable[[Any, float], Record | None]] = {}

    def keep(self, kind: Kind) -> None:
        """End records of a door's own kind, too."""
        self._retry_later[kind.record] = RetryLater()
        self._lapses[kind.record] = kind.lapse

    @property
    def stuck(self) -> int:
        """How many records could not be settled, and are tried again."""
        return sum(map(len, self._retry_later.values()))

    async def sweep(self) -> None:
        """Do everything that is to be done at this moment, with turns for other requests in between."""
        for kind in tuple(self._retry_later):
            await self.step(f"end {kind.__name__}", self._end, kind)
        await self.step("evict", self._evict)
        await self.step("evict Knowledge", self._evict_knowledge)
        await self.step("forget agents", self._forget_agents)
        await self.step("pools", self._look_at_pools)
        await self.sweep_own()

    async def sweep_own(self) -> None:
        """Look after the things that this relay has for itself, while another one looks after the records."""
        await self.step("readings", self._end_readings)
        await self.step("uploads", self._look_at_uploads)

    async def step(self, name: str, step: Callable[..., Awaitable[bool | None]], *args: Any) -> None:
        """Do a step of upkeep. A step that raises, or returns False, has failed: that is logged, and never raised."""
        try:
            if await step(*args) is not False:
                self._failures.over(name)
        except Exception as failure:
            self._failures.note(name, failure)

    async def _each(self, name: str, items: Iterable[T], do: Callable[[T], Awaitable[object]]) -> bool:
        """Do the same for each item. Return True if none of them failed; one that does stops none behind it."""
        turns = Turns()
        well = True
        for item in items:
            try:
                await do(item)
            except Exception as failure:
                self._failures.note(name, failure)
                well = False
            await turns.next()
        return well

    async def _end(self, kind: type[Any]) -> bool:
        core, aside, turns = self._core, self._retry_later[kind], Turns()
        for id in aside.begin(core.clock()):
            await self._end_or_put_aside(kind, id)
            await turns.next()
        while True:
            ended = await core.store.ending(kind, core.clock(), _PAGE, aside)
            for record in ended:
                if not await self._end_or_put_aside(kind, record.id):
                    aside.pass_over(record.id)
                await turns.next()
            if len(ended) < _PAGE:
                return not aside

    async def _end_or_put_aside(self, kind: type[Any], id: str) -> bool:
        aside = self._retry_later[kind]
        try:
            done = await self._end_one(kind, id)
        except Failed:  # the store does not answer: the record is not at fault
            raise
        except Exception as failure:
            self._failures.note(f"end {kind.__name__}", failure, id=id)
            aside.failed(id, self._core.clock())
            return False
        aside.settled(id)
        return done

    @retrying
    async def _end_one(self, kind: type[Any], id: str) -> bool:
        """Settle or drop one record, if it is true that its time has come."""
        core = self._core
        record: Record | None = await core.store.get(kind, id)
        if record is None or record.ends_at is None or record.ends_at > core.clock():
            return False
        if isinstance(record, SharedFile):
            return await self._files.look(id)
        if isinstance(record, Task):
            return await self._lifecycle.look(id)
        if isinstance(record, Pool):
            return await self._lifecycle.return_tasks(id)
        if isinstance(record, Delivery) and record.is_task:
            return await self._lifecycle.look(id) if not record.has_record else await self._lifecycle.end(id)
        if isinstance(record, Delivery) and record.state is State.PENDING:
            return await self._mailbox.expire_overdue(id)
        lapse = self._lapses.get(kind)
        if lapse is not None and (left := lapse(record, core.clock())) is not None:
            await core.commit(left.partition_key, Put(left))
        else:
            await self._drop(record)
        return True

    async def _drop(self, *records: Record) -> None:
        """Forget records of one partition."""
        await self._core.commit(records[0].partition_key, *map(Drop, records), quiet=True)

    async def _evict(self) -> bool:
        """Forget the oldest settled records while there are too many, or too many bytes of them."""
        core = self._core
        while True:
            usages = {kind: await core.store.usage(kind, SETTLED) for kind in SETTLED_KINDS}
            over_count = sum(u.count for u in usages.values()) - core.limits.retention_records
            over_bytes = sum(u.bytes for u in usages.values()) - core.limits.retention_bytes
            if over_count <= 0 and over_bytes <= 0:
                return True
            largest = max(usages, key=lambda kind: usages[kind].bytes if over_bytes > 0 else usages[kind].count)
            oldest = await self._oldest(largest, SETTLED, _PAGE if over_bytes > 0 else min(over_count, _PAGE))
            partitions: dict[str, list[Record]] = {}
            for record in oldest:
                if over_count <= 0 and over_bytes <= 0:
                    break
                over_count, over_bytes = over_count - 1, over_bytes - record.weight
                partitions.setdefault(record.partition_key, []).append(record)
            dropped = await self._evict_from_partitions(largest, partitions.values())
            core.stats.evicted += dropped
            if not dropped:
                return False

    async def _oldest(self, kind: type[Any], key: str, count: int) -> list[Record]:
        """Return the oldest records under a key, without those that could not be settled."""
        aside = self._retry_later[kind]
        found: Sequence[Record] = (await self._core.store.page(kind, key, limit=count + len(aside))).records
        return [record for record in found if record.id not in aside][:count]

    async def _evict_from_partitions(self, kind: type[Any], partitions: Iterable[Sequence[Record]]) -> int:
        """Forget records; return how many. A partition that fails stops none behind it."""
        dropped = 0
        turns = Turns()
        for records in partitions:
            try:
                dropped += await self._evict_from_partition(kind, records)
            except Failed:
                raise
            except Exception as failure:
                self._failures.note("evict", failure, id=records[0].id)
                for record in records:
                    self._retry_later[kind].failed(record.id, self._core.clock())
            await turns.next(len(records))
        return dropped

    async def _evict_from_partition(self, kind: type[Any], records: Sequence[Record]) -> int:
        try:
            await self._drop(*records)  # as the index has them; the commit finds out if one has changed since
        except Conflict:
            return await self._evict_reread(kind, [record.id for record in records])
        return len(records)

    @retrying
    async def _evict_reread(self, kind: type[Any], ids: Sequence[str]) -> int:
        found: list[Record | None] = [await self._core.store.get(kind, id) for id in ids]
        settled = [
            record for record in found if record is not None and (kind is Knowledge or SETTLED in record.index_keys)
        ]
        if settled:
            await self._drop(*settled)
        return len(settled)

    async def _forget_agents(self) -> bool:
        """Look at some of the agents each time, and forget those that are long silent and have no mail."""
        page = await self._core.store.page(Agent, REGISTERED, self._agents_after, _PAGE)
        self._agents_after = page.after
        return await self._each("forget agents", page.records, self._forget_if_silent)

    async def _forget_if_silent(self, agent: Agent) -> None:
        core = self._core
        (mail,) = (await core.store.admission((agent.id,))).mailboxes
        if agent_rules.forgettable(agent, core.clock(), core.limits, mail=mail.count):
            await self._deregistration.forget(agent.id)

    async def _look_at_pools(self) -> bool:
        """Look at pools for a while, and go on there at the next round."""
        until = perf_counter() + _POOLS_SECONDS
        well = True
        while True:
            page = await self._core.store.page(Pool, POOLS, self._pools_after, _POOLS_PAGE)
            well &= await self._each("pools", page.records, self._look_at_pool)
            self._pools_after = page.after
            if page.after is None or perf_counter() >= until:
                return well

    async def _look_at_pool(self, pool: Pool) -> None:
        if pool.left is not None:  # it leaves at this moment, or a failure has broken that off
            await self._deregistration.take_back_work(pool.left)
            return
        due_at = await self._core.store.next_due_at(pool.id)
        if due_at is not None and due_at <= self._core.clock():
            self._pools.wake_one(pool)  # whoever was to wake for it may have gone
        else:
            with contextlib.suppress(Conflict):  # some work has come at this moment
                await self._pools.drop_if_empty(pool)

    async def _end_readings(self) -> bool:
        return await self._each("readings", self._file_reads.read_once(), self._file_reads.end_if_over)

    async def _look_at_uploads(self) -> bool:
        return await self._each("uploads", self._uploads.known(), self._uploads.look)

    async def _evict_knowledge(self) -> bool:
        """Forget the oldest broadcasts of the history, while it is over its limit."""
        core = self._core
        while True:
            kept = await core.store.usage(Knowledge, KNOWLEDGE)
            over = kept.count - core.shares.bound(core.limits.max_knowledge)
            excess = kept.bytes - core.shares.bound(core.limits.max_knowledge_bytes)
            if over <= 0 and excess <= 0:
                return True
            oldest = await self._oldest(Knowledge, KNOWLEDGE, _PAGE if over <= 0 else min(over, _PAGE))
            going: list[list[Record]] = []
            for record in oldest:
                if over <= 0 and excess <= 0:
                    break
                going.append([record])
                over, excess = over - 1, excess - record.weight
            if not await self._evict_from_partitions(Knowledge, going):
                return False
