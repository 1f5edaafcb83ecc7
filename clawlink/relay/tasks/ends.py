"""The ends of tasks: of time, of attempts, by an answer or by a cancel, and what the two sides are told of them."""

from __future__ import annotations

import math

from msgspec.structs import replace

from clawlink.domain import delivery as delivery_rules
from clawlink.domain import delivery_steps, task_steps
from clawlink.domain import task as rules
from clawlink.domain.agent import Agent
from clawlink.domain.delivery import AttemptEnd, Delivery, Sender, State
from clawlink.domain.message import Priority, TaskResponse, TaskUpdate, decode, encode, of_person
from clawlink.domain.task import FINAL, Task, TaskState
from clawlink.relay.core import Core, retrying
from clawlink.relay.ids import derived, end_id
from clawlink.relay.mailbox.mailbox import Mailbox
from clawlink.relay.mailbox.room import Purpose
from clawlink.relay.tasks.reads import read_task
from clawlink.store.base import Drop, Put


class TaskEnds:
    """Ends tasks, and tells of it. All its steps are safe to repeat."""

    def __init__(self, core: Core, mailbox: Mailbox) -> None:
        self._core = core
        self._mailbox = mailbox

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
                taken = delivery_steps.placeholder(new, keep=core.limits.retention)
                await core.commit(requester, Put(taken, ends_work=True))
            return None
        said = decode(first.body)
        return said if isinstance(said, TaskResponse) else None

    async def finish_answered(self, task: Task, d: Delivery | None, answered: TaskResponse) -> None:
        """Finish a task whose final answer is in the requester's mailbox already."""
        core = self._core
        first = await core.store.get(Delivery, end_id(task.id))
        moved = task_steps.respond(
            replace(task_steps.of_answerer(task, answered.from_agent), expires_at=math.inf),
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
        missed = "answered" if d.ended is AttemptEnd.TAKEN_BACK else "acknowledged"
        note = f"handed out {d.attempts} times and never {missed}; it is in the dead letters of {task.assignee}"
        back = task_steps.lapse(task, now=now, note=note)
        await self.tell(task.requester, back, by=None, note=note)
        keep = max(0.0, task.expires_at - now)
        dead = delivery_steps.with_record(delivery_steps.bury(d, now=now, keep=keep))
        await core.commit(task.partition_key, Put(dead), Put(back))
        core.stats.dead += 1

    # -- tell ----------------------------------------------------------------------------------------------------------

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
