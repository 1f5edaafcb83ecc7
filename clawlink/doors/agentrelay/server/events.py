"""Events of AgentRelay: contents that the relay keeps while a line says where they are."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import string
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from clawlink.domain.agent import Agent
from clawlink.domain.agent import fold as fold_name
from clawlink.domain.dense_json import read_object
from clawlink.doors.agentrelay import names, rules
from clawlink.doors.agentrelay.rules import KNOWN, OVER, Event, Pointer, Verdict
from clawlink.doors.agentrelay.server import views
from clawlink.doors.agentrelay.server.room import EventRoom
from clawlink.doors.agentrelay.settings import Settings
from clawlink.doors.agentrelay.wire import line as lines
from clawlink.doors.agentrelay.wire.exchange import (
    CleanedUp,
    CleanUp,
    CompleteEvent,
    EventCompleted,
    EventRead,
    EventSent,
    EventUpdated,
    EventVerified,
    ReceiveEvent,
    SendEvent,
    UpdateEvent,
    VerifyEvent,
)
from clawlink.errors import BadRequest, NotAllowed, Refused, Stopped, StorageFull, UnknownAgent, UnknownEvent
from clawlink.protocol import requests
from clawlink.relay.core import retrying
from clawlink.relay.ids import derived
from clawlink.relay.kinds import Kind
from clawlink.relay.relay import Relay
from clawlink.store.base import Drop, Put
from clawlink.store.records import register

SECRET_LENGTH = 6
# The reader of burned contents may repeat its request for this many seconds, because the reply may have been lost.
BURNED_SECONDS = 60.0
_SLICE = 200
_LETTERS = string.ascii_letters + string.digits
KIND = Kind(Pointer, rules.lapse, history=OVER)
_encode = msgspec.json.Encoder().encode

register(Pointer, "agentrelay_event")


class Events:
    """The events. Only its sender and its receiver may use an event."""

    def __init__(self, relay: Relay, settings: Settings) -> None:
        self._core = relay.core
        self._agents = relay.agents
        self._messages = relay.messages
        self._admission = relay.admission
        self._room = EventRoom(relay.core, settings)
        relay.keep(KIND)

    async def usage(self) -> tuple[int, int]:
        """Return how many events are known, and the bytes of their contents."""
        used = await self._core.store.usage(Pointer, KNOWN)
        return used.count, used.bytes

    # -- send --------------------------------------------------------------------------------------------------------

    async def send(self, sender: Agent, ask: SendEvent) -> EventSent:
        """Keep contents under a new id, and put the line into the mailbox of their receiver, if it is registered.

        Raises WrongState for an id that is in use, StorageFull, RelayFull, and the refusal of the message.
        """
        self._core.require_working()
        _require_own_name(sender, ask.content)
        receiver = ask.content.get("receiver_agent") or ask.to_agent
        event = self._event(ask.event_id, ask.type, ask.content, sender, receiver)
        return await self._core.finish(self._send(sender, event, ask.content, ask.idempotency_key))

    async def _send(self, sender: Agent, event: Event, content: Mapping[str, Any], key: str | None) -> EventSent:
        to = await self._registered(event.receiver)
        if to is None:
            self._admission.require_pace(sender.id, None)
        pointer, made = await self._create(sender, event, to, content, key)
        event = pointer.event
        line = lines.announce(event.type, event.id)
        message_id = None
        if to is not None:
            try:
                message_id = await self._tell(sender, to, line, pointer)
            except (Refused, Stopped):
                if made:
                    await self._room.forget(pointer.id)
                raise
        return EventSent(
            event_id=event.id,
            ptr=names.pointer(event.id),
            csv_message=line,
            secret=event.secret,
            sender=event.sender,
            receiver=event.receiver,
            sender_name=pointer.sender_name,
            receiver_name=pointer.receiver_name,
            expires_at=self._core.time.iso(rules.expires_at(event)),
            message_id=message_id,
        )

    async def _tell(self, sender: Agent, to: Agent, line: str, pointer: Pointer) -> str:
        ask = requests.Send(
            from_agent=sender.id,
            to_agent=to.id,
            content=f"AgentRelay: {line}",
            idempotency_key=derived("agentrelay", pointer.made_by),
        )
        return (await self._messages.send(sender, ask)).message_id

    @retrying
    async def _create(
        self, sender: Agent, event: Event, to: Agent | None, content: Mapping[str, Any], key: str | None
    ) -> tuple[Pointer, bool]:
        """Keep a new event, or return the earlier event of the same request; also return which of both."""
        core = self._core
        id = names.fold(event.id)
        data = _encode(content)
        cause = core.ids.fresh() if key is None else key
        made_by = derived("event", sender.id, event.id, event.type, event.receiver, cause, _digest(data))
        old = await core.store.get(Pointer, id)
        if old is not None:
            if old.made_by != made_by or not _is_sender(sender, old):
                raise names.in_use(event.id, old.event.id)
            return old, False
        await self._room.require(sender.origin, sender.id, len(data), count=1)
        pointer = Pointer(
            id=id,
            version=1,
            event=event,
            content=data,
            sender_name=sender.name,
            receiver_name=event.receiver if to is None else to.name,
            receiver_id=None if to is None else to.id,
            receiver_key=None if to is None else to.key_hash,
            sender_key=sender.key_hash,
            made_by=made_by,
            ends_at=rules.expires_at(event),
            address=sender.address,
        )
        await core.commit(pointer.partition_key, Put(pointer))
        return pointer, True

    def _event(self, id: str, type: str, content: Mapping[str, Any], sender: Agent, receiver: object) -> Event:
        """Return a new event, with a random secret."""
        secret = "".join(secrets.choice(_LETTERS) for _ in range(SECRET_LENGTH))
        return rules.send(id, type, content, sender=sender.id, receiver=receiver, secret=secret, now=self._core.clock())

    async def _registered(self, receiver: str) -> Agent | None:
        try:
            return await self._agents.resolve(receiver)
        except UnknownAgent:
            return None

    # -- receive -----------------------------------------------------------------------------------------------------

    async def receive(self, reader: Agent, ask: ReceiveEvent) -> EventRead:
        """Return the contents that a line leads to. Only the receiver's reading counts, and burns.

        Raises UnknownEvent, NotAllowed, BadRequest for a line that is not that of its event.
        """
        self._core.require_working()
        line = lines.parse(ask.message)
        names.require_pointer(line.ptr, line.event_id)
        return await self._receive(reader, line, ask.idempotency_key)

    @retrying
    async def _receive(self, reader: Agent, line: lines.Line, key: str | None) -> EventRead:
        core = self._core
        now = core.clock()
        pointer = await self._find(line.event_id)
        is_receiver = await self._require_party(reader, pointer)
        event = pointer.event
        rules.require_said(event, line.type)
        read_by = None if key is None else derived("read", reader.id, key)
        if read_by is not None and pointer.read_by == read_by and pointer.content:
            return views.read(pointer, event, core.time)
        rules.require_present(event, pointer.sender_name)
        if not is_receiver:
            return views.read(pointer, event, core.time)
        event = rules.receive(event, reader.id, now)
        ends_at = pointer.ends_at if event.present else min(pointer.ends_at, now + BURNED_SECONDS)
        new = rules.changed(pointer, event, read_by=read_by, receiver_id=reader.id, ends_at=ends_at)
        new = replace(new, receiver_key=pointer.receiver_key or reader.key_hash)
        if not event.present and read_by is None:  # no request can ask for it again
            new = replace(new, content=b"", ends_at=now + rules.DEFAULT_REGISTRY_TTL_HOURS * rules.HOUR)
        await core.commit(new.partition_key, Put(new))
        return views.read(pointer, event, core.time)

    # -- update ------------------------------------------------------------------------------------------------------

    async def update(self, editor: Agent, ask: UpdateEvent) -> EventUpdated:
        """Merge updates into an event's contents. With ``next_event_id``, into the next event, which is made if needed:

        it belongs to the receiver of this event, and has the contents of this event too, unless they are burned.
        """
        self._core.require_working()
        names.require_id(ask.event_id)
        if ask.next_event_id in (None, ask.event_id):
            return await self._core.finish(self._update(editor, ask.event_id, ask.updates))
        next_id = names.require_id(ask.next_event_id, field="next_event_id")
        return await self._core.finish(self._hand_on(editor, ask, next_id))

    @retrying
    async def _update(
        self, editor: Agent, id: str, updates: Mapping[str, Any], *, before: Event | None = None
    ) -> EventUpdated:
        """Merge updates into an event of the editor, or into the event that follows ``before``."""
        core = self._core
        now = core.clock()
        pointer = await self._find(id)
        if before is None:
            await self._require_party(editor, pointer)
        else:
            rules.require_fillable(pointer.event, before, id, editor.id)
            if pointer.event.sender != before.sender and not _is_sender(editor, pointer):
                raise names.in_use(id, pointer.event.id)
        # An agent that writes back an event as it was read names the sender, and means no harm.
        if updates.get("sender_agent") not in (pointer.event.sender, pointer.sender_name):
            _require_own_name(editor, updates, field="updates")
        event = rules.update(pointer.event, now)
        content = _content(pointer) if pointer.event.present else {}
        data = _encode({**content, **updates})
        _require_body(len(data), core.limits.max_body_bytes)
        await self._room.require(pointer.origin, pointer.event.sender, len(data) - len(pointer.content))
        new = rules.changed(pointer, event, content=data, read_by=None, ends_at=_end(event, now))
        await core.commit(new.partition_key, Put(new))
        return views.updated(new)

    async def _hand_on(self, editor: Agent, ask: UpdateEvent, next_id: str) -> EventUpdated:
        pointer = await self._find(ask.event_id)
        if not await self._require_party(editor, pointer):
            raise NotAllowed(
                f"only the receiver of event {pointer.event.id!r} hands it on; send the next one yourself",
                field="agent_id",
            )
        rules.require_received(pointer.event, editor.id)
        following = await self._core.store.get(Pointer, names.fold(next_id))
        if following is not None:
            return await self._update(editor, following.event.id, ask.updates, before=pointer.event)
        before = _content(pointer) if pointer.event.present else {}
        content = rules.handed_on(before, ask.updates, replace(pointer.event, receiver=editor.id))
        event = self._event(next_id, pointer.event.type, content, editor, content["receiver_agent"])
        _require_body(len(_encode(content)), self._core.limits.max_body_bytes)
        self._admission.require_pace(editor.id, None)
        made, _ = await self._create(
            editor, event, await self._registered(event.receiver), content, ask.idempotency_key
        )
        return views.updated(made)

    # -- cmp and verify ----------------------------------------------------------------------------------------------

    @retrying
    async def complete(self, reader: Agent, ask: CompleteEvent) -> EventCompleted:
        """Return the CMP of an event to its receiver after the read. Raises WrongState, NotAllowed, BadRequest."""
        core = self._core
        core.require_working()
        pointer = await self._find(names.require_id(ask.event_id))
        await self._require_party(reader, pointer)
        event = rules.complete(pointer.event, reader.id, ask.secret, core.clock())
        if not ask.check:
            new = rules.changed(pointer, event)
            await core.commit(new.partition_key, Put(new))
        message = lines.build(rules.COMPLETION, event.id, "", event.secret)
        return EventCompleted(
            event.id, message, event.sender, event.receiver, pointer.sender_name, pointer.receiver_name
        )

    @retrying
    async def verify(self, asker: Agent, ask: VerifyEvent) -> EventVerified:
        """Verify a CMP for the sender of an event. It counts once; a forged one changes nothing.

        Raises NotAllowed for all others, because the sender would not hear of their verdict.
        """
        core = self._core
        core.require_working()
        line = lines.parse(ask.message)
        if line.type != rules.COMPLETION:
            raise BadRequest(f"Expected CMP message, got {line.type}", field="message")
        pointer = await self._find(line.event_id)
        if not _is_sender(asker, pointer):
            raise NotAllowed(f"only the sender of event {pointer.event.id!r} verifies its CMP", field="agent_id")
        verdict, event = rules.verify(pointer.event, line.data, core.clock())
        verified_by = None if ask.idempotency_key is None else derived("verify", asker.id, ask.idempotency_key)
        if verdict is Verdict.OK:
            new = rules.changed(pointer, event, verified_by=verified_by)
            await core.commit(new.partition_key, Put(new))
        elif verdict is Verdict.REPEAT and verified_by is not None and pointer.verified_by == verified_by:
            verdict = Verdict.OK
        return EventVerified(
            status=verdict.value,
            event_id=event.id,
            verified=verdict is not Verdict.MISMATCH,
            expected_secret=event.secret,
            received_secret=line.data,
            sender=event.sender,
            receiver=event.receiver,
            file_exists=event.present,
            sender_name=pointer.sender_name,
            receiver_name=pointer.receiver_name,
        )

    # -- clean up ----------------------------------------------------------------------------------------------------

    async def clean_up(self, sender: Agent, ask: CleanUp) -> CleanedUp:
        """Let go of an agent's events that are over; the relay does so by itself, this only sooner."""
        done = CleanedUp([], [], [])
        after: str | None = None
        while True:
            page = await self._core.store.page(Pointer, rules.sent_by(sender.id), after, _SLICE)
            for pointer in page.records:
                if _is_sender(sender, pointer):
                    await self._clean_up(pointer.id, ask.registry_ttl_hours, done)
            after = page.after
            await asyncio.sleep(0)
            if after is None:
                break
        done.kept_events.sort()
        return done

    @retrying
    async def _clean_up(self, id: str, registry_ttl_hours: int, done: CleanedUp) -> None:
        core = self._core
        now = core.clock()
        pointer = await core.store.get(Pointer, id)
        if pointer is None:
            return
        event = pointer.event
        if event.present and rules.expires_at(event) <= now:
            left = rules.lapse(pointer, now)
            if left is not None:
                await core.commit(left.partition_key, Put(left))
                done.deleted_files.append(event.id)
                event = left.event
        ended = event.expired_at or event.verified_at or event.completed_at or event.burned_at or event.created_at
        if not event.present and not pointer.content and now - ended >= registry_ttl_hours * rules.HOUR:
            await core.commit(pointer.partition_key, Drop(pointer))
            done.deleted_registry.append(event.id)
        else:
            done.kept_events.append(event.id)

    # -- parties -------------------------------------------------------------------------------------------------------

    async def _find(self, id: str) -> Pointer:
        """Return an event. Raises UnknownEvent, also where only the janitor has not come round yet."""
        pointer = await self._core.store.get(Pointer, names.fold(id))
        if pointer is None or pointer.event.id != id:
            raise UnknownEvent(f"the relay knows no event {id!r}, or no longer", field="event_id")
        now = self._core.clock()
        if pointer.event.present and rules.expires_at(pointer.event) <= now:
            left = rules.lapse(pointer, now)
            return pointer if left is None else replace(left, version=pointer.version)
        return pointer

    async def _require_party(self, agent: Agent, pointer: Pointer) -> bool:
        """Refuse all but the parties of an event; return True for its receiver. Raises NotAllowed."""
        same_key = pointer.receiver_key in (None, agent.key_hash)
        if pointer.receiver_id == agent.id and same_key:
            return True
        holder = None if pointer.receiver_id is None else await self._core.store.get(Agent, pointer.receiver_id)
        there = holder is not None and pointer.receiver_key in (None, holder.key_hash)
        # A name without an agent at the time, or whose agent has left, stands for its next agent. The next agent of a
        # claimed agent's name needs the same key.
        if (
            not there
            and same_key
            and (fold_name(pointer.receiver_name) == fold_name(agent.name) or pointer.event.receiver == agent.id)
        ):
            return True
        if not _is_sender(agent, pointer):
            raise NotAllowed(
                f"event {pointer.event.id!r} is between others: only its sender and its receiver may use it",
                field="agent_id",
            )
        return False


def _is_sender(agent: Agent, pointer: Pointer) -> bool:
    """Return True for the sender of an event, not for a later agent with its id and another key."""
    return pointer.event.sender == agent.id and pointer.sender_key in (None, agent.key_hash)


def _require_own_name(sender: Agent, content: Mapping[str, Any], *, field: str = "content") -> None:
    """Refuse contents that claim another sender. Raises NotAllowed."""
    said = content.get("sender_agent")
    if not said or said == sender.id or (isinstance(said, str) and fold_name(said) == fold_name(sender.name)):
        return
    raise NotAllowed(
        f"the contents say they are from {said!r}, and the relay knows you as {sender.name!r} ({sender.id}): "
        "leave sender_agent out, or register under that name",
        field=f"{field}.sender_agent",
    )


def _require_body(size: int, limit: int) -> None:
    """Refuse contents that grew beyond the limit of one request. Raises StorageFull."""
    if size > limit:
        raise StorageFull(
            f"the contents of one event may have {limit} bytes, and would have {size}; share large contents as a file",
            limit=limit,
            actual=size,
            current={"free": 0},
        )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _content(pointer: Pointer) -> dict[str, Any]:
    return read_object(pointer.content)


def _end(event: Event, now: float) -> float:
    """Return when contents go: at the event's own time, but not at once if they came late, after a burning."""
    return max(rules.expires_at(event), now + rules.HOUR)
