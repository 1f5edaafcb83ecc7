"""Tasks across portals: what the relay puts into a contact's mailbox goes to the other portal, and its news come back.

A task for ``NAME@portal`` is one for the agent that stands for the contact here. The other portal delegates it to its
owner's agent, in the name of the agent that stands for us there. So each side has a task of its own relay, and both
have the same state in the end. A portal of Agent P2P gets the text of the task as a message.
"""

from __future__ import annotations

from contextlib import suppress
from enum import Enum
from typing import Any

import msgspec
from msgspec.structs import replace

from clawlink.domain import dense_json
from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery
from clawlink.domain.message import PlainMessage, TaskAnswer, TaskDelegation, TaskResponse, TaskUpdate, decode
from clawlink.domain.task import FINAL
from clawlink.doors.portal.records import AGENT, SUFFIX, Contact, ForwardedTask, forwarded_of, forwarded_with
from clawlink.doors.portal.rules.refused_reports import in_place_of
from clawlink.doors.portal.rules.texts import note_of
from clawlink.doors.portal.rules.urls import shown
from clawlink.doors.portal.server.contacts import Contacts
from clawlink.doors.portal.server.mail import Mail
from clawlink.doors.portal.server.members import Members
from clawlink.doors.portal.server.poster import Poster
from clawlink.doors.portal.server.repository import require_short
from clawlink.doors.portal.server.task_files import Crossing, TaskFiles
from clawlink.doors.portal.wire.calls import TaskNews
from clawlink.errors import BadRequest, NotFound, Refused, StoreUnavailable, UnknownTask
from clawlink.protocol import requests
from clawlink.relay.core import retrying
from clawlink.relay.relay import Relay
from clawlink.store.base import Drop, Put

_AT_ONCE = 100
_ASKED = "input_required"
_ENDS = frozenset(state.value for state in FINAL)
_OVER = "it was not sent within its time to live"


class Carried(Enum):
    """The outcome of a delivery that is to go to a contact."""

    DONE = "done"
    AGAIN = "again"
    """The delivery could not go now."""
    WAITS = "waits"
    """The files of the delivery are on their way, and it follows them; or the contact is blocked."""
    ENDED = "ended"
    """The delivery never goes, and its sender was told why."""
    ADOPTED = "adopted"
    """The delivery is that of a message of the portal now, which is to be posted."""


class ForwardedTasks:
    """Carries tasks and their news between two portals of ClawLink."""

    def __init__(
        self,
        relay: Relay,
        contacts: Contacts,
        mail: Mail,
        members: Members,
        poster: Poster,
        task_files: TaskFiles,
        ttl: float,
    ) -> None:
        """``ttl`` is how many seconds a delivery to a contact is tried."""
        self._relay = relay
        self._core = relay.core
        self._contacts = contacts
        self._mail = mail
        self._members = members
        self._poster = poster
        self._task_files = task_files
        self._ttl = ttl

    async def named(self, recipient: str) -> Contact | None:
        """Return the contact that ``NAME@portal`` means; None for other names. Raises AmbiguousName."""
        if not recipient.endswith(SUFFIX):
            return None
        try:
            return await self._contacts.find(recipient.removesuffix(SUFFIX))
        except (NotFound, BadRequest):
            return None

    # -- out ---------------------------------------------------------------------------------------------------------

    async def carry(self, peer: Contact | None, agent: Agent, delivery: Delivery) -> Carried:
        """Take what waits for a contact to its portal."""
        body = decode(delivery.body)
        if isinstance(body, TaskDelegation):
            return await self._carry_task(peer, agent, body, delivery)
        if not _crosses(body):
            return Carried.DONE
        why = "removed" if peer is None else peer.shut(self._core.steady())
        if peer is None or (why is not None and isinstance(body, PlainMessage)):
            return await self._end(_named(peer), delivery, f"the contact was {why} before it was sent")
        if self._is_over(delivery):
            return await self._end(_named(peer), delivery, self._over(peer))
        if why is not None:
            return Carried.WAITS
        if peer.paused:
            return Carried.AGAIN
        if isinstance(body, PlainMessage):
            text = _with_files(f"{body.from_name}: {dense_json.as_text(body.content)}", body.attachments)
            require_short(text)
            await self._send_files_apart(peer, delivery.id, body.attachments)  # first: an adopted message comes no more
            await self._mail.adopt(peer, delivery, text)
            return Carried.ADOPTED
        news = await self._news(peer, body)
        if isinstance(news, Carried):
            return news
        if news is None:
            return await self._end(_named(peer), delivery, "it is about no task that came from this contact")
        refused = (await self._poster.tell(peer, news)).refused
        if not refused:
            return _done(refused is not None)
        if isinstance(body, TaskUpdate):  # the task is over there, too
            return Carried.DONE
        final = isinstance(body, TaskResponse) and body.status in _ENDS
        return await self._tell_otherwise(peer, delivery, news, refused, final=final)

    async def _tell_otherwise(
        self, peer: Contact, delivery: Delivery, news: dict[str, Any], why: str, *, final: bool
    ) -> Carried:
        """Tell the other portal less than what it refused for good, so that the task ends there, too."""
        for how, less in in_place_of(news, why, final=final):
            refused = (await self._poster.tell(peer, less)).refused
            if refused is None:
                return Carried.AGAIN
            if not refused:
                what = f"{_subject(delivery)} went to {shown(peer.id)} {how}: {why}"
                await self._mail.tell_sender(delivery.id, what, delivery.sender)
                return Carried.DONE
        return await self._end(_named(peer), delivery, why)

    async def lapsed(self, delivery: Delivery) -> None:
        """Tell the sender of what waited for a contact until its time to live was over."""
        with suppress(msgspec.MsgspecError):
            if not _crosses(decode(delivery.body)):
                return
        forwarded = await self._core.store.get(ForwardedTask, about(delivery) or "")
        peer = None if forwarded is None else await self._core.store.get(Contact, forwarded.contact)
        stand_in = self._relay.agents.stand_ins.of(delivery.mailbox)
        to = _named(peer) if peer is not None or stand_in is None else stand_in.name
        await self._end(to, delivery, self._over(peer))

    def _over(self, peer: Contact | None) -> str:
        """Return why a delivery never goes whose time to live is over."""
        why = None if peer is None else peer.shut(self._core.steady())
        return _OVER if why is None else f"{_OVER}, in which the contact was {why}"

    def _is_over(self, delivery: Delivery) -> bool:
        """Return True if the time to live of what goes to a contact is over."""
        return delivery.stored_at + self._ttl <= self._core.clock()

    async def _end(self, to: str, delivery: Delivery, why: str) -> Carried:
        """Tell the sender of a delivery why it does not reach the contact ``to``."""
        await self._mail.tell_sender(delivery.id, f"{_subject(delivery)} to {to} was not sent: {why}", delivery.sender)
        with suppress(msgspec.MsgspecError):
            body = decode(delivery.body)
            if isinstance(body, TaskResponse):
                await self._task_files.drop(body.attachments)
        return Carried.ENDED

    async def _send_files_apart(self, peer: Contact, cause: str, attachments: Any) -> None:
        """Send each file of a message by itself, for which nothing waits."""
        for missing in (await self._task_files.send(peer, None, cause, attachments)).missing:
            await self._mail.notice(f"{cause} files", missing)

    async def send_files_on(self, peer: Contact | None, delivery: Delivery) -> bool:
        """Send the files of a delivery on. Return True while it waits for them, or news for a blocked contact."""
        body = decode(delivery.body)
        if peer is None:
            return False
        shut = peer.shut(self._core.steady()) is not None
        if isinstance(body, TaskDelegation):
            return not shut and (await self._send_files(peer, body, delivery.deadline_at)).waits
        if shut or self._is_over(delivery):
            return not self._is_over(delivery)
        return isinstance(body, TaskResponse) and await self._news(peer, body) is Carried.WAITS

    async def _carry_task(
        self, peer: Contact | None, agent: Agent, task: TaskDelegation, delivery: Delivery
    ) -> Carried:
        deadline_at = delivery.deadline_at
        why = "removed" if peer is None else peer.shut(self._core.steady())
        if peer is None or why is not None:
            return await self._reject(agent, task, f"the contact is {why}")
        if self._is_over(delivery):
            return await self._reject(agent, task, "the task was not sent within its time to live")
        await self.note(task.message_id, peer.id)
        if peer.paused:
            return Carried.AGAIN
        if peer.ours is None:
            ours = await self._poster.is_ours(peer)
            if ours is None:
                return Carried.AGAIN
            peer = await self._contacts.learn(peer.id, ours=ours) or peer
        if not peer.ours:
            text, cause = _with_files(dense_json.as_text(task.task), task.attachments), "task " + task.message_id
            sent = await self._mail.send(peer, text, "text", cause, None, instead_of=delivery)
            await self._send_files_apart(peer, cause, task.attachments)
            told = f"the portal {shown(peer.id)} knows no tasks; the text goes there as message {sent.number}"
            if task.attachments is not msgspec.UNSET:
                told += ", and its attachments as files: 'clawlink portal files' says how far they came"
            return await self._reject(agent, task, told)
        crossing = await self._send_files(peer, task, deadline_at)
        if crossing.missing:
            return await self._reject(agent, task, "; ".join(crossing.missing))
        if crossing.waits:
            return Carried.WAITS
        news = {"kind": "task", "task_id": task.message_id, "content": task.task, "context": task.context}
        if crossing.files:
            news["files"] = crossing.files
        if deadline_at is not None:
            news["deadline"] = max(deadline_at - self._core.clock(), 1.0)
        refused, id_there = await self._poster.tell(peer, news)
        if refused:
            return await self._reject(agent, task, refused)
        if refused is not None and id_there:
            await self._note_there(task.message_id, id_there)
        return _done(refused is not None)

    async def _send_files(self, peer: Contact, task: TaskDelegation, deadline_at: float | None) -> Crossing:
        return await self._task_files.send(peer, task.message_id, task.message_id, task.attachments, deadline_at)

    async def _news(self, peer: Contact, body: Any) -> dict[str, Any] | Carried | None:
        """Return what the other portal is to hear; None for a report on no task of the contact."""
        if isinstance(body, TaskResponse):
            forwarded = await self._core.store.get(ForwardedTask, body.message_id)
            if forwarded is None or not forwarded.inbound or forwarded.contact != peer.id:
                return None
            crossing = await self._task_files.send(peer, forwarded.peer_id, body.response_id, body.attachments)
            if crossing.waits:
                return Carried.WAITS
            told = {"kind": "response", "task_id": forwarded.peer_id, "key": body.response_id, "content": body.result}
            if crossing.files:
                told["files"] = crossing.files
            note = note_of(body.note, *crossing.missing)
            return told | {"status": body.status, "progress": body.progress, "note": note}
        if isinstance(body, TaskAnswer):
            return {"kind": "answer", "task_id": body.task_id, "key": body.message_id, "content": body.content}
        if isinstance(body, TaskUpdate):
            forwarded = await self._core.store.get(ForwardedTask, body.task_id)
            if forwarded is not None and forwarded.inbound and forwarded.contact == peer.id:
                why = f"the task ended there as {body.status}" + (f": {body.note}" if body.note else "")
                told = {"kind": "response", "task_id": forwarded.peer_id, "key": body.message_id, "content": why}
                return told | {"status": "failed"}
            note = note_of(body.note or f"it is {body.status} there")
            return {"kind": "cancel", "task_id": body.task_id, "note": note}
        return None

    @retrying
    async def note(self, task_id: str, contact: str) -> None:
        """Note that a task goes to a contact, so that it is listed."""
        if await self._core.store.get(ForwardedTask, task_id) is None:
            now = self._core.clock()
            forwarded = ForwardedTask(id=task_id, version=1, contact=contact, peer_id="", created_at=now, inbound=False)
            await self._core.commit(AGENT, Put(forwarded))

    @retrying
    async def _note_there(self, task_id: str, id_there: str) -> None:
        """Note the id that a task for a contact has at its portal."""
        forwarded = await self._core.store.get(ForwardedTask, task_id)
        if forwarded is not None and not forwarded.inbound and forwarded.peer_id != id_there:
            await self._core.commit(AGENT, Put(replace(forwarded, version=forwarded.version + 1, peer_id=id_there)))

    async def give_up(self, agent: Agent, delivery: Delivery, why: str) -> Carried:
        """Settle what cannot be carried: reject a task, and have the sender hear of any other message."""
        try:
            body = decode(delivery.body)
        except msgspec.MsgspecError:
            body = None
        if isinstance(body, TaskDelegation):
            return await self._reject(agent, body, why)
        return await self._end(_named(None), delivery, why)

    async def _reject(self, agent: Agent, task: TaskDelegation, why: str) -> Carried:
        """Answer a task that the contact does not get."""
        ask = requests.Respond(
            from_agent=agent.id,
            message_id=task.message_id,
            status="rejected",
            result=why,
            idempotency_key="portal " + task.message_id,
        )
        try:
            await self._relay.tasks.respond(agent, ask)
        except StoreUnavailable:
            return Carried.AGAIN
        except Refused:  # it was answered, cancelled or expired meanwhile
            pass
        return Carried.DONE

    # -- in ----------------------------------------------------------------------------------------------------------

    async def take(self, contact: Contact, news: TaskNews) -> str:
        """Take a task of a contact, or news of one, and return the id that it has here.

        Raises BadRequest, UnknownTask, and the refusals of the relay.
        """
        agent = await self._members.of(contact.id)
        if news.kind == "task":
            return await self._core.finish(self._begin(contact, agent, news))
        if news.kind == "response":
            ask = requests.Respond(
                from_agent=agent.id,
                message_id=news.task_id,
                status=news.status or "completed",
                result=news.content,
                progress=news.progress,
                note=news.note,
                idempotency_key=news.key,
                attachments=await self._task_files.received(contact, news.task_id, news.files) or None,
            )
            await self._relay.tasks.respond(agent, ask)
            await self._task_files.claim(news.files)
            return news.task_id
        found = (await self._core.store.page(ForwardedTask, forwarded_of(contact.id, news.task_id), limit=1)).records
        if not found:
            raise UnknownTask("no task of this id came from your portal", field="task_id")
        id = found[0].id
        if news.kind == "answer":
            answer = requests.Answer(from_agent=agent.id, content=news.content, idempotency_key=news.key)
            await self._relay.tasks.answer(agent, id, answer)
        elif news.kind == "cancel":
            await self._relay.tasks.cancel(agent, id, requests.Cancel(from_agent=agent.id, note=news.note))
        else:
            raise BadRequest("kind is task, response, answer or cancel", field="kind")
        return id

    async def _begin(self, contact: Contact, agent: Agent, news: TaskNews) -> str:
        if known := (
            await self._core.store.page(ForwardedTask, forwarded_of(contact.id, news.task_id), limit=1)
        ).records:
            await self._task_files.claim(news.files)
            return known[0].id
        self._mail.require_quota(contact, len(dense_json.as_text(news.content).encode("utf-8", "surrogatepass")))
        try:
            ask = requests.Delegate(
                from_agent=agent.id,
                to_agent=AGENT,
                task=news.content,
                context=news.context,
                deadline=news.deadline,
                idempotency_key=news.task_id,
                attachments=await self._task_files.received(contact, news.task_id, news.files) or None,
            )
        except ValueError:
            raise BadRequest("content is the task, and not empty", field="content") from None
        done = await self._relay.submission.delegate(agent, ask)
        id: str = done.message_id
        if await self._core.store.get(ForwardedTask, id) is None:
            forwarded = ForwardedTask(
                id=id, version=1, contact=contact.id, peer_id=news.task_id, created_at=self._core.clock()
            )
            await self._core.commit(AGENT, Put(forwarded))
        await self._task_files.claim(news.files)
        return id

    async def forget(self, contact: Contact) -> None:
        """Forget which tasks came from a contact, and remove the agent that stands for it here."""
        while found := (await self._core.store.page(ForwardedTask, forwarded_with(contact.id), limit=_AT_ONCE)).records:
            await self._core.commit(AGENT, *map(Drop, found))
        agent = await self._core.store.get(Agent, contact.mailbox)
        if agent is not None:
            async for delivery in self._relay.mailbox.pending(agent.id):
                with suppress(msgspec.MsgspecError):  # it goes with the mailbox
                    await self.carry(None, agent, delivery)
            await self._relay.deregistration.leave(agent)


def about(delivery: Delivery) -> str | None:
    """Return the task that a delivery gives, or is news of; None for other messages."""
    try:
        body = decode(delivery.body)
    except msgspec.MsgspecError:  # carrying it says so
        return None
    if isinstance(body, (TaskDelegation, TaskResponse)):
        return body.message_id
    return body.task_id if isinstance(body, (TaskAnswer, TaskUpdate)) else None


def _crosses(body: Any) -> bool:
    """Return True if the other portal is to hear of this. All else is for the agent that stands for the contact.

    Of what the relay tells of a task that is its end: the other side works on it, or waits for it.
    """
    if isinstance(body, TaskUpdate):
        return body.status in _ENDS
    return isinstance(body, (PlainMessage, TaskResponse, TaskAnswer))


def _with_files(text: str, attachments: Any) -> str:
    """Return a text with a line for each file, which comes by itself."""
    files = () if attachments is msgspec.UNSET else attachments
    return "".join([text, *(f"\n[file] {one.name}, {one.size} bytes, comes by itself" for one in files)])


def _named(peer: Contact | None) -> str:
    """Return a contact, for a sentence."""
    return "a contact" if peer is None else shown(peer.id)


def _subject(delivery: Delivery) -> str:
    """Return what a delivery is, for a sentence to its sender."""
    try:
        body = decode(delivery.body)
    except msgspec.MsgspecError:
        body = None
    if isinstance(body, TaskResponse):
        return f"Your report on task {body.message_id} ({body.status})"
    if isinstance(body, TaskAnswer):
        return f"Your answer about task {body.task_id}"
    if isinstance(body, TaskUpdate):
        return f"The end of task {body.task_id} ({body.status})"
    return f"Message {delivery.id}"


def _done(it_is: bool) -> Carried:
    return Carried.DONE if it_is else Carried.AGAIN


def told_of(body: Any) -> str | None:
    """Return what the owner's agent hears of a task; None for other messages."""
    if isinstance(body, TaskDelegation):
        text = dense_json.as_text(body.task)
        return f"Task {body.message_id}: {text}\nAnswer it with: clawlink portal answer {body.message_id} TEXT"
    if isinstance(body, TaskAnswer):
        text = dense_json.as_text(body.content)
        return f"The answer to your question about task {body.task_id}: {text}"
    if isinstance(body, TaskResponse):
        done = "" if body.progress is None else f", {body.progress:g} %"
        note = f" ({body.note})" if body.note else ""
        text = "" if body.result is None else f": {dense_json.as_text(body.result)}"
        asks = f"\nAnswer it with: clawlink portal answer {body.message_id} TEXT" if body.status == _ASKED else ""
        return f"Your task {body.message_id} is {body.status}{done}{note}{text}{asks}"
    if isinstance(body, TaskUpdate):
        return f"Task {body.task_id} is {body.status}" + (f": {body.note}" if body.note else "")
    return None
