"""Messages that a poll handed out, until it is known whether they were read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from clawlink.domain.delivery import Delivery
from clawlink.errors import StoreUnavailable
from clawlink.relay.core import Core
from clawlink.relay.ids import receipt
from clawlink.relay.mailbox.acks import Acks
from clawlink.store.base import Failed

_log = logging.getLogger("clawlink.relay")
_TRIES = 3
_PAUSE_SECONDS = 0.5


class HandedOut:
    """Messages that went out with one reply. Unread messages are due again at once, as if they had never been taken.

    Messages that were read are settled if ``until_read``, as for clients of ClawLink 1.0.x, which know of no lease.
    """

    def __init__(
        self,
        core: Core,
        acks: Acks,
        agent_id: str,
        taken: Sequence[Delivery],
        *,
        lease: float,
        until_read: bool,
    ) -> None:
        self.until_read = until_read
        self._is_over = False
        self._core = core
        self._acks = acks
        self._agent_id = agent_id
        self._receipts = [receipt(str(d.receipt), d.id) for d in taken]
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._extend_at = self._loop.time() + lease / 2

    def over(self, *, read: bool) -> None:
        """Settle the messages that were read, or give them back. The first verdict counts."""
        if self._is_over:
            return
        self._is_over = True
        if self.until_read or not read:
            self._core.begin(self._settle(read))

    def hold(self) -> None:
        """Keep the leases while the reply is on its way to a slow reader."""
        now = self._loop.time()
        if self.until_read and now >= self._extend_at:
            self._extend_at = now + self._lease / 2
            self._core.begin(self._extend())

    async def _settle(self, read: bool) -> None:
        for _ in range(_TRIES):
            try:
                if read:
                    await self._acks.ack(self._agent_id, self._receipts, for_good=True)
                else:
                    await self._acks.release(self._agent_id, self._receipts)
                return
            except (Failed, StoreUnavailable):
                await asyncio.sleep(_PAUSE_SECONDS)
        _log.warning("what a poll handed out is not settled: the store failed", extra={"agent_id": self._agent_id})

    async def _extend(self) -> None:
        with contextlib.suppress(Failed, StoreUnavailable):  # it is tried again before the lease is over
            await self._acks.extend(self._agent_id, self._receipts, self._lease)
