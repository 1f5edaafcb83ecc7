"""Moving in: the records of ``portal.db`` come into the folder of a portal that does not run.

Each row leads to one record, whose id or number derives from the row. So a second run, also after a crash, brings what
is missing and doubles nothing. What is here already is never changed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clawlink.domain.delivery import Sender
from clawlink.domain.shares import Origin
from clawlink.doors.portal import records
from clawlink.doors.portal.records import (
    AGENT,
    CHAT,
    GUESTS,
    OPERATOR,
    AgentKey,
    Chat,
    Contact,
    Guest,
    GuestStatus,
    Message,
    State,
    hash_key,
)
from clawlink.doors.portal.rules import consent, moving, words
from clawlink.doors.portal.rules.moving import Candidate, Choice, Left, Report
from clawlink.doors.portal.rules.urls import normalised
from clawlink.doors.portal.server.active import ActivePortal
from clawlink.doors.portal.server.book import MAX_MESSAGE_BYTES
from clawlink.doors.portal.server.contacts import MAX_CONTACTS
from clawlink.doors.portal.server.moving_files import FileMover
from clawlink.doors.portal.server.old_database import OldDatabase
from clawlink.doors.portal.server.opened import opened
from clawlink.doors.portal.settings import Settings
from clawlink.errors import BadRequest, StorageFull
from clawlink.relay.ids import derived
from clawlink.store.base import Put

MOST_GUESTS = 2000
_PAGE = 500
_ORIGIN = Origin(None, OPERATOR)


class Plan(NamedTuple):
    """All that may come."""

    people: list[moving.Person]
    letters: list[moving.Letter]
    visits: list[moving.Visit]
    chat: list[moving.Said]
    password: str | None


def own_address(database: OldDatabase) -> str | None:
    """Return the address that the database names most often as that of its own portal; None if it names none."""
    counted: dict[str, int] = {}
    for table, column in (("messages", "to_portal"), ("messages", "from_portal"), ("api_keys", "portal_url")):
        for row in database.rows(table):
            try:
                url = normalised(moving.text(row, column))
            except BadRequest:
                continue
            counted[url] = counted.get(url, 0) + 1
    return max(counted, key=lambda url: counted[url], default=None)


def plan(database: OldDatabase, own_url: str, now: float, *, most_waiting: int) -> tuple[Plan, Report]:
    """Read all tables, and say what stays behind. Raises BadRequest for a damaged database."""
    report = Report()
    people, left = moving.people(database.rows("contacts"), own_url, now)
    report.left += left
    if len(people) > MAX_CONTACTS:
        report.left.append(Left(f"{len(people) - MAX_CONTACTS} contacts", f"there may be {MAX_CONTACTS} contacts"))
    letters, left = moving.letters(database.rows("messages"), own_url, now)
    report.left += left
    visits, left = moving.visits(
        database.rows("guest_messages", newest=True), now, most_waiting=most_waiting, most=MOST_GUESTS
    )
    report.left += left
    chat, left = moving.sayings(database.rows("owner_chats"), now)
    report.left += left
    report.keys, left = moving.candidates(database.rows("api_keys"), own_url, now)
    report.left += left
    config = {moving.text(row, "key"): moving.text(row, "value", strip=False) for row in database.rows("config")}
    if notices := database.count("pending_notifications"):
        report.left.append(Left(f"{notices} pending notifications", "each is about a message that comes itself"))
    password = _password(config, report)
    if config.get("openclaw_token"):
        report.left.append(Left("openclaw_url and openclaw_token", "nothing uses them; the bridge reads gateway.env"))
    return Plan(people[:MAX_CONTACTS], letters, visits, chat, password), report


def _password(config: Mapping[str, str], report: Report) -> str | None:
    password = config.get("admin_password") or None
    if password == moving.DEFAULT_PASSWORD:
        report.left.append(Left("the owner's password", "it is the public default; the first start makes a new one"))
        return None
    return password


async def look(path: Path, own_url: str | None) -> Report:
    """Say what would come, and change nothing."""
    with OldDatabase(path) as database:
        own = _own(database, own_url)
        found, report = plan(database, own, time.time(), most_waiting=Settings().portal_guests)
    for kind, items in (("contacts", found.people), ("messages", found.letters), ("chat", found.chat)):
        report.came[kind] = len(items)
    report.came["guests"] = len(found.visits)
    report.came["password"] = int(found.password is not None)
    return report


async def move_in(
    path: Path, data: Path | None, own_url: str | None, choice: Choice, environ: Mapping[str, str]
) -> Report:
    """Bring all that may come into a folder, or without one over the server that the environment names.

    Raises BadRequest, and the errors of ``opened``.
    """
    with OldDatabase(path) as database:
        own = _own(database, own_url)
        found, report = plan(database, own, time.time(), most_waiting=Settings(url=own).portal_guests)
        owner = None if choice.owner is None else moving.chosen(choice.owner, report.keys)
        agents = [moving.chosen(one, report.keys) for one in choice.agents]
        if owner in agents:
            raise BadRequest("a key is the owner's or an agent's, not both; name it once")
        async with opened(data, own, environ) as portal:
            mover = Mover(portal, report)
            await mover.all(found, owner, agents)
            await FileMover(mover.door, report, mover.contacts).all(database, database.folder)
    return report


async def set_password(data: Path | None, password: str | None, environ: Mapping[str, str]) -> str:
    """Set the owner's password of a portal that does not run, and return it. Raises as ``move_in``."""
    async with opened(data, None, environ) as portal:
        return await portal.keys.set_password(password)


def _own(database: OldDatabase, given: str | None) -> str:
    if given is not None:
        return normalised(given, field="at")
    guess = own_address(database)
    if guess is None:
        raise BadRequest("the database does not say which address its portal had: give --at https://YOUR-PORTAL")
    raise BadRequest(f"say which address the portal has, so that contacts notice nothing; perhaps --at {guess}")


class Mover:
    """Writes what comes, one commit after the other, in the order of the old portal."""

    def __init__(self, door: ActivePortal, report: Report) -> None:
        self.door = door
        self._core = door.relay.core
        self._book = door.book
        self._report = report
        self.contacts: dict[str, Contact] = {}

    async def all(self, found: Plan, owner: Candidate | None, agents: Iterable[Candidate]) -> None:
        await self._book.start()
        password = await self.door.keys.adopt(None if owner is None else owner.key, found.password)
        if found.password is not None:
            self._report.count("password", came=password)
        if owner is not None:
            self._report.count("keys")
        for one in agents:
            await self._agent_key(one)
        for person in found.people:
            await self._person(person)
        await self._letters(found.letters)
        await self._visits(found.visits)
        await self._chat(found.chat)
        await self._book.keep_numbers()

    async def _require(self, size: int) -> None:
        try:
            await self._book.require_memory(size, _ORIGIN)
        except StorageFull as full:
            raise StorageFull(f"{full.message}; what came so far stays, and a second run brings the rest") from None

    async def _agent_key(self, one: Candidate) -> None:
        id = hash_key(one.key)
        there = await self._core.store.get(AgentKey, id) is not None
        if not there:
            shown = one.key[:20] + "..."
            made = AgentKey(id=id, version=1, label=one.name or "agent", shown=shown, created_at=one.created_at)
            await self._core.commit(AGENT, Put(made))
        self._report.count("keys", came=not there)

    async def _person(self, person: moving.Person) -> None:
        store = self._core.store
        old = await store.get(Contact, person.id)
        if old is not None:
            self.contacts[person.id] = old
            self._report.count("contacts", came=False)
            return
        if (await store.page(Contact, records.contact_by_key(hash_key(person.key)), limit=1)).records:
            self._report.left.append(Left(f"contact {person.number} ({person.url})", "another contact has its key"))
            return
        contact = Contact(
            id=person.id,
            version=1,
            number=await self._number(Contact, person.number, records.contact_by_number),
            url=person.url,
            key=person.key,
            send_key=person.send_key,
            created_at=person.created_at,
            display_name=person.display_name,
            agent_name=person.agent_name,
            user_name=person.user_name,
        )
        if contact.number != person.number:
            self._report.notes.append(f"contact {person.number} ({person.url}) has the number {contact.number} here")
        await self._require(len(person.url))
        await self._core.commit(AGENT, Put(contact))
        self.contacts[person.id] = contact
        self._report.count("contacts")

    async def _number(self, kind: type[Any], wanted: int, key: Callable[[int], str] | None = None) -> int:
        """Return the wanted number, or the next of this portal if there is none or a record has it.

        Such a record stands under an index ``key`` of the number; without a key the number is its id.
        """
        store, taken = self._core.store, not wanted
        if wanted and key is None:
            taken = await store.get(kind, str(wanted)) is not None
        elif wanted and key is not None:
            taken = bool((await store.page(kind, key(wanted), limit=1)).records)
        if taken:
            return self._book.number(kind)
        self._book.seen(kind, wanted)
        return wanted

    async def _letters(self, found: Sequence[moving.Letter]) -> None:
        store = self._core.store
        for letter in found:
            id = derived(
                "portal import", letter.contact, f"{letter.number} {letter.created_at} {_digest(letter.content)}"
            )
            if await store.get(Message, id) is not None:
                self._report.count("messages", came=False)
                continue
            waits = letter.inbound and not letter.delivered
            state = (State.RECEIVED if waits else State.ACKNOWLEDGED) if letter.inbound else State.REPORTED
            message = Message(
                id=id,
                version=1,
                number=await self._number(Message, letter.number, records.message_by_number),
                inbound=letter.inbound,
                contact=letter.contact,
                content=letter.content,
                message_type=letter.message_type,
                created_at=letter.created_at,
                state=state,
            )
            await self._require(message.weight)
            await self.put(message, waits=waits)
            self._report.count("messages")

    async def put(self, message: Message, *, waits: bool) -> None:
        """Store a message; one that the old portal did not deliver waits for the owner's agent."""
        if not waits:
            await self._core.commit(message.partition_key, Put(message))
            return
        if message.weight > MAX_MESSAGE_BYTES:
            self._report.notes.append(
                f"message {message.number} is unread, and too long for a frame: read it with clawlink portal history"
            )
            await self._core.commit(message.partition_key, Put(message))
            return
        contact = self.contacts.get(message.contact)
        mailbox = records.mailbox_of(message.contact)
        name = message.contact
        if contact is not None:
            name = words.contact_name(contact.agent_name, contact.user_name, contact.url)
        now = self._core.clock()
        delivery = self._book.for_agent(message.id, message.content, sender=Sender(mailbox), name=name, now=now)
        await self.door.relay.mailbox.put(delivery, Put(message))

    async def _visits(self, found: Sequence[moving.Visit]) -> None:
        there = {(one.created_at, one.content): one async for one in self._all(Guest, GUESTS)}
        for visit in found:
            if (visit.created_at, visit.content) in there:
                self._report.count("guests", came=False)
                continue
            number = await self._number(Guest, visit.number)
            offer = consent.offered(visit.content, self._book.url)
            status = GuestStatus(visit.status)
            guest = Guest(
                id=str(number),
                version=1,
                number=number,
                content=visit.content,
                created_at=visit.created_at,
                address=visit.address,
                status=status,
                is_read=visit.is_read or status is not GuestStatus.PENDING,
                contact=offer.url if status is GuestStatus.APPROVED and offer.url in self.contacts else None,
            )
            await self._require(guest.weight)
            if guest.is_read:
                await self._core.commit(AGENT, Put(guest))
            else:
                told = words.guest_notice(number, guest.content)
                now = self._core.clock()
                sender = Sender("guest", visit.address)
                delivery = self._book.for_agent(f"guest-{number}", told, sender=sender, name="guest", now=now)
                await self.door.relay.mailbox.put(delivery, Put(guest))
            self._report.count("guests")

    async def _chat(self, found: Sequence[moving.Said]) -> None:
        there = {(one.created_at, one.role, one.content) async for one in self._all(Chat, CHAT)}
        for said in found:
            if (said.created_at, said.role, said.content) in there:
                self._report.count("chat", came=False)
                continue
            number = await self._number(Chat, said.number)
            line = Chat(
                id=str(number),
                version=1,
                number=number,
                role=said.role,
                content=said.content,
                created_at=said.created_at,
            )
            await self._require(line.weight)
            await self._core.commit(AGENT, Put(line))
            self._report.count("chat")

    async def _all(self, kind: type[Any], key: str) -> AsyncIterator[Any]:
        after: str | None = None
        while True:
            page = await self._core.store.page(kind, key, after, _PAGE)
            for record in page.records:
                yield record
            after = page.after
            if after is None:
                return


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
