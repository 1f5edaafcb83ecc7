"""Tasks: delegate and respond."""

from __future__ import annotations

import hashlib
from typing import Any, NoReturn, cast

import msgspec

from clawlink.domain import task as rules
from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery
from clawlink.domain.message import TaskDelegation, TaskResponse, decode, encode, says_the_same
from clawlink.domain.task import FINAL, Task, TaskState, by_assignee
from clawlink.errors import KeyReused, MailboxFull, NotAllowed, UnknownTask, WrongState
from clawlink.protocol import requests
from clawlink.protocol.replies import Delegated, RecipientInfo, ResponseSent
from clawlink.relay.agents import Agents
from clawlink.relay.clock import iso
from clawlink.relay.core import Core, retrying
from clawlink.relay.ids import derived
from clawlink.relay.mailbox import Mailbox
from clawlink.store.base import Conflict, Put

_FULL_RETRY_SECONDS = 30.0


class Tasks:
    """Delegated work."""

    def __init__(self, core: Core, agents: Agents, mailbox: Mailbox) -> None:
        self._core = core
        self._agents = agents
        self._mailbox = mailbox

    # -- delegate ----------------------------------------------------------------------------------------------------

    async def delegate(self, sender: Agent, ask: requests.Delegate) -> Delegated:
        """Store a task and its delivery to the assignee. With an idempotency key a repeat answers as the first did."""
        core = self._core
        core.require_working()
        to = await core.store.get(Agent, ask.to_agent) or await self._agents.resolve(ask.to_agent)
        now = core.clock()
        key = ask.idempotency_key
        id = core.ids.fresh() if key is None else derived("task", sender.id, key)
        stamp = iso(now)
        message = TaskDelegation(
            message_id=id,
            from_agent=sender.id,
            to_agent=to.id,
            task=ask.task,
            context=ask.context or {},
            priority=ask.priority,
            timestamp=stamp,
            queued_at=stamp,
            from_name=sender.name,
        )
        body = encode(message)
        if key is None or not await self._is_repeat(id, message):
            await self._mailbox.require_room(to.id, len(body))
            await self._require_capacity(to.id)
            delivery = self._mailbox.new(id, to.id, sender=sender.id, body=body, now=now, level=ask.priority.level)
            task = Task(id, 1, sender.id, to.id, body)
            try:
                await self._mailbox.put(delivery, Put(task))
            except Conflict:
                await self._put_again(delivery, task, message)
        return Delegated("delegated", "queued", id, self._agents.recipient(to))

    @retrying
    async def _put_again(self, delivery: Delivery, task: Task, message: TaskDelegation) -> None:
        """Store a delegation whose first commit met a Conflict, unless a repeat of it was faster."""
        if not await self._is_repeat(task.id, message):
            await self._mailbox.put(delivery, Put(task))

    async def _is_repeat(self, id: str, message: TaskDelegation) -> bool:
        """Tell whether this very delegation is stored already; refuse another one under the same key."""
        store = self._core.store
        first = await store.get(Task, id) or await store.get(Delivery, id)
        if first is None:
            return False
        if not says_the_same(decode(first.body), message):
            raise KeyReused(
                "this idempotency key belongs to an earlier, different delegation; use a new key for new work",
                field="idempotency_key",
                current=id,
            )
        return True

    async def _require_capacity(self, agent_id: str) -> None:
        tasks = await self._core.store.usage(Task, by_assignee(agent_id))
        limit = self._core.limits.max_open_tasks
        if tasks.count >= limit:
            raise MailboxFull(
                f"{agent_id} has {tasks.count} tasks without a final answer and takes no more than {limit}; "
                "try again when it has answered some",
                limit=limit,
                actual=tasks.count,
                retry_after=_FULL_RETRY_SECONDS,
            )

    # -- respond -----------------------------------------------------------------------------------------------------

    async def respond(self, sender: Agent, ask: requests.Respond) -> ResponseSent:
        """Move a task as its assignee reports, and put the response into the requester's mailbox.

        The response is written first, under an id derived from its cause; then the task moves. Whatever happens in
        between, repeating the request completes it and doubles nothing.
        """
        return await self._core.finish(self._respond(sender, ask))

    @retrying
    async def _respond(self, sender: Agent, ask: requests.Respond) -> ResponseSent:
        core = self._core
        task = await core.store.get(Task, ask.message_id)
        if task is None:
            raise UnknownTask(
                f"no task {ask.message_id!r} is known here, or it was answered long ago; "
                "to say something that answers no task, use send",
                field="message_id",
            )
        await self._require_requester(task, ask.to_agent)
        state = TaskState(ask.status)
        now = core.clock()
        id = _response_id(task, state, ask)
        stamp = iso(now)
        message = TaskResponse(
            message_id=task.id,
            response_id=id,
            from_agent=sender.id,
            to_agent=task.requester,
            result=ask.result,
            status=state.value,
            timestamp=stamp,
            queued_at=stamp,
            from_name=sender.name,
        )
        body = encode(message)
        requester = await core.store.get(Agent, task.requester)
        shown = None if requester is None else self._agents.recipient(requester)
        if task.answer is not None and task.assignee == sender.id and says_the_same(decode(task.answer), message):
            return _sent(task.id, id, task.state, shown)
        moved = self._moved(task, sender, state, body, now)
        if requester is not None:
            first = await self._put_response(requester.id, id, sender, body, now)
            if not says_the_same(decode(first), message):
                await self._refuse_second(task, sender, state, first, now)
        await core.commit(task.home, Put(moved))
        return _sent(task.id, id, state, shown)

    def _moved(self, task: Task, sender: Agent, state: TaskState, response: bytes, now: float) -> Task:
        limits = self._core.limits
        return rules.respond(
            task,
            by=sender.id,
            state=state,
            response=response,
            now=now,
            ttl=limits.message_ttl,
            keep=limits.retention,
        )

    async def _put_response(self, mailbox: str, id: str, sender: Agent, body: bytes, now: float) -> bytes:
        """Put a response into a mailbox unless one of that id is there; return the one that is there then."""
        first = await self._core.store.get(Delivery, id)
        if first is None:
            await self._mailbox.require_room(mailbox, len(body))
            first = await self._mailbox.put_once(self._mailbox.new(id, mailbox, sender=sender.id, body=body, now=now))
        return first.body

    async def _refuse_second(self, task: Task, sender: Agent, state: TaskState, first: bytes, now: float) -> NoReturn:
        """Refuse a response whose place another has; if that is a final one left half done, finish it first."""
        if state not in FINAL:
            raise KeyReused(
                "this idempotency key belongs to an earlier, different report; use a new key for new news",
                field="idempotency_key",
                current=task.id,
            )
        answered = TaskState(cast("TaskResponse", decode(first)).status)
        await self._core.commit(task.home, Put(self._moved(task, sender, answered, first, now)))
        raise WrongState(
            f"task {task.id} has been answered differently at the same moment; only the first final answer counts",
            current=answered.value,
        )

    async def _require_requester(self, task: Task, to_agent: str | None) -> None:
        if to_agent is None or to_agent == task.requester:
            return
        if (await self._agents.resolve(to_agent)).id != task.requester:
            raise NotAllowed(
                f"task {task.id} was asked by {task.requester}, so only it gets the response; leave to_agent out",
                field="to_agent",
                current=task.requester,
            )


def _response_id(task: Task, state: TaskState, ask: requests.Respond) -> str:
    """Derive the response's id from its cause: one final answer a task; reports differ by their key or text."""
    if state in FINAL:
        return derived("answer", task.id)
    return derived("report", task.id, state.value, ask.idempotency_key or _digest(ask.result))


def _digest(result: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(result, order="deterministic")).hexdigest()


def _sent(task_id: str, response_id: str, state: TaskState, recipient: RecipientInfo | None) -> ResponseSent:
    delivery = "none" if recipient is None else "queued"
    return ResponseSent("response_sent", delivery, task_id, response_id, state.value, recipient)
