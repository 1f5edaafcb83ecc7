"""Counters, limits and the load of the last hour for the operator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields

from clawlink.domain.agent import ONLINE, REGISTERED, Agent, presence
from clawlink.domain.broadcast import KNOWLEDGE, Knowledge
from clawlink.domain.delivery import Delivery
from clawlink.domain.file import ABSENT, PRESENT, RESTRICTED, SharedFile
from clawlink.domain.limits import LIMIT_FIELDS
from clawlink.domain.pool import POOLS, Pool
from clawlink.domain.record import SETTLED
from clawlink.domain.task import Task
from clawlink.protocol.admin_views import LimitUse, Load, LoadMinute, LoadQuery
from clawlink.relay.core import Core
from clawlink.relay.files.quota import FileQuota
from clawlink.relay.telemetry import traffic as telemetry
from clawlink.relay.time_slices import Turns
from clawlink.relay.timestamps import iso

# Counting 3,000 agents takes about 1 ms. A look at the load counts them sooner.
_PRESENCE_SECONDS = 15.0
_LOOK_SECONDS = 1.0
_AGENTS_AT_ONCE = 256

_SHOWN_ALWAYS = ("stored", "delivered", "acked", "refused")
_READ = (
    (Agent, REGISTERED),
    (Knowledge, KNOWLEDGE),
    (Pool, POOLS),
    (SharedFile, PRESENT),
    (SharedFile, RESTRICTED),
    (SharedFile, ABSENT),
    (Delivery, SETTLED),
    (Task, SETTLED),
)


class LoadViews:
    """The load of this relay."""

    def __init__(self, core: Core, quota: FileQuota, *, stuck: Callable[[], int], uploads: Callable[[], int]) -> None:
        """``stuck`` counts the records that upkeep cannot settle, ``uploads`` those under way."""
        self._core = core
        self._quota = quota
        self._stuck = stuck
        self._uploads = uploads
        self._connections = 0
        self._present = (0, 0)
        self._counted_at = -math.inf
        self.history = telemetry.LoadHistory(core.steady, core.stats)

    async def sample(self, connections: int | None = None, *, counted: float = _PRESENCE_SECONDS) -> None:
        """Note the load of this moment. The server calls it twice a second, with the number of its connections.

        ``counted`` says how many seconds ago the agents may have been counted.
        """
        core = self._core
        if connections is not None:
            self._connections = connections
        online, stale = await self._presence(counted)
        read = await core.store.admission((), ((SharedFile, PRESENT),))
        held = telemetry.Held(
            agents_online=online,
            agents_stale=stale,
            messages_held=read.total.count,
            message_bytes_held=read.total.bytes,
            memory_bytes=await core.memory.used(),
            shared_files=read.indexes[0].count,
            file_bytes=self._quota.used,
            uploads=self._uploads(),
            upkeep_stuck=self._stuck(),
            connections=self._connections,
            waiting_polls=core.signals.listeners(),
        )
        self.history.sample(held)

    async def _presence(self, counted: float) -> tuple[int, int]:
        """Count the agents that are online and those that are stale, unless they were a moment ago.

        The directory would know, too, but encodes each agent that has changed: nobody may ask for that.
        """
        core = self._core
        now = core.steady()
        if now < self._counted_at + counted:
            return self._present
        online = agents = 0
        after: str | None = None
        turns = Turns()
        while True:
            page = await core.store.page(Agent, REGISTERED, after, _AGENTS_AT_ONCE)
            clock = core.clock()
            agents += len(page.records)
            online += sum(presence(agent, clock, core.limits) is ONLINE for agent in page.records)
            await turns.next(len(page.records))
            after = page.after
            if after is None:
                self._present, self._counted_at = (online, agents - online), now
                return self._present

    async def load(self, ask: LoadQuery) -> Load:
        """Show the counters, the limits and what is held against them."""
        core = self._core
        await self.sample(counted=_LOOK_SECONDS)
        read = await core.store.admission((), _READ)
        agents, knowledge, pools, *others = read.indexes
        files, settled = others[:3], others[3:]
        used: dict[str, float] = {
            "max_agents": agents.count,
            "max_knowledge": knowledge.count,
            "max_knowledge_bytes": knowledge.bytes,
            "max_pools": pools.count,
            "max_files": sum(usage.count for usage in files),
            "max_files_bytes": self._quota.used,
            "retention_records": sum(usage.count for usage in settled),
            "retention_bytes": sum(usage.bytes for usage in settled),
            "max_stored_bytes": read.total.bytes,
            "max_uploads": self._uploads(),
            core.memory.field: await core.memory.used(),
        }
        return Load(
            counters={field.name: getattr(core.stats, field.name) for field in fields(core.stats)},
            limits=[
                LimitUse(
                    field.name,
                    str(field.metadata["flag"]),
                    str(field.metadata["unit"]),
                    getattr(core.limits, field.name),
                    used.get(field.name),
                )
                for field in LIMIT_FIELDS
            ],
            minutes=[_minute(m) for m in self.history.minutes()],
            upkeep_stuck=self._stuck(),
            waiting_polls=core.signals.listeners(),
        )


def _minute(minute: telemetry.LoadMinute) -> LoadMinute:
    counters = {name: n for name, n in zip(telemetry.COUNTED, minute.counted, strict=True) if n}
    counted = {name: counters.get(name, 0) for name in _SHOWN_ALWAYS}
    return LoadMinute(at=iso(60 * minute.minute), counters=counters, **counted, **minute.held._asdict())
