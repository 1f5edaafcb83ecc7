"""Tasks for their parties: a task with its history, lists, and the wait for the next change."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import msgspec

from clawlink.domain import task as rules
from clawlink.domain.agent import Agent
from clawlink.domain.delivery import DEAD, Delivery
from clawlink.domain.limits import MAX_REPLY_BYTES
from clawlink.domain.message import Attachment, TaskDelegation, TaskResponse, decode
from clawlink.domain.task import DELIVERED, FINAL, OPEN, QUEUED, Event, Task, TaskState
from clawlink.errors import NotAllowed
from clawlink.protocol import requests
from clawlink.protocol.replies import TaskEvent, TaskList, TaskView
from clawlink.relay import wait_loop
from clawlink.relay.agents.agents import Agents
from clawlink.relay.core import Core
from clawlink.relay.mailbox.pools import Pools
from clawlink.relay.mailbox.unread import shown
from clawlink.relay.pages import page_within
from clawlink.relay.tasks.lifecycle import delegation_of, pool_of
from clawlink.relay.tasks.reads import require_task
from clawlink.relay.timestamps import StoppableTime
from clawlink.store.base import number_of

_ENDED = tuple(state for state in TaskState if state in FINAL)
_PAGE = 100
# A list that leaves most of what it looks at stops here and goes on at the next request.
_LOOKED_AT = 2000

# The kind of record, the index key, the only state that is wanted, and a rule that tells the asker's tasks from those
# of other bearers of its id.
_Source = tuple[type[Any], str, TaskState | None, Callable[[Task, Agent], bool]]


class TaskViews:
    """The tasks of agents, as the agents may see them."""

    def __init__(self, core: Core, agents: Agents, pools: Pools) -> None:
        self._core = core
        self._agents = agents
        self._pools = pools

    # -- one ---------------------------------------------------------------------------------------------------------

    async def get(
        self, asker: Agent, task_id: str, ask: requests.TaskQuery, *, until: Collection[TaskState] = FINAL
    ) -> TaskView:
        """Return a task; with ``wait`` once it has changed since version ``since``, or without that once it is final.

        A wait without ``since`` can be for other states, too: ``until``. Raises UnknownTask, NotAllowed for a third
        agent.
        """
        core = self._core
        task = await self._read(asker, task_id)
        if not ask.wait or _news(task, ask.since, until):
            return await self.view(task, count=True)
        with core.watch(task_id) as watch:

            async def read() -> Task | None:
                nonlocal task
                task = await self._read(asker, task_id)
                return task if _news(task, ask.since, until) else None

            await wait_loop.first_of_relay(core, watch.signal, read=read, wait=ask.wait)
        return await self.view(task, count=True)

    async def _read(self, asker: Agent, task_id: str) -> Task:
        task = await require_task(self._core.store, task_id, retention=self._core.limits.retention)
        if not rules.is_party(task, asker):
            raise NotAllowed(f"task {task_id} belongs to other agents, and only they may see it", field="agent_id")
        return task

    async def view(self, task: Task, *, count: bool = False) -> TaskView:
        """Return the task as the wire shows it. With ``count`` it tells how many agents online may claim it."""
        message = delegation_of(task.body)
        time = self._core.time
        waits = count and task.pooled and task.state is QUEUED
        answer = None if task.answer is None else decode(task.answer)
        owner = None if task.assignee is None else await self._core.store.get(Agent, task.assignee)
        capability: Any = message.capability
        members: Any = message.to_any_of
        return TaskView(
            task_id=task.id,
            requester=task.requester,
            assignee=task.assignee,
            capability=None if capability is msgspec.UNSET else capability,
            task=message.task,
            context=message.context,
            priority=message.priority.value,
            status=task.state.value,
            progress=task.progress,
            note=task.note,
            result=answer.result if isinstance(answer, TaskResponse) else None,
            attempts=task.attempts,
            version=task.earlier + task.version,
            parent_task=message.chain.parent_task,
            created_at=time.iso(task.created_at),
            queued_at=time.iso(task.queued_at),
            delivered_at=time.iso_or_none(task.delivered_at),
            acked_at=time.iso_or_none(task.acked_at),
            started_at=time.iso_or_none(task.started_at),
            finished_at=time.iso_or_none(task.finished_at),
            deadline_at=time.iso_or_none(task.deadline_at),
            history=[
                TaskEvent(time.iso(task.created_at), QUEUED.value, task.requester, None, None, None),
                *reported(task.history, time),
            ],
            history_folded=task.dropped_events,
            to_any_of=None if members is msgspec.UNSET else list(members),
            hops=message.chain.hops,
            owner=None if owner is None or not rules.is_worker(task, owner) else self._agents.recipient(owner),
            dead_letter=await self._is_dead(task),
            attachments=_attached(message),
            result_attachments=_attached(answer) if isinstance(answer, TaskResponse) else [],
            pool_online=await self._pools.online(pool_of(message, task.mailbox)) if waits else None,
            woken=shown(task.wakes, time),
        )

    async def _is_dead(self, task: Task) -> bool:
        if task.state is not QUEUED or not task.attempts:
            return False
        d = await self._core.store.get(Delivery, task.id)
        return d is not None and d.state is DEAD

    # -- lists -------------------------------------------------------------------------------------------------------

    async def list(self, asker: Agent, ask: requests.TasksQuery) -> TaskList:
        """List tasks that the asker is a party of, state by state and the newest first within each."""
        sources = _sources(asker.id, ask)
        at, after = _position(ask.after, len(sources))
        found: list[TaskView] = []
        looked_at = size = 0
        while at < len(sources):
            kind, key, state, is_its = sources[at]
            limit = min(ask.limit - len(found), _PAGE)
            room = MAX_REPLY_BYTES - size
            page = await page_within(self._core.store, kind, key, after, limit, newest=True, room=room)
            for record in page.records:
                task = record if isinstance(record, Task) else rules.task_from_delivery(record)
                looked_at += 1
                if state in (None, task.state) and is_its(task, asker) and _wanted(task, ask):
                    found.append(await self.view(task))
                    size += task.weight
            after = page.after
            at += after is None
            if len(found) >= ask.limit or looked_at >= _LOOKED_AT or size >= MAX_REPLY_BYTES:
                break
        return TaskList(found, len(found), f"{at}.{after or ''}" if at < len(sources) else None)


def _attached(message: TaskDelegation | TaskResponse) -> list[Attachment]:
    return [] if message.attachments is msgspec.UNSET else list(message.attachments)


def reported(history: Iterable[Event], time: StoppableTime) -> list[TaskEvent]:
    """Return steps and reports as the wire shows them."""
    return [
        TaskEvent(
            time.iso(event.at),
            event.status.value,
            event.by,
            event.note,
            event.progress,
            None if event.content is None else msgspec.Raw(event.content),
        )
        for event in history
    ]


def _news(task: Task, since: int | None, until: Collection[TaskState]) -> bool:
    return task.state in until if since is None else task.earlier + task.version > since


def _given_by_others(task: Task, agent: Agent) -> bool:
    return rules.is_worker(task, agent) and not rules.is_requester(task, agent)


def _wanted(task: Task, ask: requests.TasksQuery) -> bool:
    return ask.requester in (None, task.requester) and ask.assignee in (None, task.assignee)


def _sources(asker: str, ask: requests.TasksQuery) -> Sequence[_Source]:
    """Return where the tasks are found: in the asker's role, or in both."""
    if asker not in (ask.requester, ask.assignee) and ask.requester is not None and ask.assignee is not None:
        raise NotAllowed("only tasks that you asked for or were given can be listed", field="requester")
    states = {"open": OPEN, "final": _ENDED, None: (*OPEN, *_ENDED)}.get(ask.status) or (TaskState(ask.status),)
    as_requester = ask.requester in (None, asker)
    as_assignee = ask.assignee in (None, asker)
    if as_requester and as_assignee and (ask.requester or ask.assignee):
        as_requester, as_assignee = ask.requester is not None, ask.requester is None
    given = _given_by_others if as_requester else rules.is_worker  # its delegated tasks came before
    sources: list[_Source] = []
    for state in states:
        if as_requester:
            if state in (QUEUED, DELIVERED):
                sources.append((Delivery, rules.by_requester(asker, state), None, rules.is_requester))
            sources.append((Task, rules.by_requester(asker, state), None, rules.is_requester))
        if as_assignee:
            if state in (QUEUED, DELIVERED):
                sources.append((Delivery, rules.by_owner(asker), state, given))
            final = state in FINAL
            key = rules.by_assignee(asker, state) if final else rules.by_owner(asker)
            sources.append((Task, key, None if final else state, given))
    return sources


def _position(after: str | None, sources: int) -> tuple[int, str | None]:
    at, _, rest = (after or "").partition(".")
    source = number_of(at)
    if source is None or source >= sources:
        return 0, None
    return source, rest or None
