"""Room for events: limits of all of them, shared fairly, and the end of events that are over."""

from __future__ import annotations

from clawlink.domain.shares import Origin
from clawlink.doors.agentrelay import rules
from clawlink.doors.agentrelay.rules import KNOWN, OVER, Pointer
from clawlink.doors.agentrelay.settings import Settings
from clawlink.errors import RelayFull, StorageFull
from clawlink.relay.core import Core, retrying
from clawlink.relay.limits.memory import NEW_RECORD_BYTES
from clawlink.relay.limits.shares import Limit
from clawlink.store.base import Drop

_FULL_RETRY_SECONDS = 60.0
_SLICE = 200


class EventRoom:
    """The room that events may take."""

    def __init__(self, core: Core, settings: Settings) -> None:
        self._core = core
        self._settings = settings

    async def require(self, origin: Origin, sender_id: str, growth: int, *, count: int = 0) -> None:
        """Refuse an event, or more contents of one, beyond a limit or a share of it. Raises RelayFull, StorageFull."""
        if count:
            used = await self._core.store.usage(Pointer, KNOWN)
            if used.count + count > self._settings.max_events:
                await self._make_room()
        if growth > 0 or count:
            await self._core.memory.require(growth + count * NEW_RECORD_BYTES, origin)
        try:
            await self._require_share(origin, growth, count)
        except (RelayFull, StorageFull):
            sent = (await self._core.store.page(Pointer, rules.sent_by(sender_id), limit=_SLICE)).records
            over = [pointer for pointer in sent if not pointer.event.present]
            if not over:
                raise
            for pointer in over:
                await self.forget(pointer.id)
            await self._require_share(origin, growth, count)

    async def _require_share(self, origin: Origin, growth: int, count: int) -> None:
        limits, shares = self._settings, self._core.shares
        used = await self._core.store.usage(Pointer, KNOWN)

        if count:
            await shares.require(
                RelayFull,
                origin,
                lambda: shares.under(origin, (Pointer, KNOWN)),
                count=Limit(limits.max_events, used.count, count),
                holds="the relay knows",
                what="events of AgentRelay",
                then="try again when some have expired, or raise --max-events",
                retry_after=_FULL_RETRY_SECONDS,
            )
        if growth > 0:
            await shares.require(
                StorageFull,
                origin,
                lambda: shares.under(origin, (Pointer, KNOWN)),
                bytes=Limit(limits.max_events_bytes, used.bytes, growth),
                records=used.count,
                holds="the relay holds",
                what="events of AgentRelay",
                then="share large contents as a file, or raise --max-events-bytes",
            )

    async def _make_room(self) -> bool:
        """Forget the events that have been over for longest; return False if there are none."""
        over = (await self._core.store.page(Pointer, OVER, limit=_SLICE)).records
        for pointer in over:
            await self.forget(pointer.id)
        return bool(over)

    @retrying
    async def forget(self, id: str) -> None:
        """Forget an event, if it is there."""
        pointer = await self._core.store.get(Pointer, id)
        if pointer is not None:
            await self._core.commit(pointer.partition_key, Drop(pointer))
