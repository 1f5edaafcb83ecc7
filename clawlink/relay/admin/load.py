"""Counters, limits and the load of the last hour for the operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from clawlink.domain.agent import REGISTERED, Agent
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
from clawlink.relay.telemetry import load as telemetry
from clawlink.relay.timestamps import iso

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
        self.history = telemetry.LoadHistory(core.steady, core.stats)

    async def sample(self, connections: int | None = None) -> None:
        """Note the load of this moment. The server calls it twice a second, with the number of its connections."""
        core = self._core
        if connections is not None:
            self._connections = connections
        held = telemetry.Held(
            messages_held=(await core.store.admission()).total.count,
            memory_bytes=await core.memory.used(),
            file_bytes=self._quota.used,
            connections=self._connections,
            waiting_polls=core.signals.listeners(),
        )
        self.history.sample(held)

    async def load(self, ask: LoadQuery) -> Load:
        """Show the counters, the limits and what is held against them."""
        core = self._core
        await self.sample()
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
    counted = dict(zip(telemetry.COUNTED, minute.counted, strict=True))
    return LoadMinute(iso(60 * minute.minute), **counted, **minute.held._asdict())
