"""A reader that stays: it claims as long as it has credit, and keeps account of what is under way to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence

from msgspec import Struct

from clawlink.domain import delivery as rules
from clawlink.domain import task_steps
from clawlink.domain.agent import Agent
from clawlink.domain.delivery import PENDING, AttemptEnd, Delivery
from clawlink.errors import StoreUnavailable
from clawlink.relay.core import Core
from clawlink.relay.ids import receipt, split_receipt
from clawlink.relay.mailbox.claims import Claims
from clawlink.relay.mailbox.long_poll import Closed, Taken, Tick
from clawlink.relay.mailbox.receipts import Acks
from clawlink.relay.tasks.reads import task_of
from clawlink.store.base import Failed

# A claim waits no longer than this at a time. The next claim finds messages that came in between.
_WAIT_SECONDS = 60.0
# Without credit, a consumer looks this often for messages that were settled elsewhere or have lapsed.
_FIRST_LOOK_SECONDS = 0.25
_MOST_LOOK_SECONDS = 5.0
# A message that was sent this often and never read may kill its readers. From then on it counts as read.
_PATIENCE = 1000
_LEFT = "the connection over which it was sent has ended"


class _Sent(Struct, frozen=True, gc=False):
    """A message under way: its batch, and the time of writing, on the event loop's clock.

    ``token`` is the first part of its receipt. ``version`` is how often its record had changed by then.
    """

    token: str
    batch: int
    at: float
    version: int


class Consumer:
    """Claims for one agent over one connection, at most ``credit`` messages at a time unsettled.

    Batches are numbered from 1. Its caller says by ``has_read`` that the peer has read a batch. At the end of the
    connection the consumer gives back each unsettled message that the peer has read, and releases the others. A message
    that was sent about ``_PATIENCE`` times counts as read.
    """

    def __init__(self, core: Core, claims: Claims, acks: Acks, agent: Agent, *, lease: float, credit: int) -> None:
        self.agent_id = agent.id
        self.batch = 0
        self._core = core
        self._loop = asyncio.get_running_loop()
        self._stack = contextlib.ExitStack()
        self.reader = self._stack.enter_context(claims.reading(agent))
        """It reads the mailbox. Its ``agent`` is the agent as last read."""
        self._acks = acks
        self._lease = lease
        self.credit = credit
        self._under_way: dict[str, _Sent] = {}
        self._read = 0
        self.closed = asyncio.Event()
        self._settled = asyncio.Event()

    @property
    def idle(self) -> bool:
        """Return True if nothing is under way."""
        return not self._under_way

    @property
    def exhausted(self) -> bool:
        """Return True if nothing more is sent until something is settled."""
        return len(self._under_way) >= self.credit

    @property
    def since(self) -> float | None:
        """When the first of what is under way was sent, on the event loop's clock."""
        return next((sent.at for sent in self._under_way.values()), None)

    def sent_since(self, at: float) -> list[str]:
        """Return the receipts of what is under way and was sent after this time, on the event loop's clock."""
        return [receipt(sent.token, id) for id, sent in self._under_way.items() if sent.at > at]

    async def next(self, agent: Agent, *, tick: Tick) -> Taken:
        """Return one batch of messages for the agent. It is empty after a while, or when the relay shuts down.

        Waits for credit first. ``tick`` is awaited now and then while waiting. Raises Closed.
        """
        under_way = self._under_way
        if len(under_way) >= self.credit:
            await self._until_there_is_credit(tick)
        if self._core.draining:
            return Taken([], {})
        free = self.credit - len(under_way)
        taken = await self.reader.next(agent, limit=free, wait=_WAIT_SECONDS, lease=self._lease, tick=tick)
        if taken.deliveries:
            self.batch = batch = self.batch + 1
            now = self._loop.time()
            for d in taken.deliveries:
                under_way.pop(d.id, None)  # if it comes again, it is the last
                under_way[d.id] = _Sent(str(d.receipt), batch, now, d.version)
            if self.closed.is_set():
                await self.close()
                raise Closed
        return taken

    async def _until_there_is_credit(self, tick: Tick) -> None:
        """Return once something more may be sent, or the relay shuts down. Raises Closed."""
        pause = _FIRST_LOOK_SECONDS
        while self.exhausted and not self._core.draining:
            self._settled.clear()
            await self.forget_lost()
            if not self.exhausted:
                break
            if self.closed.is_set():
                raise Closed
            await tick()
            # Not wait_for: before Python 3.12 it may swallow that it was cancelled.
            timer = self._loop.call_later(pause, self._settled.set)
            try:
                await self._settled.wait()
            finally:
                timer.cancel()
            pause = min(2 * pause, _MOST_LOOK_SECONDS)

    async def forget_lost(self) -> None:
        """Forget messages that were settled in another way, or whose leases are over."""
        for id, sent in list(self._under_way.items()):
            d = await self._core.store.get(Delivery, id)
            if (d is None or not await self._held(d, sent.token)) and self._under_way.get(id) is sent:
                del self._under_way[id]

    async def _held(self, d: Delivery, token: str) -> bool:
        """Return True if it is held under this receipt: by its lease, or a task by heartbeats."""
        core = self._core
        now = core.clock()
        if rules.held(d, token, now):
            return True
        if d.receipt != token or d.state is not PENDING:
            return False
        task = await task_of(core.store, d)
        if task is None or task.assignee is None:
            return False
        owner = await core.store.get(Agent, task.assignee)
        return task_steps.loses_at(task, owner, stale_after=core.limits.stale_after) > now

    def wake(self) -> None:
        """Look again whether there is credit, or the relay shuts down."""
        self._settled.set()

    def has_read(self, batch: int) -> None:
        """Note that the peer has read this batch, and with it all before."""
        self._read = max(self._read, min(batch, self.batch))

    def settled(self, receipts: Iterable[str]) -> None:
        """Note that these are no longer under way. All messages sent before them have been read."""
        for given in receipts:
            token, id = split_receipt(given)
            sent = self._under_way.get(id)
            if sent is not None and sent.token == token:
                self._forget(id, sent)

    def finished(self, task_id: str) -> None:
        """Note that this task is finished: it needs no ack, and the agent may get another task."""
        sent = self._under_way.get(task_id)
        if sent is not None:
            self._forget(task_id, sent)
        self.reader.wake()

    def _forget(self, id: str, sent: _Sent) -> None:
        del self._under_way[id]
        if sent.batch - 1 > self._read:
            self._read = sent.batch - 1
        self._settled.set()

    async def settle_read(self, batch: int) -> None:
        """Settle this batch and all before it for good: the peer has read them, and knows of no ack."""
        self.has_read(batch)
        read = [receipt(sent.token, id) for id, sent in self._under_way.items() if sent.batch <= self._read]
        if read:
            await self._acks.ack(self.agent_id, read, for_good=True)
            self.settled(read)

    async def settle_up_to(self, last: str) -> bool:
        """Settle all messages up to the last receipt that the peer has read. Return False if it is not under way."""
        receipts = [receipt(sent.token, id) for id, sent in self._under_way.items()]
        if last not in receipts:
            return False
        read = receipts[: receipts.index(last) + 1]
        await self._acks.ack(self.agent_id, read)
        self.settled(read)
        return True

    async def close(self) -> None:
        """Make the messages under way due again at once, and read no more."""
        self.closed.set()
        self.reader.close()
        self._settled.set()
        self._stack.close()
        read, unread = self._parted()
        self._under_way.clear()
        if read or unread:
            await self._core.finish(self._end_leases(read, unread))

    async def _end_leases(self, read: Sequence[str], unread: Sequence[str]) -> None:
        # If the store fails, the leases lapse.
        if unread:
            with contextlib.suppress(Failed, StoreUnavailable):
                await self._acks.release(self.agent_id, unread)
        if read:
            with contextlib.suppress(Failed, StoreUnavailable):
                await self._acks.nack(self.agent_id, read, 0.0, note=_LEFT, end=AttemptEnd.CONNECTION_ENDED)

    def _parted(self) -> tuple[Sequence[str], Sequence[str]]:
        read: list[str] = []
        unread: list[str] = []
        for id, sent in self._under_way.items():
            # A send and a release change its record once each.
            counts = sent.batch <= self._read or sent.version > 2 * _PATIENCE
            (read if counts else unread).append(receipt(sent.token, id))
        return read, unread
