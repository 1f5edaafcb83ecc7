"""Messages of contacts and to contacts, as records beside their deliveries."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable

from msgspec.structs import replace

from clawlink.domain import chain
from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery, Sender
from clawlink.domain.message import PlainMessage, encode
from clawlink.domain.shares import Origin
from clawlink.doors.portal import records
from clawlink.doors.portal.records import AGENT, OPEN, Contact, Message, State, mailbox_of, queued_for
from clawlink.doors.portal.rules import texts
from clawlink.doors.portal.rules.urls import normalised
from clawlink.doors.portal.server.contacts import paused, require_reachable
from clawlink.doors.portal.server.directory import Directory
from clawlink.doors.portal.server.repository import Repository, require_short
from clawlink.doors.portal.settings import HOUR, Settings
from clawlink.errors import BadRequest, KeyReused, RateLimited, UnknownMessage
from clawlink.relay.core import retrying
from clawlink.relay.ids import derived
from clawlink.relay.limits.token_buckets import Buckets
from clawlink.relay.relay import Relay
from clawlink.relay.time_slices import Turns
from clawlink.store.base import Drop, Put

MAX_TYPE_LENGTH = 64
MOST_LISTED = 500
MOST_SKIPPED = 10_000
_FORGOTTEN_AT_ONCE = 200
_LISTED_AT_ONCE = 50


class Mail:
    """The messages. ``wake`` is called with a contact for which a message waits."""

    def __init__(
        self,
        relay: Relay,
        repository: Repository,
        directory: Directory,
        settings: Settings,
        wake: Callable[[str], None],
    ) -> None:
        self._relay = relay
        self._core = relay.core
        self._repository = repository
        self._directory = directory
        self._settings = settings
        self._wake = wake
        self._messages = _hourly(settings.portal_contact_messages)
        self._bytes = _hourly(settings.portal_contact_bytes)

    # -- from a contact ----------------------------------------------------------------------------------------------

    async def receive(
        self, contact: Contact, content: str, message_type: str, key: str | None, in_reply_to: str | None
    ) -> Message:
        """Keep a message of a contact, and put it into the mailbox of the owner's agent, in one commit.

        With the other portal's key a repeat is the same message. Raises TooLarge, KeyReused, RateLimited, MailboxFull.
        """
        self._core.require_working()
        _require_short(content, message_type, key, in_reply_to)
        message = await self._core.finish(self._receive(contact, content, message_type, key, in_reply_to))
        self._repository.reach.heard(contact.id, self._core.steady())
        if in_reply_to is not None:
            await self._mark_answered(in_reply_to, contact)
        return message

    @retrying
    async def _receive(
        self, contact: Contact, content: str, message_type: str, key: str | None, in_reply_to: str | None
    ) -> Message:
        core = self._core
        id = core.ids.fresh() if key is None else received_id(contact, key)
        old = await core.store.get(Message, id)
        if old is not None:
            if (old.content, old.message_type) != (content, message_type):
                raise KeyReused("this idempotency key belongs to another message", field="idempotency_key")
            return old
        self._relay.admission.require_pace(contact.mailbox, AGENT)
        now = core.clock()
        self.require_quota(contact, len(content.encode()))
        name = texts.contact_name(contact.agent_name, contact.user_name, contact.url)
        delivery = self._repository.for_agent(id, content, sender=Sender(contact.mailbox), name=name, now=now)
        await self._relay.mailbox.require_room(delivery)
        message = self._new(id, contact.id, content, message_type, State.RECEIVED)
        message = replace(message, inbound=True, key=key, in_reply_to=in_reply_to)
        await self._repository.require_memory(message.weight, Origin(None, contact.mailbox))
        with self._directory.changing(contact.id):
            await self._relay.mailbox.put(delivery, Put(message))
        return message

    def require_quota(self, contact: Contact, size: int) -> None:
        """Count a message of a contact. Raises RateLimited."""
        settings, now = self._settings, self._core.steady()
        for buckets, most, what in (
            (self._messages, settings.portal_contact_messages, "messages"),
            (self._bytes, settings.portal_contact_bytes, "bytes"),
        ):
            wait = buckets.wait(contact.id, now)
            if wait:
                raise RateLimited(
                    f"a contact may send {most} {what} within an hour; try again in {math.ceil(wait)} s",
                    limit=most,
                    retry_after=wait,
                )
        self._messages.take(contact.id, now)
        self._bytes.take(contact.id, now, size)

    @retrying
    async def _mark_answered(self, id: str, contact: Contact) -> None:
        """Note that a contact has answered a message to it, if it has one of this id."""
        message = await self._core.store.get(Message, id)
        if message is None or message.inbound or message.contact != contact.id or message.answered_at is not None:
            return
        answered = replace(message, version=message.version + 1, answered_at=self._core.steady())
        await self._tell_of_answer(answered)  # first: a repeat ends at a message that is marked
        await self._core.commit(answered.partition_key, Put(answered))

    async def _tell_of_answer(self, message: Message) -> None:
        """Note at the delivery of an agent of the relay that the other side has answered it."""
        agent = await self._core.store.get(Agent, mailbox_of(message.contact))
        if message.sender != AGENT and agent is not None:
            await self._relay.messages.mark_answered(message.id, by=agent, to=message.sender)

    @retrying
    async def acknowledged(self, id: str) -> None:
        """Note that the owner's agent has acknowledged a message of a contact."""
        message = await self._core.store.get(Message, id)
        if message is not None and message.state is State.RECEIVED:
            acked = replace(
                message, version=message.version + 1, state=State.ACKNOWLEDGED, acked_at=self._core.steady()
            )
            with self._directory.changing(message.contact):
                await self._core.commit(AGENT, Put(acked))

    async def received(self, contact: Contact, key: str) -> Message:
        """Return a message of a contact by the key that its portal gave it. Raises UnknownMessage."""
        message = await self._core.store.get(Message, received_id(contact, key))
        if message is None:
            raise UnknownMessage("no message of this key was stored here", field="idempotency_key")
        return message

    async def notice(self, cause: str, text: str) -> None:
        """Tell the owner's agent something, once for each cause."""
        await self._repository.notice(cause, text)

    async def tell_sender(self, cause: str, text: str, sender: str) -> None:
        """Tell the owner's agent and the agent that sent something what became of it, once for each cause."""
        await self._repository.tell_sender(cause, text, sender)

    # -- to a contact ------------------------------------------------------------------------------------------------

    async def send(
        self,
        contact: Contact,
        content: str,
        message_type: str,
        key: str | None,
        in_reply_to: int | None,
        *,
        instead_of: Delivery | None = None,
    ) -> Message:
        """Put a message into a contact's mailbox, from which the portal posts it.

        It takes the place of the delivery of an agent that it goes ``instead_of``, whose sender hears if it fails.
        With a key a repeat is the same message. Raises TooLarge, KeyReused, RateLimited, MailboxFull, UnknownMessage.
        """
        self._core.require_working()
        _require_short(content, message_type, key)
        require_reachable(contact, self._core.steady())
        answers = None if in_reply_to is None else await self.numbered(in_reply_to)
        if answers is not None and not (answers.inbound and answers.contact == contact.id):
            raise BadRequest(f"message {in_reply_to} is not from this contact", field="in_reply_to")
        message = await self._core.finish(self._send(contact, content, message_type, key, answers, instead_of))
        self._wake(contact.id)
        return message

    async def waits_for(self, message: Message) -> str:
        """Return why a message is not on its way yet, if that is not its own failure; an empty text if it is."""
        if message.state not in OPEN:
            return ""
        contact = await self._core.store.get(Contact, message.contact)
        if contact is not None and contact.paused:
            return paused(contact)
        first = (await self._core.store.page(Message, queued_for(message.contact), limit=1)).records
        if not first or first[0].number >= message.number:
            return ""
        return f"message {first[0].number} goes first" + (f" ({first[0].detail})" if first[0].detail else "")

    @retrying
    async def _send(
        self,
        contact: Contact,
        content: str,
        message_type: str,
        key: str | None,
        answers: Message | None,
        instead_of: Delivery | None,
    ) -> Message:
        core = self._core
        id = core.ids.fresh() if key is None else derived("portal send", contact.id, key)
        old = await core.store.get(Message, id)
        if old is not None:
            if (old.content, old.message_type) != (content, message_type):
                raise KeyReused("this idempotency key belongs to another message", field="idempotency_key")
            return old
        self._relay.admission.require_pace(AGENT, contact.mailbox)
        now = core.clock()
        stamp = self._core.time.iso(now)
        body = PlainMessage(
            message_id=id,
            from_agent=AGENT,
            to_agent=contact.mailbox,
            content=content,
            in_reply_to=None if answers is None else answers.id,
            thread=None,
            timestamp=stamp,
            queued_at=stamp,
            from_name=AGENT,
            chain=chain.first(AGENT),
        )
        delivery = self._relay.mailbox.new(
            id,
            contact.mailbox,
            sender=Sender(AGENT),
            body=encode(body),
            now=now,
        )
        sender = AGENT
        if instead_of is not None:
            delivery, sender = replace(delivery, sort_key=instead_of.sort_key), instead_of.sender
        await self._relay.mailbox.require_room(delivery)
        message = self._new(id, contact.id, content, message_type, State.QUEUED)
        key_there = None if answers is None else answers.key
        message = replace(message, expires_at=delivery.expires_at, in_reply_to=key_there, sender=sender)
        await self._repository.require_memory(message.weight, Origin(None, AGENT))
        await self._relay.mailbox.put(delivery, Put(message))
        return message

    @retrying
    async def adopt(self, contact: Contact, delivery: Delivery, content: str) -> None:
        """Make what an agent of the relay left for a contact a message of the portal, with the same delivery.

        So the agent's message is acked once the other portal has stored it. Raises StorageFull.
        """
        if await self._core.store.get(Message, delivery.id) is None:
            message = self._new(delivery.id, contact.id, content, "text", State.QUEUED)
            message = replace(
                message, expires_at=delivery.stored_at + self._settings.portal_ttl, sender=delivery.sender
            )
            await self._repository.require_memory(message.weight, delivery.origin)
            await self._core.commit(message.partition_key, Put(message))

    async def note_sent(self, to_portal: str, content: str, message_type: str) -> Message:
        """Note a message that an old script has posted itself."""
        self._core.require_working()
        _require_short(content, message_type, None)
        contact = normalised(to_portal, field="to_portal")
        id = self._core.ids.fresh()
        message = self._new(id, contact, content, message_type, State.REPORTED)
        await self._repository.require_memory(message.weight, Origin(None, AGENT))
        await self._core.commit(message.partition_key, Put(message))
        return message

    def _new(self, id: str, contact: str, content: str, message_type: str, state: State) -> Message:
        return Message(
            id=id,
            version=1,
            number=self._repository.number(Message),
            inbound=False,
            contact=contact,
            content=content,
            message_type=message_type,
            created_at=self._core.steady(),
            state=state,
        )

    @retrying
    async def told(self, id: str, acked_at: float | None, answered_at: float | None) -> Message | None:
        """Note what the other portal tells of a message that it has stored."""
        message = await self._core.store.get(Message, id)
        if message is None or message.inbound or message.sent_at is None:
            return message
        new = replace(
            message,
            version=message.version + 1,
            acked_at=message.acked_at or acked_at,
            answered_at=message.answered_at or answered_at,
        )
        if (new.acked_at, new.answered_at) == (message.acked_at, message.answered_at):
            return message
        if new.answered_at is not None:
            await self._tell_of_answer(new)  # first: a repeat ends at a message that is marked
        await self._core.commit(new.partition_key, Put(new))
        return new

    async def forget(self, contact: str) -> int:
        """Forget all messages with a contact, those that wait, too. Return how many there were."""
        with self._directory.changing(contact):
            return await self._forget(contact)

    async def _forget(self, contact: str) -> int:
        forgotten = 0
        turns = Turns()
        while found := (
            await self._core.store.page(Message, records.messages_with(contact), limit=_FORGOTTEN_AT_ONCE)
        ).records:
            for message in found:
                await self._relay.mailbox.expire(message.id)
                await self._drop(message.id)
                forgotten += 1
                await turns.next()
        return forgotten

    @retrying
    async def _drop(self, id: str) -> None:
        message = await self._core.store.get(Message, id)
        if message is not None:
            await self._core.commit(message.partition_key, Drop(message))

    # -- looking back ------------------------------------------------------------------------------------------------

    async def numbered(self, number: int) -> Message:
        """Return the message with this number. Raises UnknownMessage."""
        found = (await self._core.store.page(Message, records.message_by_number(number), limit=1)).records
        if not found:
            raise UnknownMessage(
                f"there is no message {number}; 'clawlink portal history CONTACT' lists those of a contact",
                field="message_id",
            )
        return found[0]

    async def search(self, contact: str, text: str, limit: int) -> list[Message]:
        """Return the newest messages with the portal of this address that have a text in them, in any case of letters.

        It looks at the newest ``MOST_SKIPPED``.
        """
        wanted = text.casefold()
        found: list[Message] = []
        turns = Turns()
        async for message, _ in self.history(contact, MOST_SKIPPED, 0):
            await turns.next()
            if wanted in message.content.casefold():
                found.append(message)
                if len(found) >= limit:
                    break
        return found

    async def count(self, contact: str) -> int:
        """Return how many messages there are with the portal of this address."""
        return (await self._core.store.usage(Message, _with(contact))).count

    async def history(
        self, contact: str, limit: int, offset: int, cursor: str | None = None
    ) -> AsyncIterator[tuple[Message, str]]:
        """Give ``limit`` messages with the portal of this address after the first ``offset``, the newest first.

        Each comes with the cursor that goes on after it. A cursor costs the same at any depth. Raises BadRequest.
        """
        key = _with(contact)
        after, skip = _place_of(cursor)
        skip += offset
        given = 0
        while given < limit:
            page = await self._core.store.page(Message, key, after, min(skip + limit, _LISTED_AT_ONCE), newest=True)
            for at, message in enumerate(page.records, 1):
                if skip:
                    skip -= 1
                elif given < limit:
                    given += 1
                    yield message, f"{after or 0}.{at}"
            after = page.after
            if after is None:
                return
            await asyncio.sleep(0)


def _hourly(most: int) -> Buckets:
    return Buckets(most / HOUR, max(most, 1))


def _place_of(cursor: str | None) -> tuple[str | None, int]:
    """Return the page of a cursor, and how many of its messages were given. Raises BadRequest."""
    page, dot, given = (cursor or "0.0").partition(".")
    if not (dot and page.isascii() and page.isdigit() and given.isascii() and given.isdigit() and len(given) < 4):
        raise BadRequest("cursor is next_cursor of the page before", field="cursor")
    return None if page == "0" else page, int(given)


def _with(contact: str) -> str:
    return records.messages_with(normalised(contact, field="contact_portal"))


def received_id(contact: Contact, key: str) -> str:
    """Return the id of a message of a contact, which derives from the key that its portal gave it."""
    return derived("portal receive", contact.id, key)


def _require_short(content: str, message_type: str, key: str | None, in_reply_to: str | None = None) -> None:
    require_short(content)
    for text, most, field in (
        (message_type, MAX_TYPE_LENGTH, "message_type"),
        (key, texts.MAX_KEY_LENGTH, "idempotency_key"),
        (in_reply_to, texts.MAX_KEY_LENGTH, "in_reply_to"),
    ):
        if text is not None and not 1 <= len(text) <= most:
            raise BadRequest(f"{field} has 1 to {most} characters", field=field, limit=most, actual=len(text))
