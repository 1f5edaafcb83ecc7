"""Lists for the operator: agents, tasks and dead letters of all, in pages and slices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from clawlink.domain import task as rules
from clawlink.domain import timeline
from clawlink.domain.agent import REGISTERED, Agent, fold
from clawlink.domain.delivery import ALL_DEAD, Delivery, by_dead, hands_out, message_id
from clawlink.domain.task import DELIVERED, FINAL, IN_PROGRESS, INPUT_REQUIRED, OPEN, QUEUED, Task, TaskState
from clawlink.protocol.admin import (
    AgentDetail,
    AgentList,
    AgentRow,
    AgentsQuery,
    AllDeadLetters,
    AllTasks,
    AllTasksQuery,
    CurrentTask,
    DeadLettersQuery,
    MessageRow,
    OverviewQuery,
    TaskFacts,
    TaskLease,
    TaskRow,
    TaskTimeline,
)
from clawlink.protocol.replies import TaskView
from clawlink.relay.agents.agents import Agents
from clawlink.relay.core import Core
from clawlink.relay.mailbox.unread import glimpse
from clawlink.relay.pages import place_in
from clawlink.relay.tasks.reads import require_task
from clawlink.relay.tasks.views import TaskViews
from clawlink.relay.time_slices import SLICE, Turns

_ENDED = tuple(state for state in TaskState if state in FINAL)
# A list that leaves most of what it looks at stops here and goes on at the next request.
_LOOKED_AT = 5000
_NEXT_MESSAGES = 20
_WORDS = 200
_WORKED_ON = (IN_PROGRESS, INPUT_REQUIRED)
# The open tasks of an agent among which one that it works on is looked for.
_OWN_TASKS = 20


class _Head(Struct, gc=False):
    """The fields of a delegation that a list needs; the rest is skipped unread."""

    priority: str
    capability: str | list[str] | UnsetType = UNSET
    to_any_of: list[str] | UnsetType = UNSET


_head = msgspec.json.Decoder(_Head)

# The kind of record, its index key, and the only state that is wanted.
_Source = tuple[type[Any], str, TaskState]


class AdminLists:
    """All agents, tasks and dead letters, as the operator may see them. ``contents`` is False to withhold texts."""

    def __init__(self, core: Core, agents: Agents, views: TaskViews, *, contents: bool) -> None:
        self._core = core
        self._agents = agents
        self._views = views
        self._contents = contents

    # -- agents ------------------------------------------------------------------------------------------------------

    async def agents(self, ask: AgentsQuery) -> AgentList:
        """List agents in the order they registered."""
        store, turns = self._core.store, Turns()
        text = None if ask.text is None else fold(ask.text)
        found: list[AgentRow] = []
        after, looked_at = ask.after, 0
        while True:
            page = await store.page(Agent, REGISTERED, after, min(ask.limit - len(found), SLICE))
            for agent in page.records:
                if self._wanted(agent, ask.status, text):
                    found.append(await self._row(agent))
                await turns.next()
            after = page.after
            looked_at += len(page.records)
            if after is None or len(found) >= ask.limit or looked_at >= _LOOKED_AT:
                return AgentList(found, len(found), after)

    def _wanted(self, agent: Agent, status: str, text: str | None) -> bool:
        if status not in ("all", self._agents.presence(agent).value):
            return False
        names = (agent.id, agent.name, self._agents.shown_name(agent))
        return text is None or any(text in fold(name) for name in names)

    async def _row(self, agent: Agent) -> AgentRow:
        key, time = rules.by_owner(agent.id), self._core.time
        read = await self._core.store.admission((agent.id,), ((Task, key), (Delivery, key)))
        tasks, alone = read.indexes
        current = None
        if tasks.count:
            own = (await self._core.store.page(Task, key, limit=_OWN_TASKS, newest=True)).records
            mine = [t for t in own if t.assignee == agent.id]
            current = next((t for state in _WORKED_ON for t in mine if t.state is state), None)
        return AgentRow(
            agent_id=agent.id,
            name=self._agents.shown_name(agent),
            status=self._agents.presence(agent).value,
            last_seen=time.iso(agent.last_heartbeat),
            registered_at=time.iso(agent.registered_at),
            capabilities=list(agent.capabilities),
            machine=agent.machine,
            description=agent.description,
            claimed=agent.key_hash is not None,
            messages=read.mailboxes[0].count,
            open_tasks=tasks.count + alone.count,
            current=None
            if current is None
            else CurrentTask(
                current.id,
                current.state.value,
                current.progress,
                self._text(current.note),
                self._words(current.body),
            ),
        )

    async def agent(self, agent_id: str, ask: OverviewQuery) -> AgentDetail:
        """Show one agent, of that id or name. Raises UnknownAgent."""
        core = self._core
        agent = await self._agents.resolve(agent_id, field="agent_id")
        now = core.clock()
        due = await core.store.due(agent.id, now, _NEXT_MESSAGES)
        asked: dict[str, int] = {}
        for state in (*OPEN, *_ENDED):
            key = rules.by_requester(agent.id, state)
            read = await core.store.admission((), ((Task, key), (Delivery, key)))
            asked[state.value] = sum(usage.count for usage in read.indexes)
        messages, turns = [], Turns()
        for d in due:
            if hands_out(d, now, max_attempts=core.limits.max_attempts):
                messages.append(self._message(d))
            await turns.next()
        return AgentDetail(
            names=await self._agents.names(row.from_agent for row in messages),
            agent=await self._row(agent),
            address=agent.address,
            subscriptions=list(agent.subscriptions),
            dead_letters=(await core.store.usage(Delivery, by_dead(agent.id))).count,
            next_messages=messages,
            asked=asked,
        )

    # -- messages ----------------------------------------------------------------------------------------------------

    async def dead_letters(self, ask: DeadLettersQuery) -> AllDeadLetters:
        """List the dead letters of all mailboxes, the newest first: those of a reason, or all."""
        store, turns = self._core.store, Turns()
        letters: list[MessageRow] = []
        after, looked_at = ask.after, 0
        while True:
            page = await store.page(Delivery, ALL_DEAD, after, min(ask.limit - len(letters), SLICE), newest=True)
            for d in page.records:
                if ask.reason in (None, d.ended):
                    letters.append(self._message(d))
                await turns.next()
            looked_at += len(page.records)
            after = page.after
            if after is None or len(letters) >= ask.limit or looked_at >= _LOOKED_AT:
                names = await self._agents.names(id for row in letters for id in (row.mailbox, row.from_agent))
                return AllDeadLetters(letters, len(letters), after, names)

    def _message(self, d: Delivery) -> MessageRow:
        seen, time = glimpse(d.body, _WORDS if self._contents else 0), self._core.time
        return MessageRow(
            message_id=message_id(d),
            mailbox=d.mailbox,
            type=seen.type,
            from_agent=seen.from_agent,
            attempts=d.attempts,
            stored_at=time.iso(d.stored_at),
            dead_at=time.iso_or_none(d.settled_at),
            reason=d.ended,
            words=seen.words,
        )

    def _text(self, text: str | None) -> str | None:
        return text if self._contents else None

    def _words(self, body: bytes) -> str | None:
        return glimpse(body, _WORDS).words if self._contents else None

    # -- tasks -------------------------------------------------------------------------------------------------------

    async def tasks(self, ask: AllTasksQuery) -> AllTasks:
        """List tasks state by state, the last to come to each first. Raises BadRequest."""
        store, turns = self._core.store, Turns()
        if ask.requester is not None:
            ask = replace(ask, requester=await self._agents.id_of(ask.requester))
        if ask.assignee is not None:
            ask = replace(ask, assignee=await self._agents.id_of(ask.assignee))
        sources = _sources(ask)
        at, after = place_in(len(sources), ask.after)
        found: list[TaskRow] = []
        looked_at = 0
        named = (ask.requester, ask.assignee)
        while at < len(sources):
            kind, key, state = sources[at]
            page = await store.page(kind, key, after, min(ask.limit - len(found), SLICE), newest=True)
            for record in page.records:
                task = record if isinstance(record, Task) else rules.task_from_delivery(record)
                if task.state is state and ask.requester in (None, task.requester) and _has(task, ask.assignee):
                    found.append(self.row_of(task))
                await turns.next()
            looked_at += len(page.records)
            after = page.after
            at += after is None
            if len(found) >= ask.limit or looked_at >= _LOOKED_AT:
                break
        next_at = f"{at}.{after or ''}" if at < len(sources) else None
        return AllTasks(found, len(found), next_at, await self.names_in(found, named))

    async def names_in(self, rows: Iterable[TaskRow], named: Iterable[str | None] = ()) -> dict[str, str]:
        """Return the names of the agents of tasks, and of others that were ``named``, by their ids."""
        ids = [id for row in rows for id in (row.requester, row.assignee, *row.to_any_of)]
        return await self._agents.names((*named, *ids))

    def row_of(self, task: Task) -> TaskRow:
        """Return a task as lists show it."""
        head, time = _head.decode(task.body), self._core.time
        capability, to_any_of = pool_of(head.capability, head.to_any_of)
        return TaskRow(
            task_id=task.id,
            status=task.state.value,
            requester=task.requester,
            assignee=task.assignee,
            capability=capability,
            to_any_of=to_any_of,
            priority=head.priority,
            attempts=task.attempts,
            progress=task.progress,
            note=self._text(task.note),
            created_at=time.iso(task.created_at),
            finished_at=time.iso_or_none(task.finished_at),
            deadline_at=time.iso_or_none(task.deadline_at),
            words=self._words(task.body),
        )

    async def task(self, task_id: str, ask: OverviewQuery) -> TaskTimeline:
        """Show one task with its four facts and its leases. Raises UnknownTask."""
        task = await require_task(self._core.store, task_id, retention=self._core.limits.retention)
        view = await self._views.view(task, count=True)
        facts, time = timeline.facts(task), self._core.time
        leases = list(timeline.leases(task))
        names = await self._agents.names(
            (
                view.requester,
                view.assignee,
                *(view.to_any_of or ()),
                *(event.by for event in view.history),
                *(held.agent for held in leases),
            )
        )
        return TaskTimeline(
            task=view if self._contents else _without_contents(view),
            facts=TaskFacts(
                time.iso(facts.stored_at),
                time.iso_or_none(facts.delivered_at),
                time.iso_or_none(facts.acknowledged_at),
                time.iso_or_none(facts.answered_at),
            ),
            leases=[
                TaskLease(held.agent, time.iso(held.since), time.iso_or_none(held.until), held.ended_by)
                for held in leases
            ],
            contents=self._contents,
            names=names,
        )


def _without_contents(view: TaskView) -> TaskView:
    """Return the task without the texts that agents wrote."""
    history = [replace(event, note=None, content=None) for event in view.history]
    return replace(
        view,
        task=None,
        context=None,
        note=None,
        result=None,
        history=history,
        attachments=[],
        result_attachments=[],
        woken=[replace(wake, note=None) for wake in view.woken],
    )


def pool_of(capability: str | list[str] | UnsetType, to_any_of: list[str] | UnsetType) -> tuple[list[str], list[str]]:
    """Return the capabilities and the agents that a delegation names as its pool. Both are empty for one agent."""
    capabilities = [] if capability is UNSET else [capability] if isinstance(capability, str) else capability
    return capabilities, [] if to_any_of is UNSET else to_any_of


def _has(task: Task, assignee: str | None) -> bool:
    return assignee in (None, task.assignee)


def _sources(ask: AllTasksQuery) -> Sequence[_Source]:
    """Return where the tasks are found: under a party if one is given, else under their state."""
    states = {"open": OPEN, "final": _ENDED}.get(ask.status) or (TaskState(ask.status),)
    sources: list[_Source] = []
    for state in states:
        if ask.requester is not None:
            key = rules.by_requester(ask.requester, state)
        elif ask.assignee is not None:
            key = rules.by_assignee(ask.assignee, state) if state in FINAL else rules.by_owner(ask.assignee)
        else:
            key = rules.in_state(state)
        if state in (QUEUED, DELIVERED):
            sources.append((Delivery, key, state))
        sources.append((Task, key, state))
    return sources
