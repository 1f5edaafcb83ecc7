"""Deliveries for one contact that wait for their files.

They stay leased, and hold up nothing but news of their tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable

from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery
from clawlink.errors import StoreUnavailable, Unavailable
from clawlink.relay.ids import receipt
from clawlink.relay.relay import Relay
from clawlink.store.base import Conflict, Failed

LEASE_SECONDS = 60.0
EXTEND_SECONDS = 20.0
_PASSING = (Conflict, Failed, Unavailable)
_log = logging.getLogger("clawlink.portal")


class HeldBack:
    """The deliveries of a contact that wait.

    ``waits`` tells whether files of a delivery are still on their way. ``moved`` has the events that are set once a
    file for the contact has arrived or failed.
    """

    def __init__(
        self, relay: Relay, agent: Agent, waits: Callable[[Delivery], Awaitable[bool]], moved: set[asyncio.Event]
    ) -> None:
        self._relay = relay
        self._agent = agent
        self._waits = waits
        self._moved = moved
        self._last: dict[str, asyncio.Task[None]] = {}
        """By task, the last of its deliveries that waits here."""
        self._holding: set[asyncio.Task[None]] = set()
        self._held: dict[str, str] = {}

    def has(self, task_id: str | None) -> bool:
        """Return True if a delivery about this task waits here: others about it follow."""
        return task_id in self._last

    def put(self, delivery: Delivery, task_id: str) -> None:
        """Keep a delivery until its files have come, and those before it that are about the same task."""
        before = self._last.get(task_id)
        holding = self._last[task_id] = asyncio.create_task(self._hold(delivery, task_id, before))
        self._holding.add(holding)
        holding.add_done_callback(self._holding.discard)
        for moved in self._moved:  # a cancelled task is noticed at once
            moved.set()

    async def _hold(self, delivery: Delivery, task_id: str, before: asyncio.Task[None] | None) -> None:
        given = receipt(str(delivery.receipt), delivery.id)
        self._held[delivery.id] = given
        moved = asyncio.Event()
        self._moved.add(moved)
        try:
            while True:
                moved.clear()
                try:
                    if (before is None or before.done()) and not await self._waits(delivery):
                        break
                    (outcome,) = await self._relay.acks.extend(self._agent.id, [given], LEASE_SECONDS)
                except _PASSING:
                    _log.exception("a delivery that waits for its files waits for the store")
                else:
                    if outcome.error is not None:  # it was cancelled, or its time is over
                        return
                await _any((moved.wait(), before), EXTEND_SECONDS)
        except Exception:  # whoever carries it now settles it
            _log.exception("a delivery cannot wait for its files", extra={"delivery": delivery.id})
        finally:
            self._moved.discard(moved)
            self._held.pop(delivery.id, None)
            if self._last.get(task_id) is asyncio.current_task():  # before it is due again, or it would wait once more
                del self._last[task_id]
        await self._release([given])

    async def _release(self, receipts: list[str]) -> None:
        with contextlib.suppress(Failed, StoreUnavailable):  # then the lease lapses
            await self._relay.acks.release(self._agent.id, receipts)

    async def close(self) -> None:
        """Make all due again."""
        held, holding = list(self._held.values()), list(self._holding)
        for task in holding:
            task.cancel()
        await asyncio.gather(*holding, return_exceptions=True)
        if held:
            await self._release(held)


async def _any(work: Iterable[Awaitable[object] | None], seconds: float) -> None:
    """Wait until anything of this is done, at most for some seconds. A task that is waited for goes on."""
    waiting = [asyncio.ensure_future(one) for one in work if one is not None]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting[0].cancel()
