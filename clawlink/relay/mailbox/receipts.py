"""Receipts: leased messages are acknowledged, given back and held longer by them, with a result for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import ClassVar

from msgspec import Struct

from clawlink.domain import delivery as rules
from clawlink.domain import delivery_steps, task_steps
from clawlink.domain import task as task_rules
from clawlink.domain.agent import Agent
from clawlink.domain.delivery import AttemptEnd, Delivery, message_id
from clawlink.domain.limits import Limits
from clawlink.domain.pool import Pool
from clawlink.domain.task import Event, Task, merge_of
from clawlink.errors import LeaseLost
from clawlink.protocol import requests
from clawlink.protocol.mailbox_replies import Lease, Receipted, Settled
from clawlink.relay.core import Core, retrying
from clawlink.relay.ids import end_id, receipt, split_receipt
from clawlink.relay.mailbox.pools import Pools
from clawlink.relay.tasks.views import reported
from clawlink.relay.timestamps import StoppableTime
from clawlink.store.base import Conflict, Drop, Put

Known = Mapping[str, Delivery | None]
"""Deliveries by their ids, None for an id without one."""


class Outcome(Struct, frozen=True, gc=False):
    """The outcome of a receipt: the message and, if its lease goes on, the end of it; or the error.

    The error has no traceback and no context. Their frames know the outcomes, and no collector finds a circle through
    this struct.
    """

    receipt: str
    message_id: str | None
    held_until: float | None
    error: LeaseLost | None


def _refused(given: str, error: LeaseLost) -> Outcome:
    error.__context__ = None  # the Conflict after which the receipt was looked at again
    return Outcome(given, None, None, error.with_traceback(None))


class _Way(Struct, frozen=True, gc=False):
    """A way to settle: its effect on a message, and on a task.

    A task may have a delivery, a record or both. ``carry`` moves a delivery, and ``task`` a record. Where nothing
    ``carries``, a task that has a delivery alone gets a record, and ``message`` moves its delivery. Without ``alone`` a
    task with a record alone is refused. ``drops`` removes the delivery beside a record. A ``quiet`` way makes nothing
    due.
    """

    carries: ClassVar[bool] = True
    alone: ClassVar[bool] = False
    drops: ClassVar[bool] = False
    quiet: ClassVar[bool] = False

    now: float

    def message(self, d: Delivery, token: str) -> Delivery:
        raise NotImplementedError

    def carry(self, d: Delivery, token: str) -> Delivery:
        raise NotImplementedError

    def task(self, task: Task) -> Task:
        raise NotImplementedError


class _Ack(_Way, frozen=True, gc=False):
    alone: ClassVar[bool] = True
    drops: ClassVar[bool] = True
    quiet: ClassVar[bool] = True

    limits: Limits
    for_good: bool

    def message(self, d: Delivery, token: str) -> Delivery:
        return delivery_steps.ack(d, receipt=token, now=self.now, keep=self.limits.retention)

    def carry(self, d: Delivery, token: str) -> Delivery:
        until = task_steps.kept_until(
            d.mailbox, now=self.now, stale_after=self.limits.stale_after, for_good=self.for_good
        )
        return delivery_steps.ack_task(d, receipt=token, now=self.now, until=until)

    def task(self, task: Task) -> Task:
        if task.acked_at is not None:
            return task
        until = task_steps.kept_until(
            task.mailbox, now=self.now, stale_after=self.limits.stale_after, for_good=self.for_good
        )
        return task_steps.ack(task, now=self.now, until=until)


class _Nack(_Way, frozen=True, gc=False):
    carries: ClassVar[bool] = False

    by: str
    delay: float
    note: str
    end: AttemptEnd

    def message(self, d: Delivery, token: str) -> Delivery:
        return delivery_steps.nack(d, receipt=token, now=self.now, delay=self.delay, end=self.end)

    def task(self, task: Task) -> Task:
        return task_steps.lapse(task, now=self.now, by=self.by, note=self.note)


class _Extend(_Way, frozen=True, gc=False):
    alone: ClassVar[bool] = True

    seconds: float

    def message(self, d: Delivery, token: str) -> Delivery:
        return delivery_steps.extend(d, receipt=token, now=self.now, seconds=self.seconds)

    def carry(self, d: Delivery, token: str) -> Delivery:
        return delivery_steps.extend_task(d, receipt=token, now=self.now, seconds=self.seconds)

    def task(self, task: Task) -> Task:
        if task.state in task_rules.FINAL:
            state = task.state.value
            raise LeaseLost(f"task {task.id} is {state}: there is nothing to hold", current=state)
        return task_steps.hold(task, self.now + self.seconds)


class _Release(_Way, frozen=True, gc=False):
    def message(self, d: Delivery, token: str) -> Delivery:
        return delivery_steps.release(d, receipt=token, now=self.now)

    def carry(self, d: Delivery, token: str) -> Delivery:
        return self.message(d, token)

    def task(self, task: Task) -> Task:
        return task_steps.release(task, now=self.now)


class Acks:
    """Settle leased messages and tasks by their receipts."""

    def __init__(self, core: Core, pools: Pools) -> None:
        self._core = core
        self._pools = pools

    async def ack(
        self, agent_id: str, receipts: Sequence[str], *, known: Known | None = None, for_good: bool = False
    ) -> list[Outcome]:
        """Settle leased messages. Repeating it with the same receipts is harmless.

        ``known`` are their deliveries, if they have just been read.
        ``for_good`` is for clients that know of no lease; see ``task_steps.kept_until``.
        """
        way = _Ack(self._core.clock(), self._core.limits, for_good)
        outcomes, changed = await self._apply(agent_id, receipts, way, known)
        self._core.stats.acked += changed
        return outcomes

    async def ack_ends(self, requester: str, task_ids: Sequence[str]) -> list[Outcome]:
        """Settle unread messages about the end and the last progress of tasks that their requester has looked at.

        A message that a reader holds at this moment stays with that reader.
        """
        return [await self._ack_end(requester, task_id) for task_id in task_ids]

    @retrying
    async def _ack_end(self, requester: str, task_id: str) -> Outcome:
        core = self._core
        now, keep = core.clock(), core.limits.retention
        d = await core.store.get(Delivery, end_id(task_id))
        if d is None or d.mailbox != requester:
            return _refused(task_id, LeaseLost("no message about the end of this task waits for this agent"))
        try:
            new = delivery_steps.ack_unread(d, now=now, keep=keep)
        except LeaseLost as error:
            return _refused(task_id, error)
        changes = [] if new is d else [Put(new)]
        for progress in (
            await core.store.page(Delivery, rules.by_merge(requester, merge_of(task_id)), limit=1)
        ).records:
            if rules.due(progress, now):
                changes.append(Put(delivery_steps.ack_unread(progress, now=now, keep=keep)))
        if changes:
            await core.commit(requester, *changes, quiet=True)
            core.stats.acked += len(changes)
        return Outcome(task_id, d.id, None, None)

    async def nack(
        self,
        agent_id: str,
        receipts: Sequence[str],
        delay: float,
        *,
        known: Known | None = None,
        note: str = "given back",
        end: AttemptEnd = AttemptEnd.GIVEN_BACK,
    ) -> list[Outcome]:
        """Give leased messages back, due again after ``delay`` seconds.

        ``note`` says why in a task's history, and ``end`` among the dead letters.
        """
        way = _Nack(self._core.clock(), agent_id, delay, note, end)
        outcomes, changed = await self._apply(agent_id, receipts, way, known)
        self._core.stats.nacked += changed
        return outcomes

    async def extend(
        self, agent_id: str, receipts: Sequence[str], seconds: float, *, known: Known | None = None
    ) -> list[Outcome]:
        """Lengthen leases to ``seconds`` from now; that of a task also after it was acked."""
        way = _Extend(self._core.clock(), seconds)
        outcomes, _ = await self._apply(agent_id, receipts, way, known)
        return outcomes

    async def release(self, agent_id: str, receipts: Sequence[str]) -> None:
        """Release leases whose messages no reader has. The messages are due again at once, and no attempt counts."""
        way = _Release(self._core.clock())
        _, changed = await self._apply(agent_id, receipts, way)
        self._core.stats.released += changed

    async def _apply(
        self, agent_id: str, receipts: Sequence[str], way: _Way, known: Known | None = None
    ) -> tuple[list[Outcome], int]:
        """Take the step for each receipt. Return an outcome for each, and the number of changed messages."""
        if len(receipts) != 1:
            return await self._apply_many(agent_id, receipts, way, known)
        given = receipts[0]  # as most requests and frames have
        token, id = split_receipt(given)
        d = await self._core.store.get(Delivery, id) if known is None else known[id]
        try:
            outcome, made = await self._apply_one(agent_id, given, token, id, d, way)
        except LeaseLost as error:
            return [_refused(given, error)], 0
        if not made:
            return [outcome], 0
        partition_key, changed = made[0].record.partition_key, 1
        try:
            await self._core.commit(partition_key, *made, quiet=way.quiet)
        except Conflict:
            again, changed = await self._apply_again(agent_id, partition_key, [given], way)
            outcome = again[given]
        if partition_key != agent_id:
            await self._moved_elsewhere(partition_key, agent_id)
        return [outcome], changed

    async def _apply_many(
        self, agent_id: str, receipts: Sequence[str], way: _Way, known: Known | None
    ) -> tuple[list[Outcome], int]:
        outcomes, partitions = await self._prepare(agent_id, receipts, way, known)
        changed = 0
        for partition_key, prepared in partitions.items():
            try:
                await self._core.commit(partition_key, *chain.from_iterable(prepared.values()), quiet=way.quiet)
                changed += len(prepared)
            except Conflict:
                again, number = await self._apply_again(agent_id, partition_key, list(prepared), way)
                outcomes.update(again)
                changed += number
            if partition_key != agent_id:
                await self._moved_elsewhere(partition_key, agent_id)
        return [outcomes[given] for given in receipts], changed

    @retrying
    async def _apply_again(
        self, agent_id: str, partition_key: str, receipts: Sequence[str], way: _Way
    ) -> tuple[dict[str, Outcome], int]:
        outcomes, partitions = await self._prepare(agent_id, receipts, way)
        prepared = partitions.get(partition_key, {})
        if prepared:
            await self._core.commit(partition_key, *chain.from_iterable(prepared.values()), quiet=way.quiet)
        return outcomes, len(prepared)

    async def _prepare(
        self, agent_id: str, receipts: Sequence[str], way: _Way, known: Known | None = None
    ) -> tuple[dict[str, Outcome], dict[str, dict[str, list[Put | Drop]]]]:
        """Return the planned outcome of each receipt, and the changes to commit, by partition."""
        outcomes: dict[str, Outcome] = {}
        partitions: dict[str, dict[str, list[Put | Drop]]] = {}
        parted = {given: split_receipt(given) for given in receipts}
        if known is None:
            ids = [id for _, id in parted.values()]
            known = dict(zip(ids, await self._core.store.get_many(Delivery, ids), strict=True))
        for given, (token, id) in parted.items():
            try:
                outcomes[given], made = await self._apply_one(agent_id, given, token, id, known[id], way)
            except LeaseLost as error:
                outcomes[given] = _refused(given, error)
                continue
            if made:
                partitions.setdefault(made[0].record.partition_key, {})[given] = made
        return outcomes, partitions

    async def _apply_one(
        self, agent_id: str, given: str, token: str, id: str, d: Delivery | None, way: _Way
    ) -> tuple[Outcome, list[Put | Drop]]:
        if d is not None and not d.has_record and (d.holder or d.mailbox) == agent_id:
            if way.carries or not d.is_task:
                new = way.carry(d, token) if d.is_task else way.message(d, token)
                return Outcome(given, message_id(new), new.visible_at, None), [] if new is d else [Put(new)]
            rules.require_receipt(d, token)
            moved = way.task(task_rules.task_from_delivery(d))
            new = way.message(d, token)
            return Outcome(given, id, new.visible_at, None), [Put(delivery_steps.with_record(new)), Put(moved)]
        task = await self._core.store.get(Task, id) if d is None or d.has_record else None
        if task is None or task.assignee != agent_id:
            raise LeaseLost("no message of this agent belongs to this receipt, or it is settled and forgotten")
        if d is not None:
            rules.require_receipt(d, token)
            moved = way.task(task)
            changed = [] if moved is task else [Put(moved)]
            if way.drops:
                return Outcome(given, id, None, None), [Drop(d), *changed]
            new = way.carry(d, token) if way.carries else way.message(d, token)
            return Outcome(given, id, new.visible_at, None), [Put(new), *changed]
        if not way.alone or task.receipt != token:
            raise LeaseLost(
                f"message {id} is no longer held under this receipt: it was settled, or handed out again",
                current=task.state.value,
            )
        moved = way.task(task)
        return Outcome(given, id, moved.held_until, None), [] if moved is task else [Put(moved)]

    async def _moved_elsewhere(self, partition_key: str, agent_id: str) -> None:
        """Follow up on a change in a pool: the agent's load has changed, and there may be work for others."""
        self._core.relist(agent_id)
        pool = await self._core.store.get(Pool, partition_key)
        if pool is not None:
            await self._pools.pass_on([pool])


class Receipts:
    """Settles messages by their receipts, with a result for each."""

    def __init__(self, acks: Acks, time: StoppableTime) -> None:
        self._acks = acks
        self._time = time

    async def ack(self, agent: Agent, ask: requests.Ack, known: Known | None = None) -> Receipted:
        """Settle messages: by receipts, and by tasks, whose ids stand in place of receipts. A repeat is harmless."""
        outcomes: list[Outcome] = []
        if ask.receipts is not None:
            outcomes += await self._acks.ack(agent.id, ask.receipts, known=known)
        if ask.tasks is not None:
            outcomes += await self._acks.ack_ends(agent.id, ask.tasks)
        return receipted(outcomes, "acked", self._time)

    async def nack(self, agent: Agent, ask: requests.Nack, known: Known | None = None) -> Receipted:
        """Give leased messages back."""
        return receipted(await self._acks.nack(agent.id, ask.receipts, ask.delay, known=known), "nacked", self._time)

    async def extend(self, agent: Agent, ask: requests.Extend, known: Known | None = None) -> Receipted:
        """Lengthen leases."""
        return receipted(
            await self._acks.extend(agent.id, ask.receipts, ask.lease, known=known), "extended", self._time
        )


def receipted(outcomes: Sequence[Outcome], done: str, time: StoppableTime) -> Receipted:
    """Return the result of each receipt; ``done`` is the status of a receipt that took effect."""
    results, count = [], 0
    for o in outcomes:
        if o.message_id is None:
            why = ("unknown", None) if o.error is None else (o.error.code, o.error.message)
            results.append(Settled(o.receipt, "", *why))
        else:
            until = time.iso_or_none(o.held_until) if done == "extended" else None
            results.append(Settled(o.receipt, o.message_id, done, lease_expires_at=until))
            count += 1
    return Receipted(results, count)


def lease_of(d: Delivery, earlier: Mapping[str, Sequence[Event]], time: StoppableTime) -> Lease:
    """Return the delivery of a claimed message; ``earlier`` has the earlier reports on tasks, by id."""
    return Lease(
        message_id(d),
        receipt(str(d.receipt), d.id),
        d.attempts,
        time.iso(d.visible_at),
        reported(earlier[d.id], time) if d.id in earlier else None,
    )
