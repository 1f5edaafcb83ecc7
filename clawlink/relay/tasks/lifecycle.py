"""Upkeep of tasks: they expire, run out of attempts, or lose a silent owner."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec.structs import replace

from clawlink.domain import delivery as delivery_rules
from clawlink.domain import task as rules
from clawlink.domain import task_steps
from clawlink.domain.agent import Agent, Presence, is_asleep
from clawlink.domain.delivery import Delivery, Sender, State
from clawlink.domain.message import Priority, TaskDelegation, TaskResponse, TaskUpdate, decode, encode, of_person
from clawlink.domain.pool import Pool, pool_for, waiting_for
from clawlink.domain.task import FINAL, QUEUED, Task, TaskState, by_owner
from clawlink.relay.agents.agents import Agents
from clawlink.relay.core import Core, retrying
from clawlink.relay.ids import derived, end_id
from clawlink.relay.mailbox.mailbox import Mailbox, Purpose
from clawlink.relay.mailbox.pools import Pools
from clawlink.relay.tasks.reads import read_task
from clawlink.relay.time_slices import SLICE, Turns
from clawlink.store.base import Drop, Put


def capabilities_of(message: TaskDelegation) -> Sequence[str]:
    """Return the capabilities that a delegation asks of its claimer."""
    named = message.capability
    return (named,) if isinstance(named, str) else named if isinstance(named, tuple) else ()


def pool_of(message: TaskDelegation, mailbox: str) -> Pool:
    """Return the pool that a delegation went to, as if it were new. Its mailbox tells the keys of its members."""
    members = message.to_any_of if isinstance(message.to_any_of, tuple) else ()
    return replace(pool_for(capabilities_of(message), members), id=mailbox)


class TaskLifecycle:
    """Keeps tasks moving. All its steps are safe to repeat."""

    def __init__(self, core: Core, agents: Agents, mailbox: Mailbox, pools: Pools) -> None:
        self._core = core
        self._agents = agents
        self._mailbox = mailbox
        self._pools = pools

    # -- ends --------------------------------------------------------------------------------------------------------

    @retrying
    async def end(self, task_id: str) -> bool:
        """End a task whose time is over, or whose delivery is out of attempts; return False if neither is so."""
        core = self._core
        now = core.clock()
        task, d = await read_task(core.store, task_id)
        if task is None:
            return False
        if task.state in FINAL:
            if d is not None:
                await core.commit(d.partition_key, Drop(d))
            return d is not None
        if task.expires_at <= now:
            await self._end(task, d, TaskState.EXPIRED, "no agent finished it in time")
            return True
        if d is None or not delivery_rules.due(d, now) or d.attempts < core.limits.max_attempts:
            return False
        if task.pooled or await core.store.get(Agent, task.mailbox) is None:  # no agent would find its dead letters
            await self._end(task, d, TaskState.FAILED, f"handed out {d.attempts} times and never finished")
        else:
            await self._bury(task, d, now)
        return True

    async def _end(self, task: Task, d: Delivery | None, state: TaskState, note: str) -> None:
        core = self._core
        ended = task_steps.end(task, state, by=None, now=core.clock(), keep=core.limits.retention, note=note)
        answered = await self.claim_end(task, ended, by=None)
        if answered is not None:
            await self.finish_answered(task, d, answered)
            return
        await self.tell_worker(task, ended, by=None)
        await self.finish_ended(task, d, ended)

    async def finish_ended(self, task: Task, d: Delivery | None, ended: Task) -> None:
        """Store the end of a task without an answer, and count it by its state."""
        core = self._core
        await core.commit(task.partition_key, Put(ended, ends_work=True), *(() if d is None else (Drop(d),)))
        core.relist(task.assignee)
        waited = d is not None and d.state is State.PENDING
        if ended.state is TaskState.CANCELLED:
            core.stats.tasks_cancelled += 1
            core.stats.withdrawn += waited
            return
        core.stats.expired += waited
        if ended.state is TaskState.EXPIRED:
            core.stats.tasks_expired += 1
        elif ended.state is TaskState.RETURNED:
            core.stats.tasks_returned += 1
        else:
            core.stats.tasks_failed += 1

    @retrying
    async def claim_end(self, task: Task, ended: Task, *, by: str | None, person: bool = False) -> TaskResponse | None:
        """Put the end of a task into the requester's mailbox; return the response that was there first, if any.

        All ends of a task share an id, so that of an answer and a cancel at the same moment only one counts. The
        requester's own cancel, or an end without room in its mailbox, only takes that id.
        """
        core = self._core
        requester = task.requester
        asker = await core.store.get(Agent, requester)
        if asker is None or not rules.is_requester(task, asker):
            return None
        first = await core.store.get(Delivery, end_id(task.id))
        if first is None:
            now = core.clock()
            body = encode(self._update(end_id(task.id), requester, ended, by, ended.note, person))
            key = _key_of(by, requester, task.requester_key, task)
            new = self._mailbox.new(
                end_id(task.id), requester, sender=Sender(by or requester, None, key), body=body, now=now
            )
            if by != requester and await self._mailbox.has_room(new, Purpose.ANSWER):
                await self._mailbox.put(new, ends_work=True)
            else:
                taken = delivery_rules.placeholder(new, keep=core.limits.retention)
                await core.commit(requester, Put(taken, ends_work=True))
            return None
        said = decode(first.body)
        return said if isinstance(said, TaskResponse) else None

    async def finish_answered(self, task: Task, d: Delivery | None, answered: TaskResponse) -> None:
        """Finish a task whose final answer is in the requester's mailbox already."""
        core = self._core
        first = await core.store.get(Delivery, end_id(task.id))
        moved = task_steps.respond(
            replace(task, assignee=answered.from_agent, expires_at=math.inf),
            by=answered.from_agent,
            receipt=None,
            state=TaskState(answered.status),
            response=encode(answered),
            now=core.clock(),
            ttl=core.limits.message_ttl,
            keep=core.limits.retention,
            progress=answered.progress,
            note=answered.note,
            key_hash=None if first is None else first.sender_key,
        )
        await core.commit(task.partition_key, Put(moved, ends_work=True), *(() if d is None else (Drop(d),)))
        core.stats.tasks_answered += 1
        core.stats.answers_failed += moved.state in rules.FAILURES
        core.stats.withdrawn += d is not None and d.state is State.PENDING
        core.relist(task.assignee)

    async def _bury(self, task: Task, d: Delivery, now: float) -> None:
        """Make a dead letter of a task that its agent got too often.

        Until it expires, the agent may redrive or answer it.
        """
        core = self._core
        note = f"handed out {d.attempts} times and never acknowledged; it is in the dead letters of {task.assignee}"
        back = task_steps.lapse(task, now=now, note=note)
        await self.tell(task.requester, back, by=None, note=note)
        keep = max(0.0, task.expires_at - now)
        dead = delivery_rules.with_record(delivery_rules.bury(d, now=now, keep=keep))
        await core.commit(task.partition_key, Put(dead), Put(back))
        core.stats.dead += 1

    # -- owners ------------------------------------------------------------------------------------------------------

    @retrying
    async def look(self, task_id: str) -> bool:
        """Do the due step of a fetched task: end it, forget it, or check its owner's presence."""
        core = self._core
        task, d = await read_task(core.store, task_id)
        now = core.clock()
        if task is None or task.ends_at > now:
            return False
        if task.expires_at <= now:
            if task.state not in FINAL:
                return await self.end(task_id)
            await core.commit(task.partition_key, Drop(task))
            return True
        owner = None if task.assignee is None else await core.store.get(Agent, task.assignee)
        until = task_steps.held_until(task, owner, stale_after=core.limits.stale_after)
        if until <= now:
            await self._take_back(task, d, owner, now, was=owner)
            await self.end(task_id)
            return True
        changes = [Put(task_steps.hold(task, until))] if d is None or d.has_record else []
        if d is not None and d.receipt is not None:
            changes.append(Put(delivery_rules.postpone(d, until)))
        await core.commit(task.partition_key, *changes)
        return True

    async def _take_back(
        self, task: Task, d: Delivery | None, owner: Agent | None, now: float, *, was: Agent | None
    ) -> None:
        """Queue a task whose owner has lost it; ``was`` is the owner's last record, if it has left."""
        core = self._core
        silent = owner is None or self._agents.presence(owner) is Presence.STALE
        who = task.assignee if was is None else was.name
        if owner is None:
            note = f"{who} has left"
        elif is_asleep(owner):
            note = f"{who} has ended its session"
        elif silent and task.acked_at is not None:
            note = f"{who} has given no sign of life for {now - owner.last_heartbeat:.0f} s"
        else:
            note = f"the lease of {who} has lapsed"
        waits = "" if task.pooled else f"; it waits for {who if owner is not None else self._heir(was)}"
        back = task_steps.lapse(task, now=now, note=note + waits)
        if silent and not task.pooled:
            await self.tell(task.requester, back, by=None, note=note + waits)
        changes: list[Put] = [Put(back)]
        if not task.pooled and task.mailbox != task.assignee and was is not None:
            returns_at = now + core.limits.return_after
            wanted = waiting_for(task.mailbox, was.name, key_hash=was.key_hash, returns_at=returns_at)
            changes.append(await self._pools.using(wanted, make_room=True))
        anew = (
            self._delivered_anew(back, now)
            if d is None
            else delivery_rules.take_back(d, now=now, keep_receipt=not task.pooled and owner is not None)
        )
        changes.append(Put(anew))
        pool = None
        if task.pooled:
            using = await self._pools.using(pool_of(delegation_of(task.body), task.mailbox), make_room=True)
            pool = using.record
            changes.append(using)
        await core.commit(task.partition_key, *changes)
        core.stats.lapses += 1
        core.activity_log.note("taken back", task_id=task.id, from_name=who, from_agent=task.assignee, why=note)
        core.relist(task.assignee)
        if isinstance(pool, Pool):
            self._pools.wake_one(pool)

    def _delivered_anew(self, task: Task, now: float) -> Delivery:
        """Return a new delivery of a task whose first was acknowledged, at its old place."""
        return Delivery(
            task.id,
            1,
            task.mailbox,
            task.requester,
            delivery_rules.sort_key(delegation_of(task.body).priority.level, int(task.created_at * 1_000_000)),
            task.body,
            task.created_at,
            now,
            task.expires_at,
            attempts=task.attempts,
            is_task=True,
            has_record=True,
            deadline_at=task.deadline_at,
            address=task.address,
            sender_key=task.requester_key,
        )

    async def owner_left(self, agent: Agent, waiting: dict[str, str]) -> None:
        """Take back the tasks of an agent that has left.

        Add to ``waiting`` the tasks that wait for its return, with their mailboxes: they may be those of an earlier
        agent of its name. Tasks of pools go on to others. The agent's record is gone already. This takes back the tasks
        that the indexes show at this moment. Where they lag the caller repeats it, and a requester hears only once of a
        task in ``waiting``.
        """
        core = self._core
        most = core.shares.bound(core.limits.max_mailbox_messages)
        open_tasks = core.shares.bound(core.limits.max_open_tasks)
        held = [d.id for d in (await core.store.page(Delivery, by_owner(agent.id), limit=open_tasks)).records]
        after: str | None = None
        turns = Turns()
        while True:
            page = await core.store.page(Task, by_owner(agent.id), after, SLICE)
            held += [task.id for task in page.records]
            if page.after is None:
                break
            after = page.after
            await turns.next(len(page.records))
        for id in held:
            mailbox = await self._forsake(id, agent)
            if mailbox is not None:
                waiting[id] = mailbox
            await turns.next()
        await self._mailbox.redrive(agent.id, None, most)  # an agent that comes back may succeed
        async for d in self._mailbox.pending(agent.id):
            if d.is_task and d.id not in waiting:
                await self._tell_of_leaving(d.id, agent)
                waiting[d.id] = agent.id

    async def owner_sleeps(self, agent: Agent) -> list[str]:
        """Take back the tasks that the indexes show of an agent that has gone to sleep. Returns their ids."""
        core = self._core
        most = core.shares.bound(core.limits.max_open_tasks)
        held = [d.id for d in (await core.store.page(Delivery, by_owner(agent.id), limit=most)).records]
        held += [task.id for task in (await core.store.page(Task, by_owner(agent.id), limit=most)).records]
        turns = Turns()
        back = []
        for id in dict.fromkeys(held):
            if await self._let_go(id, agent.id):
                back.append(id)
            await turns.next()
        return back

    @retrying
    async def _let_go(self, task_id: str, owner_id: str) -> bool:
        """Take a task back from an agent that sleeps. Return True if it held the task."""
        task, d = await read_task(self._core.store, task_id)
        owner = await self._core.store.get(Agent, owner_id)
        if task is None or task.assignee != owner_id or task.state in (*FINAL, QUEUED):
            return False
        if owner is None or not is_asleep(owner):  # it is back
            return False
        await self._take_back(task, d, owner, self._core.clock(), was=owner)
        return True

    @retrying
    async def _forsake(self, task_id: str, left: Agent) -> str | None:
        """Take a task back from an agent that has left; return the mailbox in which it waits for that agent now."""
        core = self._core
        task, d = await read_task(core.store, task_id)
        if task is None or task.assignee != left.id or task.state in (*FINAL, QUEUED):
            return None
        if await core.store.get(Agent, left.id) is not None:  # it is back, and may have claimed the task since
            return None
        await self._take_back(task, d, None, core.clock(), was=left)
        return None if task.pooled else task.mailbox

    async def _tell_of_leaving(self, task_id: str, left: Agent) -> None:
        task, _ = await read_task(self._core.store, task_id)
        if task is not None:
            note = f"{left.name} has left; the task waits for {self._heir(left)}"
            await self.tell(task.requester, task, by=None, note=note, occasion=str(left.resumed_at))

    async def heirs(self, agent: Agent) -> Put:
        """Return the change that makes a leaving agent's mailbox the pool of its heirs. They wait until it has left."""
        returns_at = self._core.clock() + self._core.limits.return_after
        pool = waiting_for(agent.id, agent.name, key_hash=agent.key_hash, returns_at=returns_at, left=agent)
        return await self._pools.using(pool, make_room=True, rename=True)

    @retrying
    async def open_to_heirs(self, pool_id: str, *, empty: bool) -> None:
        """Let the heirs of an agent claim, because all its tasks are taken back, or forget an ``empty`` pool."""
        pool = await self._core.store.get(Pool, pool_id)
        if pool is None or pool.left is None:
            return
        if empty and not await self._pools.in_use(pool):
            await self._pools.drop(pool)
            return
        pool = replace(pool, version=pool.version + 1, left=None)
        await self._core.commit(pool.partition_key, Put(pool), quiet=True)
        self._pools.wake_one(pool)

    def _heir(self, left: Agent | None) -> str:
        """Return the text about the wait of an agent's tasks after it has left."""
        whom = (
            "the next agent of that name" if left is None or left.key_hash is None else "it to come back with its key"
        )
        return f"{whom} for {self._core.limits.return_after:.0f} s"

    async def give_back(self, pool_id: str) -> bool:
        """Return to their requesters the tasks that waited long enough for an agent that has left."""
        core = self._core
        pool = await core.store.get(Pool, pool_id)
        if pool is None or pool.returns_at is None or pool.returns_at > core.clock():
            return False
        if await core.store.get(Agent, pool_id) is None:
            async for d in self._mailbox.pending(pool_id):
                if d.is_task:
                    await self._return(d.id)
        await self._stop_waiting(pool_id, pool.returns_at)
        return True

    @retrying
    async def _return(self, task_id: str) -> None:
        task, d = await read_task(self._core.store, task_id)
        if task is not None and d is not None and task.state is QUEUED:
            note = "its assignee has left and did not come back; delegate it again"
            await self._end(task, d, TaskState.RETURNED, note)

    @retrying
    async def _stop_waiting(self, pool_id: str, since: float) -> None:
        """Clear the pool's ``returns_at``, unless more work has begun to wait there."""
        pool = await self._core.store.get(Pool, pool_id)
        if pool is not None and pool.returns_at == since:
            await self._core.commit(
                pool.partition_key, Put(replace(pool, version=pool.version + 1, returns_at=None)), quiet=True
            )

    # -- tell --------------------------------------------------------------------------------------------------------

    async def tell_worker(self, before: Task, now_is: Task, *, by: str | None, person: bool = False) -> None:
        """Tell the agent that has, or had, fetched a task that it has ended."""
        if before.assignee is not None and before.attempts:
            await self.tell(before.assignee, now_is, by=by, person=person)

    async def tell(
        self,
        to: str,
        task: Task,
        *,
        by: str | None,
        note: str | None = None,
        occasion: str = "",
        person: bool = False,
    ) -> None:
        """Tell an agent the end of a task, once for each ``occasion``; the newest replaces unread news of it.

        ``person`` is True if the operator did it.
        """
        core = self._core
        agent = await core.store.get(Agent, to)
        if agent is None or not rules.is_party(task, agent):
            return
        now = core.clock()
        id = derived("update", task.id, str(task.version), task.state.value, to, occasion)
        update = self._update(id, to, task, by, task.note if note is None else note, person)
        await self._mailbox.put_notice(
            self._mailbox.new(
                id,
                to,
                sender=Sender(by or to, None, _key_of(by, to, agent.key_hash, task)),
                body=encode(update),
                now=now,
                level=Priority.HIGH.level,
                merge="task:" + task.id,
            ),
            Purpose.ANSWER,
        )

    def _update(self, id: str, to: str, task: Task, by: str | None, note: str | None, person: bool) -> TaskUpdate:
        stamp = self._core.time.stamp()
        return TaskUpdate(
            message_id=id,
            task_id=task.id,
            to_agent=to,
            status=task.state.value,
            note=note,
            by=by,
            by_person=of_person(person),
            attempts=task.attempts,
            timestamp=stamp,
            queued_at=stamp,
        )


def _key_of(by: str | None, to: str, own: str | None, task: Task) -> str | None:
    """Return the hash of the key of the agent that did a step of a task, for the message about it to ``to``."""
    if by in (None, to):
        return own
    return task.requester_key if by == task.requester else None


def delegation_of(body: bytes) -> TaskDelegation:
    """Read the delegation that a task began with."""
    message = decode(body)
    if not isinstance(message, TaskDelegation):
        raise TypeError(f"a task's body is a delegation, not {type(message).__name__}")
    return message
