"""Acts of the operator: a person that delegates, asks, answers and steers through the agents' use cases."""

from __future__ import annotations

import hashlib
import hmac

import msgspec
from msgspec import Struct

from clawlink.domain import delivery_steps, file_access
from clawlink.domain import file as file_rules
from clawlink.domain.agent import OPERATOR, Agent, fold, look_alike
from clawlink.domain.delivery import ALL_DEAD, Delivery, copy_id, message_id
from clawlink.domain.file import SharedFile
from clawlink.domain.limits import MAX_LIST_LENGTH
from clawlink.errors import LeaseLost, NameTaken, UnknownFile
from clawlink.protocol import admin, file_replies, file_requests, operating, replies, requests
from clawlink.protocol.operating import as_operator
from clawlink.relay.agents.agents import Agents
from clawlink.relay.broadcasts.broadcasts import Broadcasts
from clawlink.relay.core import Core, retrying
from clawlink.relay.files.write import Files
from clawlink.relay.mailbox.mailbox import Mailbox
from clawlink.relay.mailbox.messages import Messages
from clawlink.relay.mailbox.unread import glimpse
from clawlink.relay.tasks.reads import read_task
from clawlink.relay.tasks.report import TaskReports
from clawlink.relay.tasks.responses import Responses
from clawlink.relay.tasks.submit import TaskSubmission
from clawlink.relay.time_slices import SLICE, Turns
from clawlink.store.base import Put

_DESCRIPTION = "the operator of this relay, a person"
_WORDS = 200


class _News(Struct, gc=False):
    """The fields of a message that tell which task it is about."""

    type: str = ""
    message_id: str | None = None
    task_id: str | None = None


_news = msgspec.json.Decoder(_News)


class Operator:
    """Acts as the agent ``operator``, which the relay registers at the first act and whose key it gives nobody."""

    def __init__(
        self,
        core: Core,
        agents: Agents,
        mailbox: Mailbox,
        files: Files,
        submission: TaskSubmission,
        tasks: TaskReports,
        responses: Responses,
        messages: Messages,
        broadcasts: Broadcasts,
        *,
        contents: bool,
    ) -> None:
        self._core = core
        self._agents = agents
        self._mailbox = mailbox
        self._files = files
        self._submission = submission
        self._tasks = tasks
        self._responses = responses
        self._messages = messages
        self._broadcasts = broadcasts
        self._contents = contents
        agents.reserve(reserved)

    async def agent(self) -> Agent:
        """Return the operator's agent, online. Raises NameTaken if an agent had the id before it was reserved."""
        core = self._core
        known = await core.store.get(Agent, OPERATOR)
        if known is not None and not known.person:
            raise NameTaken(
                f"an agent had the id {OPERATOR!r} before it was kept for you: remove it with 'clawlink agent kick "
                f"{OPERATOR}', then try again",
                current={"agent_id": OPERATOR},
            )
        if known is not None:
            await self._agents.touch(OPERATOR)
            return known
        ask = requests.Register(
            agent_id=OPERATOR,
            name=OPERATOR,
            description=_DESCRIPTION,
            subscriptions=[],
            claim=True,
            idempotency_key=hmac.new(core.secret, OPERATOR.encode(), hashlib.sha256).hexdigest(),
        )
        done = await self._agents.register(ask, machine="", agent_key=None, by_door=True, person=True)
        return done.agent

    # -- new work ----------------------------------------------------------------------------------------------------

    async def delegate(self, ask: operating.OperatorTask) -> replies.Delegated:
        """Delegate a task. Raises as ``TaskSubmission.delegate``."""
        return await self._submission.delegate(await self.agent(), as_operator(requests.Delegate, ask))

    async def send(self, ask: operating.OperatorMessage) -> replies.Sent:
        """Send a message. Raises as ``Messages.send``."""
        return await self._messages.send(await self.agent(), as_operator(requests.Send, ask))

    async def broadcast(self, ask: operating.OperatorBroadcast) -> replies.BroadcastSent:
        """Broadcast. Raises as ``Broadcasts.broadcast``."""
        return await self._broadcasts.broadcast(await self.agent(), as_operator(requests.Broadcast, ask))

    # -- tasks -------------------------------------------------------------------------------------------------------

    async def answer(self, task_id: str, ask: operating.OperatorAnswer) -> replies.Answered:
        """Answer the question of any task. Raises UnknownTask, WrongState."""
        return await self._tasks.answer(await self.agent(), task_id, requests.Answer(OPERATOR, ask.content))

    async def cancel(self, task_id: str, ask: operating.OperatorCancel) -> replies.Cancelled:
        """Cancel any task, which its requester and its assignee are told. Raises UnknownTask, WrongState."""
        return await self._tasks.cancel(await self.agent(), task_id, requests.Cancel(OPERATOR, ask.note))

    async def respond(self, task_id: str, ask: operating.OperatorReport) -> replies.ResponseSent:
        """Report on a task that was delegated to the operator. Raises UnknownTask, NotAllowed, WrongState."""
        said = requests.Respond(
            from_agent=OPERATOR,
            message_id=task_id,
            result=ask.result,
            status=ask.status,
            note=ask.note,
            idempotency_key=ask.idempotency_key,
        )
        return await self._responses.respond(await self.agent(), said)

    # -- dead letters and locks --------------------------------------------------------------------------------------

    async def redrive(self, ask: admin.RedriveFor) -> admin.PutBack:
        """Put dead letters of an agent back, the named ones or the oldest. Raises UnknownAgent, AmbiguousName."""
        agent = await self._agents.resolve(ask.agent, field="agent")
        back = await self._mailbox.redrive(agent.id, ask.message_ids, MAX_LIST_LENGTH)
        return admin.PutBack(agent.id, back, len(back))

    async def redrive_all(self, ask: operating.RedriveAll) -> operating.RedrivenAll:
        """Put dead letters of all mailboxes back, the newest first: those of a reason, or all."""
        store, turns = self._core.store, Turns()
        found: dict[str, list[str]] = {}
        after: str | None = None
        left = ask.limit
        while left:
            page = await store.page(Delivery, ALL_DEAD, after, min(left, SLICE), newest=True)
            for d in page.records:
                if ask.reason in (None, d.ended):
                    found.setdefault(d.mailbox, []).append(message_id(d))
                    left -= 1
                await turns.next()
            after = page.after
            if after is None:
                break
        back = {mailbox: await self._mailbox.redrive(mailbox, ids, len(ids)) for mailbox, ids in found.items()}
        ids = [id for some in back.values() for id in some]
        remain = (await store.usage(Delivery, ALL_DEAD)).count
        return operating.RedrivenAll("redriven", ids, [to for to, some in back.items() if some], len(ids), remain)

    async def unlock(self, ask: operating.Unlock) -> file_replies.FileUnlocked:
        """End a lock. Raises UnknownFile for a file without one, and for a file that has readers."""
        operator = await self.agent()
        file = file_rules.present(await self._core.store.get(SharedFile, ask.file_key), self._core.clock())
        if file is None or file.lock is None or file_access.hidden(file, operator):
            raise UnknownFile("no file for everyone has this key and a lock", field="file_key")
        return await self._files.unlock(operator, ask.file_key, file_requests.UnlockQuery(force=True))

    async def rename(self, ask: operating.Rename) -> operating.Renamed:
        """Give an agent another name. Raises UnknownAgent, AmbiguousName, NameTaken, NotAllowed for a kept name."""
        old = await self._agents.resolve(ask.agent, field="agent")
        new = await self._agents.rename(old.id, ask.name)
        return operating.Renamed("renamed", new.id, new.name, old.name)

    # -- the operator's mailbox --------------------------------------------------------------------------------------

    async def inbox(self, ask: operating.InboxQuery) -> operating.Inbox:
        """Show the messages to the operator, and leave them there."""
        core, turns = self._core, Turns()
        messages = []
        for d in await core.store.due(OPERATOR, core.clock(), ask.limit):
            seen = glimpse(d.body, 0)
            body = msgspec.json.decode(d.body, type=dict[str, msgspec.Raw]) if self._contents else None
            at, words = core.time.iso(d.stored_at), await self._task_words(d) if self._contents else None
            shown = operating.InboxMessage(
                message_id(d), seen.type, seen.from_agent, at, d.is_task, body, task_words=words
            )
            messages.append(shown)
            await turns.next()
        held = (await core.store.admission((OPERATOR,))).mailboxes[0].count
        names = await self._agents.names(message.from_agent for message in messages)
        return operating.Inbox(messages, held, self._contents, names)

    async def _task_words(self, d: Delivery) -> str | None:
        """Return the first words of the task that a message is news of; None for other messages."""
        news = _news.decode(d.body)
        about = news.message_id if news.type == "task_response" else news.task_id
        if d.is_task or about is None:
            return None
        task, _ = await read_task(self._core.store, about)
        return None if task is None else glimpse(task.body, _WORDS).words

    async def put_away(self, ask: operating.PutAway) -> operating.IsPutAway:
        """Settle messages to the operator; tasks and messages that are not there stay as they are."""
        turns, away = Turns(), []
        for id in dict.fromkeys(ask.message_ids):
            if await self._settle(id):
                away.append(id)
            await turns.next()
        return operating.IsPutAway("put_away", away)

    @retrying
    async def _settle(self, id: str) -> bool:
        core = self._core
        d = await core.store.get(Delivery, id) or await core.store.get(Delivery, copy_id(id, OPERATOR))
        if d is None or d.mailbox != OPERATOR or d.is_task:
            return False
        try:
            new = delivery_steps.ack_unread(d, now=core.clock(), keep=core.limits.retention)
        except LeaseLost:
            return False
        if new is not d:
            await core.commit(OPERATOR, Put(new), quiet=True)
            core.stats.acked += 1
        return True


def reserved(wanted: str) -> str | None:
    """Describe an id or a name that only the operator may have; None for all others."""
    if fold(wanted) == OPERATOR or look_alike(wanted, OPERATOR):
        return "kept for the operator of this relay"
    return None
