"""Mailboxes: put in, claim, settle. Every way out of a mailbox goes through here."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from clawlink.domain import delivery as rules
from clawlink.domain import task as task_rules
from clawlink.domain.agent import Agent
from clawlink.domain.delivery import PENDING, Delivery, State
from clawlink.domain.limits import MAX_REPLY_BYTES
from clawlink.domain.message import Priority
from clawlink.domain.pool import Pool, is_pool
from clawlink.domain.task import Event, Task
from clawlink.errors import LeaseLost, MailboxFull, RelayFull
from clawlink.relay import waiting
from clawlink.relay.core import Core, retrying
from clawlink.relay.ids import receipt, split_receipt
from clawlink.relay.pools import Pools
from clawlink.store.base import Absent, Conflict, Drop, Failed, Page, Put

_NORMAL = Priority.NORMAL.level
_NOTICE_SHARE = 0.5
_FULL_RETRY_SECONDS = 5.0
_SLICE = 256


def owner(mailbox: str) -> str:
    """Name a mailbox in a sentence."""
    return "the pool of agents that can do this" if is_pool(mailbox) else f"the mailbox of {mailbox}"


class Outcome(Struct, frozen=True, gc=False):
    """What became of one receipt: the message and, if it is held on, until when; or why nothing was done."""

    receipt: str
    message_id: str | None
    held_until: float | None
    error: LeaseLost | None


class Taken(NamedTuple):
    """What one claim leased, and what earlier owners of its tasks did and reported, by id."""

    deliveries: list[Delivery]
    reported: dict[str, tuple[Event, ...]]


class _Settling(NamedTuple):
    """One way to settle: what becomes of a message, and what of a task.

    A task may have a delivery, a record or both, and one of them alone is then all there is of it: ``carried`` moves
    such a delivery, ``task`` such a record, and both together where there are both. A ``None`` refuses.
    """

    message: Callable[[Delivery, str], Delivery]
    carried: Callable[[Delivery, str], Delivery] | None
    task: Callable[[Task], Task]
    alone: bool
    drops: bool = False


class Mailbox:
    """The mailboxes of all agents, and of all pools."""

    def __init__(self, core: Core, pools: Pools) -> None:
        self._core = core
        self._pools = pools
        self._ends_at = 0.0
        self.end_task: Callable[[str], Any]  # settles a task whose delivery has expired, or was handed out too often

    # -- in ----------------------------------------------------------------------------------------------------------

    def new(
        self,
        id: str,
        mailbox: str,
        *,
        sender: str,
        body: bytes,
        now: float,
        level: int = _NORMAL,
        merge: str | None = None,
        is_task: bool = False,
        ends_at: float | None = None,
    ) -> Delivery:
        """Return a delivery that is due at once, the last of its priority.

        Its time to live ends at a full second; for a task, an ``ends_at`` is its deadline.
        """
        usual = float(math.ceil(now + self._core.limits.message_ttl))
        if usual != self._ends_at:
            self._ends_at = usual  # one number for all messages of a second: it is kept with each of them
        arrival = self._core.ids.arrival(now)
        return Delivery(
            id,
            1,
            mailbox,
            sender,
            rules.rank(level, arrival),
            body,
            now,
            now,
            self._ends_at if ends_at is None else ends_at,
            merge=merge,
            is_task=is_task,
            deadline_at=ends_at if is_task else None,
        )

    async def require_room(self, mailbox: str, size: int, *, notice: bool = False) -> None:
        """Refuse what would overfill the mailbox or the relay.

        Notices and broadcasts fill only half of a mailbox, so that work still finds room.
        """
        limits = self._core.limits
        share = _NOTICE_SHARE if notice else 1.0
        used = await self._core.store.load(mailbox)
        if used.count >= limits.max_mailbox_messages * share:
            raise MailboxFull(
                f"{owner(mailbox)} holds {used.count} messages and takes no more than "
                f"{limits.max_mailbox_messages}; try again when its owner has read some",
                limit=limits.max_mailbox_messages,
                actual=used.count,
                retry_after=_FULL_RETRY_SECONDS,
            )
        if used.bytes + size > limits.max_mailbox_bytes * share:
            raise MailboxFull(
                f"{owner(mailbox)} holds {used.bytes} bytes, and with these {size} it would pass its limit of "
                f"{limits.max_mailbox_bytes}; try again when its owner has read some",
                limit=limits.max_mailbox_bytes,
                actual=used.bytes + size,
                retry_after=_FULL_RETRY_SECONDS,
            )
        held = await self._core.store.total()
        if held.bytes + size > limits.max_stored_bytes:
            raise RelayFull(
                f"the relay holds {held.bytes} bytes of messages and takes no more than {limits.max_stored_bytes}; "
                "try again when some have been read",
                limit=limits.max_stored_bytes,
                actual=held.bytes + size,
                retry_after=_FULL_RETRY_SECONDS,
            )

    async def has_room(self, mailbox: str, size: int) -> bool:
        """Tell whether a notice of that size finds room in the mailbox."""
        try:
            await self.require_room(mailbox, size, notice=True)
        except (MailboxFull, RelayFull):
            return False
        return True

    async def put(self, delivery: Delivery, *changes: Put | Absent) -> None:
        """Store the delivery, with what else changes at the same home. Raises Conflict."""
        await self._core.commit(delivery.mailbox, *changes, Put(delivery))
        self._core.stats.stored += 1

    @retrying
    async def put_once(self, delivery: Delivery) -> Delivery:
        """Store the delivery unless one of that id is there already; return the one that is there then."""
        found = await self._core.store.get(Delivery, delivery.id)
        if found is not None:
            return found
        await self.put(delivery)
        return delivery

    async def put_notice(self, delivery: Delivery, *, anew: bool = False) -> bool:
        """Store a notice, in place of an unread one about the same thing; False if the mailbox has no room for it.

        ``anew`` under its own id: senders ask about that one.
        """
        core = self._core
        if delivery.merge is not None:
            key = rules.by_merge(delivery.mailbox, delivery.merge)
            for unread in await core.store.first(Delivery, key, 1):
                newer = rules.supersede(unread, delivery.body, now=delivery.stored_at, ttl=core.limits.message_ttl)
                if newer is not None:
                    changes: tuple[Put | Drop, ...] = (Put(newer),)
                    if anew and delivery.id != unread.id:
                        changes = (Put(replace(delivery, rank=unread.rank)), Drop(unread))
                    try:
                        await core.commit(newer.mailbox, *changes)
                    except Conflict:  # it is being read at this moment: the news goes in as a message of its own
                        break
                    core.stats.merged += 1
                    return True
        if not await self.has_room(delivery.mailbox, len(delivery.body)):
            return False
        await self.put_once(delivery)
        return True

    # -- out ---------------------------------------------------------------------------------------------------------

    async def claim(
        self, agent: Agent, *, limit: int, wait: float, lease: float, tick: Callable[[], Any] | None = None
    ) -> Taken:
        """Lease up to ``limit`` messages for ``lease`` seconds, waiting up to ``wait`` seconds for the first.

        They come from the agent's own mailbox, and at most one from all the pools it is eligible for: so those who poll
        share what is there. ``tick`` is awaited now and then while waiting. Whoever calls this must settle or
        ``release`` what it got.
        """
        core = self._core
        reported: dict[str, tuple[Event, ...]] = {}

        async def read() -> list[Delivery]:
            if tick is not None:
                await tick()
            pools = await self._pools.of(agent.id)
            if not pools:
                return await self._take(agent.id, agent.id, limit, lease, reported)
            taken = await self._take_with_pools(agent.id, pools, limit, lease, reported)
            if taken:  # there may be more in the pools, for which only this agent was woken
                await self._pools.pass_on(pools)
            return taken

        if not wait:
            return Taken(await read(), reported)
        with core.signals.listen(agent.id) as signal, self._pools.waiting(agent, signal) as waiter:

            async def read_anew() -> list[Delivery]:
                await self._pools.awake(waiter)
                return await read()

            try:
                taken = await waiting.first(
                    signal,
                    read=read_anew,
                    next_at=lambda: self._next_due_at(agent.id),
                    clock=core.clock,
                    until=core.clock() + wait,
                    over=lambda: core.draining,
                    tick=max(core.limits.stale_after / 2, 1.0),
                )
            finally:
                if waiter.woken:
                    await asyncio.shield(self._pass_on(agent.id))
        return Taken(taken, reported)

    async def _pass_on(self, agent_id: str) -> None:
        await self._pools.pass_on(await self._pools.of(agent_id))

    async def _next_due_at(self, agent_id: str) -> float | None:
        times = [await self._core.store.next_due_at(agent_id)]
        times += [await self._core.store.next_due_at(pool.id) for pool in await self._pools.of(agent_id)]
        return min((at for at in times if at is not None), default=None)

    async def _take_with_pools(
        self, by: str, pools: Sequence[Pool], limit: int, seconds: float, reported: dict[str, tuple[Event, ...]]
    ) -> list[Delivery]:
        """Claim one piece of work from the pools if it comes before the last of what else there is, and the rest."""
        store = self._core.store
        now = self._core.clock()
        heads = [(d.rank, pool.id) for pool in pools for d in await store.due(pool.id, now, 1)]
        pooled: list[Delivery] = []
        if heads:
            own = await store.due(by, now, limit)
            for rank, pool_id in sorted(heads):
                if pooled or (len(own) >= limit and rank > own[-1].rank):
                    break
                pooled = await self._take(pool_id, by, 1, seconds, reported)
        rest: list[Delivery] = []
        try:
            if len(pooled) < limit:
                rest = await self._take(by, by, limit - len(pooled), seconds, reported)
        except BaseException:
            with contextlib.suppress(Failed):
                await asyncio.shield(self.release(by, [receipt(str(d.receipt), d.id) for d in pooled]))
            raise
        return sorted([*pooled, *rest], key=lambda d: d.rank)

    async def _take(
        self, mailbox: str, by: str, limit: int, seconds: float, reported: dict[str, tuple[Event, ...]]
    ) -> list[Delivery]:
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
            now = core.clock()
            found: Sequence[Delivery] = await core.store.due(mailbox, now, limit)
            if reread:
                found = await self._reread(found)
            tasks = {d.id: await self._task(d) for d in found if d.is_task and (d.attempts or d.has_record)}
            if tasks:
                held = await self._still_held(found, tasks, now)
                if held:
                    await core.commit(mailbox, *held)
                    continue
            taken, changes, ended = self._lease(found, tasks, by, now, seconds, reported)
            if changes:
                try:
                    await core.commit(mailbox, *changes)
                except (asyncio.CancelledError, Failed):
                    # The commit may have taken effect; nobody will read what it leased.
                    with contextlib.suppress(Failed):
                        await asyncio.shield(self.release(by, [receipt(str(d.receipt), d.id) for d in taken]))
                    raise
            over = [await self.end_task(id) for id in ended]
            if taken or not (changes or any(over)):
                core.stats.delivered += len(taken)
                if mailbox != by and taken:
                    core.relist(by)
                return taken
            # All that was due has expired or died: look at what comes behind it.

    async def _reread(self, hints: Iterable[Delivery]) -> list[Delivery]:
        found = [await self._core.store.get(Delivery, hint.id) for hint in hints]
        return [d for d in found if d is not None]

    async def _task(self, d: Delivery) -> Task | None:
        return await self._core.store.get(Task, d.id) if d.has_record else task_rules.carried(d)

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
        by: str,
        now: float,
        seconds: float,
        reported: dict[str, tuple[Event, ...]],
    ) -> tuple[list[Delivery], list[Put], list[str]]:
        """Return what is leased, what to commit for it, and the ids of tasks that come to an end instead."""
        core = self._core
        limits = core.limits
        taken: list[Delivery] = []
        changes: list[Put] = []
        ended: list[str] = []
        size = 0
        token = core.ids.token()  # one for the batch: a receipt is the token and the message together
        for d in found:
            size += len(d.body)
            if taken and size > MAX_REPLY_BYTES:
                break
            if d.is_task and rules.due(d, now):
                if d.expires_at <= now or d.attempts >= limits.max_attempts:
                    ended.append(d.id)
                    continue
                known = tasks.get(d.id)
                new = rules.lease_task(d, by=by, receipt=token, now=now, seconds=seconds, alone=known is None)
                if known is not None:
                    changes.append(Put(task_rules.claim(known, by=by, receipt=token, now=now, seconds=seconds)))
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

    # -- settle ------------------------------------------------------------------------------------------------------

    async def ack(self, agent_id: str, receipts: Sequence[str], *, for_good: bool = False) -> list[Outcome]:
        """Settle leased messages. Repeating it with the same receipts is harmless.

        ``for_good`` is for clients that know of no lease; see ``task.kept_until``.
        """
        now = self._core.clock()
        limits = self._core.limits

        def until(mailbox: str) -> float:
            return task_rules.kept_until(mailbox, now=now, stale_after=limits.stale_after, for_good=for_good)

        way = _Settling(
            message=lambda d, token: rules.ack(d, receipt=token, now=now, keep=limits.retention),
            carried=lambda d, token: rules.ack_task(d, receipt=token, now=now, until=until(d.mailbox)),
            task=lambda t: t if t.acked_at is not None else task_rules.ack(t, now=now, until=until(t.mailbox)),
            alone=True,
            drops=True,
        )
        outcomes, changed = await self._settle(agent_id, receipts, way)
        self._core.stats.acked += changed
        return outcomes

    async def nack(self, agent_id: str, receipts: Sequence[str], delay: float) -> list[Outcome]:
        """Give leased messages back, due again after ``delay`` seconds."""
        now = self._core.clock()
        way = _Settling(
            message=lambda d, token: rules.nack(d, receipt=token, now=now, delay=delay),
            carried=None,
            task=lambda t: task_rules.lapse(t, now=now, by=agent_id, note="given back"),
            alone=False,
        )
        outcomes, changed = await self._settle(agent_id, receipts, way)
        self._core.stats.nacked += changed
        return outcomes

    async def extend(self, agent_id: str, receipts: Sequence[str], seconds: float) -> list[Outcome]:
        """Lengthen leases to ``seconds`` from now; that of a task also after it was acked."""
        now = self._core.clock()

        def hold(task: Task) -> Task:
            if task.state in task_rules.FINAL:
                state = task.state.value
                raise LeaseLost(f"task {task.id} is {state}: there is nothing to hold", current=state)
            return task_rules.hold(task, now + seconds)

        way = _Settling(
            message=lambda d, token: rules.extend(d, receipt=token, now=now, seconds=seconds),
            carried=lambda d, token: rules.extend_task(d, receipt=token, now=now, seconds=seconds),
            task=hold,
            alone=True,
        )
        outcomes, _ = await self._settle(agent_id, receipts, way)
        return outcomes

    async def release(self, agent_id: str, receipts: Sequence[str]) -> None:
        """Undo leases whose messages never left the relay."""
        now = self._core.clock()
        way = _Settling(
            message=lambda d, token: rules.release(d, receipt=token, now=now),
            carried=lambda d, token: rules.release(d, receipt=token, now=now),
            task=lambda task: task_rules.undo(task, now=now),
            alone=False,
        )
        _, changed = await self._settle(agent_id, receipts, way)
        self._core.stats.released += changed

    async def _settle(self, agent_id: str, receipts: Sequence[str], way: _Settling) -> tuple[list[Outcome], int]:
        """Settle what the receipts are for; return an outcome each, and how many messages changed."""
        outcomes, homes = await self._prepare(agent_id, receipts, way)
        changed = 0
        for home, prepared in homes.items():
            try:
                await self._core.commit(home, *(change for made in prepared.values() for change in made))
                changed += len(prepared)
            except Conflict:
                again, number = await self._settle_again(agent_id, home, list(prepared), way)
                outcomes.update(again)
                changed += number
            if home != agent_id:
                await self._moved_elsewhere(home, agent_id)
        return [outcomes[given] for given in receipts], changed

    @retrying
    async def _settle_again(
        self, agent_id: str, home: str, receipts: Sequence[str], way: _Settling
    ) -> tuple[dict[str, Outcome], int]:
        outcomes, homes = await self._prepare(agent_id, receipts, way)
        prepared = homes.get(home, {})
        if prepared:
            await self._core.commit(home, *(change for made in prepared.values() for change in made))
        return outcomes, len(prepared)

    async def _prepare(
        self, agent_id: str, receipts: Sequence[str], way: _Settling
    ) -> tuple[dict[str, Outcome], dict[str, dict[str, list[Put | Drop]]]]:
        """Return what will have become of each receipt, and what to commit for which of them, by home."""
        outcomes: dict[str, Outcome] = {}
        homes: dict[str, dict[str, list[Put | Drop]]] = {}
        for given in receipts:
            if given in outcomes:
                continue
            try:
                outcomes[given], made = await self._settle_one(agent_id, given, way)
            except LeaseLost as error:
                outcomes[given] = Outcome(given, None, None, error)
                continue
            if made:
                homes.setdefault(made[0].record.home, {})[given] = made
        return outcomes, homes

    async def _settle_one(self, agent_id: str, given: str, way: _Settling) -> tuple[Outcome, list[Put | Drop]]:
        store = self._core.store
        token, id = split_receipt(given)
        d = await store.get(Delivery, id)
        if d is not None and not d.has_record and (d.holder or d.mailbox) == agent_id:
            move = way.carried if d.is_task else way.message
            if move is not None:
                new = move(d, token)
                return Outcome(given, rules.message_id(new), new.visible_at, None), [] if new is d else [Put(new)]
            rules.require_receipt(d, token)
            moved = way.task(task_rules.carried(d))
            new = way.message(d, token)
            return Outcome(given, id, new.visible_at, None), [Put(rules.with_record(new)), Put(moved)]
        task = await store.get(Task, id) if d is None or d.has_record else None
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

    async def _moved_elsewhere(self, home: str, agent_id: str) -> None:
        """Follow up on a change in a pool: what the agent has is another, and there may be work for others."""
        self._core.relist(agent_id)
        pool = await self._core.store.get(Pool, home)
        if pool is not None:
            await self._pools.pass_on([pool])

    # -- dead letters ------------------------------------------------------------------------------------------------

    async def dead_letters(self, mailbox: str, after: str | None, limit: int) -> Page[Delivery]:
        """List the dead letters of a mailbox, oldest first."""
        return await self._core.store.page(Delivery, rules.by_dead(mailbox), after, limit)

    async def redrive(self, mailbox: str, ids: Sequence[str] | None, limit: int) -> list[str]:
        """Put dead letters back at their old places, the named ones or the oldest; return the ids of those put back."""
        if ids is None:
            oldest = await self._core.store.first(Delivery, rules.by_dead(mailbox), limit)
            ids = [rules.message_id(d) for d in oldest]
        back = [id for id in dict.fromkeys(ids) if await self._redrive_one(mailbox, id)]
        self._core.stats.redriven += len(back)
        return back

    @retrying
    async def _redrive_one(self, mailbox: str, id: str) -> bool:
        core = self._core
        d = await core.store.get(Delivery, id) or await core.store.get(Delivery, rules.copy_id(id, mailbox))
        if d is None or d.mailbox != mailbox or d.state is not State.DEAD:
            return False
        now, ttl = core.clock(), core.limits.message_ttl
        back = rules.redrive(d, now=now, ttl=ttl)
        task = await core.store.get(Task, d.id) if d.is_task else None
        if task is None:
            await core.commit(mailbox, Put(back))
        else:
            await core.commit(mailbox, Put(back), Put(task_rules.redrive(task, now=now, ends_at=now + ttl)))
        return True

    async def close(self, mailbox: str) -> int:
        """Settle as expired what is in the mailbox of an agent that leaves, but for tasks; return how many it was."""
        store, most = self._core.store, self._core.limits.max_mailbox_messages
        dropped = 0
        found = [*await store.pending(mailbox, most), *await store.first(Delivery, rules.by_dead(mailbox), most)]
        for done, d in enumerate(found, 1):
            dropped += not d.is_task and await self.expire(d.id)
            if done % _SLICE == 0:
                await asyncio.sleep(0)
        return dropped

    @retrying
    async def expire(self, id: str) -> bool:
        """Settle a message that nobody will take any more; False if it is settled already."""
        core = self._core
        d = await core.store.get(Delivery, id)
        if d is None or d.state not in (State.PENDING, State.DEAD):
            return False
        await core.commit(d.mailbox, Put(rules.expire(d, now=core.clock(), keep=core.limits.retention)))
        core.stats.expired += 1
        return True


def _last_owner(task: Task) -> str | None:
    """Return who had the task before; its assignee, if it is addressed to one."""
    return next((e.by for e in reversed(task.history) if e.status is task_rules.DELIVERED), None)
