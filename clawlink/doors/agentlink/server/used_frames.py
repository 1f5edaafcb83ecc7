"""The signed frames that the relays of one mesh have taken: each counts once at all of them."""

from __future__ import annotations

from clawlink.doors.agentlink.server.nonces import used_before
from clawlink.doors.agentlink.server.records import UsedFrame
from clawlink.relay.core import Core
from clawlink.relay.ids import derived
from clawlink.store.base import Batch, Conflict, Drop, Put

_SLICE = 200
_MOST_SLICES = 10


class UsedFrames:
    """Keeps a record of each frame until every relay refuses its time.

    Relays of a mesh read the time of its server, and may differ by less than ``_APART_SECONDS``.
    """

    _APART_SECONDS = 5.0

    def __init__(self, core: Core, *, tolerance: float) -> None:
        self._core = core
        self._tolerance = tolerance

    async def use(self, owner: str, nonce: str, *, signed_at: float) -> None:
        """Take a frame of ``owner``, once. Raises NotAllowed if any relay has taken it, and the store's errors."""
        id = derived("agentlink frame", owner, nonce)
        frame = UsedFrame(id, 1, signed_at + self._tolerance + self._APART_SECONDS)
        try:
            await self._core.commit(id, Put(frame), quiet=True)
        except Conflict:
            raise used_before() from None

    async def forget(self) -> None:
        """Drop the records of frames whose time is over: in steady time, which a stop of all work does not stop."""
        core = self._core
        for _ in range(_MOST_SLICES):
            over = await core.store.ending(UsedFrame, core.steady(), _SLICE)
            if not over:
                return
            batches = [Batch(frame.id, (Drop(frame),)) for frame in over]
            most = core.store.partitions_at_once
            for at in range(0, len(batches), most):
                await core.store.commit_many(batches[at : at + most])
