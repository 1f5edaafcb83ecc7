"""Plain messages, and how far any message came."""

from __future__ import annotations

from collections import Counter

from clawlink.domain import access
from clawlink.domain.agent import Agent
from clawlink.domain.broadcast import Broadcast
from clawlink.domain.delivery import Delivery, State, copy_id
from clawlink.domain.message import PlainMessage, TaskResponse, decode, encode, says_the_same, type_of
from clawlink.domain.task import Task, TaskState
from clawlink.errors import KeyReused, UnknownMessage
from clawlink.protocol import requests
from clawlink.protocol.replies import MessageStatus, Sent
from clawlink.relay.agents import Agents
from clawlink.relay.clock import iso, iso_or_none
from clawlink.relay.core import Core
from clawlink.relay.ids import derived
from clawlink.relay.mailbox import Mailbox


class Messages:
    """What agents say to each other that is not work, and the state of everything said."""

    def __init__(self, core: Core, agents: Agents, mailbox: Mailbox) -> None:
        self._core = core
        self._agents = agents
        self._mailbox = mailbox

    async def send(self, sender: Agent, ask: requests.Send) -> Sent:
        """Store a plain message for its recipient. With an idempotency key a repeat answers as the first did."""
        core = self._core
        core.require_working()
        to = await self._agents.resolve(ask.to_agent)
        now = core.clock()
        key = ask.idempotency_key
        id = core.ids.fresh() if key is None else derived("send", sender.id, key)
        stamp = iso(now)
        message = PlainMessage(
            message_id=id,
            from_agent=sender.id,
            to_agent=to.id,
            content=ask.content,
            in_reply_to=ask.in_reply_to,
            thread=ask.thread,
            timestamp=stamp,
            queued_at=stamp,
            from_name=sender.name,
        )
        body = encode(message)
        first = None if key is None else await core.store.get(Delivery, id)
        if first is None:
            await self._mailbox.require_room(to.id, len(body))
            first = await self._mailbox.put_once(
                self._mailbox.new(id, to.id, sender=sender.id, body=body, now=now, level=ask.priority.level)
            )
        if first.body is not body and not says_the_same(decode(first.body), message):
            raise KeyReused(
                "this idempotency key belongs to an earlier, different message; use a new key for a new one",
                field="idempotency_key",
                current=id,
            )
        return Sent("sent", "queued", id, self._agents.recipient(to))

    async def status(self, asker: Agent, id: str) -> MessageStatus:
        """Tell its sender or its recipient how far a message came. Raises UnknownMessage, NotAllowed."""
        store = self._core.store
        delivery = await store.get(Delivery, id)
        if delivery is None:
            broadcast = await store.get(Broadcast, id)
            if broadcast is not None and broadcast.sender == asker.id:
                return await self._broadcast_status(broadcast)
            delivery = await store.get(Delivery, copy_id(id, asker.id))
        if delivery is None:
            raise UnknownMessage(
                f"no message {id!r} is known here, or it was settled and forgotten; "
                f"settled ones are kept {self._core.limits.retention:.0f} s at most",
                field="message_id",
            )
        access.require_party(asker.id, delivery.sender, delivery.mailbox)
        return _one_status(id, delivery, await store.get(Task, id))

    async def _broadcast_status(self, broadcast: Broadcast) -> MessageStatus:
        counts: Counter[str] = Counter()
        for agent_id in broadcast.recipients:
            copy = await self._core.store.get(Delivery, copy_id(broadcast.id, agent_id))
            counts["unknown" if copy is None else _state(copy)] += 1
        return MessageStatus(
            message_id=broadcast.id,
            type="knowledge_broadcast",
            from_agent=broadcast.sender,
            to_agent=None,
            state="stored",
            attempts=0,
            stored_at=iso(broadcast.stored_at),
            delivered_at=None,
            acked_at=None,
            expired_at=None,
            dead_at=None,
            answered_at=None,
            task_status=None,
            recipients=len(broadcast.recipients),
            counts=dict(counts),
        )


def _state(d: Delivery) -> str:
    """Return the furthest fact about a delivery."""
    if d.state is State.PENDING:
        return "stored" if d.delivered_at is None else "delivered"
    return str(d.state.value)


def _answered_at(task: Task | None) -> str | None:
    answer = None if task is None or task.answer is None else decode(task.answer)
    return answer.queued_at if isinstance(answer, TaskResponse) else None


def _task_status(d: Delivery, task: Task | None) -> str | None:
    if task is None:
        return None
    if task.state is TaskState.QUEUED and d.delivered_at is not None:
        return TaskState.DELIVERED.value
    return task.state.value


def _one_status(id: str, d: Delivery, task: Task | None) -> MessageStatus:
    message = decode(d.body)
    settled = iso_or_none(d.settled_at)
    return MessageStatus(
        message_id=id,
        type=type_of(message),
        from_agent=d.sender,
        to_agent=d.mailbox,
        state=_state(d),
        attempts=d.attempts,
        stored_at=iso(d.stored_at),
        delivered_at=iso_or_none(d.delivered_at),
        acked_at=settled if d.state is State.ACKED else None,
        expired_at=settled if d.state is State.EXPIRED else None,
        dead_at=settled if d.state is State.DEAD else None,
        answered_at=_answered_at(task),
        task_status=_task_status(d, task),
    )
