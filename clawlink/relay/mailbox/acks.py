"""Settle claimed messages: acknowledge them, give them back, hold them longer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain

from msgspec import Struct

from clawlink.domain import delivery as rules
from clawlink.domain import delivery_steps, task_steps
from clawlink.domain import task as task_rules
from clawlink.domain.delivery import AttemptEnd, Delivery
from clawlink.domain.pool import Pool
from clawlink.domain.task import Task, merge_of
from clawlink.errors import LeaseLost
from clawlink.relay.core import Core, retrying
from clawlink.relay.ids import end_id, split_receipt
from clawlink.relay.mailbox.pools import Pools
from clawlink.store.base import Conflict, Drop, Put

Known = Mapping[str, Delivery | None]
"""Deliveries by their ids, None for an id without one."""


class Outcome(Struct, frozen=True, gc=False):
    """The outcome of a receipt: the message and, if its lease goes on, the end of it; or the error."""

    receipt: str
    message_id: str | None
    held_until: float | None
    error: LeaseLost | None


class _Way(Struct, frozen=True):
    """A way to settle: its effect on a message, and on a task.

    A task may have a delivery, a record or both. ``carried`` moves a delivery, and ``task`` a record. Without
    ``carried`` a task that has a delivery alone gets a record, and ``message`` moves its delivery. Without
    ``alone`` a task with a record alone is refused. ``drops`` removes the delivery beside a record.
    """

    message: Callable[[Delivery, str], Delivery]
    carried: Callable[[Delivery, str], Delivery] | None
    task: Callable[[Task], Task]
    alone: bool
    drops: bool = False
    quiet: bool = False  # nothing becomes due by it


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
        ``for_good`` is for clients that know of no lease; see ``task.kept_until``.
        """
        now = self._core.clock()
        limits = self._core.limits

        def until(mailbox: str) -> float:
            return task_steps.kept_until(mailbox, now=now, stale_after=limits.stale_after, for_good=for_good)

        way = _Way(
            message=lambda d, token: delivery_steps.ack(d, receipt=token, now=now, keep=limits.retention),
            carried=lambda d, token: delivery_steps.ack_task(d, receipt=token, now=now, until=until(d.mailbox)),
            task=lambda t: t if t.acked_at is not None else task_steps.ack(t, now=now, until=until(t.mailbox)),
            alone=True,
            drops=True,
            quiet=True,
        )
        outcomes, changed = await self._settle(agent_id, receipts, way, known)
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
            return Outcome(task_id, None, None, LeaseLost("no message about the end of this task waits for this agent"))
        try:
            new = delivery_steps.ack_unread(d, now=now, keep=keep)
        except LeaseLost as error:
            return Outcome(task_id, None, None, error)
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
        now = self._core.clock()
        way = _Way(
            message=lambda d, token: delivery_steps.nack(d, receipt=token, now=now, delay=delay, end=end),
            carried=None,
            task=lambda t: task_steps.lapse(t, now=now, by=agent_id, note=note),
            alone=False,
        )
        outcomes, changed = await self._settle(agent_id, receipts, way, known)
        self._core.stats.nacked += changed
        return outcomes

    async def extend(
        self, agent_id: str, receipts: Sequence[str], seconds: float, *, known: Known | None = None
    ) -> list[Outcome]:
        """Lengthen leases to ``seconds`` from now; that of a task also after it was acked."""
        now = self._core.clock()

        def hold(task: Task) -> Task:
            if task.state in task_rules.FINAL:
                state = task.state.value
                raise LeaseLost(f"task {task.id} is {state}: there is nothing to hold", current=state)
            return task_steps.hold(task, now + seconds)

        way = _Way(
            message=lambda d, token: delivery_steps.extend(d, receipt=token, now=now, seconds=seconds),
            carried=lambda d, token: delivery_steps.extend_task(d, receipt=token, now=now, seconds=seconds),
            task=hold,
            alone=True,
        )
        outcomes, _ = await self._settle(agent_id, receipts, way, known)
        return outcomes

    async def release(self, agent_id: str, receipts: Sequence[str]) -> None:
        """Undo leases whose messages never left the relay."""
        now = self._core.clock()
        way = _Way(
            message=lambda d, token: delivery_steps.release(d, receipt=token, now=now),
            carried=lambda d, token: delivery_steps.release(d, receipt=token, now=now),
            task=lambda task: task_steps.undo(task, now=now),
            alone=False,
        )
        _, changed = await self._settle(agent_id, receipts, way)
        self._core.stats.released += changed

    async def _settle(
        self, agent_id: str, receipts: Sequence[str], way: _Way, known: Known | None = None
    ) -> tuple[list[Outcome], int]:
        """Settle the messages of the receipts; return an outcome for each, and the number of changed messages."""
        if len(receipts) == 1:
            outcome, changed = await self._settle_alone(agent_id, receipts[0], way, known)
            return [outcome], changed
        outcomes, partitions = await self._prepare(agent_id, receipts, way, known)
        changed = 0
        for partition_key, prepared in partitions.items():
            try:
                await self._core.commit(partition_key, *chain.from_iterable(prepared.values()), quiet=way.quiet)
                changed += len(prepared)
            except Conflict:
                again, number = await self._settle_again(agent_id, partition_key, list(prepared), way)
                outcomes.update(again)
                changed += number
            if partition_key != agent_id:
                await self._moved_elsewhere(partition_key, agent_id)
        return [outcomes[given] for given in receipts], changed

    async def _settle_alone(
        self, agent_id: str, given: str, way: _Way, known: Known | None
    ) -> tuple[Outcome, int]:
        """Settle one message, as most requests and frames do; see ``_settle``."""
        token, id = split_receipt(given)
        d = await self._core.store.get(Delivery, id) if known is None else known[id]
        try:
            outcome, made = await self._settle_one(agent_id, given, token, id, d, way)
        except LeaseLost as error:
            return Outcome(given, None, None, error), 0
        if not made:
            return outcome, 0
        partition_key, changed = made[0].record.partition_key, 1
        try:
            await self._core.commit(partition_key, *made, quiet=way.quiet)
        except Conflict:
            again, changed = await self._settle_again(agent_id, partition_key, [given], way)
            outcome = again[given]
        if partition_key != agent_id:
            await self._moved_elsewhere(partition_key, agent_id)
        return outcome, changed

    @retrying
    async def _settle_again(
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
                outcomes[given], made = await self._settle_one(agent_id, given, token, id, known[id], way)
            except LeaseLost as error:
                outcomes[given] = Outcome(given, None, None, error)
                continue
            if made:
                partitions.setdefault(made[0].record.partition_key, {})[given] = made
        return outcomes, partitions

    async def _settle_one(
        self, agent_id: str, given: str, token: str, id: str, d: Delivery | None, way: _Way
    ) -> tuple[Outcome, list[Put | Drop]]:
        if d is not None and not d.has_record and (d.holder or d.mailbox) == agent_id:
            move = way.carried if d.is_task else way.message
            if move is not None:
                new = move(d, token)
                return Outcome(given, rules.message_id(new), new.visible_at, None), [] if new is d else [Put(new)]
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
            new = (way.carried or way.message)(d, token)
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
