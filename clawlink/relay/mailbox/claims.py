"""Claim: lease what is due to one of those who may have it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from clawlink.domain import delivery as rules
from clawlink.domain import delivery_steps, task_steps
from clawlink.domain import task as task_rules
from clawlink.domain.agent import Agent
from clawlink.domain.delivery import PENDING, Delivery, State, by_claimant
from clawlink.domain.limits import MAX_REPLY_BYTES
from clawlink.domain.pool import Pool
from clawlink.domain.task import Task
from clawlink.errors import LeaseLost, StorageFull, StoreUnavailable, UnknownAgent
from clawlink.relay.core import Core, retrying
from clawlink.relay.handoffs import Leased
from clawlink.relay.ids import receipt
from clawlink.relay.mailbox.long_poll import Claimant, Found, LongPoll, Taken, Tick
from clawlink.relay.mailbox.mailbox import Mailbox
from clawlink.relay.mailbox.pools import Pools
from clawlink.relay.mailbox.receipts import Acks
from clawlink.relay.tasks.lifecycle import TaskLifecycle
from clawlink.relay.tasks.reads import task_of
from clawlink.store.base import Conflict, Failed, Index, Put
from clawlink.store.events import Signal

_log = logging.getLogger("clawlink.relay")
# Tries of a verdict on what a poll handed out, and the pause between two.
_TRIES = 3
_PAUSE_SECONDS = 0.5
# The errors of a step that the store did not take.
_FAILURES = (Failed, StoreUnavailable, StorageFull)


class Claims:
    """How messages and tasks get to those who read them."""

    def __init__(self, core: Core, mailbox: Mailbox, pools: Pools, acks: Acks, lifecycle: TaskLifecycle) -> None:
        self._core = core
        self._mailbox = mailbox
        self._pools = pools
        self._acks = acks
        self._lifecycle = lifecycle

    async def claim(self, agent: Agent, *, limit: int, wait: float, lease: float, tick: Tick | None = None) -> Taken:
        """Lease up to ``limit`` messages once, waiting up to ``wait`` seconds for the first; see ``LongPoll.next``.

        A claim that waits when the operator stops all work goes on waiting. Raises UnknownAgent if the agent leaves
        meanwhile, and Stopped.
        """
        self._core.require_running()
        if not wait:
            return await self._long_poll(agent, None).next(agent, limit=limit, wait=0.0, lease=lease, tick=tick)
        with self._core.signals.listen(agent.id) as signal:
            reader = self._long_poll(agent, signal)
            return await reader.next(agent, limit=limit, wait=wait, lease=lease, tick=tick)

    @contextlib.contextmanager
    def reading(self, agent: Agent) -> Iterator[LongPoll]:
        """Be one who reads the agent's mailbox over and over, until the context ends."""
        with self._core.signals.listen(agent.id) as signal:
            yield self._long_poll(agent, signal)

    def _long_poll(self, agent: Agent, signal: Signal | None) -> LongPoll:
        return LongPoll(self._core, self._pools, self, agent, signal)

    async def full(self, agent_id: str) -> bool:
        """Return True if the agent has this many open tasks from pools, or bytes of them, that it is given no more."""
        limits, key = self._core.limits, by_claimant(agent_id)
        known, alone = (await self._core.store.admission((), ((Task, key), (Delivery, key)))).indexes
        return (
            known.count + alone.count >= limits.max_open_tasks or known.bytes + alone.bytes >= limits.max_mailbox_bytes
        )

    async def release(self, agent_id: str, taken: Sequence[Delivery]) -> None:
        """Release messages that nobody will read. If the store fails, it is tried again."""
        if taken:
            await self._core.finish(self._release(agent_id, taken))

    async def _release(self, agent_id: str, taken: Sequence[Delivery]) -> None:
        try:
            await self._acks.release(agent_id, _receipts(taken))
        except _FAILURES:
            self.begin_release(agent_id, taken)

    def begin_release(self, agent_id: str, taken: Sequence[Delivery]) -> None:
        """Begin to release messages that nobody will read."""
        HandedOut(self._core, self._acks, agent_id, taken, lease=0.0, until_read=False).over(read=False)

    async def take_with_pools(self, pools: Sequence[Pool], limit: int, claimant: Claimant) -> list[Delivery]:
        """Claim one piece of work from the pools if it comes before the last of what else there is, and the rest."""
        store, by = self._core.store, claimant.agent.id
        now = self._core.clock()
        heads = [(d.sort_key, pool.id) for pool in pools for d in await store.due(pool.id, now, 1)]
        pooled: list[Delivery] = []
        if heads:
            own = await store.due(by, now, limit)
            for sort_key, pool_id in sorted(heads):
                if pooled or (len(own) >= limit and sort_key > own[-1].sort_key):
                    break
                pooled = (await self.take(pool_id, 1, claimant)).deliveries
        rest: list[Delivery] = []
        try:
            if len(pooled) < limit:
                rest = (await self.take(by, limit - len(pooled), claimant)).deliveries
        except BaseException:
            await self.release(by, pooled)
            raise
        return sorted([*pooled, *rest], key=lambda d: d.sort_key)

    async def take(self, mailbox: str, limit: int, claimant: Claimant, *, unless: Index | None = None) -> Found:
        """Lease what is due in a mailbox, ``unless`` there are records under that index; see ``Store.claim``.

        Raises UnknownAgent if the agent leaves meanwhile.
        """
        try:
            return await self._lease_due(mailbox, limit, claimant, reread=False, unless=unless)
        except Conflict:
            return await self._take_reread(mailbox, limit, claimant)

    @retrying
    async def _take_reread(self, mailbox: str, limit: int, claimant: Claimant) -> Found:
        """Claim once the index has misled us: it names the messages, and each is read for itself."""
        return await self._lease_due(mailbox, limit, claimant, reread=True)

    def lease_new(self, d: Delivery, claimant: Claimant, now: float) -> Leased | None:
        """Lease a message that is not stored yet, and is stored as leased then. Return None if it waits for a claim."""
        if d.attempts or d.has_record:  # a task that was claimed before
            return None
        forwarded = self._mailbox.lifetimes.forwarding(d.mailbox) is not None
        leasing = _Leasing(self._core, claimant.agent, claimant, forwarded, now)
        leasing.lease((d,), {})
        if not leasing.taken:
            return None
        leasing.taken = [replace(leasing.taken[0], version=d.version)]
        return leasing

    async def receive(self, leased: Leased, claimant: Claimant) -> list[Delivery]:
        """Return what was leased as it came, or nothing if the reader was claimed with another key since.

        Raises UnknownAgent if the agent left meanwhile.
        """
        reader = claimant.agent
        try:
            current = await claimant.again()
            if current.registered_at > reader.registered_at:
                raise _has_left(reader)
        except BaseException:
            await self.release(reader.id, leased.taken)
            raise
        if current.key_hash != reader.key_hash:
            await self.release(reader.id, leased.taken)
            return []
        self._core.stats.delivered += len(leased.taken)
        return leased.taken

    async def _lease_due(
        self, mailbox: str, limit: int, claimant: Claimant, *, reread: bool, unless: Index | None = None
    ) -> Found:
        core, reader = self._core, claimant.agent
        if core.time.stopped:
            return Found([], math.inf)
        forwarded = self._mailbox.lifetimes.forwarding(mailbox) is not None
        while True:
            leasing = _Leasing(core, reader, claimant, forwarded, core.clock())
            next_due_at: float | None = None
            try:
                if not reread:
                    next_due_at = await core.claim(mailbox, leasing.now, limit, leasing, unless=unless)
                    if not leasing.called:
                        return Found([], math.inf if next_due_at is None else next_due_at)
                if reread or leasing.needs_tasks:
                    await self._lease_with_tasks(mailbox, limit, leasing, reread=reread)
                current = await claimant.again() if leasing.taken else reader
                over = False
                for id in leasing.ended:
                    over = await self._lifecycle.end(id) or over
                for id in leasing.overdue:
                    over = await self._mailbox.expire_overdue(id) or over
                if current.registered_at > reader.registered_at:
                    raise _has_left(reader)
            except Conflict:
                raise
            except BaseException:
                # The commit may have taken effect; nobody will read what it leased.
                await self.release(reader.id, leasing.taken)
                raise
            if current.key_hash != reader.key_hash:  # it was claimed meanwhile: its readings are those of a key
                await self.release(reader.id, leasing.taken)
                reader = current
                continue
            leasing.count()
            if leasing.taken and mailbox != reader.id:
                core.relist(reader.id)
            if leasing.taken or not (leasing.changes or over):
                return Found(leasing.taken, None)
            # All that was due has expired or died, or is held longer: look at what comes behind it.

    async def _lease_with_tasks(self, mailbox: str, limit: int, leasing: _Leasing, *, reread: bool) -> None:
        """Lease what is due, with the records of its tasks. Raises Conflict."""
        core = self._core
        found: Sequence[Delivery] = leasing.found
        if reread:
            hints = await core.store.due(mailbox, leasing.now, limit)
            read = await core.store.get_many(Delivery, [d.id for d in hints])
            found = [d for d in read if d is not None]
        tasks = {d.id: await task_of(core.store, d) for d in found if _needs_task(d)}
        leasing.changes = await self._still_held(found, tasks, leasing.now) if tasks else []
        if not leasing.changes:
            leasing.lease(found, tasks)
        if leasing.changes:
            await core.commit(mailbox, *leasing.changes, quiet=True)  # nothing becomes due sooner by it

    async def _still_held(self, found: Iterable[Delivery], tasks: dict[str, Task | None], now: float) -> list[Put]:
        """Return what lengthens the leases of owners that have shown signs of life meanwhile."""
        changes: list[Put] = []
        for d in found:
            task = tasks.get(d.id)
            if task is None or d.receipt is None or not rules.due(d, now) or task.assignee is None:
                continue
            owner = await self._core.store.get(Agent, task.assignee)
            until = task_steps.loses_at(task, owner, stale_after=self._core.limits.stale_after)
            if until > now:
                changes.append(Put(delivery_steps.postpone(d, until)))
                if d.has_record:
                    changes.append(Put(task_steps.hold(task, until)))
        return changes


class _Leasing(Struct):
    """A try of a claim: the rule that the store applies to what is due, and what came of it.

    If a task has been claimed before, it ``needs_tasks``, and leases nothing. Of what is ``forwarded`` nothing becomes
    a dead letter: no reader would find it. All that it leases has one ``token``: a receipt is the token and the message
    together.
    """

    core: Core
    reader: Agent
    claimant: Claimant
    forwarded: bool
    now: float
    token: str = ""
    called: bool = False
    needs_tasks: bool = False
    found: Sequence[Delivery] = ()
    taken: list[Delivery] = []
    changes: list[Put] = []
    ended: list[str] = []
    overdue: list[str] = []
    settled: list[State] = []
    takeovers: int = 0

    def __call__(self, found: Sequence[Delivery]) -> list[Put]:
        """Return the leases of what is due, for the store to commit."""
        self.called = True
        self.found = found
        self.needs_tasks = any(map(_needs_task, found))
        if self.needs_tasks:
            self.taken, self.changes, self.ended, self.overdue = [], [], [], []
        else:
            self.lease(found, {})
        return self.changes

    def lease(self, found: Iterable[Delivery], tasks: dict[str, Task | None]) -> None:
        """Choose what is leased, what to commit for it, and the ids of what comes to an end in steps of its own."""
        limits, now, reader = self.core.limits, self.now, self.reader
        by, key_hash, seconds = reader.id, reader.key_hash, self.claimant.seconds
        taken: list[Delivery] = []
        changes: list[Put] = []
        self.taken, self.changes, self.ended, self.overdue, self.settled = taken, changes, [], [], []
        self.takeovers = 0
        most: float = math.inf if self.forwarded else limits.max_attempts
        size = 0
        token = self.token = self.token or self.core.ids.token()
        for d in found:
            known = tasks.get(d.id)
            size += len(d.body) if known is None else known.weight
            if taken and size > MAX_REPLY_BYTES:
                break
            if d.is_task and rules.due(d, now):
                if d.expires_at <= now or d.attempts >= most:
                    self.ended.append(d.id)
                    continue
                new = delivery_steps.lease_task(
                    d, by=by, receipt=token, now=now, seconds=seconds, alone=known is None, key_hash=key_hash
                )
                if known is not None:
                    claimed = task_steps.claim(known, by=by, receipt=token, now=now, seconds=seconds, key_hash=key_hash)
                    changes.append(Put(claimed))
                    self.claimant.reported[d.id] = known.history
                    if _last_owner(known) not in (None, by):
                        self.takeovers += 1
                changes.append(Put(new))
                taken.append(new)
                continue
            if self.forwarded and d.expires_at <= now and rules.due(d, now):
                self.overdue.append(d.id)
                continue
            try:
                new = delivery_steps.lease(
                    d,
                    receipt=token,
                    now=now,
                    seconds=seconds,
                    max_attempts=most,
                    keep=limits.retention if d.expires_at <= now else limits.message_ttl,
                    key_hash=key_hash,
                )
            except LeaseLost:
                continue
            changes.append(Put(new))
            if new.state is PENDING:
                taken.append(new)
            else:
                self.settled.append(new.state)

    def count(self) -> None:
        """Count what took effect."""
        stats = self.core.stats
        stats.delivered += len(self.taken)
        stats.takeovers += self.takeovers
        for state in self.settled:
            if state is State.DEAD:
                stats.dead += 1
            else:
                stats.expired += 1


def _has_left(reader: Agent) -> UnknownAgent:
    """Return the refusal of a reader that has left since it was read, even if it has come back."""
    return UnknownAgent(f"agent {reader.id!r} has left; register it again to read messages", field="agent_id")


def _needs_task(d: Delivery) -> bool:
    """Return True if a task was claimed before, so that its record or its holder decides too."""
    return d.is_task and (d.attempts > 0 or d.has_record)


def _receipts(taken: Iterable[Delivery]) -> list[str]:
    """Return the receipts of leased messages."""
    return [receipt(str(d.receipt), d.id) for d in taken]


def _last_owner(task: Task) -> str | None:
    """Return who had the task before; its assignee, if it is addressed to one."""
    return next((e.by for e in reversed(task.history) if e.status is task_rules.DELIVERED), None)


class HandedOut:
    """Messages that went out with one reply. Unread messages are released.

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
        self._taken = taken
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._extend_at = self._loop.time() + lease / 2

    def over(self, *, read: bool) -> None:
        """Settle messages that were read, release messages that were not. The first verdict counts."""
        if self._is_over:
            return
        self._is_over = True
        if self.until_read or not read:
            self._core.begin(self._carry_out(read))

    def hold(self) -> None:
        """Keep the leases while the reply is on its way to a slow reader."""
        now = self._loop.time()
        if self.until_read and now >= self._extend_at:
            self._extend_at = now + self._lease / 2
            self._core.begin(self._extend())

    async def _carry_out(self, read: bool) -> None:
        receipts = _receipts(self._taken)
        for _ in range(_TRIES):
            try:
                if read:
                    await self._acks.ack(self._agent_id, receipts, for_good=True)
                else:
                    await self._acks.release(self._agent_id, receipts)
                return
            except _FAILURES:
                await asyncio.sleep(_PAUSE_SECONDS)
        _log.warning("what a poll handed out is not settled: the store failed", extra={"agent_id": self._agent_id})

    async def _extend(self) -> None:
        with contextlib.suppress(Failed, StoreUnavailable):  # it is tried again before the lease is over
            await self._acks.extend(self._agent_id, _receipts(self._taken), self._lease)
