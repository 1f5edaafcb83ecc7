"""Responses to a named task, and those of clients of ClawLink 1.0.x without a known task.

The command line of 1.0.x shows no message ids, so its users invent one, and answer broadcasts and messages too. Their
text must not be lost, and must not become the answer of another task.
"""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from clawlink.domain import delivery as delivery_rules
from clawlink.domain import delivery_steps
from clawlink.domain.agent import Agent
from clawlink.domain.broadcast import Broadcast, Knowledge
from clawlink.domain.delivery import Delivery, copy_id
from clawlink.domain.message import TaskResponse, attached, decode, encode, of_person, says_the_same
from clawlink.domain.task import DELIVERED, IN_PROGRESS, INPUT_REQUIRED, Task, by_owner, is_requester
from clawlink.errors import BadRequest, KeyReused, UnknownTask
from clawlink.protocol import requests
from clawlink.protocol.replies import ResponseSent
from clawlink.relay.agents.agents import Agents
from clawlink.relay.core import Core
from clawlink.relay.files.grants import Grants
from clawlink.relay.ids import derived
from clawlink.relay.mailbox.admission import Admission
from clawlink.relay.mailbox.mailbox import Mailbox
from clawlink.relay.mailbox.messages import Messages
from clawlink.relay.tasks.reads import read_task
from clawlink.relay.tasks.report import TaskReports

_PAGE = 256
_FETCHED = (DELIVERED, IN_PROGRESS, INPUT_REQUIRED)


class Responses:
    """The responses of assignees: progress, questions and results."""

    def __init__(
        self, core: Core, agents: Agents, mailbox: Mailbox, admission: Admission, tasks: TaskReports, messages: Messages
    ) -> None:
        self._core = core
        self._agents = agents
        self._mailbox = mailbox
        self._admission = admission
        self._tasks = tasks
        self._messages = messages
        self._grants = Grants(core)

    async def respond(self, sender: Agent, ask: requests.Respond) -> ResponseSent:
        """Report on the task that the response names, or answer it.

        An agent without a key may, without a receipt, name the requester instead of a known task. If it has fetched
        just one open task of that requester, it answers that task. Otherwise the response is passed on.
        """
        named = sender.key_hash is not None or ask.receipt is not None or ask.to_agent is None
        if ask.message_id:
            try:
                return await self._tasks.respond(sender, ask)
            except UnknownTask:
                if named:
                    raise
        if named or ask.to_agent is None:
            raise BadRequest("message_id is missing: it is the task's, as poll shows it", field="message_id")
        self._core.require_working()
        return await self._core.finish(self._respond_freely(sender, ask, ask.to_agent))

    async def _respond_freely(self, sender: Agent, ask: requests.Respond, to_agent: str) -> ResponseSent:
        key = ask.idempotency_key
        id = self._core.ids.fresh() if key is None else derived("free response", sender.id, key)
        first = None if key is None else await self._core.store.get(Delivery, id)
        if first is not None:
            return await self._repeat(first, sender, ask, to_agent)
        to = await self._agents.resolve(to_agent)
        if not await self._answers_a_message(sender, ask.message_id):
            task_id = await self._only_task(requester=to, assignee=sender)
            if task_id is not None:
                return await self._answer(task_id, id, sender, ask, to)
        return await self._pass_on(id, sender, ask, to)

    async def _answer(self, task_id: str, id: str, sender: Agent, ask: requests.Respond, to: Agent) -> ResponseSent:
        """Answer the only possible task. With an idempotency key, this choice is stored first."""
        if ask.idempotency_key is not None:
            meant = self._response(id, sender, replace(ask, message_id=task_id, result=None), to.id)
            now, own = self._core.clock(), sender.id
            new = self._mailbox.new(id, own, sender=sender, body=encode(meant), now=now)
            new = delivery_steps.placeholder(new, keep=self._core.limits.retention)
            stored = await self._mailbox.put_once(new)
            if stored.body is not new.body:
                return await self._repeat(stored, sender, ask, to.id)
        return await self._tasks.respond(sender, replace(ask, message_id=task_id, to_agent=to.id))

    async def _pass_on(self, id: str, sender: Agent, ask: requests.Respond, to: Agent) -> ResponseSent:
        now = self._admission.require_pace(sender.id, to.id, answers=True)
        message = replace(self._response(id, sender, ask, to.id), passed_on=True)
        body = encode(message)
        new = self._mailbox.new(id, to.id, sender=sender, body=body, now=now)
        await self._mailbox.require_room(new)
        if ask.attachments:
            await self._grants.to_agent(sender, ask.attachments, to)
        route = self._core.sockets.route(to.id)
        stored = await self._mailbox.put_once(new)
        if stored.body is not body:
            return await self._repeat(stored, sender, ask, to.id)
        if ask.message_id:
            await self._messages.mark_answered(ask.message_id, by=sender, to=to.id)
        return self._passed(message, to, route)

    async def _repeat(self, first: Delivery, sender: Agent, ask: requests.Respond, to_agent: str) -> ResponseSent:
        """Answer as the first time. Raises KeyReused if that was another request."""
        said = decode(first.body)
        if isinstance(said, TaskResponse) and await self._agents.means(to_agent, said.to_agent):
            if said.passed_on is not True:
                return await self._tasks.respond(sender, replace(ask, message_id=said.message_id, to_agent=None))
            again = replace(self._response(first.id, sender, ask, said.to_agent), passed_on=True)
            if says_the_same(said, again):
                to = await self._core.store.get(Agent, said.to_agent)
                return self._passed(said, to, self._core.sockets.route(said.to_agent))
        raise KeyReused(
            "this idempotency key belongs to an earlier, different response; use a new key for a new one",
            field="idempotency_key",
            current=first.id,
        )

    def _response(self, id: str, sender: Agent, ask: requests.Respond, to: str) -> TaskResponse:
        stamp = self._core.time.stamp()
        return TaskResponse(
            message_id=ask.message_id or id,
            response_id=id,
            from_agent=sender.id,
            to_agent=to,
            result=ask.result,
            status=ask.status,
            timestamp=stamp,
            queued_at=stamp,
            from_name=sender.name,
            from_person=of_person(sender.person),
            progress=ask.progress,
            note=ask.note,
            attachments=attached(ask.attachments),
        )

    def _passed(self, message: TaskResponse, to: Agent | None, route: str) -> ResponseSent:
        shown = None if to is None else self._agents.recipient(to)
        return ResponseSent("response_sent", route, message.message_id, message.response_id, None, shown)

    async def _answers_a_message(self, sender: Agent, message_id: str | None) -> bool:
        """Return True if it names a message or a broadcast that the sender got."""
        if not message_id:
            return False
        store = self._core.store
        d = await store.get(Delivery, message_id) or await store.get(Delivery, copy_id(message_id, sender.id))
        if d is not None:
            return delivery_rules.is_reader(d, sender)
        found = await store.get(Broadcast, message_id) or await store.get(Knowledge, message_id)
        return found is not None

    async def _only_task(self, *, requester: Agent, assignee: Agent) -> str | None:
        """Return the only open task of one agent that the other has fetched; None if there is none or several."""
        found: set[str] = set()
        for kind in (Task, Delivery):
            after: str | None = None
            while True:
                page = await self._core.store.page(kind, by_owner(assignee.id), after, _PAGE)
                for listed in page.records:
                    task, _ = await read_task(self._core.store, listed.id)
                    if task is not None and task.assignee == assignee.id and is_requester(task, requester):
                        found |= {task.id} if task.state in _FETCHED else set()
                        if len(found) > 1:
                            return None
                after = page.after
                if after is None:
                    break
                await asyncio.sleep(0)
        return next(iter(found), None)
