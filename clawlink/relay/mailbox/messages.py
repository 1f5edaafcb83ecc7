"""Plain messages, and how far any message came."""

from __future__ import annotations

import re

import msgspec
from msgspec.structs import replace

from clawlink.domain import chain as chain_rules
from clawlink.domain import delivery as delivery_rules
from clawlink.domain import delivery_steps, timeline
from clawlink.domain import task as task_rules
from clawlink.domain.agent import Agent
from clawlink.domain.broadcast import Broadcast
from clawlink.domain.chain import Chain
from clawlink.domain.delivery import Delivery, State, copy_id
from clawlink.domain.limits import MAX_LIST_LENGTH
from clawlink.domain.message import PlainMessage, attached, decode, encode, of_person, says_the_same, type_of
from clawlink.domain.task import FINAL, Task, TaskState
from clawlink.errors import BadRequest, KeyReused, NotAllowed, UnknownMessage
from clawlink.protocol import requests
from clawlink.protocol.mailbox_replies import DeadLetter, DeadLetters, MessageStatus, Redriven
from clawlink.protocol.replies import FoundId, FoundIds, Sent
from clawlink.relay import wait_loop
from clawlink.relay.agents.agents import Agents
from clawlink.relay.broadcasts.broadcasts import CopyCounts, furthest
from clawlink.relay.core import Core, retrying
from clawlink.relay.files.grants import Grants
from clawlink.relay.ids import derived, derived_anew
from clawlink.relay.mailbox.admission import Admission
from clawlink.relay.mailbox.mailbox import Mailbox
from clawlink.relay.mailbox.unread import shown
from clawlink.relay.tasks.reads import read_task
from clawlink.relay.time_slices import Turns
from clawlink.relay.timestamps import StoppableTime
from clawlink.store.base import Put, together

_BEGINNING = re.compile("[0-9a-f]{4,24}")
_WHOLE = re.compile("[0-9a-f]{24}")
# The messages that a look-up by the beginning of an id gives. It reads ids in pages, and gives up after some of them.
_MOST_FOUND = 20
_PAGE = 100
_MOST_PAGES = 20


class Messages:
    """Plain messages between agents, and the state of every message."""

    def __init__(self, core: Core, agents: Agents, mailbox: Mailbox, admission: Admission) -> None:
        self._core = core
        self._agents = agents
        self._mailbox = mailbox
        self._admission = admission
        self._grants = Grants(core)

    # -- dead letters ------------------------------------------------------------------------------------------------

    async def dead_letters(self, agent: Agent, ask: requests.ListQuery) -> DeadLetters[msgspec.Raw]:
        """List dead letters, the oldest first."""
        page = await self._mailbox.dead_letters(agent.id, ask.after, ask.limit)
        time = self._core.time
        letters = [
            DeadLetter(
                delivery_rules.message_id(d),
                d.sender,
                d.attempts,
                time.iso(d.stored_at),
                time.iso(d.settled_at or 0.0),
                time.iso(d.ends_at),
                msgspec.Raw(d.body),
            )
            for d in page.records
        ]
        return DeadLetters(letters, len(letters), page.after)

    async def redrive(self, agent: Agent, ask: requests.Redrive) -> Redriven:
        """Put dead letters back at their old places, the named ones or the oldest."""
        back = await self._mailbox.redrive(agent.id, ask.message_ids, MAX_LIST_LENGTH)
        return Redriven(back, len(back))

    # -- plain messages ----------------------------------------------------------------------------------------------

    async def send(self, sender: Agent, ask: requests.Send) -> Sent:
        """Store a plain message for its recipient.

        With an idempotency key a repeat answers as the first did, even if the recipient has left meanwhile. An answer
        to a message marks that one as answered.
        """
        core = self._core
        core.require_working()
        key = ask.idempotency_key
        id = core.ids.fresh() if key is None else derived("send", sender.id, key)
        first = None if key is None else await core.store.get(Delivery, id)
        if first is not None and key is not None and not delivery_rules.is_sender(first, sender):
            id = derived_anew("send", sender, key)
            first = await core.store.get(Delivery, id)
        if first is not None:
            return await self._repeat(first, sender, ask)
        named = ask.to_agent
        found, read = await together(core.store.get(Agent, named), core.store.admission((named,)))
        to = found or await self._agents.resolve(named)
        chain = (
            chain_rules.first(sender.id)
            if ask.parent_task is None and ask.in_reply_to is None
            else await self._admission.chain(sender, to.id, parent_task=ask.parent_task, in_reply_to=ask.in_reply_to)
        )
        now = self._admission.require_pace(sender.id, to.id)
        body = encode(_plain(id, sender, ask, to.id, chain, core.time.iso(now)))
        new = self._mailbox.new(
            id,
            to.id,
            sender=sender,
            body=body,
            now=now,
            level=ask.priority.level,
        )
        await self._mailbox.require_room(new, read=None if found is None else read)
        if ask.attachments:
            await self._grants.to_agent(sender, ask.attachments, to)
        route = core.sockets.route(to.id)
        stored = await self._mailbox.put_once(new)
        if stored.body is not body:
            return await self._repeat(stored, sender, ask)
        if ask.in_reply_to is not None:
            await self.mark_answered(ask.in_reply_to, by=sender, to=to.id)
        return Sent("sent", route, id, self._agents.recipient(to, now))

    async def _repeat(self, first: Delivery, sender: Agent, ask: requests.Send) -> Sent:
        """Give the first answer again, and finish an unfinished first request. Raises KeyReused for another request."""
        said = decode(first.body)
        to = await self._core.store.get(Agent, first.mailbox)
        same = isinstance(said, PlainMessage) and says_the_same(
            said, _plain(said.message_id, sender, ask, first.mailbox, said.chain, said.timestamp)
        )
        if not same or not await self._agents.means(ask.to_agent, first.mailbox):
            raise KeyReused(
                "this idempotency key belongs to an earlier, different message; use a new key for a new one",
                field="idempotency_key",
                current=first.id,
            )
        if ask.in_reply_to is not None:
            await self.mark_answered(ask.in_reply_to, by=sender, to=first.mailbox)
        shown = None if to is None or not delivery_rules.is_reader(first, to) else self._agents.recipient(to)
        return Sent("sent", self._core.sockets.route(first.mailbox), first.id, shown)

    @retrying
    async def mark_answered(self, message_id: str, *, by: Agent, to: str) -> None:
        """Note that ``by`` has answered a message that ``to`` sent it, if there is such a message."""
        store = self._core.store
        d = await store.get(Delivery, message_id) or await store.get(Delivery, copy_id(message_id, by.id))
        if d is None or d.is_task or d.sender != to or not delivery_rules.is_reader(d, by):
            return
        marked = delivery_steps.answered(d, now=self._core.clock())
        if marked is not d:
            await self._core.commit(d.partition_key, Put(marked))

    async def status(self, asker: Agent, id: str, ask: requests.MessageQuery) -> MessageStatus:
        """Tell its sender or its recipient how far a message came.

        With ``wait``, once it has come as far as ``until``, or will not any more. Raises UnknownMessage, NotAllowed.
        """
        core = self._core
        status = await self._status(asker, id)
        if not ask.wait or _reached(status, ask.until):
            return status
        with core.watch(id) as watch:
            broadcast = await self._own_broadcast(asker, id)
            copies = None if broadcast is None else CopyCounts(core.store)

            async def read() -> MessageStatus | None:
                nonlocal status
                changed, watch.changed = watch.changed, set()
                if copies is not None and changed and id not in changed:  # only copies have changed
                    await copies.follow(changed)
                    status = replace(status, counts=copies.counts)
                else:
                    status = await self._status(asker, id, copies)
                return status if _reached(status, ask.until) else None

            await wait_loop.first_of_relay(core, watch.signal, read=read, wait=ask.wait)
        return status

    async def find(self, asker: Agent, beginning: str, ask: requests.Asker) -> FoundIds:
        """Find the tasks, messages and broadcasts of an agent whose ids begin so. Raises BadRequest."""
        if _BEGINNING.fullmatch(beginning) is None:
            raise BadRequest("the beginning of an id has 4 to 24 hexadecimal digits, in lower case", field="beginning")
        found: list[FoundId] = []
        seen: set[str] = set()
        turns = Turns()
        first, end = beginning, beginning + "g"
        for _ in range(_MOST_PAGES):
            page = await self._core.store.ids(first, end, _PAGE)
            for id in page:
                whole, colon, _ = id.partition(":")
                # All copies of a broadcast stand behind its id: the next page begins after them.
                first = f"{whole};" if colon else f"{id}\0"
                if whole in seen or _WHOLE.fullmatch(whole) is None:
                    continue
                seen.add(whole)
                if (one := await self._found(asker, whole)) is not None:
                    if len(found) == _MOST_FOUND:
                        return FoundIds(found, len(found), True)
                    found.append(one)
                await turns.next()
            if len(page) < _PAGE:
                return FoundIds(found, len(found), False)
        return FoundIds(found, len(found), True)

    async def _found(self, asker: Agent, id: str) -> FoundId | None:
        """Return the facts of a message of the asker, without the counts of copies; None for any other message."""
        try:
            broadcast = await self._own_broadcast(asker, id)
            if broadcast is not None:
                told = "knowledge_broadcast"
                stored_at = self._core.time.iso(broadcast.stored_at)
                return FoundId(id, told, broadcast.sender, None, _state(broadcast), None, stored_at)
            status = await self._status(asker, id)
        except (UnknownMessage, NotAllowed):
            return None
        return FoundId(
            id, status.type, status.from_agent, status.to_agent, status.state, status.task_status, status.stored_at
        )

    async def _own_broadcast(self, asker: Agent, id: str) -> Broadcast | None:
        broadcast = await self._core.store.get(Broadcast, id)
        return broadcast if broadcast is not None and broadcast.is_by(asker) else None

    async def _status(self, asker: Agent, id: str, copies: CopyCounts | None = None) -> MessageStatus:
        store = self._core.store
        task, delivery = await read_task(store, id)
        if task is not None:
            _require_party(task_rules.is_party(task, asker))
            return _task_message(task, delivery, self._core.time)
        if delivery is None:
            broadcast = await self._own_broadcast(asker, id)
            if broadcast is not None:
                return await _broadcast_status(broadcast, copies or CopyCounts(store), self._core.time)
            delivery = await store.get(Delivery, copy_id(id, asker.id))
        if delivery is None:
            raise UnknownMessage(
                f"no message {id!r} is known here, or it was settled and forgotten; "
                f"settled ones are kept {self._core.limits.retention:.0f} s at most",
                field="message_id",
            )
        _require_party(delivery_rules.is_sender(delivery, asker) or delivery_rules.is_reader(delivery, asker))
        return _one_status(id, delivery, self._core.time)


def _state(broadcast: Broadcast) -> str:
    return "refused" if broadcast.is_refused else "stored"


async def _broadcast_status(broadcast: Broadcast, copies: CopyCounts, time: StoppableTime) -> MessageStatus:
    await copies.count(broadcast)
    return MessageStatus(
        message_id=broadcast.id,
        type="knowledge_broadcast",
        from_agent=broadcast.sender,
        to_agent=None,
        state=_state(broadcast),
        attempts=0,
        stored_at=time.iso(broadcast.stored_at),
        delivered_at=None,
        acked_at=None,
        expired_at=None,
        dead_at=None,
        answered_at=None,
        task_status=None,
        recipients=len(broadcast.recipients),
        counts=copies.counts,
    )


def _require_party(is_party: bool) -> None:
    """Refuse to tell a third agent about a message between others."""
    if not is_party:
        raise NotAllowed("only the sender and the recipient of a message may ask about it", field="agent_id")


def _one_status(id: str, d: Delivery, time: StoppableTime) -> MessageStatus:
    message = decode(d.body)
    settled = time.iso_or_none(d.settled_at)
    return MessageStatus(
        message_id=id,
        type=type_of(message),
        from_agent=d.sender,
        to_agent=d.mailbox,
        state=furthest(d),
        attempts=d.attempts,
        stored_at=time.iso(d.stored_at),
        delivered_at=time.iso_or_none(d.delivered_at),
        acked_at=settled if d.state is State.ACKED else None,
        expired_at=settled if d.state is State.EXPIRED else None,
        dead_at=settled if d.state is State.DEAD else None,
        answered_at=time.iso_or_none(d.answered_at),
        task_status=None,
        delivered_to=None if d.delivered_at is None else d.mailbox,
        woken=shown(d.wakes, time),
    )


def _task_message(task: Task, d: Delivery | None, time: StoppableTime) -> MessageStatus:
    """Return the status of a task's message: its current claim, and its result."""
    ended = task.state in (TaskState.EXPIRED, TaskState.CANCELLED, TaskState.RETURNED)
    if d is not None and d.state is State.DEAD:
        state = "dead"
    elif task.acked_at is not None:
        state = "acked"
    elif task.delivered_at is not None:
        state = "delivered"
    else:
        state = "stored" if not ended else "expired" if task.state is TaskState.EXPIRED else "withdrawn"
    last = timeline.last_lease(task)
    return MessageStatus(
        message_id=task.id,
        type="task_delegation",
        from_agent=task.requester,
        to_agent=None if task.pooled else task.mailbox,
        state=state,
        attempts=task.attempts,
        stored_at=time.iso(task.created_at),
        delivered_at=time.iso_or_none(task.delivered_at),
        acked_at=time.iso_or_none(task.acked_at),
        expired_at=time.iso_or_none(task.finished_at) if task.state is TaskState.EXPIRED else None,
        dead_at=time.iso_or_none(d.settled_at) if d is not None and d.state is State.DEAD else None,
        answered_at=time.iso_or_none(task.finished_at) if task.answer is not None else None,
        task_status=task.state.value,
        delivered_to=task.assignee if task.delivered_at is not None else None,
        woken=shown(task.wakes, time),
        last_delivered_at=None if last is None else time.iso(last.since),
        requeued_at=None if last is None else time.iso_or_none(last.until),
    )


def _reached(status: MessageStatus, until: str) -> bool:
    """Return True if a message came as far as asked, or will not any more."""
    if status.answered_at is not None or (until != "answered" and status.acked_at is not None):
        return True
    if _is_broadcast(status):
        left = {"stored", "delivered"} if until == "acked" else {"stored"}
        return until != "answered" and not left & set(status.counts)
    if status.task_status is not None and TaskState(status.task_status) in FINAL:
        return True
    return status.state in ("expired", "dead", "withdrawn") or (until == "delivered" and status.state == "delivered")


def _is_broadcast(status: MessageStatus) -> bool:
    """Return True if it is about all copies of a broadcast."""
    return status.to_agent is None and status.task_status is None


def _plain(id: str, sender: Agent, ask: requests.Send, to: str, chain: Chain, stamp: str) -> PlainMessage:
    message = PlainMessage(
        message_id=id,
        from_agent=sender.id,
        to_agent=to,
        content=ask.content,
        in_reply_to=ask.in_reply_to,
        thread=ask.thread,
        timestamp=stamp,
        queued_at=stamp,
        from_name=sender.name,
        chain=chain,
    )
    if not (ask.attachments or sender.person):
        return message  # as most are
    return replace(message, from_person=of_person(sender.person), attachments=attached(ask.attachments))
