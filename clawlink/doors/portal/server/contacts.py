"""The contacts of a portal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from msgspec.structs import replace

from clawlink.domain.agent import fold
from clawlink.domain.shares import Origin
from clawlink.doors.portal import records
from clawlink.doors.portal.records import AGENT, CONTACTS, OPERATOR, Contact, hash_key
from clawlink.doors.portal.rules import consent
from clawlink.doors.portal.rules.texts import (
    MAX_NAME_LENGTH,
    as_number,
    fingerprint,
    is_reserved_name,
    seconds,
    unreserved,
)
from clawlink.doors.portal.rules.urls import normalised, same
from clawlink.doors.portal.server.directory import Directory
from clawlink.doors.portal.server.keys import new_key
from clawlink.doors.portal.server.names import Names
from clawlink.doors.portal.server.reachability import Seen
from clawlink.doors.portal.server.repository import Repository
from clawlink.doors.portal.transfers import FileState, Transfer
from clawlink.errors import AmbiguousName, BadRequest, NotAuthenticated, NotFound, RelayFull, WrongState
from clawlink.relay.core import retrying
from clawlink.relay.relay import Relay
from clawlink.relay.time_slices import Turns
from clawlink.store.base import Drop, Put

MAX_CONTACTS = 10_000
_NAMESAKES = 100


class Contacts:
    """The portals whose owners agreed with ours."""

    def __init__(
        self, relay: Relay, repository: Repository, names: Names, rekeyed: Callable[[str], None] = lambda _: None
    ) -> None:
        """``rekeyed`` is called with a contact that has got another key."""
        self._core = relay.core
        self._rekeyed = rekeyed
        self._names = names
        self._repository = repository
        self.directory = Directory(relay)
        self._offers: Counter[str] = Counter()  # keys on their way, by the id of the contact

    async def commit(self, id: str, *changes: Put | Drop) -> None:
        """Commit changes of which one is that of a contact, and have the list show it.

        What waits for a contact with another key goes at once.
        """
        old = await self._core.store.get(Contact, id)
        with self.directory.changing(id):
            await self._core.commit(AGENT, *changes)
        for change in changes:
            if isinstance(change.record, Contact):
                if isinstance(change, Drop):
                    self._names.forget(change.record.id)
                else:
                    self._names.name(change.record)
                    if old is not None and old.shown_key != change.record.shown_key:
                        self._rekeyed(id)

    async def waits(self, transfer: Transfer) -> str:
        """Return why a file for a contact is not on its way, if that is not its own failure; else an empty text."""
        if transfer.state is not FileState.QUEUED:
            return ""
        contact = await self._core.store.get(Contact, transfer.contact)
        return paused(contact) if contact is not None and contact.paused else ""

    async def numbered(self, number: int) -> Contact:
        """Return the contact with this number. Raises NotFound."""
        found = (await self._core.store.page(Contact, records.contact_by_number(number), limit=1)).records
        if not found:
            raise NotFound(f"there is no contact {number}; 'clawlink portal contacts' lists them", field="contact_id")
        return found[0]

    async def find(self, to: str | int) -> Contact:
        """Return the contact with this number, address or name. Raises NotFound, AmbiguousName."""
        to = str(to)
        number = as_number(fold(to))
        if number is not None:
            return await self.numbered(number)
        if "://" in to:
            contact = await self._core.store.get(Contact, normalised(to, field="to"))
            found = [] if contact is None else [contact]
        else:
            found = list(
                (await self._core.store.page(Contact, records.contact_by_name(fold(to)), limit=_NAMESAKES)).records
            )
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

    async def changed(
        self,
        id: str,
        url: str,
        old: Contact | None,
        key: str | None,
        names: tuple[str | None, str | None, str | None],
        *,
        key_at: float | None = None,
    ) -> Contact:
        """Return a new contact, or the next version of ``old``; a name or key that is None stays as it was.

        A name that stands for a number or an address is changed, not refused: the other side may have chosen it.
        ``key_at`` is when the key was offered; None for now. Another key ends all keys before it, and an open renewal.
        Raises BadRequest, WrongState for the key of another contact, RelayFull, StorageFull.
        """
        for name in names:
            _require_name(name)
        display_name, agent_name, user_name = (None if name is None else unreserved(name) for name in names)
        if key is not None:
            fault = consent.key_fault(key)
            if fault is not None:
                raise BadRequest(fault, field="SHARED_KEY")
            for other in (await self._core.store.page(Contact, records.contact_by_key(hash_key(key)), limit=2)).records:
                if other.id != id:
                    raise WrongState(
                        f"contact {other.number} has this key already, and each contact needs its own",
                        field="SHARED_KEY",
                        current=other.number,
                    )
        if old is not None:
            since = self._core.steady() if key_at is None else key_at
            base = old if key in (None, old.key) else old.with_key(key, since)
            return replace(
                base,
                version=old.version + 1,
                url=url.strip(),
                send_key=old.send_key if key is None else None,
                display_name=old.display_name if display_name is None else display_name or None,
                agent_name=old.agent_name if agent_name is None else agent_name or None,
                user_name=old.user_name if user_name is None else user_name or None,
            )
        known = await self._core.store.usage(Contact, CONTACTS)
        if known.count >= MAX_CONTACTS:
            raise RelayFull(
                f"the portal has {known.count} contacts and may have no more; remove some",
                limit=MAX_CONTACTS,
                actual=known.count,
            )
        await self._repository.require_memory(len(url), Origin(None, OPERATOR))
        return Contact(
            id=id,
            version=1,
            number=self._repository.number(Contact),
            url=url.strip(),
            key=key or new_key(),
            key_at=key_at,
            created_at=self._core.steady(),
            display_name=display_name or None,
            agent_name=agent_name or None,
            user_name=user_name or None,
        )

    def require_other(self, id: str) -> None:
        """Refuse the address of this portal itself as a contact. Raises BadRequest."""
        if same(id, self._repository.url):
            raise BadRequest("this is the address of this portal itself; name that of the contact", field="portal_url")

    @retrying
    async def change(
        self, number: int, *, key: str | None, display_name: str | None, agent_name: str | None, user_name: str | None
    ) -> None:
        """Change a contact's key and names. As on the wire, an absent name is taken away; the key stays. NotFound."""
        contact = await self.numbered(number)
        names = (display_name or "", agent_name or "", user_name or "")
        changed = await self.changed(contact.id, contact.url, contact, key, names)
        await self.commit(changed.id, Put(changed))

    async def remove(self, number: int) -> None:
        """Remove a contact; its messages stay. Raises NotFound."""
        await self._repository.keep_numbers()
        await self._remove(number)

    @retrying
    async def _remove(self, number: int) -> None:
        contact = await self.numbered(number)
        await self.commit(contact.id, Drop(contact))
        self._repository.reach.forget(contact.id)

    async def seen(self) -> dict[int, Seen]:
        """Return the signs of the contacts' portals since the start, by the number of the contact."""
        turns = Turns()
        found: dict[int, Seen] = {}
        for id, seen in self._repository.reach.all().items():
            await turns.next()
            contact = await self._core.store.get(Contact, id)
            if contact is not None:
                found[contact.number] = seen
        return found

    def is_away(self, id: str) -> bool:
        """Return True if the last try to reach the portal of a contact failed, and nothing came from it since."""
        return self._repository.reach.of(id).away

    @retrying
    async def learn(self, id: str, *, ours: bool) -> Contact | None:
        """Note whether a contact's portal is a relay of ClawLink. Return the contact, None if it was removed."""
        contact = await self._core.store.get(Contact, id)
        if contact is None or contact.ours is ours:
            return contact
        contact = replace(contact, version=contact.version + 1, ours=ours)
        await self.commit(contact.id, Put(contact))
        return contact

    @retrying
    async def set_terms(
        self,
        id: str,
        *,
        name: str | None,
        blocked: bool | None,
        paused: bool | None,
        until: str | None,
        pin: str | None,
    ) -> Contact:
        """Set what is given of a contact's terms; an empty text takes one away. Raises NotFound, BadRequest."""
        contact = await self._known(id)
        _require_name(name)
        if name is not None and is_reserved_name(name):
            raise BadRequest(
                f"{name[:40]!r} stands for the number or the address of a contact; choose another name",
                field="display_name",
            )
        new = replace(
            contact,
            display_name=contact.display_name if name is None else unreserved(name) or None,
            blocked=contact.blocked if blocked is None else blocked,
            paused=contact.paused if paused is None else paused,
            until=contact.until if until is None else _instant(until),
            pin=contact.pin if pin is None else fingerprint(pin),
        )
        if new == contact:
            return contact
        new = replace(new, version=contact.version + 1)
        await self.commit(id, Put(new))
        return new

    async def _known(self, id: str) -> Contact:
        contact = await self._core.store.get(Contact, id)
        if contact is None:
            raise NotFound(f"there is no contact {id}; 'clawlink portal contacts' lists them", field="contact_id")
        return contact

    # -- renewal of keys ---------------------------------------------------------------------------------------------

    @retrying
    async def offer_key(self, id: str) -> Contact:
        """Make the key that is to follow the one of a contact, unless there is one. Raises NotFound."""
        contact = await self._known(id)
        if contact.next_key is not None:
            return contact
        contact = replace(contact, version=contact.version + 1, next_key=new_key())
        await self.commit(id, Put(contact))
        return contact

    @contextmanager
    def offering(self, id: str) -> Iterator[None]:
        """Note that a key is on its way to a contact."""
        self._offers[id] += 1
        try:
            yield
        finally:
            self._offers[id] -= 1
            if not self._offers[id]:
                del self._offers[id]

    async def require_offered(self, id: str, key: str | None) -> None:
        """Refuse the outcome of an offer whose key does not count any more. Raises NotFound, WrongState."""
        contact = await self._known(id)
        if key not in contact.keys:
            raise WrongState(
                f"contact {contact.number} got another key meanwhile, so this renewal has ended and its key does not "
                f"count; if its portal refuses the key that counts, offer that one: clawlink portal ask {contact.url}",
                field="contact_id",
                current=contact.number,
            )

    @retrying
    async def renewed(self, id: str, key: str | None) -> None:
        """Put the offered key in the place of the old one: the contact has it. An ended offer changes nothing."""
        contact = await self._core.store.get(Contact, id)
        if contact is not None and key is not None and contact.next_key == key:
            await self.commit(id, Put(contact.with_key(key, self._core.steady())))

    @retrying
    async def take_key(self, id: str, key: str, shown: str) -> None:
        """Take the key that the contact's portal offers and confirms.

        The key that it has ``shown`` counts until it uses the new one. Two offers that cross make one key: the lower.
        Raises NotAuthenticated if the shown key has ended meanwhile, BadRequest, WrongState.
        """
        contact = await self._known(id)
        if contact.key == key:
            return
        if shown not in contact.keys:
            raise NotAuthenticated("the key that you have shown has ended meanwhile, so the new one is not taken")
        if id in self._offers and contact.next_key is not None and contact.next_key < key:
            raise WrongState("this portal offers you a new key at this moment, and that one counts", field="new_key")
        changed = await self.changed(id, contact.url, contact, key, (None, None, None))
        await self.commit(id, Put(replace(changed, old_key=shown)))

    async def used(self, contact: Contact, key: str) -> None:
        """Note the key that a contact has shown: the use of a new one ends the old one."""
        if key == contact.next_key:
            await self.renewed(contact.id, key)
        elif key == contact.key and contact.old_key is not None:
            await self._end_old_key(contact.id, key)

    @retrying
    async def _end_old_key(self, id: str, key: str) -> None:
        contact = await self._core.store.get(Contact, id)
        if contact is not None and contact.key == key and contact.old_key is not None:
            await self.commit(id, Put(replace(contact, version=contact.version + 1, old_key=None)))


def paused(contact: Contact) -> str:
    """Return why something waits for a paused contact, with the next step."""
    return f"the contact is paused; it goes after: clawlink portal resume {contact.number}"


def require_reachable(contact: Contact, now: float) -> None:
    """Refuse what is for a contact that is blocked or at its end. Raises WrongState with the next step."""
    shut = contact.shut(now)
    if shut is None:
        return
    is_blocked, number = shut == "blocked", contact.number
    then = f"clawlink portal unblock {number}" if is_blocked else f"clawlink portal end {number} never"
    state = "is blocked; unblock it first" if is_blocked else "is ended; take its end away first"
    raise WrongState(f"contact {number} {state}: {then}", field="to", current=shut)


def _require_name(name: str | None) -> None:
    """Refuse a name that is too long, or has characters that hide. Raises BadRequest."""
    if name is not None and (len(name) > MAX_NAME_LENGTH or not name.isprintable()):
        raise BadRequest(f"a name has at most {MAX_NAME_LENGTH} characters, and none that hide", limit=MAX_NAME_LENGTH)


def _instant(text: str) -> float | None:
    """Return the instant of a text in ISO; None for an empty one. Raises BadRequest."""
    try:
        return seconds(text.strip()) if text.strip() else None
    except (ValueError, OverflowError):
        raise BadRequest(f"until is a date or a time, as 2027-01-31, not {text[:40]!r}", field="until") from None
