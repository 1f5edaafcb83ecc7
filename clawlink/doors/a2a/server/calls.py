"""The methods of A2A, without a binding: from a client, its target and its request to a task."""

from __future__ import annotations

import heapq
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from clawlink.domain.agent import Agent, fold
from clawlink.domain.limits import MAX_REPLY_BYTES
from clawlink.domain.task import TaskState
from clawlink.doors.a2a.rules import asking, listing, states, tasks
from clawlink.doors.a2a.rules.states import FINAL, INTERRUPTED, STATES, Json, UrlOf
from clawlink.doors.a2a.server.files import Files
from clawlink.doors.a2a.wire.failures import A2AError
from clawlink.doors.a2a.wire.large_strings import Pieces
from clawlink.doors.a2a.wire.shapes import ListTasks, Message, SendMessage
from clawlink.errors import NotAllowed, TooLarge, UnknownAgent, UnknownTask, WrongState
from clawlink.protocol import requests
from clawlink.protocol.replies import TaskView
from clawlink.relay.relay import Relay
from clawlink.relay.time_slices import Turns

_PAGE = 20
_WAIT_SECONDS = 20.0
_THREAD_LENGTH = 128
SETTLED = frozenset(state for state in TaskState if STATES[state.value] in FINAL | INTERRUPTED)


class Target(Struct, frozen=True):
    """An agent, or a pool of those with a capability; ``to`` names it in the context of its tasks."""

    to: str
    path: str
    agent: Agent | None = None
    capability: str | None = None


Matches = Callable[[TaskView, asking.Asked], bool]
Place = tuple[str, str]
"""The time of a task's state and its id: where it stands in a list."""


class Calls:
    """The methods on tasks."""

    def __init__(self, relay: Relay, files: Files, *, wait: float) -> None:
        self._relay = relay
        self._files = files
        self._wait = wait

    # -- one task ----------------------------------------------------------------------------------------------------

    async def own(self, caller: Agent, target: Target, task_id: str) -> TaskView:
        """Return a task of the client's at this target. Raises A2AError: the same for others' tasks and unknown ids."""
        try:
            view = await self._relay.task_views.get(caller, task_id, requests.TaskQuery())
        except (UnknownTask, NotAllowed):
            raise _unknown(task_id) from None
        known = asking.asked(view)
        if view.requester != caller.id or known is None or known.to != target.to:
            raise _unknown(task_id)
        return view

    async def next(self, caller: Agent, task_id: str, version: int, wait: float) -> TaskView:
        """Return a task once it is later than a version, or after ``wait`` seconds. Raises A2AError if it is gone."""
        ask = requests.TaskQuery(wait=wait, since=version)
        try:
            return await self._relay.task_views.get(caller, task_id, ask)
        except (UnknownTask, NotAllowed):
            raise _unknown(task_id) from None

    async def settled(self, caller: Agent, task_id: str) -> TaskView:
        """Return a task once it has ended or asks for something, or as it is when the time is over. Raises A2AError."""
        clock = self._relay.steady
        end = clock() + self._wait
        while True:
            ask = requests.TaskQuery(wait=max(0.0, min(end - clock(), _WAIT_SECONDS)))
            try:
                view = await self._relay.task_views.get(caller, task_id, ask, until=SETTLED)
            except (UnknownTask, NotAllowed):
                raise _unknown(task_id) from None
            if tasks.state(view) in FINAL | INTERRUPTED or self._relay.draining or clock() >= end:
                return view

    async def cancel(self, caller: Agent, target: Target, task_id: str) -> TaskView:
        """Cancel a task. Raises A2AError if it has ended."""
        view = await self.own(caller, target, task_id)
        if tasks.state(view) not in FINAL:
            try:
                await self._relay.tasks.cancel(caller, task_id, requests.Cancel(from_agent=caller.id))
                return await self.own(caller, target, task_id)
            except WrongState:
                view = await self.own(caller, target, task_id)
        raise A2AError("TASK_NOT_CANCELABLE", f"task {task_id} has ended already: it is {view.status}")

    # -- send --------------------------------------------------------------------------------------------------------

    async def send(self, caller: Agent, target: Target, ask: SendMessage, cuts: Mapping[str, Pieces]) -> str:
        """Take a message: as a new task, or for a task that goes on. Returns the id of the task.

        ``cuts`` has the raw parts that are marks only. Raises A2AError, and the refusals of the relay.
        """
        if ask.message.task_id:
            return await self._follow_up(caller, target, ask.message, cuts)
        return await self._new(caller, target, ask, cuts)

    async def _new(self, caller: Agent, target: Target, ask: SendMessage, cuts: Mapping[str, Pieces]) -> str:
        readers = () if target.agent is None else (target.agent.id,)
        async with self._files.of(caller, ask.message, readers, cuts) as (parts, attachments):
            context_id = ask.message.context_id or str(uuid.uuid4())
            task, context = asking.work(target.to, context_id, ask, parts)
            self._require_small([task, context])
            done = await self._relay.submission.delegate(
                caller,
                requests.Delegate(
                    from_agent=caller.id,
                    task=task,
                    to_agent=None if target.agent is None else target.agent.id,
                    capability=target.capability,
                    context=context,
                    attachments=attachments or None,
                ),
            )
        return done.message_id

    async def _follow_up(self, caller: Agent, target: Target, message: Message, cuts: Mapping[str, Pieces]) -> str:
        view = await self.own(caller, target, message.task_id)
        if message.context_id and message.context_id != tasks.context_id(view):
            raise A2AError(
                "INVALID_PARAMS",
                f"task {view.task_id} belongs to another context; leave contextId out",
                field="message.contextId",
            )
        if tasks.state(view) in FINAL:
            raise _ended(view)
        assignee = view.assignee
        if assignee is None:
            raise A2AError(
                "UNSUPPORTED_OPERATION",
                f"no agent of the pool has claimed task {view.task_id} yet; send the message once it is working",
            )
        async with self._files.of(caller, message, (assignee,), cuts) as (parts, _):
            content = asking.follow_up(message, parts)
            self._require_small(content)
            if tasks.state(view) in INTERRUPTED:
                try:
                    answer = requests.Answer(from_agent=caller.id, content=content)
                    await self._relay.tasks.answer(caller, view.task_id, answer)
                except WrongState:  # it has moved on, or another message was faster
                    view = await self.own(caller, target, view.task_id)
                    if tasks.state(view) in FINAL:
                        raise _ended(view) from None
                    raise A2AError(
                        "UNSUPPORTED_OPERATION",
                        f"task {view.task_id} has its answer already; get the task, and send the message again",
                    ) from None
            else:
                await self._relay.messages.send(
                    caller,
                    requests.Send(
                        from_agent=caller.id,
                        to_agent=assignee,
                        content=content,
                        in_reply_to=view.task_id,
                        thread=tasks.context_id(view)[:_THREAD_LENGTH],
                    ),
                )
        return view.task_id

    def _require_small(self, content: Any) -> None:
        limit, actual = self._relay.limits.max_body_bytes, len(msgspec.json.encode(content))
        if actual > limit:
            raise TooLarge(
                f"text and data of a message may have {limit} bytes, and these have {actual}; send them as a raw part, "
                "which becomes a file",
                field="message.parts",
                limit=limit,
                actual=actual,
            )

    # -- list --------------------------------------------------------------------------------------------------------

    async def page(self, caller: Agent, target: Target, ask: ListTasks, urls: Callable[[str], UrlOf]) -> Json:
        """List the client's tasks at this target, the newest state first; ``urls`` has the files of each."""
        after = listing.place(ask.page_token) if ask.page_token else None
        since = (
            listing.instant(ask.status_timestamp_after, "statusTimestampAfter") if ask.status_timestamp_after else ""
        )
        wanted = "" if ask.status == "TASK_STATE_UNSPECIFIED" else ask.status

        def matches(view: TaskView, known: asking.Asked) -> bool:
            return (
                known.to == target.to
                and (not ask.context_id or known.context_id == ask.context_id)
                and (not wanted or tasks.state(view) == wanted)
                and (not since or tasks.changed_at(view) >= since)
            )

        first, total = await self._newest(caller, matches, after, ask.page_size + 1)
        turns = Turns()
        shown: list[Json] = []
        room = MAX_REPLY_BYTES
        last: Place | None = None
        for place in first[: ask.page_size]:
            task = await self._listed(caller, target, ask, place[1], matches, urls)
            room -= 0 if task is None else len(msgspec.json.encode(task))
            if shown and room < 0:
                break
            last = place
            shown += [] if task is None else [task]
            await turns.next()
        more = last is not None and last != first[-1]
        return {
            "tasks": shown,
            "nextPageToken": listing.token(last) if more and last is not None else "",
            "pageSize": ask.page_size,
            "totalSize": total,
        }

    async def _listed(
        self,
        caller: Agent,
        target: Target,
        ask: ListTasks,
        task_id: str,
        matches: Matches,
        urls: Callable[[str], UrlOf],
    ) -> Json | None:
        """Return a task as a list shows it; None if it is gone, or matches no longer."""
        try:
            view = await self.own(caller, target, task_id)
        except A2AError:
            return None
        known = asking.asked(view)
        if known is None or not matches(view, known):
            return None
        url_of = urls(task_id)
        task = tasks.task(view, url_of, history=ask.history_length, artifacts=False)
        if ask.include_artifacts:
            task["artifacts"] = tasks.collected(list(tasks.steps(view, url_of)))
        return task

    async def _newest(
        self, caller: Agent, matches: Matches, before: Place | None, most: int
    ) -> tuple[list[Place], int]:
        """Return the places of the newest of a client's tasks that match, behind a place; and how many match in all.

        Only places are kept, so that a long list takes little memory and no long step.
        """
        seen: set[str] = set()  # a task that changes its state meanwhile may come twice
        heap: list[Place] = []
        after: str | None = None
        turns = Turns()
        while True:
            page = await self._relay.task_views.list(
                caller, requests.TasksQuery(requester=caller.id, limit=_PAGE, after=after)
            )
            for view in page.tasks:
                known = asking.asked(view)
                if known is not None and view.task_id not in seen and matches(view, known):
                    seen.add(view.task_id)
                    place = (tasks.changed_at(view), view.task_id)
                    if before is None or place < before:
                        (heapq.heappush if len(heap) < most else heapq.heappushpop)(heap, place)
                await turns.next()
            after = page.next
            if after is None:
                return sorted(heap, reverse=True), len(seen)

    async def target_agent(self, agent_id: str, path: str) -> Target:
        """Return the agent of an id or a name. Raises UnknownAgent, AmbiguousName."""
        agent = await self._relay.agents.resolve(agent_id, field="agent")
        return Target(states.AGENT + agent.id, path, agent=agent)

    async def target_pool(self, capability: str, path: str) -> Target:
        """Return the pool of a capability that some agent has. Raises UnknownAgent."""
        found, _ = await self._relay.agents.discover(requests.DiscoverQuery(capability=capability, limit=1))
        if not found:
            raise UnknownAgent(f"no agent here has the capability {capability!r}", field="capability")
        return Target(states.POOL + fold(capability), path, capability=capability)


def _unknown(task_id: str) -> A2AError:
    return A2AError("TASK_NOT_FOUND", f"no task {task_id!r} of yours is known here, or it was finished long ago")


def _ended(view: TaskView) -> A2AError:
    return A2AError(
        "UNSUPPORTED_OPERATION",
        f"task {view.task_id} has ended: it is {view.status}; send a message without taskId for new work",
    )
