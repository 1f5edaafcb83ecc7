"""The actions of a task's parties: report, answer a question, cancel."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import msgspec
from msgspec.structs import replace

from clawlink.domain import delivery as delivery_rules
from clawlink.domain import delivery_steps, task_steps
from clawlink.domain import task as rules
from clawlink.domain.agent import OPERATOR, Agent
from clawlink.domain.delivery import Delivery, State
from clawlink.domain.limits import MAX_HISTORY_BYTES
from clawlink.domain.message import (
    TaskAnswer,
    TaskResponse,
    TaskUpdate,
    attached,
    decode,
    encode,
    of_person,
    says_the_same,
)
from clawlink.domain.task import ANSWERS, FAILURES, FINAL, INPUT_REQUIRED, QUEUED, Event, Task, TaskState
from clawlink.errors import KeyReused, NotAllowed, TooLarge, UnknownTask, WrongState
from clawlink.protocol import requests
from clawlink.protocol.replies import Answered, Cancelled, RecipientInfo, ResponseSent
from clawlink.relay.agents.agents import Agents
from clawlink.relay.core import Core, retrying
from clawlink.relay.files.grants import Grants
from clawlink.relay.ids import derived, end_id, split_receipt
from clawlink.relay.mailbox.mailbox import Mailbox
from clawlink.relay.mailbox.room import Purpose
from clawlink.relay.tasks.lifecycle import TaskLifecycle
from clawlink.relay.tasks.reads import read_task
from clawlink.store.base import Admission, Batch, Drop, Put, together


class _New(NamedTuple):
    """A message for the requester, and what stores it if that is in place of an unread one."""

    delivery: Delivery
    ends_work: bool
    merged: Sequence[Put | Drop] = ()


class _Cause:
    """The moment in a task's history that a message refers to. A try again keeps that of the first try.

    The first may have stored the message before it met a conflict: under another id it would come twice.
    """

    def __init__(self) -> None:
        self._moments: list[float | tuple[float, int] | None] = []

    def of(self, task: Task, is_it: Callable[[Event], bool]) -> float | tuple[float, int] | None:
        """Return the moment of the last such event, as ``_moment`` does, at the first call."""
        if not self._moments:
            self._moments.append(_moment(task, is_it))
        return self._moments[0]


class TaskReports:
    """Work that was delegated."""

    def __init__(self, core: Core, agents: Agents, mailbox: Mailbox, lifecycle: TaskLifecycle) -> None:
        self._core = core
        self._agents = agents
        self._mailbox = mailbox
        self._lifecycle = lifecycle
        self._grants = Grants(core)

    # -- respond -----------------------------------------------------------------------------------------------------

    async def respond(self, sender: Agent, ask: requests.Respond) -> ResponseSent:
        """Move a task as its assignee reports, and put the response into the requester's mailbox.

        The response is written first, under an id derived from its cause; then the task moves. Most stores do both in
        one step. Whatever happens in between, repeating the request completes it and doubles nothing.
        """
        free = sender.key_hash is None and ask.receipt is None
        state, said = rules.reported_as(ask.status, free=free)
        return await self._core.finish(self._respond(sender, replace(ask, status=state.value), said, _Cause()))

    @retrying
    async def _respond(self, sender: Agent, ask: requests.Respond, said: str, cause: _Cause) -> ResponseSent:
        """Respond with a status of the table; ``said`` is what the requester is told in its place."""
        core = self._core
        task, d = await self._find(ask.message_id or "", field="message_id")
        await self._require_worker(task, sender)
        await self._require_requester(task, sender, ask.to_agent)
        state = TaskState(ask.status)
        now = core.clock()
        id = _response_id(task, state, ask, said, cause)
        stamp = core.time.stamp()
        message = TaskResponse(
            message_id=task.id,
            response_id=id,
            from_agent=sender.id,
            to_agent=task.requester,
            result=ask.result,
            status=said,
            timestamp=stamp,
            queued_at=stamp,
            from_name=sender.name,
            from_person=of_person(sender.person),
            progress=ask.progress,
            note=ask.note,
            attachments=attached(ask.attachments),
        )
        ((requester,), (first,)), read = await together(
            core.store.get_both((Agent, (task.requester,)), (Delivery, (id,))),
            core.store.admission((task.requester,)),
        )
        if requester is not None and not rules.is_requester(task, requester):
            requester = None  # another agent has its id now
        shown = None if requester is None else self._agents.recipient(requester)
        route = core.sockets.route(task.requester)
        if task.answer is not None and says_the_same(decode(task.answer), message):
            return _sent(task.id, id, task.state, shown, route)
        body = encode(message)
        if said != state.value and ask.note is None:
            ask = replace(ask, note=said)  # the word stands in the task's history
        new: _New | None = None
        if first is not None and state in FINAL:
            if not says_the_same(decode(first.body), message):
                await self._refuse_second(task, d, sender, ask, first, now)
            # It was put there while the task was the sender's, and counts although it may be another's by now.
            moved = self._moved(task_steps.of_answerer(task, sender.id), sender, None, ask, body, now)
        else:
            token = None if ask.receipt is None else split_receipt(ask.receipt)[0]
            moved = self._moved(task, sender, token, ask, body, now)
            await core.memory.require(moved.footprint - task.footprint, moved.origin, answers=True, read=read)
            if requester is not None:
                new, told = await self._response(task, id, sender, requester, ask, body, now, first, read)
                shown = shown if told else None
        await self._commit(task, moved, d, new)
        return _sent(task.id, id, state, shown, route)

    async def _find(self, task_id: str, *, field: str = "task_id") -> tuple[Task, Delivery | None]:
        """Return a task, and its delivery if that is still there. Raises UnknownTask."""
        task, d = await read_task(self._core.store, task_id)
        if task is None:
            then = "to send a message that answers no task, use send" if field == "message_id" else "list your tasks"
            raise UnknownTask(f"no task {task_id!r} is known here, or it was finished long ago; {then}", field=field)
        return task, d

    def _moved(
        self, task: Task, by: Agent, token: str | None, ask: requests.Respond, response: bytes, now: float
    ) -> Task:
        limits = self._core.limits
        return task_steps.respond(
            task,
            by=by.id,
            receipt=token,
            state=TaskState(ask.status),
            response=response,
            now=now,
            ttl=limits.message_ttl,
            keep=limits.retention,
            progress=ask.progress,
            note=ask.note,
            content=None if ask.result is None or TaskState(ask.status) in FINAL else _content(ask.result, "result"),
            key_hash=by.key_hash,
        )

    async def _response(
        self,
        task: Task,
        id: str,
        sender: Agent,
        requester: Agent,
        ask: requests.Respond,
        body: bytes,
        now: float,
        first: Delivery | None,
        read: Admission,
    ) -> tuple[_New | None, bool]:
        """Return what to put into the requester's mailbox, if anything, and True if the requester is told.

        ``first`` is a report that is there under this id, and ``read`` is what that mailbox holds. News of progress
        alone replace older ones that are unread.
        """
        mailbox, final = self._mailbox, TaskState(ask.status) in FINAL
        new = mailbox.new(
            id,
            task.requester,
            sender=sender,
            body=body,
            now=now,
        )
        alone = not final and ask.result is None and (ask.progress is not None or ask.note is not None)
        if not alone and first is not None:
            _require_same_report(task, first, body)
            return None, True
        if not alone:
            await mailbox.require_room(new, Purpose.ANSWER if final else Purpose.REPORT, read)
        if ask.attachments:
            await self._grants.to_agent(sender, ask.attachments, requester, answers=True)
        if not alone:
            return _New(new, final), True
        new = replace(new, merge=rules.merge_of(task.id))
        merged = await mailbox.in_place_of_unread(new, first, ends_work=True)
        if not merged and first is not None:  # it was read since, or is being read
            return None, True
        if not merged and not await mailbox.has_room(new, Purpose.ANSWER, read):
            return None, False
        return _New(new, True, merged), True

    async def _commit(self, task: Task, moved: Task, d: Delivery | None, new: _New | None) -> None:
        """Store what a response made of the task, and of its delivery if that was not acknowledged.

        Before that put a ``new`` message into the requester's mailbox. Raises Conflict if the message or the task is
        another by now.
        """
        core = self._core
        final = moved.state in FINAL
        if _is_repeat(task, moved):
            moved = replace(
                moved, history=task.history, reported_bytes=task.reported_bytes, dropped_events=task.dropped_events
            )
        changes: list[Put | Drop] = [Put(moved, final)]
        if d is not None:
            if final or d.state is State.ACKED:
                changes.append(Drop(d))
            else:
                until = d.visible_at if d.receipt is None else max(d.visible_at, moved.held_until or 0.0)
                changes.append(Put(delivery_steps.beside_record(d, until, expires_at=moved.expires_at)))
        if new is None:
            await core.commit(task.partition_key, *changes)
        else:
            then = Batch(task.partition_key, tuple(changes))
            await self._mailbox.put_before(new.delivery, then, ends_work=new.ends_work, merged=new.merged)
        core.stats.withdrawn += final and d is not None and d.state is State.PENDING
        core.stats.tasks_answered += final
        core.stats.answers_failed += moved.state in FAILURES
        if task.assignee != task.partition_key:
            core.relist(task.assignee)

    async def _refuse_second(
        self, task: Task, d: Delivery | None, sender: Agent, ask: requests.Respond, first: Delivery, now: float
    ) -> NoReturn:
        """Refuse a final answer where the task has another end; if that one is half done, finish it first."""
        task_steps.require_owner(task, sender.id, None)
        said = decode(first.body)
        current = task.state.value
        if task.state not in FINAL and isinstance(said, TaskResponse):
            await self._lifecycle.finish_answered(task, d, said)
            current = said.status
        elif task.state not in FINAL and isinstance(said, TaskUpdate):
            keep = self._core.limits.retention
            ended = task_steps.end(task, TaskState(said.status), by=said.by, now=now, keep=keep, note=said.note)
            await self._lifecycle.finish_ended(task, d, ended)
            current = said.status
        other = ", with another answer" if isinstance(said, TaskResponse) else ""
        raise WrongState(
            f"task {task.id} is already {current}{other}; only the first final answer counts", current=current
        )

    async def _require_worker(self, task: Task, sender: Agent) -> None:
        """Refuse an agent that never had the task. Where its claim was released, its answer may be there already."""
        if not rules.is_worker(task, sender):
            first = await self._core.store.get(Delivery, end_id(task.id))
            if first is None or not delivery_rules.is_sender(first, sender):
                raise task_steps.not_yours(task)

    async def _require_requester(self, task: Task, sender: Agent, to_agent: str | None) -> None:
        """Refuse an answer to any agent but the requester."""
        if to_agent is None or to_agent == task.requester:
            return
        if (await self._agents.resolve(to_agent)).id != task.requester:
            requester = await self._agents.called(task.requester)
            raise NotAllowed(
                f"task {task.id} was asked by {requester}, and only that agent gets the response; leave to_agent out",
                field="to_agent",
                current=task.requester,
            )

    # -- what its requester does -------------------------------------------------------------------------------------

    async def answer(self, sender: Agent, task_id: str, ask: requests.Answer) -> Answered:
        """Give the assignee what it asked for, so that the work goes on. Repeating it doubles nothing."""
        return await self._core.finish(self._answer(sender, task_id, ask, _Cause()))

    @retrying
    async def _answer(self, sender: Agent, task_id: str, ask: requests.Answer, cause: _Cause) -> Answered:
        core = self._core
        task, d = await self._find(task_id)
        _require_own(task, sender)
        question = cause.of(task, lambda event: event.status is INPUT_REQUIRED)
        now = core.clock()
        stamp = core.time.stamp()
        message = TaskAnswer(
            message_id=derived("input", task.id, "" if question is None else repr(question)),
            task_id=task.id,
            from_agent=sender.id,
            to_agent=task.assignee or "",
            content=ask.content,
            timestamp=stamp,
            queued_at=stamp,
            from_name=sender.name,
            from_person=of_person(sender.person),
        )
        first = None if question is None else await core.store.get(Delivery, message.message_id)
        if first is not None:
            _require_same(task, first, message)
            if task.state is not INPUT_REQUIRED:
                return await self._answered(task, message)
        moved = task_steps.answer(
            task,
            by=sender.id,
            content=_content(ask.content, "content"),
            now=now,
            ttl=core.limits.message_ttl,
            key_hash=sender.key_hash,
        )
        body = encode(message)
        new = None
        if first is None:
            new = self._mailbox.new(
                message.message_id,
                message.to_agent,
                sender=sender,
                body=body,
                now=now,
            )
            await self._mailbox.require_room(new, Purpose.REPORT)
        living = () if d is None else (Put(delivery_steps.beside_record(d, d.visible_at, expires_at=moved.expires_at)),)
        then = Batch(task.partition_key, (Put(moved), *living))
        if new is None:
            await core.commit(then.partition_key, *then.changes)
        else:
            await self._mailbox.put_before(new, then)
        return await self._answered(moved, message)

    async def _answered(self, task: Task, message: TaskAnswer) -> Answered:
        to = await self._core.store.get(Agent, message.to_agent)
        shown = None if to is None else self._agents.recipient(to)
        return Answered("answered", message.message_id, task.id, task.state.value, shown)

    async def cancel(self, sender: Agent, task_id: str, ask: requests.Cancel) -> Cancelled:
        """Take a task back for good: withdraw it from its mailbox, or tell the one who has fetched it."""
        return await self._core.finish(self._cancel(sender, task_id, ask))

    @retrying
    async def _cancel(self, sender: Agent, task_id: str, ask: requests.Cancel) -> Cancelled:
        core = self._core
        task, d = await self._find(task_id)
        _require_own(task, sender)
        if task.state is not TaskState.CANCELLED:
            keep = core.limits.retention
            ended = task_steps.end(task, TaskState.CANCELLED, by=sender.id, now=core.clock(), keep=keep, note=ask.note)
            answered = await self._lifecycle.claim_end(task, ended, by=sender.id, person=sender.person)
            if answered is not None:
                await self._lifecycle.finish_answered(task, d, answered)
                raise WrongState(
                    f"task {task.id} is already {answered.status}: its answer is in your mailbox",
                    current=answered.status,
                )
            await self._lifecycle.tell_worker(task, ended, by=sender.id, person=sender.person)
            await self._lifecycle.finish_ended(task, d, ended)
        return Cancelled("cancelled", task.id, task.attempts == 0)


def _require_same(task: Task, stored: Delivery, message: TaskAnswer) -> None:
    """Refuse an answer to a question whose stored answer says something else."""
    if not says_the_same(decode(stored.body), message):
        raise WrongState(f"the question of task {task.id} has been answered already", current=task.state.value)


def _require_same_report(task: Task, stored: Delivery, body: bytes) -> None:
    """Refuse a report whose id has another report already."""
    if not says_the_same(decode(stored.body), decode(body)):
        raise KeyReused(
            "this idempotency key belongs to an earlier, different report; use a new key for a new report",
            field="idempotency_key",
            current=task.id,
        )


def _require_own(task: Task, sender: Agent) -> None:
    """Refuse all but the requester, and the operator in its place."""
    if not rules.is_requester(task, sender) and not sender.person:
        raise NotAllowed(
            f"another agent delegated task {task.id}, and only its requester may do this", field="from_agent"
        )


def _is_repeat(task: Task, moved: Task) -> bool:
    """Return True if a report says just what the last one said: then it is that one, sent again."""
    if moved.state in ANSWERS or task.state is QUEUED or not task.history:
        return False
    return replace(moved.history[-1], at=0.0) == replace(task.history[-1], at=0.0)


def _moment(task: Task, is_it: Callable[[Event], bool]) -> float | tuple[float, int] | None:
    """Return what tells the last such event from all earlier ones.

    That is its instant, and its number if there are several: time stands still while the operator stops all work.
    """
    such = [event.at for event in task.history if is_it(event)]
    if not such:
        return None
    earlier = such.count(such[-1]) - 1
    return (such[-1], earlier) if earlier else such[-1]


def _response_id(task: Task, state: TaskState, ask: requests.Respond, word: str, cause: _Cause) -> str:
    """Derive the response's id from its cause: one final answer a task; reports differ by their key or text."""
    if state in FINAL:
        return end_id(task.id)
    # Once it was answered, the same question is another one.
    answered = cause.of(task, lambda event: event.by in (task.requester, OPERATOR))
    said = ask.idempotency_key or _digest([ask.result, ask.progress, ask.note, answered, ask.attachments, word])
    return derived("report", task.id, ask.from_agent, state.value, said)


def _content(said: Any, field: str) -> bytes:
    """Encode what goes into a task's history."""
    content = msgspec.json.encode(said)
    if len(content) > MAX_HISTORY_BYTES:
        raise TooLarge(
            f"{field} before the final answer may have {MAX_HISTORY_BYTES} bytes as JSON, and this has "
            f"{len(content)}; share large contents as a file",
            field=field,
            limit=MAX_HISTORY_BYTES,
            actual=len(content),
        )
    return content


def _digest(said: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(said, order="deterministic")).hexdigest()


def _sent(
    task_id: str, response_id: str, state: TaskState, recipient: RecipientInfo | None, route: str
) -> ResponseSent:
    delivery = "none" if recipient is None else route
    return ResponseSent("response_sent", delivery, task_id, response_id, state.value, recipient)
