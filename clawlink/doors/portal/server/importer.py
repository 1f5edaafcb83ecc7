"""The importer: rows of an old database become records of a portal, which runs or which a command has opened.

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
from clawlink.doors.portal.rules import consent, file_parts, import_rows, texts
from clawlink.doors.portal.rules.import_report import Note, Report, Skipped
from clawlink.doors.portal.rules.import_rows import ChatRow, ContactRow, FileRow, GuestRow, MessageRow
from clawlink.doors.portal.server.import_files import FileImporter
from clawlink.doors.portal.server.import_run import (
    ChosenKey,
    FileBeside,
    Item,
    Password,
    Target,
)
from clawlink.doors.portal.server.keys import PORTAL_ID
from clawlink.doors.portal.server.old_database import OldDatabase
from clawlink.doors.portal.server.parts import Home
from clawlink.doors.portal.server.repository import MAX_MESSAGE_BYTES
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


class Preview(Target):
    """Knows the records of a portal, and stores nothing."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._core = home.relay.core
        self._guests: set[tuple[float, str]] | None = None
        self._chat: set[tuple[float, str, str]] | None = None

    async def find(self, item: Item) -> Skipped | bool:
        store = self._core.store
        if isinstance(item, MessageRow):
            return await store.get(Message, message_id(item)) is not None
        if isinstance(item, ChatRow):
            if self._chat is None:
                self._chat = {(one.created_at, one.role, one.content) async for one in self._all(Chat, CHAT)}
            return (item.created_at, item.role, item.content) in self._chat
        if isinstance(item, GuestRow):
            if self._guests is None:
                self._guests = {(one.created_at, one.content) async for one in self._all(Guest, GUESTS)}
            return (item.created_at, item.content) in self._guests
        if isinstance(item, ContactRow):
            return await self._find_contact(item)
        if isinstance(item, FileRow):
            transfer = await store.get(Transfer, self.file_id(item))
            return transfer is not None and transfer.state is FileState.COMPLETED
        if isinstance(item, FileBeside):
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

    async def _find_contact(self, row: ContactRow) -> Skipped | bool:
        store = self._core.store
        if await store.get(Contact, row.id) is not None:
            return True
        others = (await store.page(Contact, records.contact_by_key(hash_key(row.key)), limit=1)).records
        if others:
            return Skipped("contact", f"{row.number} ({row.url})", "same_key", str(others[0].number))
        return False

    def file_id(self, row: FileRow) -> str:
        """Return the id that a file of the old database has here."""
        return file_parts.derived_id(self._core.secret, "in", row.contact, row.key)

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


class Importer(Preview):
    """Stores items in a portal, one commit after the other. Messages that wait for nobody share commits."""

    def __init__(self, home: Home, database: OldDatabase, report: Report) -> None:
        super().__init__(home)
        self._repository = home.repository
        self._database = database
        self._report = report
        self._files = FileImporter(home, database)
        self._gathered: dict[str, Message] = {}
        self._gathered_bytes = 0

    async def begin(self) -> None:
        """Keep the numbers of the old portal for its records: those of others come after them."""
        await self.home.keys.adopt(None, None)
        for kind, table in _NUMBERED:
            highest = await asyncio.to_thread(self._database.highest, table)
            self._repository.seen(kind, import_rows.number_of(highest))
        await self._repository.keep_numbers()

    async def find(self, item: Item) -> Skipped | bool:
        if isinstance(item, MessageRow) and message_id(item) in self._gathered:
            return True
        return await super().find(item)

    async def add(self, item: Item) -> Skipped | None:
        self._core.require_working()
        if isinstance(item, ContactRow):
            await self._add_contact(item)
        elif isinstance(item, MessageRow):
            await self._add_message(item)
        elif isinstance(item, GuestRow):
            await self._add_guest(item)
        elif isinstance(item, ChatRow):
            await self._add_chat(item)
        elif isinstance(item, FileRow):
            return await self._files.add(item, self.file_id(item))
        elif isinstance(item, FileBeside):
            return await self._files.add_beside(item)
        elif isinstance(item, Password):
            await self.home.keys.adopt(None, item.text)
        elif item.is_owner:
            await self.home.keys.adopt(item.key.key, None)
        else:
            await self._agent_key(item)
        return None

    async def _require(self, size: int) -> None:
        try:
            await self._repository.require_memory(size, _ORIGIN)
        except StorageFull as full:
            await self.flush()
            raise StorageFull(f"{full.message}; what came so far stays, and a second run brings the rest") from None

    async def _agent_key(self, one: ChosenKey) -> None:
        label, shown = one.key.name or "agent", one.key.key[:20] + "..."
        made = AgentKey(id=hash_key(one.key.key), version=1, label=label, shown=shown, created_at=one.key.created_at)
        await self._core.commit(AGENT, Put(made))

    @retrying
    async def _add_contact(self, row: ContactRow) -> None:
        if await self._core.store.get(Contact, row.id) is not None:
            return  # the owner has just added it
        contact = Contact(
            id=row.id,
            version=1,
            number=await self._number(Contact, row.number, records.contact_by_number),
            url=row.url,
            key=row.key,
            send_key=row.send_key,
            created_at=row.created_at,
            display_name=row.display_name,
            agent_name=row.agent_name,
            user_name=row.user_name,
        )
        if contact.number != row.number:
            self._report.notes.append(Note("number", f"{row.number} ({row.url})", str(contact.number)))
        await self._require(len(row.url))
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
            return self._repository.number(kind)
        self._repository.seen(kind, wanted)
        return wanted

    async def _guest_waits(self, number: int) -> bool:
        """Return True if a guest message of this number waits for the owner.

        An unread message gets another number then. The owner answers with the number alone, and the channel plugin of
        OpenClaw takes a frame for a repeat of another one with its number.
        """
        guest = await self._core.store.get(Guest, str(number))
        return guest is not None and guest.status is GuestStatus.PENDING

    async def _message_waits(self, number: int) -> bool:
        """Return True if a message of this number is unread. A guest message gets another number then."""
        found = await self._core.store.page(Message, records.message_by_number(number))
        return any(message.state is State.RECEIVED for message in found.records)

    async def _add_message(self, row: MessageRow) -> None:
        waits = row.inbound and not row.delivered
        if any(one.number == row.number for one in self._gathered.values()):  # a table without a primary key
            await self.flush()
        state = (State.RECEIVED if waits else State.ACKNOWLEDGED) if row.inbound else State.REPORTED
        number = await self._number(Message, row.number, records.message_by_number)
        if waits and await self._guest_waits(number):
            number = self._repository.number(Message)
        message = Message(
            id=message_id(row),
            version=1,
            number=number,
            inbound=row.inbound,
            contact=row.contact,
            content=row.content,
            message_type=row.message_type,
            created_at=row.created_at,
            state=state,
        )
        await self._require(message.weight)
        if waits:
            await self.flush()
            await self.put(message)
            return
        self._gathered[message.id] = message
        self._gathered_bytes += message.weight
        if len(self._gathered) >= MOST_GATHERED or self._gathered_bytes >= _MOST_GATHERED_BYTES:
            await self.flush()

    async def flush(self) -> None:
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
            name = texts.contact_name(contact.agent_name, contact.user_name, contact.url)
        now = self._core.clock()
        delivery = self._repository.for_agent(message.id, message.content, sender=Sender(mailbox), name=name, now=now)
        with self.home.contacts.directory.changing(message.contact):
            await self.home.relay.mailbox.put(delivery, Put(message))

    async def _add_guest(self, row: GuestRow) -> None:
        number = await self._number(Guest, row.number)
        if row.status == GuestStatus.PENDING and await self._message_waits(number):
            number = self._repository.number(Guest)
        if number != row.number:
            self._report.notes.append(Note("guest_number", str(row.number), str(number)))
        offer = consent.offered(row.content, self._repository.url)
        status = GuestStatus(row.status)
        known = offer.url is not None and await self._core.store.get(Contact, offer.url) is not None
        guest = Guest(
            id=str(number),
            version=1,
            number=number,
            content=row.content,
            created_at=row.created_at,
            address=row.address,
            status=status,
            is_read=row.is_read or status is not GuestStatus.PENDING,
            contact=offer.url if status is GuestStatus.APPROVED and known else None,
        )
        await self._require(guest.weight)
        if guest.is_read:
            await self._core.commit(AGENT, Put(guest))
        else:
            told = texts.guest_notice(number, guest.content)
            now = self._core.clock()
            sender = Sender("guest", row.address)
            delivery = self._repository.for_agent(f"guest-{number}", told, sender=sender, name="guest", now=now)
            await self.home.relay.mailbox.put(delivery, Put(guest))

    async def _add_chat(self, row: ChatRow) -> None:
        number = await self._number(Chat, row.number)
        line = Chat(
            id=str(number),
            version=1,
            number=number,
            role=row.role,
            content=row.content,
            created_at=row.created_at,
        )
        await self._require(line.weight)
        await self._core.commit(AGENT, Put(line))


def message_id(row: MessageRow) -> str:
    """Return the id that a message of the old database has here."""
    digest = hashlib.sha256(row.content.encode("utf-8", "surrogatepass")).hexdigest()
    return derived("portal import", row.contact, f"{row.number} {row.created_at} {digest}")
