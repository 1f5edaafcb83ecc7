"""Deliveries for one contact that wait: for their files, for the contact, or for earlier news of their task.

They stay leased, and hold up nothing but later news of their tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from bisect import insort
from collections.abc import Awaitable, Callable

from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery, arrival
from clawlink.doors.portal.server.workers import until_set
from clawlink.errors import StoreUnavailable, Unavailable
from clawlink.relay.ids import receipt
from clawlink.relay.relay import Relay
from clawlink.store.base import Conflict, Failed

LEASE_SECONDS = 60.0
EXTEND_SECONDS = 20.0
_PASSING = (Conflict, Failed, Unavailable)
_log = logging.getLogger("clawlink.portal")


class _Waiting:
    """A delivery that waits. ``moved`` is set once it may have to wait no longer."""

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.receipt = receipt(str(delivery.receipt), delivery.id)
        self.moved = asyncio.Event()

    @property
    def arrival(self) -> int:
        return arrival(self.delivery)


class HeldBack:
    """The deliveries of a contact that wait. ``waits`` tells whether the first one of a task still has to."""

    def __init__(self, relay: Relay, agent: Agent, waits: Callable[[Delivery], Awaitable[bool]]) -> None:
        self._relay = relay
        self._agent = agent
        self._waits = waits
        self._queues: dict[str, list[_Waiting]] = {}
        """By task, what waits, in the order of arrival. A delivery that is due again is in no queue."""
        self._holding: set[asyncio.Task[None]] = set()

    def follows(self, delivery: Delivery, task_id: str | None) -> bool:
        """Return True if an earlier delivery about the same task waits here."""
        queue = self._queues.get(task_id or "")
        return queue is not None and queue[0].arrival < arrival(delivery)

    def put(self, delivery: Delivery, task_id: str) -> None:
        """Keep a delivery until it waits for nothing, and no earlier one about the same task is here."""
        queue = self._queues.setdefault(task_id, [])
        waiting = _Waiting(delivery)
        insort(queue, waiting, key=lambda one: one.arrival)
        holding = asyncio.create_task(self._hold(waiting, task_id, queue))
        self._holding.add(holding)
        holding.add_done_callback(self._holding.discard)
        queue[0].moved.set()  # a cancelled task is noticed at once

    def look(self) -> None:
        """Look again whether the first delivery of each task still waits."""
        for queue in self._queues.values():
            queue[0].moved.set()

    async def _hold(self, waiting: _Waiting, task_id: str, queue: list[_Waiting]) -> None:
        try:
            while True:
                waiting.moved.clear()
                try:
                    if queue[0] is waiting and not await self._waits(waiting.delivery):
                        await self._relay.acks.release(self._agent.id, [waiting.receipt])
                        return
                    (outcome,) = await self._relay.acks.extend(self._agent.id, [waiting.receipt], LEASE_SECONDS)
                except _PASSING:
                    _log.exception("a delivery that waits for its turn waits for the store")
                else:
                    if outcome.error is not None:  # it was cancelled, or its time is over
                        return
                await until_set(waiting.moved, EXTEND_SECONDS)
        except Exception:  # whoever carries it now settles it
            _log.exception("a delivery cannot wait for its turn", extra={"delivery": waiting.delivery.id})
            await self._release([waiting.receipt])
        finally:  # it is due by now: the next one may follow
            queue.remove(waiting)
            if queue:
                queue[0].moved.set()
            else:
                del self._queues[task_id]

    async def _release(self, receipts: list[str]) -> None:
        with contextlib.suppress(Failed, StoreUnavailable):  # then the lease lapses
            await self._relay.acks.release(self._agent.id, receipts)

    async def close(self) -> None:
        """Make all due again."""
        held = [waiting.receipt for queue in self._queues.values() for waiting in queue]
        holding = list(self._holding)
        for task in holding:
            task.cancel()
        await asyncio.gather(*holding, return_exceptions=True)
        if held:
            await self._release(held)
