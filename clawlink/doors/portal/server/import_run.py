"""An import, step by step: all rows in one order, so that a preview tells what the import does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from clawlink.doors.portal.rules import file_parts, import_rows
from clawlink.doors.portal.rules.access import (
    MAX_PASSWORD_LENGTH,
    MIN_PASSWORD_LENGTH,
    PUBLIC_PASSWORD,
    password_fault,
)
from clawlink.doors.portal.rules.import_report import Choice, KeyCandidate, Report, Skipped
from clawlink.doors.portal.rules.import_rows import ChatRow, ContactRow, FileRow, GuestRow, MessageRow
from clawlink.doors.portal.rules.urls import normalised
from clawlink.doors.portal.server.attachments import NAME, PLACE
from clawlink.doors.portal.server.contacts import MAX_CONTACTS
from clawlink.doors.portal.server.old_database import OldDatabase
from clawlink.errors import BadRequest
from clawlink.relay.time_slices import Turns

MOST_GUESTS = 2000
FOLDERS = ("photos", "owner_files")
_TABLES = ("contacts", "messages", "guest_messages", "owner_chats", "file_transfers")


class Password(NamedTuple):
    """The owner's password."""

    text: str


class ChosenKey(NamedTuple):
    """A key that the owner takes over."""

    key: KeyCandidate
    is_owner: bool


class FileBeside(NamedTuple):
    """A photo or an attachment beside the database, and its key among the relay's files."""

    path: Path
    key: str
    is_photo: bool


Item: TypeAlias = ContactRow | MessageRow | GuestRow | ChatRow | FileRow | Password | ChosenKey | FileBeside
_KINDS: dict[type[Any], str] = {
    ContactRow: "contacts",
    ChosenKey: "keys",
    Password: "password",
    MessageRow: "messages",
    ChatRow: "chat",
    GuestRow: "guests",
    FileRow: "files",
    FileBeside: "photos",
}


class Target:
    """The place where rows go. This one has nothing and stores nothing: a look without a portal."""

    async def find(self, item: Item) -> Skipped | bool:
        """Return True for an item that the portal has, and the reason for one that cannot come."""
        return False

    async def add(self, item: Item) -> Skipped | None:
        """Store an item that the portal does not have. Return the reason if it cannot come."""
        return None

    async def flush(self) -> None:
        """Store the rows that were gathered so far."""


class ImportRun:
    """Goes through an old database whose portal had the address ``own_url``."""

    def __init__(self, database: OldDatabase, own_url: str, *, most_waiting: int) -> None:
        self.report = Report()
        self.done = 0
        self.total = 0
        self._database = database
        self.own_url = own_url
        self._most_waiting = most_waiting
        self._now = time.time()
        self._chosen: list[ChosenKey] = []
        self._turns = Turns()

    async def choose(self, choice: Choice) -> None:
        """Read which keys there are, and find those that the owner names. Raises BadRequest."""
        found = import_rows.KeyRows(self.own_url, self._now)
        async for row in self._database.read("api_keys"):
            found.take(row)
            await self._turns.next()
        report = self.report
        report.keys = list(found.found.values())
        report.skip(*found.rest())
        owner = None if choice.owner is None else import_rows.chosen(choice.owner, report.keys)
        agents = [import_rows.chosen(one, report.keys) for one in choice.agents]
        if owner in agents:
            raise BadRequest("a key is the owner's or an agent's, not both; name it once")
        self._chosen = [] if owner is None else [ChosenKey(owner, True)]
        self._chosen += [ChosenKey(one, False) for one in dict.fromkeys(agents)]

    async def all(self, target: Target) -> None:
        """Go through all that may come, in the order of the old portal. Raises BadRequest for a damaged database."""
        database = self._database
        beside = await asyncio.to_thread(_beside, database.folder)
        self.total = len(beside) + sum([await asyncio.to_thread(database.count, table) for table in _TABLES])
        await self._settings(target)
        for one in self._chosen:
            await self._one(target, one)
        contacts = import_rows.ContactRows(self.own_url, self._now, most=MAX_CONTACTS)
        async for row in self._rows("contacts"):
            self.report.skip(contacts.take(row))
        self.report.skip(*contacts.rest())
        known: set[str] = set()
        for contact in contacts.found:
            if await self._one(target, contact):
                known.add(contact.id)
        messages = import_rows.MessageRows(self.own_url, self._now)
        async for row in self._rows("messages"):
            await self._one(target, messages.read(row))
        await target.flush()
        guests = import_rows.GuestRows(self._now, most_waiting=self._most_waiting, most=MOST_GUESTS)
        async for row in self._rows("guest_messages", newest=True):
            self.report.skip(guests.take(row))
        self.report.skip(*guests.rest())
        for guest in guests.found:
            await self._one(target, guest)
        chat = import_rows.ChatRows(self._now)
        async for row in self._rows("owner_chats"):
            await self._one(target, chat.read(row))
        async for row in self._rows("file_transfers"):
            found = import_rows.file_row(row)
            if isinstance(found, FileRow) and found.contact not in known:
                found = found.skipped("no_contact")
            await self._one(target, found)
        for file in beside:
            await self._one(target, file)
            self.done += 1

    async def _settings(self, target: Target) -> None:
        report, database = self.report, self._database
        config = {
            import_rows.text(row, "key"): import_rows.text(row, "value", strip=False)
            async for row in database.read("config")
        }
        if notices := await asyncio.to_thread(database.count, "pending_notifications"):
            report.skip(Skipped("notices", str(notices), "repeated"))
        password = config.get("admin_password") or None
        if password == PUBLIC_PASSWORD:
            report.skip(Skipped("password", "", "public"))
        elif password is not None and password_fault(password) is not None:
            report.skip(Skipped("password", "", "bad_length", f"{MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH}"))
        elif password is not None:
            await self._one(target, Password(password))
        if config.get("openclaw_token"):
            report.skip(Skipped("openclaw", "", "unused"))

    async def _rows(self, table: str, *, newest: bool = False) -> AsyncIterator[import_rows.Row]:
        async for row in self._database.read(table, newest=newest):
            yield row
            self.done += 1
            await self._turns.next()

    async def _one(self, target: Target, item: Item | Skipped) -> bool:
        """Store an item that the portal does not have. Return True if the portal has it then."""
        if isinstance(item, Skipped):
            self.report.skip(item)
            return False
        found = await target.find(item)
        skipped = found if isinstance(found, Skipped) else None if found else await target.add(item)
        await self._turns.next()
        if skipped is not None:
            self.report.skip(skipped)
            return False
        self.report.count(_KINDS[type(item)], came=not found)
        return True


def _beside(folder: Path) -> Sequence[FileBeside]:
    """Return the photos and attachments that lie beside the database."""
    found = []
    for name in FOLDERS:
        for path in sorted((folder / name).glob("*")):
            if path.is_file() and not path.is_symlink():
                of_chat = name == "owner_files" and NAME.fullmatch(path.name) is not None
                kept = PLACE if of_chat else f"portal/{name}/"  # links in the chat go on leading there
                found.append(FileBeside(path, kept + file_parts.harmless(path.name), name == "photos"))
    return found


async def own_address(database: OldDatabase) -> str | None:
    """Return the address that the database names most often as that of its own portal; None if it names none."""
    counted: dict[str, int] = {}
    turns = Turns()
    for table, column in (("messages", "to_portal"), ("messages", "from_portal"), ("api_keys", "portal_url")):
        async for row in database.read(table):
            await turns.next()
            try:
                url = normalised(import_rows.text(row, column))
            except BadRequest:
                continue
            counted[url] = counted.get(url, 0) + 1
    return max(counted, key=lambda url: counted[url], default=None)
