"""Moving in, step by step: all that an old database has, in one order, so that a preview says what the act does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from clawlink.doors.portal.rules import cutting, moving
from clawlink.doors.portal.rules.moving import Letter, Parcel, Person, Said, Visit
from clawlink.doors.portal.rules.moving_report import Candidate, Choice, Left, Report
from clawlink.doors.portal.rules.urls import normalised
from clawlink.doors.portal.server.attachments import NAME, PLACE
from clawlink.doors.portal.server.contacts import MAX_CONTACTS
from clawlink.doors.portal.server.keys import MAX_PASSWORD_LENGTH, MIN_PASSWORD_LENGTH
from clawlink.doors.portal.server.old_database import OldDatabase
from clawlink.errors import BadRequest
from clawlink.relay.time_slices import Turns

MOST_GUESTS = 2000
FOLDERS = ("photos", "owner_files")
_TABLES = ("contacts", "messages", "guest_messages", "owner_chats", "file_transfers")


class Password(NamedTuple):
    """The owner's password."""

    text: str


class Chosen(NamedTuple):
    """A key that the owner takes over."""

    key: Candidate
    is_owner: bool


class Beside(NamedTuple):
    """A photo or an attachment beside the database, and its key among the relay's files."""

    path: Path
    key: str
    is_photo: bool


Item: TypeAlias = Person | Letter | Visit | Said | Parcel | Password | Chosen | Beside
_KINDS: dict[type[Any], str] = {
    Person: "contacts",
    Chosen: "keys",
    Password: "password",
    Letter: "messages",
    Said: "chat",
    Visit: "guests",
    Parcel: "files",
    Beside: "photos",
}


class Taker:
    """Takes nothing, and has nothing: a look without a portal."""

    async def find(self, item: Item) -> Left | bool:
        """Return True for what is here before, and the reason for what cannot come."""
        return False

    async def take(self, item: Item) -> Left | None:
        """Take what is not here. Return the reason if it cannot come."""
        return None

    async def settle(self) -> None:
        """Store what was gathered so far."""


class Tour:
    """Goes through an old database whose portal had the address ``own_url``."""

    def __init__(self, database: OldDatabase, own_url: str, *, most_waiting: int) -> None:
        self.report = Report()
        self.done = 0
        self.total = 0
        self._database = database
        self.own_url = own_url
        self._most_waiting = most_waiting
        self._now = time.time()
        self._chosen: list[Chosen] = []
        self._turns = Turns()

    async def choose(self, choice: Choice) -> None:
        """Read which keys there are, and find those that the owner names. Raises BadRequest."""
        found = moving.Candidates(self.own_url, self._now)
        async for row in self._database.read("api_keys"):
            found.take(row)
            await self._turns.next()
        report = self.report
        report.keys = list(found.found.values())
        report.leave(*found.rest())
        owner = None if choice.owner is None else moving.chosen(choice.owner, report.keys)
        agents = [moving.chosen(one, report.keys) for one in choice.agents]
        if owner in agents:
            raise BadRequest("a key is the owner's or an agent's, not both; name it once")
        self._chosen = [] if owner is None else [Chosen(owner, True)]
        self._chosen += [Chosen(one, False) for one in dict.fromkeys(agents)]

    async def all(self, taker: Taker) -> None:
        """Go through all that may come, in the order of the old portal. Raises BadRequest for a damaged database."""
        database = self._database
        beside = await asyncio.to_thread(_beside, database.folder)
        self.total = len(beside) + sum([await asyncio.to_thread(database.count, table) for table in _TABLES])
        await self._settings(taker)
        for one in self._chosen:
            await self._one(taker, one)
        people = moving.People(self.own_url, self._now, most=MAX_CONTACTS)
        async for row in self._rows("contacts"):
            self.report.leave(people.take(row))
        self.report.leave(*people.rest())
        known = set()
        for person in people.found:
            if await self._one(taker, person):
                known.add(person.id)
        letters = moving.Letters(self.own_url, self._now)
        async for row in self._rows("messages"):
            await self._one(taker, letters.read(row))
        await taker.settle()
        visits = moving.Visits(self._now, most_waiting=self._most_waiting, most=MOST_GUESTS)
        async for row in self._rows("guest_messages", newest=True):
            self.report.leave(visits.take(row))
        self.report.leave(*visits.rest())
        for visit in visits.found:
            await self._one(taker, visit)
        sayings = moving.Sayings(self._now)
        async for row in self._rows("owner_chats"):
            await self._one(taker, sayings.read(row))
        async for row in self._rows("file_transfers"):
            parcel = moving.parcel(row)
            if isinstance(parcel, Parcel) and parcel.contact not in known:
                parcel = parcel.left("no_contact")
            await self._one(taker, parcel)
        for file in beside:
            await self._one(taker, file)
            self.done += 1

    async def _settings(self, taker: Taker) -> None:
        report, database = self.report, self._database
        config = {
            moving.text(row, "key"): moving.text(row, "value", strip=False) async for row in database.read("config")
        }
        if notices := await asyncio.to_thread(database.count, "pending_notifications"):
            report.leave(Left("notices", str(notices), "repeated"))
        password = config.get("admin_password") or None
        if password == moving.DEFAULT_PASSWORD:
            report.leave(Left("password", "", "public"))
        elif password is not None and not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
            report.leave(Left("password", "", "bad_length", f"{MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH}"))
        elif password is not None:
            await self._one(taker, Password(password))
        if config.get("openclaw_token"):
            report.leave(Left("openclaw", "", "unused"))

    async def _rows(self, table: str, *, newest: bool = False) -> AsyncIterator[moving.Row]:
        async for row in self._database.read(table, newest=newest):
            yield row
            self.done += 1
            await self._turns.next()

    async def _one(self, taker: Taker, item: Item | Left) -> bool:
        """Have something taken that is not here. Return True if it is here then."""
        if isinstance(item, Left):
            self.report.leave(item)
            return False
        found = await taker.find(item)
        left = found if isinstance(found, Left) else None if found else await taker.take(item)
        await self._turns.next()
        if left is not None:
            self.report.leave(left)
            return False
        self.report.count(_KINDS[type(item)], came=not found)
        return True


def _beside(folder: Path) -> Sequence[Beside]:
    """Return the photos and attachments that lie beside the database."""
    found = []
    for name in FOLDERS:
        for path in sorted((folder / name).glob("*")):
            if path.is_file() and not path.is_symlink():
                of_chat = name == "owner_files" and NAME.fullmatch(path.name) is not None
                kept = PLACE if of_chat else f"portal/{name}/"  # links in the chat go on leading there
                found.append(Beside(path, kept + cutting.harmless(path.name), name == "photos"))
    return found


async def own_address(database: OldDatabase) -> str | None:
    """Return the address that the database names most often as that of its own portal; None if it names none."""
    counted: dict[str, int] = {}
    turns = Turns()
    for table, column in (("messages", "to_portal"), ("messages", "from_portal"), ("api_keys", "portal_url")):
        async for row in database.read(table):
            await turns.next()
            try:
                url = normalised(moving.text(row, column))
            except BadRequest:
                continue
            counted[url] = counted.get(url, 0) + 1
    return max(counted, key=lambda url: counted[url], default=None)
