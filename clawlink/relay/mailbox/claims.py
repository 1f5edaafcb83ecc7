"""Claim: lease what is due to one of those who may have it."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from clawlink.domain import delivery as rules
from clawlink.domain import task as task_rules
from clawlink.domain.agent import Agent
from clawlink.domain.delivery import PENDING, Delivery, State, by_claimant
from clawlink.domain.limits import MAX_REPLY_BYTES
from clawlink.domain.pool import Pool
from clawlink.domain.task import Event, Task
from clawlink.errors import LeaseLost, StoreUnavailable, UnknownAgent
from clawlink.relay.core import Core, retrying
from clawlink.relay.ids import receipt
from clawlink.relay.mailbox.acks import Acks
from clawlink.relay.mailbox.long_poll import Reader, Taken
from clawlink.relay.mailbox.pools import Pools
from clawlink.relay.tasks.lifecycle import TaskLifecycle
from clawlink.relay.tasks.reads import task_of
from clawlink.store.base import Conflict, Failed, Put, Signal


class Claims:
    """How messages and tasks get to those who read them."""

    def __init__(self, core: Core, pools: Pools, acks: Acks, lifecycle: TaskLifecycle) -> None:
        self._core = core
        self._pools = pools
        self._acks = acks
        self._lifecycle = lifecycle

    async def claim(
        self, agent: Agent, *, limit: int, wait: float, lease: float, tick: Callable[[], Any] | None = None
    ) -> Taken:
        """Lease up to ``limit`` messages once, waiting up to ``wait`` seconds for the first; see ``Reader.next``.

        Raises UnknownAgent if the agent leaves meanwhile.
        """
        if not wait:
            return await self._reader(agent, None).next(agent, limit=limit, wait=0.0, lease=lease, tick=tick)
        with self.reading(agent) as reader:
            return await reader.next(agent, limit=limit, wait=wait, lease=lease, tick=tick)

    @contextlib.contextmanager
    def reading(self, agent: Agent) -> Iterator[Reader]:
        """Be one who reads the agent's mailbox over and over, until the context ends."""
        with self._core.signals.listen(agent.id) as signal:
            yield self._reader(agent, signal)

    def _reader(self, agent: Agent, signal: Signal | None) -> Reader:
        return Reader(self._core, self._pools, self, agent, signal)

    async def full(self, agent_id: str) -> bool:
        """Tell whether the agent has this many open tasks from pools, or bytes of them, that it is given no more."""
        store, limits, key = self._core.store, self._core.limits, by_claimant(agent_id)
        known, alone = await store.usage(Task, key), await store.usage(Delivery, key)
        return (
            known.count + alone.count >= limits.max_open_tasks or known.bytes + alone.bytes >= limits.max_mailbox_bytes
        )

    async def undo(self, agent_id: str, taken: Iterable[Delivery]) -> None:
        """Give back what nobody will read, as if it had never been taken."""
        receipts = [receipt(str(d.receipt), d.id) for d in taken]
        if receipts:
            with contextlib.suppress(Failed, StoreUnavailable):
                await asyncio.shield(self._acks.release(agent_id, receipts))

    async def pass_on(self, agent_id: str) -> None:
        """Wake another in place of this agent for each pool that has work."""
        await self._pools.pass_on(await self._pools.of(agent_id))

    async def take_with_pools(
        self, by: str, pools: Sequence[Pool], limit: int, seconds: float, reported: dict[str, tuple[Event, ...]]
    ) -> list[Delivery]:
        """Claim one piece of work from the pools if it comes before the last of what else there is, and the rest."""
        store = self._core.store
        now = self._core.clock()
        heads = [(d.sort_key, pool.id) for pool in pools for d in await store.due(pool.id, now, 1)]
        pooled: list[Delivery] = []
        if heads:
            own = await store.due(by, now, limit)
            for sort_key, pool_id in sorted(heads):
                if pooled or (len(own) >= limit and sort_key > own[-1].sort_key):
                    break
                pooled = await self.take(pool_id, by, 1, seconds, reported)
        rest: list[Delivery] = []
        try:
            if len(pooled) < limit:
                rest = await self.take(by, by, limit - len(pooled), seconds, reported)
        except BaseException:
            await self.undo(by, pooled)
            raise
        return sorted([*pooled, *rest], key=lambda d: d.sort_key)

    async def take(
        self, mailbox: str, by: str, limit: int, seconds: float, reported: dict[str, tuple[Event, ...]]
    ) -> list[Delivery]:
        """Lease for an agent what is due in a mailbox, and note in ``reported`` what was done before about tasks."""
        try:
            return await self._lease_due(mailbox, by, limit, seconds, reported, reread=False)
        except Conflict:
            return await self._take_reread(mailbox, by, limit, seconds, reported)

    @retrying
    async def _take_reread(
        self, mailbox: str, by: str, limit: int, seconds: float, reported: dict[str, tuple[Event, ...]]
    ) -> list[Delivery]:
        """Claim once the index has misled us: it names the messages, and each is read for itself."""
        return await self._lease_due(mailbox, by, limit, seconds, reported, reread=True)

    async def _lease_due(
        self,
        mailbox: str,
        by: str,
        limit: int,
        seconds: float,
        reported: dict[str, tuple[Event, ...]],
        *,
        reread: bool,
    ) -> list[Delivery]:
        core = self._core
        while True:
            reader = await self._require_registered(by)
            now = core.clock()
            found: Sequence[Delivery] = await core.store.due(mailbox, now, limit)
            if reread:
                found = await self._reread(found)
            tasks = {d.id: await task_of(core.store, d) for d in found if d.is_task and (d.attempts or d.has_record)}
            if tasks:
                held = await self._still_held(found, tasks, now)
                if held:
                    await core.commit(mailbox, *held)
                    continue
            taken, changes, ended = self._lease(found, tasks, reader, now, seconds, reported)
            try:
                if changes:
                    await core.commit(mailbox, *changes, quiet=True)  # nothing becomes due sooner by it
                    # Else it has left with what leaving may not have seen.
                    await self._require_registered(by, since=reader.registered_at)
                over = [await self._lifecycle.end(id) for id in ended]
            except Conflict:
                raise
            except BaseException:
                # The commit may have taken effect; nobody will read what it leased.
                await self.undo(by, taken)
                raise
            if taken or not (changes or any(over)):
                core.stats.delivered += len(taken)
                if mailbox != by and taken:
                    core.relist(by)
                return taken
            # All that was due has expired or died: look at what comes behind it.

    async def _require_registered(self, agent_id: str, *, since: float = math.inf) -> Agent:
        """Refuse to lease anything to an agent that has left while it waited. Raises UnknownAgent."""
        agent = await self._core.store.get(Agent, agent_id)
        if agent is None or agent.registered_at > since:
            raise UnknownAgent(f"agent {agent_id!r} has left; register it again to read messages", field="agent_id")
        return agent

    async def _reread(self, hints: Iterable[Delivery]) -> list[Delivery]:
        found = [await self._core.store.get(Delivery, hint.id) for hint in hints]
        return [d for d in found if d is not None]

    async def _still_held(self, found: Iterable[Delivery], tasks: dict[str, Task | None], now: float) -> list[Put]:
        """Return what lengthens the leases of owners that have shown signs of life meanwhile."""
        changes: list[Put] = []
        for d in found:
            task = tasks.get(d.id)
            if task is None or d.receipt is None or not rules.due(d, now) or task.assignee is None:
                continue
            owner = await self._core.store.get(Agent, task.assignee)
            until = task_rules.held_until(task, owner, stale_after=self._core.limits.stale_after)
            if until > now:
                changes.append(Put(rules.postpone(d, until)))
                if d.has_record:
                    changes.append(Put(task_rules.hold(task, until)))
        return changes

    def _lease(
        self,
        found: Iterable[Delivery],
        tasks: dict[str, Task | None],
        reader: Agent,
        now: float,
        seconds: float,
        reported: dict[str, tuple[Event, ...]],
    ) -> tuple[list[Delivery], list[Put], list[str]]:
        """Return what is leased, what to commit for it, and the ids of tasks that come to an end instead."""
        core = self._core
        limits = core.limits
        by, key_hash = reader.id, reader.key_hash
        taken: list[Delivery] = []
        changes: list[Put] = []
        ended: list[str] = []
        size = 0
        token = core.ids.token()  # one for the batch: a receipt is the token and the message together
        for d in found:
            known = tasks.get(d.id)
            size += len(d.body) if known is None else known.weight
            if taken and size > MAX_REPLY_BYTES:
                break
            if d.is_task and rules.due(d, now):
                if d.expires_at <= now or d.attempts >= limits.max_attempts:
                    ended.append(d.id)
                    continue
                new = rules.lease_task(
                    d, by=by, receipt=token, now=now, seconds=seconds, alone=known is None, key_hash=key_hash
                )
                if known is not None:
                    claimed = task_rules.claim(known, by=by, receipt=token, now=now, seconds=seconds, key_hash=key_hash)
                    changes.append(Put(claimed))
                    reported[d.id] = known.history
                    core.stats.takeovers += _last_owner(known) not in (None, by)
                changes.append(Put(new))
                taken.append(new)
                continue
            try:
                new = rules.lease(
                    d,
                    receipt=token,
                    now=now,
                    seconds=seconds,
                    max_attempts=limits.max_attempts,
                    keep=limits.retention if d.expires_at <= now else limits.message_ttl,
                    key_hash=key_hash,
                )
            except LeaseLost:
                continue
            changes.append(Put(new))
            if new.state is PENDING:
                taken.append(new)
            elif new.state is State.DEAD:
                core.stats.dead += 1
            else:
                core.stats.expired += 1
        return taken, changes, ended


def _last_owner(task: Task) -> str | None:
    """Return who had the task before; its assignee, if it is addressed to one."""
    return next((e.by for e in reversed(task.history) if e.status is task_rules.DELIVERED), None)
