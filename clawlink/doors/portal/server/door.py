"""The door: the parts of a portal, wired."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from aiohttp import web

from clawlink.domain import networks
from clawlink.domain.agent import Agent
from clawlink.doors.portal.records import (
    AGENT,
    CONTACTS,
    QUEUED,
    WAITING,
    Chat,
    Contact,
    Guest,
    Message,
    is_outbox,
    mailbox_of,
)
from clawlink.doors.portal.rules.urls import normalised
from clawlink.doors.portal.server import socket
from clawlink.doors.portal.server.asking import key_of, refuse_socket
from clawlink.doors.portal.server.attachments import Attachments
from clawlink.doors.portal.server.book import Book
from clawlink.doors.portal.server.chat import OwnerChat
from clawlink.doors.portal.server.contacts import Contacts
from clawlink.doors.portal.server.errands import Errands
from clawlink.doors.portal.server.file_outbox import FileOutbox
from clawlink.doors.portal.server.file_poster import FilePoster
from clawlink.doors.portal.server.file_routes import FileRoutes
from clawlink.doors.portal.server.files import Files
from clawlink.doors.portal.server.guests import Guests
from clawlink.doors.portal.server.keys import Keys
from clawlink.doors.portal.server.mail import Mail
from clawlink.doors.portal.server.members import Members
from clawlink.doors.portal.server.outbox import Outbox, release
from clawlink.doors.portal.server.parts import Parts
from clawlink.doors.portal.server.photos import Photos
from clawlink.doors.portal.server.poster import Poster
from clawlink.doors.portal.server.routes import Routes
from clawlink.doors.portal.server.shelf import Shelf
from clawlink.doors.portal.server.task_files import TaskFiles
from clawlink.doors.portal.server.tasks import Tasks
from clawlink.doors.portal.settings import Settings
from clawlink.doors.portal.wire import calls, frames
from clawlink.doors.registry import OpenDoor
from clawlink.errors import RelayFull
from clawlink.protocol.endpoint import Endpoint
from clawlink.relay.mailbox.mailbox import Forwarding
from clawlink.relay.relay import Relay
from clawlink.server.page_sessions import PageSessions
from clawlink.server.request import Handler, Request
from clawlink.server.response import Reply
from clawlink.server.ws_connection import Websockets

_ADDRESSED_SECONDS = 7 * 24 * 3600.0
_AT_ONCE = 50


class PortalServer(OpenDoor):
    """The portal in front of one relay."""

    page = Path(__file__).parents[1] / "page"
    pages: PageSessions | None = None
    """The sessions of the relay's page, in which the owner signs in."""

    def __init__(self, relay: Relay, websockets: Websockets, settings: Settings, *, folder: str | None) -> None:
        """``folder`` is that of ``--data``; without one nothing survives a restart."""
        self.relay = relay
        self.websockets = websockets
        self.url = normalised(settings.url or "", field="--portal")
        self.keys = Keys(relay, self.url)
        self.book = Book(relay, self.url, settings)
        self.contacts = Contacts(relay, self.book)
        self.guests = Guests(relay, self.book, self.contacts, settings)
        self.chat = OwnerChat(relay, self.book)
        self.mail = Mail(relay, self.book, self.contacts.directory, settings, self._wake)
        self._folder = folder
        self._members = Members(relay)
        self.photos = Photos(relay, self.keys, self.contacts, self._members)
        self._lines: set[socket.Line] = set()
        self._telling: set[asyncio.Task[None]] = set()
        self._addressed: dict[str, float] = {}
        """The contacts that agents of the relay wrote to lately, and when."""
        self._news: list[str] = []
        allowed = networks.networks(settings.allow_private)
        self._poster = Poster(self.url, ca=settings.ca, allowed=allowed)
        self.shelf = Shelf(relay, self.book, self._members)
        file_poster = FilePoster(self._poster)
        self.file_outbox = FileOutbox(relay, self.book, self.shelf, file_poster, moved=self._file_moved)
        self.task_files = TaskFiles(relay, self.book, self.shelf, settings, self.file_outbox.look)
        self.errands = Errands(
            relay, self.contacts, self.mail, self._members, self._poster, self.task_files, settings.portal_ttl
        )
        relay.agents.resolve_also(self._named)
        self.outbox = Outbox(relay, self.book, self.contacts, self._members, self._poster, self.errands)
        relay.mailbox.forward(Forwarding(is_outbox, settings.portal_ttl, self.outbox.lapsed))
        self.files = Files(relay, self.book, self.shelf, settings, self.file_outbox.wake)

    def _file_moved(self, contact: str) -> None:
        self.outbox.files_moved(contact)

    def _wake(self, contact: str) -> None:
        self.outbox.wake(contact)

    async def _named(self, recipient: str) -> Agent | None:
        """Return the agent that stands for a contact, for ``NAME@portal``."""
        contact = await self.errands.named(recipient)
        if contact is None:
            return None
        self._addressed[contact.id] = self.relay.clock()
        return await self._members.of(contact.id)

    async def _find_addressed(self) -> None:
        """Note the contacts that agents of the relay wrote to before this start."""
        after: str | None = None
        while True:
            page = await self.relay.core.store.page(Contact, CONTACTS, after, _AT_ONCE)
            agents = await self.relay.core.store.get_many(Agent, [contact.mailbox for contact in page.records])
            for contact, agent in zip(page.records, agents, strict=True):
                if agent is not None:
                    self._addressed[contact.id] = agent.last_heartbeat
            after = page.after
            if after is None:
                return

    async def upkeep(self, now: float) -> None:
        """Look for work that agents of the relay left for contacts: the relay stores it without the portal."""
        now = self.relay.clock()
        await self.task_files.sweep()
        for contact in list(islice(self._addressed, _AT_ONCE)):
            at = self._addressed.pop(contact)
            if now - at > _ADDRESSED_SECONDS:
                continue
            self._addressed[contact] = at  # now it is the last
            await self.relay.agents.touch(mailbox_of(contact))  # it is here: what it was given is not taken back
            if self.outbox.is_working_on(contact):
                continue  # a wake would end its pause after a failure
            async for _ in self.relay.mailbox.pending(mailbox_of(contact)):
                self.outbox.wake(contact)
                break

    def _replied(self, reply: Chat) -> None:
        """Tell the owner's pages what the agent answers. A bridge is the agent's, and hears nothing of it."""
        for line in list(self._lines):
            if line.is_page:
                task = asyncio.create_task(line.tell(frames.reply(reply)))
                self._telling.add(task)
                task.add_done_callback(self._telling.discard)

    async def _keys_ended(self) -> None:
        """Close the sockets whose keys count no more."""
        await asyncio.gather(*(line.check_key() for line in list(self._lines)))

    def _wake_all(self, contact: str) -> None:
        self.outbox.wake(contact)
        self.outbox.files_moved(contact)
        self.file_outbox.wake(contact)

    async def agent(self) -> Agent:
        """Return the owner's agent."""
        return await self._members.start()

    async def start(self) -> None:
        await self.agent()
        self._news = await self.keys.start(os.environ)
        if self._folder is None:
            self._news.append("Warning: without --data, contacts and messages of the portal end with this process.")
        await self.book.start()
        await self.contacts.directory.load()
        await release(self.relay, AGENT)
        await self._find_addressed()
        await self.outbox.start()
        await self.files.start()
        await self.file_outbox.start()

    def news(self) -> list[str]:
        return self._news

    def routes(self) -> Iterator[tuple[Endpoint, Handler]]:
        tasks = Tasks(self.relay, self.contacts, self._members, self.errands, self.task_files)
        parts = Parts(
            relay=self.relay,
            url=self.url,
            keys=self.keys,
            contacts=self.contacts,
            guests=self.guests,
            chat=self.chat,
            mail=self.mail,
            files=self.files,
            errands=self.errands,
            tasks=tasks,
            poster=self._poster,
            wake=self._wake_all,
            pages=self.pages,
            replied=self._replied,
            keys_ended=self._keys_ended,
        )
        yield from Routes(parts).all()
        yield from FileRoutes(
            self.url,
            self.keys,
            self.contacts,
            self.files,
            self.shelf,
            tasks,
            folder=self._folder,
            clock=self.relay.steady,
        ).all()
        yield from Attachments(self.relay, self.keys, self.contacts, self._members).all()
        yield from self.photos.all()
        yield calls.SOCKET, self._serve_socket

    async def _serve_socket(self, relay: Relay, request: Request) -> web.StreamResponse | Reply:
        try:
            relay.require_working()
            key = request.query.get("api_key") or key_of(request) or ""
            caller = await self.keys.require("socket", key)
            if len(self._lines) >= socket.MAX_SOCKETS:
                raise RelayFull(
                    f"the portal has {len(self._lines)} websockets and may have no more",
                    limit=socket.MAX_SOCKETS,
                    actual=len(self._lines),
                )
        except Exception as failure:
            return await refuse_socket(relay, failure)
        return await socket.serve(self, request, key, caller.role, self._lines)

    async def close(self) -> None:
        await asyncio.gather(*(line.goodbye() for line in list(self._lines)))
        await asyncio.gather(self.outbox.close(), self.file_outbox.close())
        await self._poster.close()

    async def info(self) -> dict[str, Any]:
        places = ((Contact, CONTACTS), (Guest, WAITING), (Message, QUEUED))
        contacts, guests, queued = (await self.relay.core.store.admission((), places)).indexes
        return {
            "url": self.url,
            "contacts": contacts.count,
            "guests_waiting": guests.count,
            "messages_queued": queued.count,
            "agent_sockets": len(self._lines),
        }
