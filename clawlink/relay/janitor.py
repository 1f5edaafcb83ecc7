"""The janitor: expires, forgets, and keeps what is settled within bounds. It calls the same rules as everyone else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from clawlink.domain import agent as agent_rules
from clawlink.domain.agent import REGISTERED, Agent
from clawlink.domain.broadcast import KNOWLEDGE, Broadcast, Knowledge
from clawlink.domain.delivery import Delivery, State
from clawlink.domain.file import FileWrite, SharedFile
from clawlink.domain.pool import POOLS, Pool
from clawlink.domain.record import SETTLED, Record
from clawlink.domain.relayed import Pointer, lapse
from clawlink.domain.task import Task
from clawlink.relay.core import Core, retrying
from clawlink.relay.departures import Departures
from clawlink.relay.file_reads import FileReads
from clawlink.relay.files import Files
from clawlink.relay.mailbox import Mailbox
from clawlink.relay.pools import Pools
from clawlink.relay.upkeep import Upkeep
from clawlink.relay.uploads import Uploads
from clawlink.store.base import Conflict, Drop, Put

_SLICE = 200
_SETTLED_KINDS: tuple[type[Any], ...] = (Delivery, Task, Broadcast, FileWrite)
_ENDING_KINDS: tuple[type[Any], ...] = (*_SETTLED_KINDS, SharedFile, Knowledge, Pointer)


class Janitor:
    """Looks at what has ended. ``sweep`` is called twice a second; nothing depends on its being on time."""

    def __init__(
        self,
        core: Core,
        mailbox: Mailbox,
        upkeep: Upkeep,
        departures: Departures,
        pools: Pools,
        files: Files,
        file_reads: FileReads,
        uploads: Uploads,
    ) -> None:
        self._core = core
        self._mailbox = mailbox
        self._upkeep = upkeep
        self._departures = departures
        self._pools = pools
        self._files = files
        self._file_reads = file_reads
        self._uploads = uploads
        self._agents_after: str | None = None

    async def sweep(self) -> None:
        """Do everything that is to be done at this moment, with turns for other requests in between."""
        for kind in _ENDING_KINDS:
            await self._end(kind)
        await self._evict()
        await self._evict_knowledge()
        await self._forget_agents()
        await self._look_at_pools()
        await self._file_reads.end_readings()
        await self._uploads.sweep()

    async def _end(self, kind: type[Any]) -> None:
        while True:
            ended = await self._core.store.ending(kind, self._core.clock(), _SLICE)
            done = 0
            for record in ended:
                done += await self._end_one(kind, record.id)
            await asyncio.sleep(0)
            if done < _SLICE:
                return

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
            return await self._upkeep.look(id)
        if isinstance(record, Delivery) and record.is_task:
            return await self._upkeep.look(id) if not record.has_record else await self._upkeep.end(id)
        if isinstance(record, Delivery) and record.state is State.PENDING:
            return await self._mailbox.expire(id)
        if isinstance(record, Pointer) and (left := lapse(record, core.clock())) is not None:
            await core.commit(left.home, Put(left))
        else:
            await self._drop(record)
        return True

    async def _drop(self, *records: Record) -> None:
        """Forget records of one home."""
        await self._core.commit(records[0].home, *map(Drop, records))

    async def _evict(self) -> None:
        """Forget the oldest settled records while there are too many, or too many bytes of them."""
        core = self._core
        while True:
            usages = {kind: await core.store.usage(kind, SETTLED) for kind in _SETTLED_KINDS}
            over_count = sum(u.count for u in usages.values()) - core.limits.retention_records
            over_bytes = sum(u.bytes for u in usages.values()) - core.limits.retention_bytes
            if over_count <= 0 and over_bytes <= 0:
                return
            largest = max(usages, key=lambda kind: usages[kind].bytes if over_bytes > 0 else usages[kind].count)
            oldest = await core.store.first(largest, SETTLED, _SLICE if over_bytes > 0 else min(over_count, _SLICE))
            homes: dict[str, list[Record]] = {}
            for record in oldest:
                if over_count <= 0 and over_bytes <= 0:
                    break
                over_count, over_bytes = over_count - 1, over_bytes - record.weight
                homes.setdefault(record.home, []).append(record)
            dropped = sum([await self._evict_from_home(largest, records) for records in homes.values()])
            core.stats.evicted += dropped
            await asyncio.sleep(0)
            if not dropped:
                return

    async def _evict_from_home(self, kind: type[Any], records: Sequence[Record]) -> int:
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

    async def _forget_agents(self) -> None:
        """Look at some of the agents each time, and forget those that are long silent and have no mail."""
        core = self._core
        page = await core.store.page(Agent, REGISTERED, self._agents_after, _SLICE)
        self._agents_after = page.after
        for agent in page.records:
            mail = await core.store.load(agent.id)
            if agent_rules.forgettable(agent, core.clock(), core.limits, mail=mail.count):
                await self._departures.forget(agent.id)

    async def _look_at_pools(self) -> None:
        for pool in await self._core.store.first(Pool, POOLS, self._core.limits.max_pools):
            if await self._core.store.due(pool.id, self._core.clock(), 1):
                self._pools.wake_one(pool)  # whoever was to wake for it may have gone
            else:
                with contextlib.suppress(Conflict):  # some work has come at this moment
                    await self._pools.drop_if_empty(pool)

    async def _evict_knowledge(self) -> None:
        """Forget the oldest of what is kept for those who come late, while it is too much."""
        core = self._core
        while True:
            kept = await core.store.usage(Knowledge, KNOWLEDGE)
            over = kept.count - core.limits.max_knowledge
            if over <= 0 and kept.bytes <= core.limits.max_knowledge_bytes:
                return
            oldest = await core.store.first(Knowledge, KNOWLEDGE, _SLICE if over <= 0 else min(over, _SLICE))
            dropped, excess = 0, kept.bytes - core.limits.max_knowledge_bytes
            for record in oldest:
                if over <= 0 and excess <= 0:
                    break
                dropped += await self._evict_from_home(Knowledge, [record])
                over, excess = over - 1, excess - record.weight
            await asyncio.sleep(0)
            if not dropped:
                return
