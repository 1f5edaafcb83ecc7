"""The active portal: all its parts, wired, for as long as this relay acts as the portal.

A relay alone acts from its start to its end. Of several relays, one acts at a time. What it knows in memory begins
with it: numbers, contacts, sockets, and what is under way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from itertools import islice

from aiohttp import web

from clawlink.domain import networks
from clawlink.domain.agent import Agent
from clawlink.doors.portal.records import AGENT, CONTACTS, Chat, Contact, mailbox_of
from clawlink.doors.portal.server import socket
from clawlink.doors.portal.server.attachments import Attachments
from clawlink.doors.portal.server.chat import OwnerChat
from clawlink.doors.portal.server.contacts import Contacts
from clawlink.doors.portal.server.file_outbox import FileOutbox
from clawlink.doors.portal.server.file_poster import FilePoster
from clawlink.doors.portal.server.file_routes import FileRoutes
from clawlink.doors.portal.server.file_store import FileStore
from clawlink.doors.portal.server.files import Files
from clawlink.doors.portal.server.forwarded_tasks import ForwardedTasks
from clawlink.doors.portal.server.guests import Guests
from clawlink.doors.portal.server.import_page import PageImport
from clawlink.doors.portal.server.keys import Keys
from clawlink.doors.portal.server.mail import Mail
from clawlink.doors.portal.server.members import Members
from clawlink.doors.portal.server.names import Names
from clawlink.doors.portal.server.outbox import Outbox, release
from clawlink.doors.portal.server.page_logins import PageLogins
from clawlink.doors.portal.server.parts import Home, Parts
from clawlink.doors.portal.server.photos import Photos
from clawlink.doors.portal.server.portal_request import key_of, refuse_socket
from clawlink.doors.portal.server.poster import Poster
from clawlink.doors.portal.server.repository import Repository
from clawlink.doors.portal.server.routes import Routes
from clawlink.doors.portal.server.task_files import TaskFiles
from clawlink.doors.portal.server.tasks import Tasks
from clawlink.doors.portal.settings import Settings
from clawlink.doors.portal.wire import calls, frames
from clawlink.errors import RelayFull
from clawlink.protocol.endpoint import Endpoint
from clawlink.relay.relay import Relay
from clawlink.server.page_sessions import PageSessions
from clawlink.server.request import Handler, Request
from clawlink.server.response import Reply
from clawlink.server.ws_connection import Websockets

_ADDRESSED_SECONDS = 7 * 24 * 3600.0
_AT_ONCE = 50


class ActivePortal:
    """The portal in front of one relay."""

    def __init__(
        self,
        relay: Relay,
        websockets: Websockets,
        settings: Settings,
        url: str,
        names: Names,
        pages: PageSessions | None,
        *,
        folder: str | None,
        acts: Callable[[], bool],
    ) -> None:
        """``folder`` is the place of bodies under way, and ``acts`` tells whether this relay still is the portal.

        ``pages`` are the sessions of the relay's page, in which the owner signs in.
        """
        self.relay = relay
        self.websockets = websockets
        self.url = url
        self.keys = Keys(relay, url)
        self.repository = Repository(relay, url, settings)
        self.contacts = Contacts(relay, self.repository, names, self._wake_all)
        self.guests = Guests(relay, self.repository, self.contacts, settings)
        self.chat = OwnerChat(relay, self.repository)
        self.mail = Mail(relay, self.repository, self.contacts.directory, settings, self._wake)
        self._folder = folder
        self._pages = pages
        self.page_logins = PageLogins(relay, pages)
        self.members = Members(relay)
        self.photos = Photos(relay, self.keys, self.contacts, self.members)
        self._lines: set[socket.Line] = set()
        self._telling: set[asyncio.Task[None]] = set()
        self._addressed: dict[str, float] = {}
        """The contacts that agents of the relay wrote to lately, and when."""
        allowed = networks.networks(settings.allow_private)
        self._poster = Poster(url, ca=settings.ca, allowed=allowed, acts=acts, renewed=self.contacts.renewed)
        self.file_store = FileStore(relay, self.repository, self.members)
        file_poster = FilePoster(self._poster)
        self.file_outbox = FileOutbox(relay, self.repository, self.file_store, file_poster, moved=self._file_moved)
        self.task_files = TaskFiles(relay, self.repository, self.file_store, settings, self.file_outbox.look)
        self.forwarded_tasks = ForwardedTasks(
            relay, self.contacts, self.mail, self.members, self._poster, self.task_files, settings.portal_ttl
        )
        self.outbox = Outbox(relay, self.repository, self.contacts, self.members, self._poster, self.forwarded_tasks)
        self.files = Files(relay, self.repository, self.file_store, settings, self.file_outbox.wake)
        self.page_import = PageImport(
            self.home, most_waiting=settings.portal_guests, folder=folder, keys_ended=self._keys_ended
        )

    @property
    def home(self) -> Home:
        """The parts that take what an earlier portal had."""
        return Home(
            self.relay,
            self.url,
            self.repository,
            self.keys,
            self.members,
            self.contacts,
            self.files,
            self.file_store,
            self.photos,
        )

    @property
    def sockets(self) -> int:
        """How many sockets of agents are open."""
        return len(self._lines)

    def _file_moved(self, contact: str) -> None:
        self.outbox.files_moved(contact)

    def _wake(self, contact: str) -> None:
        self.outbox.wake(contact)

    def address(self, contact: str) -> None:
        """Note that an agent of the relay writes to a contact."""
        self._addressed[contact] = self.relay.clock()

    def left(self, contact: str) -> None:
        """Look for what an agent has left for a contact, at another relay of the mesh."""
        self.address(contact)
        if not self.outbox.is_working_on(contact):  # a wake would end its pause after a failure
            self.outbox.wake(contact)

    async def find_addressed(self) -> None:
        """Note the contacts that agents of the relay wrote to before."""
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

    async def upkeep(self) -> None:
        """Look for work that agents of the relay left for contacts: the relay stores it without the portal."""
        now = self.relay.clock()
        await self.page_logins.upkeep()
        await self.page_import.upkeep()
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
        return await self.members.start()

    async def start(self) -> None:
        """Read what a portal knows in memory, and go on with all that is under way.

        Raises ClawLinkError if another agent has the id of the owner's.
        """
        await self.agent()
        await self.page_import.clear()
        await self.page_logins.restore()
        await self.repository.start()
        await self.contacts.directory.load()
        await release(self.relay, AGENT)
        await self.find_addressed()
        await self.outbox.start()
        await self.files.start()
        await self.file_outbox.start()

    def routes(self) -> Iterator[tuple[Endpoint, Handler]]:
        """Give all routes, and the websocket."""
        tasks = Tasks(self.relay, self.contacts, self.members, self.forwarded_tasks, self.task_files)
        parts = Parts(
            relay=self.relay,
            url=self.url,
            keys=self.keys,
            contacts=self.contacts,
            guests=self.guests,
            chat=self.chat,
            mail=self.mail,
            files=self.files,
            forwarded_tasks=self.forwarded_tasks,
            tasks=tasks,
            poster=self._poster,
            wake=self._wake_all,
            pages=self._pages,
            replied=self._replied,
            keys_ended=self._keys_ended,
        )
        yield from Routes(parts).all()
        yield from FileRoutes(
            self.url,
            self.keys,
            self.contacts,
            self.files,
            self.file_store,
            tasks,
            folder=self._folder,
            clock=self.relay.steady,
        ).all()
        yield from self.page_import.all()
        yield from Attachments(self.relay, self.keys, self.contacts, self.members).all()
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
        """Close all sockets, and stop posting. What is under way waits in the store."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._poster.close)
            stack.push_async_callback(self.page_import.close)
            stack.push_async_callback(self.outbox.close)
            stack.push_async_callback(self.file_outbox.close)
            await asyncio.gather(*(line.goodbye() for line in list(self._lines)))
