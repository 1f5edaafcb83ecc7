"""The book of a portal: contacts, guests, the owner's chat and agent keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from msgspec.structs import replace

from clawlink.domain import chain
from clawlink.domain.agent import fold
from clawlink.domain.delivery import Delivery, Sender
from clawlink.domain.message import PlainMessage, encode
from clawlink.domain.shares import Origin
from clawlink.doors.portal import records
from clawlink.doors.portal.records import (
    AGENT,
    CHAT,
    CONTACTS,
    DECIDED,
    GUESTS,
    KEYS,
    MESSAGES,
    OPERATOR,
    SETTLED_MESSAGES,
    WAITING,
    AgentKey,
    Chat,
    Contact,
    Guest,
    GuestStatus,
    Message,
    Portal,
    hash_key,
)
from clawlink.doors.portal.rules import consent, posting, words
from clawlink.doors.portal.rules.consent import Decision
from clawlink.doors.portal.rules.urls import normalised, same
from clawlink.doors.portal.server.keys import PORTAL_ID, new_key
from clawlink.doors.portal.settings import HOUR, Settings
from clawlink.errors import (
    AmbiguousName,
    BadRequest,
    NotFound,
    RateLimited,
    RelayFull,
    TooLarge,
    UnknownMessage,
    WrongState,
)
from clawlink.relay.core import retrying
from clawlink.relay.kinds import Kind
from clawlink.relay.limits.memory import NEW_RECORD_BYTES
from clawlink.relay.limits.token_buckets import Buckets
from clawlink.relay.relay import Relay
from clawlink.relay.time_slices import Turns, parts
from clawlink.relay.timestamps import iso
from clawlink.store.base import Drop, Put
from clawlink.store.records import register

MAX_NAME_LENGTH = 200
MAX_MESSAGE_BYTES = 128 * 1024
"""The most bytes of a message's text: old bridges die of a frame over 1 MiB, and JSON may need six bytes for one."""
MAX_CONTACTS = 10_000
MAX_AGENT_KEYS = 100
_PAGE = 500
_SHOWN_KEY = 20
_NAMESAKES = 100
_COUNTED_AT_ONCE = 200
_GUEST = "guest"

for _kind, _name in (
    (Portal, "portal"),
    (Contact, "portal_contact"),
    (Guest, "portal_guest"),
    (Message, "portal_message"),
    (Chat, "portal_chat"),
    (AgentKey, "portal_agent_key"),
):
    register(_kind, _name)


def _stays(record: Any, now: float) -> None:
    """Never called: these records have no end."""


class Book:
    """Contacts, guests, chat and agent keys. A change that the agent is to hear of is one commit with its delivery."""

    def __init__(self, relay: Relay, url: str, settings: Settings) -> None:
        self.url = url
        self._relay = relay
        self._core = relay.core
        self._settings = settings
        self._numbers: dict[type[Any], int] = {}
        rate = settings.portal_guest_rate
        self._guests = Buckets(rate / HOUR, max(rate, 1))
        for kind, lapse, history in (
            (Portal, _stays, None),
            (Contact, _stays, None),
            (AgentKey, _stays, None),
            (Guest, _stays, DECIDED),
            (Chat, _stays, CHAT),
            (Message, posting.lapse, SETTLED_MESSAGES),
        ):
            relay.keep(Kind(kind, lapse, history=history))

    async def start(self) -> None:
        """Count numbers on from the newest record of each kind."""
        kinds: tuple[tuple[type[Any], str], ...] = (
            (Contact, CONTACTS),
            (Guest, GUESTS),
            (Message, MESSAGES),
            (Chat, CHAT),
        )
        portal = await self._core.store.get(Portal, PORTAL_ID)
        highest = {} if portal is None else portal.highest
        for kind, key in kinds:
            newest = (await self._core.store.page(kind, key, limit=_PAGE, newest=True)).records
            self._numbers[kind] = max((record.number for record in newest), default=0)
            self._numbers[kind] = max(self._numbers[kind], highest.get(kind.__name__, 0))

    def number(self, kind: type[Any]) -> int:
        """Return the next number of a kind of record."""
        self._numbers[kind] = self._numbers.get(kind, 0) + 1
        return self._numbers[kind]

    def for_agent(self, id: str, text: str, *, sender: Sender, name: str, now: float) -> Delivery:
        """Return a delivery for the owner's agent, which waits for it as long as the portal's settings say."""
        stamp = iso(now)
        body = PlainMessage(
            message_id=id,
            from_agent=sender.agent_id,
            to_agent=AGENT,
            content=text,
            in_reply_to=None,
            thread=None,
            timestamp=stamp,
            queued_at=stamp,
            from_name=name,
            chain=chain.first(sender.agent_id),
        )
        ends_at = now + self._settings.portal_inbox_ttl
        return self._relay.mailbox.new(id, AGENT, sender=sender, body=encode(body), now=now, ends_at=ends_at)

    async def require_memory(self, size: int, origin: Origin) -> None:
        """Refuse a new record for which there is no room. Raises StorageFull."""
        await self._core.memory.require(size + NEW_RECORD_BYTES, origin)

    async def notice(self, cause: str, text: str) -> None:
        """Tell the owner's agent something, once for each cause."""
        now = self._core.clock()
        delivery = self.for_agent(f"notice-{cause}", text, sender=Sender(OPERATOR), name="portal", now=now)
        if await self._core.store.get(Delivery, delivery.id) is None:
            await self._relay.mailbox.put(delivery)

    # -- contacts ----------------------------------------------------------------------------------------------------

    async def contacts(self) -> AsyncIterator[Contact]:
        """Give all contacts, the newest first, with turns for other requests in between."""
        turns = Turns()
        after: str | None = None
        while True:
            page = await self._core.store.page(Contact, CONTACTS, after, _PAGE, newest=True)
            for contact in page.records:
                await turns.next()
                yield contact
            after = page.after
            if after is None:
                return

    async def unread(self, contacts: Sequence[Contact]) -> list[int]:
        """Return how many messages of each contact the owner's agent has not acknowledged."""
        counts: list[int] = []
        for some in parts(contacts, _COUNTED_AT_ONCE):
            places = [(Message, records.unread_from(contact.id)) for contact in some]
            counts += [usage.count for usage in (await self._core.store.admission((), places)).indexes]
            await asyncio.sleep(0)
        return counts

    async def contact(self, number: int) -> Contact:
        """Return the contact with this number. Raises NotFound."""
        found = await self._core.store.first(Contact, records.contact_by_number(number), 1)
        if not found:
            raise NotFound(f"there is no contact {number}; 'clawlink portal contacts' lists them", field="contact_id")
        return found[0]

    async def find(self, to: str | int) -> Contact:
        """Return the contact with this number, address or name. Raises NotFound, AmbiguousName."""
        if isinstance(to, int) or (to.isascii() and to.isdigit()):
            return await self.contact(int(to))
        if "://" in to:
            contact = await self._core.store.get(Contact, normalised(to, field="to"))
            found = [] if contact is None else [contact]
        else:
            found = list(await self._core.store.first(Contact, records.contact_by_name(fold(to)), _NAMESAKES))
        if not found:
            raise NotFound(f"there is no contact {to[:80]!r}; 'clawlink portal contacts' lists them", field="to")
        if len(found) > 1:
            numbers = ", ".join(str(contact.number) for contact in found[:10])
            raise AmbiguousName(
                f"{len(found)} contacts have the name {to[:80]!r}; name one by its number: {numbers}",
                field="to",
                current=[contact.number for contact in found],
            )
        return found[0]

    @retrying
    async def put_contact(
        self,
        url: str,
        *,
        key: str | None,
        display_name: str | None,
        agent_name: str | None,
        user_name: str | None,
    ) -> Contact:
        """Add a contact, or change the one of this address; a field that is None stays as it was.

        Without a key a new contact gets a new one. A guest whose text offers this portal is approved by it, because old
        agents may make this call alone.
        """
        id = normalised(url)
        self._require_other(id)
        old = await self._core.store.get(Contact, id)
        contact = await self._contact(id, url, old, key, (display_name, agent_name, user_name))
        changes = [Put(contact)]
        turns = Turns()
        for guest in await self._core.store.first(Guest, WAITING, self._settings.portal_guests):
            await turns.next()
            if consent.offered(guest.content, self.url).url == id:
                changes.append(Put(_decided(guest, Decision.APPROVE, id)))
        await self._core.commit(contact.partition_key, *changes)
        return contact

    async def _contact(
        self, id: str, url: str, old: Contact | None, key: str | None, names: tuple[str | None, str | None, str | None]
    ) -> Contact:
        for name in names:
            if name is not None and (len(name) > MAX_NAME_LENGTH or not name.isprintable()):
                raise BadRequest(
                    f"a name has at most {MAX_NAME_LENGTH} characters, and none that hide", limit=MAX_NAME_LENGTH
                )
        if key is not None:
            fault = consent.key_fault(key)
            if fault is not None:
                raise BadRequest(fault, field="SHARED_KEY")
            for other in await self._core.store.first(Contact, records.contact_by_key(hash_key(key)), 2):
                if other.id != id:
                    raise WrongState(
                        f"contact {other.number} has this key already, and each contact needs its own",
                        field="SHARED_KEY",
                        current=other.number,
                    )
        display_name, agent_name, user_name = names
        if old is not None:
            return replace(
                old,
                version=old.version + 1,
                url=url.strip(),
                key=key or old.key,
                display_name=old.display_name if display_name is None else display_name,
                agent_name=old.agent_name if agent_name is None else agent_name,
                user_name=old.user_name if user_name is None else user_name,
            )
        known = await self._core.store.usage(Contact, CONTACTS)
        if known.count >= MAX_CONTACTS:
            raise RelayFull(
                f"the portal has {known.count} contacts and may have no more; remove some",
                limit=MAX_CONTACTS,
                actual=known.count,
            )
        await self.require_memory(len(url), Origin(None, OPERATOR))
        return Contact(
            id=id,
            version=1,
            number=self.number(Contact),
            url=url.strip(),
            key=key or new_key(),
            created_at=self._core.clock(),
            display_name=display_name,
            agent_name=agent_name,
            user_name=user_name,
        )

    def _require_other(self, id: str) -> None:
        if same(id, self.url):
            raise BadRequest("this is the address of this portal itself; name that of the contact", field="portal_url")

    @retrying
    async def change_contact(
        self, number: int, *, key: str | None, display_name: str | None, agent_name: str | None, user_name: str | None
    ) -> None:
        """Change a contact's key and names. As on the wire, an absent name is taken away; the key stays. NotFound."""
        contact = await self.contact(number)
        changed = await self._contact(contact.id, contact.url, contact, key, (display_name, agent_name, user_name))
        changed = replace(changed, display_name=display_name, agent_name=agent_name, user_name=user_name)
        await self._core.commit(changed.partition_key, Put(changed))

    @retrying
    async def remove_contact(self, number: int) -> None:
        """Remove a contact; its messages stay. Raises NotFound."""
        contact = await self.contact(number)
        await self._core.commit(contact.partition_key, Drop(contact))

    @retrying
    async def learn(self, id: str, *, ours: bool) -> Contact | None:
        """Note whether a contact's portal is a relay of ClawLink. Return the contact, None if it was removed."""
        contact = await self._core.store.get(Contact, id)
        if contact is None or contact.ours is ours:
            return contact
        contact = replace(contact, version=contact.version + 1, ours=ours)
        await self._core.commit(contact.partition_key, Put(contact))
        return contact

    @retrying
    async def block(self, id: str, *, blocked: bool) -> Contact | None:
        """Block or unblock a contact; None if it was removed."""
        contact = await self._core.store.get(Contact, id)
        if contact is None or contact.blocked is blocked:
            return contact
        contact = replace(contact, version=contact.version + 1, blocked=blocked)
        await self._core.commit(contact.partition_key, Put(contact))
        return contact

    @retrying
    async def keep_numbers(self) -> None:
        """Note the numbers that were given, before records are forgotten: an id of the wire means one thing."""
        portal = await self._core.store.get(Portal, PORTAL_ID)
        if portal is not None:
            highest = {kind.__name__: number for kind, number in self._numbers.items()}
            portal = replace(portal, version=portal.version + 1, highest=highest)
            await self._core.commit(portal.partition_key, Put(portal))

    async def forget_guests(self, url: str) -> int:
        """Forget the guest messages that offer this portal, and return how many there were."""
        forgotten = 0
        turns = Turns()
        after: str | None = None
        while True:
            page = await self._core.store.page(Guest, GUESTS, after, _PAGE)
            for guest in page.records:
                await turns.next()
                if consent.offered(guest.content, self.url).url == url:
                    await self._relay.mailbox.expire(f"guest-{guest.number}")
                    await self._drop_guest(guest.id)
                    forgotten += 1
            after = page.after
            if after is None:
                return forgotten

    @retrying
    async def _drop_guest(self, id: str) -> None:
        guest = await self._core.store.get(Guest, id)
        if guest is not None:
            await self._core.commit(AGENT, Drop(guest))

    # -- guests ------------------------------------------------------------------------------------------------------

    async def leave(self, text: str, address: str | None) -> Guest:
        """Keep a guest message, and tell the owner's agent. Raises TooLarge, RateLimited, RelayFull."""
        settings, core = self._settings, self._core
        core.require_working()
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > settings.portal_guest_bytes:
            raise TooLarge(
                f"a guest message has at most {settings.portal_guest_bytes} bytes, and this one has {size}; shorten it",
                field="content",
                limit=settings.portal_guest_bytes,
                actual=size,
            )
        now = core.clock()
        wait = 0.0 if address is None else self._guests.wait(address, now)
        if wait:
            raise RateLimited(
                f"an address may leave {settings.portal_guest_rate} messages within an hour; try again in {wait:.0f} s",
                limit=settings.portal_guest_rate,
                retry_after=wait,
            )
        waiting = await core.store.usage(Guest, WAITING)
        if waiting.count >= settings.portal_guests:
            raise RelayFull(
                f"{waiting.count} guest messages wait for the owner, and no more are taken; try again once some are "
                "decided",
                limit=settings.portal_guests,
                actual=waiting.count,
                retry_after=HOUR,
            )
        if address is not None:
            self._guests.take(address, now)
        return await core.finish(self._leave(text, address, now))

    @retrying
    async def _leave(self, text: str, address: str | None, now: float) -> Guest:
        number = self.number(Guest)
        guest = Guest(id=str(number), version=1, number=number, content=text, created_at=now, address=address)
        sender = Sender(_GUEST, address)
        told = words.guest_notice(number, text)
        delivery = self.for_agent(f"guest-{number}", told, sender=sender, name=_GUEST, now=now)
        await self._relay.mailbox.require_room(delivery)
        await self.require_memory(guest.weight, Origin(address, _GUEST))
        await self._relay.mailbox.put(delivery, Put(guest))
        return guest

    async def guests(self) -> list[Guest]:
        """Return the guest messages, the newest first: all that wait, and the last that are decided."""
        page = await self._core.store.page(Guest, GUESTS, limit=_PAGE, newest=True)
        return list(page.records)

    @retrying
    async def decide(
        self,
        number: int,
        decision: Decision,
        *,
        url: str | None = None,
        key: str | None = None,
        agent_name: str | None = None,
        user_name: str | None = None,
        swap: bool = False,
        lenient: bool = False,
    ) -> tuple[Guest, Contact | None]:
        """Decide about a guest message; an approval makes the contact that the text offers.

        What is given goes before the text. A contact that exists keeps its key unless ``swap`` is True: a stranger may
        name anybody's portal. ``lenient`` is for old agents, which may make the contact by a call of their own: an
        unclear offer, or a contact that is there, then changes no contact. A guest whose contact has access is not
        denied. Raises UnknownMessage, BadRequest, WrongState.
        """
        core = self._core
        guest = await core.store.get(Guest, str(number))
        if guest is None:
            raise UnknownMessage(f"there is no guest message {number}", field="message_id")
        if decision is Decision.DENY:
            await self._require_no_access(guest)
        contact: Contact | None = None
        made: str | None = None
        changes: list[Put] = []
        if decision is Decision.APPROVE:
            offer = consent.offered(guest.content, self.url)
            place, key = url or offer.url, key or offer.key
            old = None if place is None else await core.store.get(Contact, normalised(place))
            if old is not None and old.blocked:
                raise WrongState(
                    f"contact {old.number} is blocked; unblock it first", field="portal_url", current="blocked"
                )
            if old is not None and (lenient or key in (None, old.key)):
                contact = old
                made = old.id if key in (None, old.key) else None
            elif place is not None and key is not None:
                contact = await self._approved(place, key, old, agent_name, user_name, swap=swap)
                made = contact.id
                changes.append(Put(contact))
            elif not lenient:
                raise BadRequest(
                    f"guest message {number} does not offer one portal and one key; ask the guest, or name them: "
                    f"clawlink portal approve {number} --url URL --key KEY",
                    field="portal_url" if place is None else "key",
                )
        decided = _decided(guest, decision, made)
        if decided is not guest:
            changes.append(Put(decided))
        if changes:
            await core.commit(AGENT, *changes)
        return decided, contact

    async def _require_no_access(self, guest: Guest) -> None:
        """Refuse to deny a guest whose contact has access by its approval. Raises WrongState."""
        if guest.status is not GuestStatus.APPROVED:
            return
        offer = consent.offered(guest.content, self.url)
        id = guest.contact or offer.url
        contact = None if id is None else await self._core.store.get(Contact, id)
        if contact is None or contact.blocked:
            return
        if guest.contact is not None or offer.key in (None, contact.key):
            number = contact.number
            raise WrongState(
                f"guest message {guest.number} is approved, and contact {number} ({contact.url}) keeps its access; "
                f"end that first: clawlink portal block {number}, or clawlink portal remove {number}",
                field="decision",
                current=guest.status.value,
            )

    async def _approved(
        self,
        url: str,
        key: str,
        old: Contact | None,
        agent_name: str | None,
        user_name: str | None,
        *,
        swap: bool,
    ) -> Contact:
        id = normalised(url)
        self._require_other(id)
        if old is not None and not swap:
            raise WrongState(
                f"contact {old.number} has this portal already, with another key: if its owner told you of the new "
                "one, approve with --replace",
                field="portal_url",
                current=old.number,
            )
        return await self._contact(id, url, old, key, (None, agent_name, user_name))

    # -- the chat of owner and agent ---------------------------------------------------------------------------------

    @retrying
    async def say(self, role: str, text: str) -> Chat:
        """Keep a line of the chat. The agent hears what the owner says, unless ``role`` is its own. Raises TooLarge."""
        require_short(text)
        now = self._core.clock()
        number = self.number(Chat)
        line = Chat(id=str(number), version=1, number=number, role=role, content=text, created_at=now)
        await self.require_memory(line.weight, Origin(None, OPERATOR))
        if role == "owner" and consent.decided(text) is None:
            delivery = self.for_agent(f"chat-{number}", text, sender=Sender(OPERATOR), name="owner", now=now)
            await self._relay.mailbox.require_room(delivery)
            await self._relay.mailbox.put(delivery, Put(line))
        else:
            await self._core.commit(AGENT, Put(line))
        return line

    async def chat(self, limit: int) -> list[Chat]:
        """Return the last lines of the chat, the oldest of them first."""
        page = await self._core.store.page(Chat, CHAT, limit=limit, newest=True)
        return list(reversed(page.records))

    # -- agent keys --------------------------------------------------------------------------------------------------

    async def make_key(self, label: str) -> str:
        """Make an agent key, which is shown this once. Raises RelayFull."""
        known = await self._core.store.usage(AgentKey, KEYS)
        if known.count >= MAX_AGENT_KEYS:
            raise RelayFull(
                f"there are {known.count} agent keys; revoke some", limit=MAX_AGENT_KEYS, actual=known.count
            )
        key = new_key()
        made = AgentKey(
            id=hash_key(key),
            version=1,
            label=label[:MAX_NAME_LENGTH],
            shown=key[:_SHOWN_KEY] + "...",
            created_at=self._core.clock(),
        )
        await self._core.commit(made.partition_key, Put(made))
        return key

    async def keys(self) -> Sequence[AgentKey]:
        """Return the agent keys."""
        return (await self._core.store.page(AgentKey, KEYS, limit=MAX_AGENT_KEYS)).records

    @retrying
    async def revoke(self, named: str) -> bool:
        """Revoke an agent key, named in full or by its first characters as they are listed; False if none is."""
        hashed = hash_key(named)
        found = [key for key in await self.keys() if hashed == key.id or named == key.shown]
        if found:
            await self._core.commit(AGENT, *map(Drop, found))
        return bool(found)


def require_short(text: str) -> None:
    """Refuse a text that no frame to an old bridge can carry. Raises TooLarge."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_MESSAGE_BYTES:
        raise TooLarge(
            f"a message has at most {MAX_MESSAGE_BYTES} bytes, and this one has {size}; send it in parts",
            field="content",
            limit=MAX_MESSAGE_BYTES,
            actual=size,
        )


def _decided(guest: Guest, decision: Decision, contact: str | None = None) -> Guest:
    """Return a guest message with the owner's decision; the same one if that changes nothing.

    ``contact`` is the id of the contact that an approval makes or confirms.
    """
    status = {Decision.APPROVE: GuestStatus.APPROVED, Decision.DENY: GuestStatus.REJECTED}.get(decision, guest.status)
    contact = None if decision is Decision.DENY else contact or guest.contact
    if (status, contact) == (guest.status, guest.contact) and guest.is_read:
        return guest
    return replace(guest, version=guest.version + 1, status=status, is_read=True, contact=contact)
