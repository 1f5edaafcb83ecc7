"""The guests of a portal, and the owner's decisions about them."""

from __future__ import annotations

import asyncio
import math

from msgspec.structs import replace

from clawlink.domain.delivery import Sender
from clawlink.domain.shares import Origin
from clawlink.doors.portal.records import (
    AGENT,
    GUESTS,
    WAITING,
    Contact,
    Guest,
    GuestStatus,
    guest_with,
    hash_key,
)
from clawlink.doors.portal.rules import consent, texts
from clawlink.doors.portal.rules.consent import Decision
from clawlink.doors.portal.rules.urls import normalised
from clawlink.doors.portal.server.contacts import Contacts
from clawlink.doors.portal.server.repository import Repository, is_beyond
from clawlink.doors.portal.settings import HOUR, Settings
from clawlink.errors import BadRequest, RateLimited, RelayFull, TooLarge, UnknownMessage, WrongState
from clawlink.relay.core import retrying
from clawlink.relay.limits.token_buckets import Buckets
from clawlink.relay.relay import Relay
from clawlink.relay.time_slices import Turns
from clawlink.store.base import Drop, Put

_PAGE = 500
_GUEST = "guest"


class Guests:
    """The guest messages. Contacts are added here, too, because that may be the owner's answer to a guest."""

    def __init__(self, relay: Relay, repository: Repository, contacts: Contacts, settings: Settings) -> None:
        self._relay = relay
        self._core = relay.core
        self._repository = repository
        self._contacts = contacts
        self._settings = settings
        rate = settings.portal_guest_rate
        self._leaving = asyncio.Lock()
        self._pace = Buckets(rate / HOUR, max(rate, 1))

    async def leave(self, text: str, address: str | None) -> Guest:
        """Keep a guest message, and tell the owner's agent. Raises BadRequest, TooLarge, RateLimited, RelayFull."""
        settings, core = self._settings, self._core
        core.require_working()
        core.require_running()
        if not text.strip():
            raise BadRequest("a guest message is empty; write what it is about", field="content")
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > settings.portal_guest_bytes:
            raise self._too_long(str(size), size)
        steady = core.steady()
        wait = 0.0 if address is None else self._pace.wait(address, steady)
        if wait:
            raise RateLimited(
                f"an address may leave {settings.portal_guest_rate} messages within an hour; try again in "
                f"{math.ceil(wait)} s, or ask the owner for more (--portal-guest-rate)",
                limit=settings.portal_guest_rate,
                retry_after=wait,
            )
        waiting = await core.store.usage(Guest, WAITING)
        if waiting.count >= settings.portal_guests:
            raise RelayFull(
                f"{waiting.count} guest messages wait for the owner, and no more are taken; try again once some are "
                "decided, or ask the owner for more (--portal-guests)",
                limit=settings.portal_guests,
                actual=waiting.count,
                retry_after=HOUR,
            )
        if address is not None:
            self._pace.take(address, steady)
        offer = consent.offered(text, self._repository.url)
        digest = hash_key(text) if offer.url is not None and offer.key is not None else None
        async with self._leaving:
            known = None if digest is None else await self._repeated(digest, offer.key)
            return await core.finish(self._leave(text, address, digest)) if known is None else known

    def _too_long(self, has: str, size: int) -> TooLarge:
        most = self._settings.portal_guest_bytes
        return TooLarge(
            f"a guest message has at most {most} bytes, and this one has {has}; shorten it, or ask the owner for more "
            "(--portal-guest-bytes)",
            field="content",
            limit=most,
            actual=size,
        )

    def too_large(self, error: TooLarge) -> TooLarge:
        """Return the refusal of a guest message whose body was not read."""
        if not is_beyond(self._settings.portal_guest_bytes, error):
            return error
        return self._too_long("more", int(error.actual or 0))

    async def _repeated(self, digest: str, key: str | None) -> Guest | None:
        """Return the guest message of this text if it still waits, or its key still is that of the contact it made.

        Then the answer to it was lost, and its sender asks again. Otherwise the owner has to hear of it again.
        """
        store = self._core.store
        for guest in (await store.page(Guest, guest_with(digest), limit=1, newest=True)).records:
            if guest.status is GuestStatus.PENDING:
                return guest
            contact = None if guest.contact is None else await store.get(Contact, guest.contact)
            if guest.status is GuestStatus.APPROVED and contact is not None and key in contact.keys:
                return guest
        return None

    @retrying
    async def _leave(self, text: str, address: str | None, digest: str | None) -> Guest:
        core = self._core
        number, now = self._repository.number(Guest), core.clock()
        guest = Guest(
            id=str(number),
            version=1,
            number=number,
            content=text,
            created_at=core.steady(),
            address=address,
            digest=digest,
        )
        sender = Sender(_GUEST, address)
        told = texts.guest_notice(number, text)
        delivery = self._repository.for_agent(f"guest-{number}", told, sender=sender, name=_GUEST, now=now)
        await self._relay.mailbox.require_room(delivery)
        await self._repository.require_memory(guest.weight, Origin(address, _GUEST))
        await self._relay.mailbox.put(delivery, Put(guest))
        return guest

    async def listed(self) -> list[Guest]:
        """Return the guest messages, the newest first: all that wait, and the last that are decided."""
        page = await self._core.store.page(Guest, GUESTS, limit=_PAGE, newest=True)
        return list(page.records)

    @retrying
    async def add_contact(
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
        self._contacts.require_other(id)
        old = await self._core.store.get(Contact, id)
        contact = await self._contacts.changed(id, url, old, key, (display_name, agent_name, user_name))
        changes = [Put(contact)]
        turns = Turns()
        for guest in (await self._core.store.page(Guest, WAITING, limit=self._settings.portal_guests)).records:
            await turns.next()
            if consent.offered(guest.content, self._repository.url).url == id:
                changes.append(Put(_decided(guest, Decision.APPROVE, id)))
        await self._contacts.commit(contact.id, *changes)
        for change in changes:
            if isinstance(change.record, Guest):
                await self._settle(change.record)
        return contact

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
        name anybody's portal. A text never brings a key that is older than the contact's. ``lenient`` is for old
        agents, which may make the contact by a call of their own: an unclear offer, or a contact that is there, then
        changes no contact. A guest whose contact has access is not denied. Raises UnknownMessage, BadRequest,
        WrongState.
        """
        core = self._core
        guest = await core.store.get(Guest, str(number))
        if guest is None:
            raise UnknownMessage(
                f"there is no guest message {number}; 'clawlink portal guests' lists them", field="message_id"
            )
        if decision is Decision.DENY:
            await self._require_no_access(guest)
        contact: Contact | None = None
        made: str | None = None
        changes: list[Put] = []
        if decision is Decision.APPROVE:
            offer = consent.offered(guest.content, self._repository.url)
            offered_at = None if key else guest.created_at
            place, key = url or offer.url, key or offer.key
            old = None if place is None else await core.store.get(Contact, normalised(place))
            contact = await self._contact_for(
                number, place, key, old, agent_name, user_name, offered_at=offered_at, swap=swap, lenient=lenient
            )
            if contact is not None and contact is not old:
                changes.append(Put(contact))
            if contact is not None and key in (None, contact.key):
                made = contact.id
        decided = _decided(guest, decision, made)
        if decided is not guest:
            changes.append(Put(decided))
        if changes and contact is not None:
            await self._contacts.commit(contact.id, *changes)
        elif changes:
            await core.commit(AGENT, *changes)
        if decided.status is not GuestStatus.PENDING:
            await self._settle(decided)
        return decided, contact

    async def _settle(self, guest: Guest) -> None:
        """Take the notice of a guest message out of the agent's mailbox: nobody has to decide about it any more."""
        await self._relay.mailbox.expire(f"guest-{guest.number}")

    async def _require_no_access(self, guest: Guest) -> None:
        """Refuse to deny a guest whose contact has access by its approval. Raises WrongState."""
        if guest.status is not GuestStatus.APPROVED:
            return
        offer = consent.offered(guest.content, self._repository.url)
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

    async def _contact_for(
        self,
        number: int,
        place: str | None,
        key: str | None,
        old: Contact | None,
        agent_name: str | None,
        user_name: str | None,
        *,
        offered_at: float | None,
        swap: bool,
        lenient: bool,
    ) -> Contact | None:
        """Return the contact that an approval makes or changes, the ``old`` one if it stays; None for none.

        ``offered_at`` is when the text with the key came; None for a key that the owner names.
        """
        if old is not None and old.blocked:
            raise WrongState(
                f"contact {old.number} is blocked; unblock it first: clawlink portal unblock {old.number}",
                field="portal_url",
                current="blocked",
            )
        if old is not None and (lenient or key in (None, old.key)):
            return old
        if place is None or key is None:
            if lenient:
                return None
            raise BadRequest(
                f"guest message {number} does not offer one portal and one key; ask the guest, or name them: "
                f"clawlink portal approve {number} --url URL --shared-key KEY",
                field="portal_url" if place is None else "key",
            )
        id = normalised(place)
        self._contacts.require_other(id)
        if old is not None and offered_at is not None and offered_at < old.key_since:
            raise WrongState(
                f"guest message {number} is older than the key that contact {old.number} has now, so its key is not "
                "taken; ask the guest for a new message, or, if its owner confirms the old key, name it: "
                f"clawlink portal approve {number} --shared-key KEY --replace",
                field="key",
                current=old.number,
            )
        if old is not None and not swap:
            raise WrongState(
                f"contact {old.number} has this portal already, with another key: if its owner told you of the new "
                "one, approve with --replace",
                field="portal_url",
                current=old.number,
            )
        names = (None, agent_name, user_name)
        return await self._contacts.changed(id, place, old, key, names, key_at=offered_at)

    async def forget(self, url: str) -> int:
        """Forget the guest messages that offer this portal, and return how many there were."""
        forgotten = 0
        turns = Turns()
        after: str | None = None
        while True:
            page = await self._core.store.page(Guest, GUESTS, after, _PAGE)
            for guest in page.records:
                await turns.next()
                if consent.offered(guest.content, self._repository.url).url == url:
                    await self._settle(guest)
                    await self._drop(guest.id)
                    forgotten += 1
            after = page.after
            if after is None:
                return forgotten

    @retrying
    async def _drop(self, id: str) -> None:
        guest = await self._core.store.get(Guest, id)
        if guest is not None:
            await self._core.commit(AGENT, Drop(guest))


def _decided(guest: Guest, decision: Decision, contact: str | None = None) -> Guest:
    """Return a guest message with the owner's decision; the same one if that changes nothing.

    ``contact`` is the id of the contact that an approval makes or confirms.
    """
    status = {Decision.APPROVE: GuestStatus.APPROVED, Decision.DENY: GuestStatus.REJECTED}.get(decision, guest.status)
    contact = None if decision is Decision.DENY else contact or guest.contact
    if (status, contact) == (guest.status, guest.contact) and guest.is_read:
        return guest
    return replace(guest, version=guest.version + 1, status=status, is_read=True, contact=contact)
