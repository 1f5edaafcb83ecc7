"""Upkeep of tasks: they lose a silent owner, wait for one that has left, and come back to their requesters."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from clawlink.domain import delivery as delivery_rules
from clawlink.domain import delivery_steps, task_steps
from clawlink.domain.agent import Agent, Presence, is_asleep
from clawlink.domain.delivery import AttemptEnd, Delivery
from clawlink.domain.message import TaskDelegation, decode
from clawlink.domain.pool import Pool, pool_for, waiting_for
from clawlink.domain.task import FINAL, QUEUED, Task, TaskState, by_owner
from clawlink.relay.agents.agents import Agents
from clawlink.relay.core import Core, retrying
from clawlink.relay.mailbox.mailbox import Mailbox
from clawlink.relay.mailbox.pools import Pools
from clawlink.relay.tasks.ends import TaskEnds
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


class TaskLifecycle(TaskEnds):
    """Keeps tasks moving. All its steps are safe to repeat.

    ``ends.py`` has the steps of a task's end, and ``tell`` and ``tell_worker`` for the news of it.
    """

    def __init__(self, core: Core, agents: Agents, mailbox: Mailbox, pools: Pools) -> None:
        super().__init__(core, mailbox)
        self._agents = agents
        self._pools = pools

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
        until = task_steps.loses_at(task, owner, stale_after=core.limits.stale_after)
        if until <= now:
            await self._take_back(task, d, owner, now, was=owner)
            await self.end(task_id)
            return True
        changes = [Put(task_steps.hold(task, until))] if d is None or d.has_record else []
        if d is not None and d.receipt is not None:
            changes.append(Put(delivery_steps.postpone(d, until)))
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
            else delivery_steps.take_back(d, now=now, keep_receipt=not task.pooled and owner is not None)
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
            ended=AttemptEnd.TAKEN_BACK,
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

    async def return_tasks(self, pool_id: str) -> bool:
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


def delegation_of(body: bytes) -> TaskDelegation:
    """Read the delegation that a task began with."""
    message = decode(body)
    if not isinstance(message, TaskDelegation):
        raise TypeError(f"a task's body is a delegation, not {type(message).__name__}")
    return message
