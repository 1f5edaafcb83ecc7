"""Moving in: what an old database has becomes records of a portal, which runs or which a command has opened.

Each row leads to one record, whose id or number derives from the row. So a second run, also after a crash, brings what
is missing and doubles nothing. What is here already is never changed.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from clawlink.domain.delivery import Sender
from clawlink.domain.limits import KIB
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
    Portal,
    State,
    hash_key,
)
from clawlink.doors.portal.rules import consent, cutting, moving, words
from clawlink.doors.portal.rules.moving import Letter, Parcel, Person, Said, Visit
from clawlink.doors.portal.rules.moving_report import Left, Note, Report
from clawlink.doors.portal.server.book import MAX_MESSAGE_BYTES
from clawlink.doors.portal.server.keys import PORTAL_ID
from clawlink.doors.portal.server.moving_files import FileMover
from clawlink.doors.portal.server.moving_tour import (
    Beside,
    Chosen,
    Item,
    Password,
    Taker,
)
from clawlink.doors.portal.server.old_database import OldDatabase
from clawlink.doors.portal.server.parts import Home
from clawlink.doors.portal.transfers import FileState, Transfer
from clawlink.errors import StorageFull, UnknownFile
from clawlink.relay.core import retrying
from clawlink.relay.ids import derived
from clawlink.relay.time_slices import Turns
from clawlink.store.base import Batch, Put

_ORIGIN = Origin(None, OPERATOR)
_PAGE = 500
# Messages that share a commit: each fsync takes longer than to store ten. More of them would hold the event loop.
MOST_GATHERED, _MOST_GATHERED_BYTES = 16, 64 * KIB
_NUMBERED: tuple[tuple[type[Any], str], ...] = (
    (Contact, "contacts"),
    (Message, "messages"),
    (Guest, "guest_messages"),
    (Chat, "owner_chats"),
)


class Preview(Taker):
    """Knows what a portal has, and takes nothing."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._core = home.relay.core
        self._visits: set[tuple[float, str]] | None = None
        self._chat: set[tuple[float, str, str]] | None = None

    async def find(self, item: Item) -> Left | bool:
        store = self._core.store
        if isinstance(item, Letter):
            return await store.get(Message, letter_id(item)) is not None
        if isinstance(item, Said):
            if self._chat is None:
                self._chat = {(one.created_at, one.role, one.content) async for one in self._all(Chat, CHAT)}
            return (item.created_at, item.role, item.content) in self._chat
        if isinstance(item, Visit):
            if self._visits is None:
                self._visits = {(one.created_at, one.content) async for one in self._all(Guest, GUESTS)}
            return (item.created_at, item.content) in self._visits
        if isinstance(item, Person):
            return await self._person(item)
        if isinstance(item, Parcel):
            transfer = await store.get(Transfer, self.file_id(item))
            return transfer is not None and transfer.state is FileState.COMPLETED
        if isinstance(item, Beside):
            try:
                await self.home.relay.file_reads.find(item.key, asker=await self.home.members.start())
            except UnknownFile:
                return False
            return True
        portal = await store.get(Portal, PORTAL_ID)
        if isinstance(item, Password):
            return portal is not None and bool(portal.password)
        hashed = hash_key(item.key.key)
        if item.is_owner:
            return portal is not None and portal.owner_hash == hashed
        return await store.get(AgentKey, hashed) is not None

    async def _person(self, person: Person) -> Left | bool:
        store = self._core.store
        if await store.get(Contact, person.id) is not None:
            return True
        others = (await store.page(Contact, records.contact_by_key(hash_key(person.key)), limit=1)).records
        if others:
            return Left("contact", f"{person.number} ({person.url})", "same_key", str(others[0].number))
        return False

    def file_id(self, parcel: Parcel) -> str:
        """Return the id that a file of the old database has here."""
        return cutting.derived_id(self._core.secret, "in", parcel.contact, parcel.key)

    async def _all(self, kind: type[Any], key: str) -> AsyncIterator[Any]:
        after: str | None = None
        turns = Turns()
        while True:
            page = await self._core.store.page(kind, key, after, _PAGE)
            for record in page.records:
                yield record
                await turns.next()
            after = page.after
            if after is None:
                return


class Mover(Preview):
    """Writes what comes, one commit after the other. Messages that wait for nobody share commits."""

    def __init__(self, home: Home, database: OldDatabase, report: Report) -> None:
        super().__init__(home)
        self._book = home.book
        self._database = database
        self._report = report
        self._files = FileMover(home, database)
        self._gathered: dict[str, Message] = {}
        self._gathered_bytes = 0

    async def begin(self) -> None:
        """Keep the numbers of the old portal for its records: those of others come after them."""
        await self.home.keys.adopt(None, None)
        for kind, table in _NUMBERED:
            highest = await asyncio.to_thread(self._database.highest, table)
            self._book.seen(kind, moving.number_of(highest))
        await self._book.keep_numbers()

    async def find(self, item: Item) -> Left | bool:
        if isinstance(item, Letter) and letter_id(item) in self._gathered:
            return True
        return await super().find(item)

    async def take(self, item: Item) -> Left | None:
        self._core.require_working()
        if isinstance(item, Person):
            await self._take_person(item)
        elif isinstance(item, Letter):
            await self._letter(item)
        elif isinstance(item, Visit):
            await self._visit(item)
        elif isinstance(item, Said):
            await self._said(item)
        elif isinstance(item, Parcel):
            return await self._files.take(item, self.file_id(item))
        elif isinstance(item, Beside):
            return await self._files.take_beside(item)
        elif isinstance(item, Password):
            await self.home.keys.adopt(None, item.text)
        elif item.is_owner:
            await self.home.keys.adopt(item.key.key, None)
        else:
            await self._agent_key(item)
        return None

    async def _require(self, size: int) -> None:
        try:
            await self._book.require_memory(size, _ORIGIN)
        except StorageFull as full:
            await self.settle()
            raise StorageFull(f"{full.message}; what came so far stays, and a second run brings the rest") from None

    async def _agent_key(self, one: Chosen) -> None:
        label, shown = one.key.name or "agent", one.key.key[:20] + "..."
        made = AgentKey(id=hash_key(one.key.key), version=1, label=label, shown=shown, created_at=one.key.created_at)
        await self._core.commit(AGENT, Put(made))

    @retrying
    async def _take_person(self, person: Person) -> None:
        if await self._core.store.get(Contact, person.id) is not None:
            return  # the owner has just added it
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
            self._report.notes.append(Note("number", f"{person.number} ({person.url})", str(contact.number)))
        await self._require(len(person.url))
        await self.home.contacts.commit(contact.id, Put(contact))

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

    async def _letter(self, letter: Letter) -> None:
        waits = letter.inbound and not letter.delivered
        if any(one.number == letter.number for one in self._gathered.values()):  # a table without a primary key
            await self.settle()
        state = (State.RECEIVED if waits else State.ACKNOWLEDGED) if letter.inbound else State.REPORTED
        message = Message(
            id=letter_id(letter),
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
        if waits:
            await self.settle()
            await self.put(message)
            return
        self._gathered[message.id] = message
        self._gathered_bytes += message.weight
        if len(self._gathered) >= MOST_GATHERED or self._gathered_bytes >= _MOST_GATHERED_BYTES:
            await self.settle()

    async def settle(self) -> None:
        """Store the messages that were gathered, in their order."""
        gathered, self._gathered, self._gathered_bytes = list(self._gathered.values()), {}, 0
        if not gathered:
            return
        batches = [Batch(message.partition_key, (Put(message),)) for message in gathered]
        results = await self._core.commit_in_order(*batches)
        if len(results) < len(gathered) or results[-1] is not None:
            for message in gathered:  # the refusal of one leaves out those behind it
                if await self._core.store.get(Message, message.id) is None:
                    await self._core.commit(message.partition_key, Put(message))

    async def put(self, message: Message) -> None:
        """Store a message that the old portal did not deliver. It waits for the owner's agent."""
        if message.weight > MAX_MESSAGE_BYTES:
            self._report.notes.append(Note("long", str(message.number), ""))
            await self._core.commit(message.partition_key, Put(message))
            return
        contact = await self._core.store.get(Contact, message.contact)
        mailbox = records.mailbox_of(message.contact)
        name = message.contact
        if contact is not None:
            name = words.contact_name(contact.agent_name, contact.user_name, contact.url)
        now = self._core.clock()
        delivery = self._book.for_agent(message.id, message.content, sender=Sender(mailbox), name=name, now=now)
        with self.home.contacts.directory.changing(message.contact):
            await self.home.relay.mailbox.put(delivery, Put(message))

    async def _visit(self, visit: Visit) -> None:
        number = await self._number(Guest, visit.number)
        offer = consent.offered(visit.content, self._book.url)
        status = GuestStatus(visit.status)
        known = offer.url is not None and await self._core.store.get(Contact, offer.url) is not None
        guest = Guest(
            id=str(number),
            version=1,
            number=number,
            content=visit.content,
            created_at=visit.created_at,
            address=visit.address,
            status=status,
            is_read=visit.is_read or status is not GuestStatus.PENDING,
            contact=offer.url if status is GuestStatus.APPROVED and known else None,
        )
        await self._require(guest.weight)
        if guest.is_read:
            await self._core.commit(AGENT, Put(guest))
        else:
            told = words.guest_notice(number, guest.content)
            now = self._core.clock()
            sender = Sender("guest", visit.address)
            delivery = self._book.for_agent(f"guest-{number}", told, sender=sender, name="guest", now=now)
            await self.home.relay.mailbox.put(delivery, Put(guest))

    async def _said(self, said: Said) -> None:
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


def letter_id(letter: Letter) -> str:
    """Return the id that a message of the old database has here."""
    digest = hashlib.sha256(letter.content.encode("utf-8", "surrogatepass")).hexdigest()
    return derived("portal import", letter.contact, f"{letter.number} {letter.created_at} {digest}")
