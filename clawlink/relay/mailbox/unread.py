"""A look at a mailbox for the program that wakes its agent. It leases nothing and is no sign of life."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from clawlink.domain import delivery as rules
from clawlink.domain import delivery_steps, task_steps
from clawlink.domain import task as task_rules
from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery, Sender, copy_id
from clawlink.domain.message import MessageUpdate, PlainMessage, Priority, decode, encode
from clawlink.domain.task import FINAL, Task
from clawlink.domain.wake import Wake
from clawlink.errors import NotAllowed, UnknownMessage
from clawlink.protocol import replies, requests
from clawlink.protocol.mailbox_replies import Unread, UnreadMessage, UnreadSender
from clawlink.protocol.replies import WakeStored
from clawlink.relay import wait_loop
from clawlink.relay.core import Core, retrying
from clawlink.relay.ids import derived
from clawlink.relay.mailbox.mailbox import Mailbox
from clawlink.relay.mailbox.room import Purpose
from clawlink.relay.tasks.reads import read_task
from clawlink.relay.time_slices import Turns
from clawlink.relay.timestamps import StoppableTime
from clawlink.store.base import Put

# A message that becomes due again, or that a late index did not show, is seen after this time at the latest.
_TICK_SECONDS = 5.0
_GIVEN_UP = "given_up"


class Tell(Protocol):
    """Tells an agent news of a task, once for each occasion."""

    async def __call__(
        self, to: str, task: Task, *, by: str | None, note: str | None = None, occasion: str = ""
    ) -> None: ...


class UnreadMail:
    """Shows the messages that wait in a mailbox, and stores the wakes for them."""

    def __init__(self, core: Core, mailbox: Mailbox, tell: Tell) -> None:
        self._core = core
        self._mailbox = mailbox
        self._tell = tell

    async def unread(self, agent: Agent, ask: requests.UnreadQuery) -> Unread:
        """Return the messages that a poll would bring now; with ``wait`` once one is newer than ``since``.

        After ``wait`` seconds without news it returns what there is.
        """
        core = self._core
        found: Sequence[Delivery] = ()
        latest = ask.since or 0

        async def read() -> bool:
            nonlocal found, latest
            now = core.clock()
            due = await core.store.due(agent.id, now, ask.limit)
            found = [d for d in due if rules.hands_out(d, now, max_attempts=core.limits.max_attempts)]
            latest = max((rules.arrival(d) for d in found), default=0)
            return latest > (ask.since or 0)

        async def next_at() -> float | None:
            return None if found or core.stopped else await core.store.next_due_at(agent.id)

        with core.signals.listen(agent.id) as signal:
            tick = core.store.index_lag or _TICK_SECONDS
            await wait_loop.first_of_relay(core, signal, read=read, next_at=next_at, wait=ask.wait, tick=tick)
        return await self._shown(agent, ask, found, max(latest, ask.since or 0))

    async def waiting(self, agent: Agent, limit: int) -> Unread | None:
        """Return up to ``limit`` messages that a poll would bring now; None if there are none. One look finds that."""
        core = self._core
        now = core.clock()
        due = await core.store.due(agent.id, now, limit)
        found = [d for d in due if rules.hands_out(d, now, max_attempts=core.limits.max_attempts)]
        if not found:
            return None
        latest = max(rules.arrival(d) for d in found)
        return await self._shown(agent, requests.UnreadQuery(limit=limit), found, latest)

    async def _shown(self, agent: Agent, ask: requests.UnreadQuery, found: Sequence[Delivery], latest: int) -> Unread:
        store, turns = self._core.store, Turns()
        messages = []
        for d in found:
            await turns.next()
            messages.append(_shown(d, ask.words, self._core.time))
        kept = (await store.admission((agent.id,))).mailboxes[0].count
        dead = (await store.usage(Delivery, rules.by_dead(agent.id))).count
        names = {m.from_agent: m.from_name for m in messages}
        counts = Counter(m.from_agent for m in messages)
        return Unread(
            agent_id=agent.id,
            count=max(kept - dead, len(messages)),
            latest=latest,
            messages=messages,
            senders=[UnreadSender(id, names[id], count) for id, count in counts.items()],
        )

    @retrying
    async def woken(self, agent: Agent, id: str, ask: requests.Woken) -> WakeStored:
        """Store that the agent's program tried to wake it for a message. Raises UnknownMessage, NotAllowed."""
        core = self._core
        wake = Wake(core.clock(), ask.adapter, ask.result, ask.note, ask.idempotency_key)
        task, d = await read_task(core.store, id)
        if task is None and d is None:
            d = await core.store.get(Delivery, copy_id(id, agent.id))
        told: Task | Delivery
        if task is not None and (d is None or d.has_record):
            its, told = task_rules.is_worker(task, agent), task_steps.woken(task, wake)
        elif d is not None:
            its = rules.is_reader(d, agent) if task is None else task_rules.is_worker(task, agent)
            told = delivery_steps.woken(d, wake)
        else:
            raise UnknownMessage(
                f"no message {id!r} is known here, or it was settled and forgotten", field="message_id"
            )
        if not its:
            raise NotAllowed("only the agent that a message is for may say that it was woken for it", field="agent_id")
        given_up = ask.result == _GIVEN_UP
        if given_up and d is not None and not d.is_task and _is_first(told.wakes, wake):
            # Before the wake: a repeat after a crash in between is still the first. The notice's id is derived.
            await self._told_sender(agent, id, d)
        if told is not task and told is not d:
            await core.commit(told.partition_key, Put(told), quiet=True)
            core.unwoken.note(agent.id, id, wake)
        if given_up:
            await self._told(agent, id, wake)
        return WakeStored("stored", id, shown(told.wakes, core.time))

    async def _told(self, worker: Agent, id: str, wake: Wake) -> None:
        """Tell the requester of an open task that its worker could not be woken. A repeat tells nothing twice."""
        task, _ = await read_task(self._core.store, id)
        if task is not None and task.state not in FINAL:
            note = f"{worker.name} could not be woken; the task waits in its mailbox"
            await self._tell(task.requester, task, by=None, note=note, occasion=f"woken {wake.key or wake.at}")

    async def _told_sender(self, reader: Agent, id: str, d: Delivery) -> None:
        """Tell the sender of a plain message that its reader could not be woken. Nothing is told about a notice."""
        core = self._core
        now = core.clock()
        sender = await core.store.get(Agent, d.sender)
        if sender is None or sender.id == reader.id or not rules.is_sender(d, sender):
            return
        message = decode(d.body)
        waits = rules.hands_out(d, now, max_attempts=core.limits.max_attempts)
        if not waits or not isinstance(message, PlainMessage) or message.from_person is True:
            return
        news = derived("unwoken", id, reader.id)
        stamp = core.time.stamp()
        update = MessageUpdate(
            message_id=news,
            about=id,
            to_agent=sender.id,
            status=_GIVEN_UP,
            note=f"{reader.name} could not be woken; the message waits in its mailbox",
            timestamp=stamp,
            queued_at=stamp,
        )
        await self._mailbox.put_notice(
            self._mailbox.new(
                news,
                sender.id,
                sender=Sender(sender.id, None, sender.key_hash),
                body=encode(update),
                now=now,
                level=Priority.NORMAL.level,
                merge="unwoken:" + reader.id,
            ),
            Purpose.ANSWER,
        )


def _is_first(wakes: Sequence[Wake], wake: Wake) -> bool:
    """Return True if a wake is the first that was given up, also where its request is repeated."""
    given = next((one for one in wakes if one.result == _GIVEN_UP), wake)
    return given == wake if wake.key is None else given.key == wake.key


def shown(wakes: Sequence[Wake], time: StoppableTime) -> list[replies.Wake]:
    """Return wakes as the wire shows them."""
    return [replies.Wake(time.iso(wake.at), wake.adapter, wake.result, wake.note) for wake in wakes]


class _Head(Struct, gc=False):
    """The fields of a message that a look needs; the rest is skipped unread."""

    type: str
    from_agent: str | None = None
    from_name: str | None = None
    by: str | None = None
    note: str | None = None
    file_key: str | None = None
    task: Raw | UnsetType = UNSET
    content: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET


_head = msgspec.json.Decoder(_Head)
_text = msgspec.json.Decoder(str)
_NULL = Raw(b"null")


class Glimpse(NamedTuple):
    """The facts of a message for a list. ``from_agent`` is None for the relay; ``words`` begin its text."""

    type: str
    from_agent: str | None
    words: str | None


def glimpse(body: bytes, words: int) -> Glimpse:
    """Read a message for a list, with that many of its first characters."""
    head = _head.decode(body)
    return Glimpse(head.type, head.from_agent or head.by, _first_words(head, words) if words else None)


def _shown(d: Delivery, words: int, time: StoppableTime) -> UnreadMessage:
    head = _head.decode(d.body)
    return UnreadMessage(
        message_id=rules.message_id(d),
        type=head.type,
        from_agent=head.from_agent or head.by,
        from_name=head.from_name,
        stored_at=time.iso(d.stored_at),
        attempts=d.attempts,
        words=_first_words(head, words) if words else UNSET,
    )


def _first_words(head: _Head, length: int) -> str | None:
    """Return the first characters of a message's text, each run of white space as one space."""
    said: Any = next(
        (raw for raw in (head.task, head.content, head.result) if raw is not UNSET and raw != _NULL), UNSET
    )
    text = head.note or head.file_key
    if said is not UNSET:
        raw = bytes(said)
        # A character of JSON takes 12 bytes at most, as two escapes of UTF-16.
        text = _text.decode(raw) if raw[:1] == b'"' else raw[: 12 * length].decode(errors="ignore")
    if text is None:
        return None
    cut = " ".join(text[: 4 * length].split())
    return cut if len(cut) <= length and len(text) <= 4 * length else cut[: length - 1] + "…"
