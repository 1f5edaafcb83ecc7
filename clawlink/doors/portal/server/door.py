"""The door: the routes of a portal, and its active part while this relay has the lease of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery
from clawlink.doors.portal.records import AGENT, CONTACTS, QUEUED, WAITING, Contact, Guest, Message, is_outbox
from clawlink.doors.portal.rules.urls import normalised
from clawlink.doors.portal.server.active import ActivePortal
from clawlink.doors.portal.server.lease import Lease
from clawlink.doors.portal.server.members import reserved
from clawlink.doors.portal.server.names import Names
from clawlink.doors.portal.server.portal_request import astray, failed
from clawlink.doors.portal.server.repository import keep_kinds
from clawlink.doors.portal.settings import Settings
from clawlink.doors.registry import OpenDoor
from clawlink.errors import NotActive
from clawlink.protocol.endpoint import Endpoint
from clawlink.relay.error_mapping import refusal
from clawlink.relay.mailbox.lifetimes import Forwarding
from clawlink.relay.relay import Relay
from clawlink.server.page_sessions import PageSessions
from clawlink.server.request import Handler, Request
from clawlink.server.response import Reply
from clawlink.server.ws_connection import Websockets
from clawlink.store.base import Failed
from clawlink.store.events import Event
from clawlink.store.fence import behind

_AGAIN_SECONDS = 1.0
_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")
_log = logging.getLogger("clawlink.portal")


class PortalServer(OpenDoor):
    """The portal in front of one relay. Of several relays over one store, one is active, and the others refuse."""

    page = Path(__file__).parents[1] / "page"

    def __init__(
        self,
        relay: Relay,
        websockets: Websockets,
        settings: Settings,
        *,
        folder: str | None,
        pages: PageSessions | None = None,
    ) -> None:
        """``folder`` is that of ``--data``; without one, or peers, nothing survives a restart."""
        self.relay = relay
        self.url = normalised(settings.url or "", field="--portal")
        self._websockets = websockets
        self._settings = settings
        self._folder = folder
        self._pages = pages
        self._names = Names(relay)
        self._alone = relay.core.peers is None
        self._lease = Lease(relay.core.peers, settings.portal_lease)
        self._begun = False
        self._term: str | None = None
        """The token of the lease under which the active part runs, or begins."""
        self._beginning: asyncio.Task[None] | None = None
        self._fault: Exception | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._keeping: asyncio.Task[None] | None = None
        self._missed = False
        self._news: list[str] = []
        keep_kinds(relay)
        relay.agents.reserve(reserved)
        relay.agents.resolve_also(self._named)
        relay.hear_also(self._hear)
        if pages is not None:
            pages.keep_owners = self._keep_owners
        relay.mailbox.lifetimes.forward(Forwarding(is_outbox, settings.portal_ttl, self._lapsed))
        relay.mailbox.lifetimes.set_ttl(AGENT, settings.portal_inbox_ttl)
        self.active = self._made()

    def _made(self) -> ActivePortal:
        """Return an active part that has not begun, with its handlers in place of those before."""
        active = ActivePortal(
            self.relay,
            self._websockets,
            self._settings,
            self.url,
            self._names,
            self._pages,
            folder=self._folder,
            acts=lambda: self._lease.held,
        )
        self._handlers = {endpoint.name: handler for endpoint, handler in active.routes()}
        return active

    @property
    def acts(self) -> bool:
        """Return True if this relay is the active one, and has begun."""
        return self._begun and self._lease.held

    # -- terms -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._news = await self.active.keys.start(os.environ)
        if self._folder is None and self._alone:
            self._news.append("Warning: without --data, contacts and messages of the portal end with this process.")
        await self._names.load()
        self._missed = False
        await self._look()
        if not self._alone:
            self._keeping = asyncio.create_task(self._keep())
        if self._beginning is not None:
            await asyncio.wait([self._beginning])
        if self._fault is not None:
            await self._leave()
            raise self._fault

    async def _keep(self) -> None:
        """Keep the lease, or take it once no other relay has it."""
        while True:
            await asyncio.sleep(self._lease.pause)
            try:
                await self._look()
            except Exception:
                _log.exception("the lease of the portal cannot be looked at")

    async def _look(self) -> None:
        with contextlib.suppress(Failed):  # then the lease lapses in its time
            await self._lease.renew()
        if self._term is not None and (not self._lease.held or self._term != self._lease.token):
            _log.warning("this relay is the active node of the portal no more")
            self._end_term()
        if self._term is None and self._lease.held:
            self._term = self._lease.token
            with behind(self._lease.fence):
                self._beginning = asyncio.create_task(self._begin(self.active))

    async def _begin(self, active: ActivePortal) -> None:
        self._fault = None
        try:
            await active.start()
        except Exception as fault:
            self._fault = fault
            _log.error("the portal cannot begin here", extra={"reason": str(fault)})
            if active is self.active:
                self._end_term()
            return
        if active is self.active:
            self._begun = True
            if not self._alone:
                _log.info("this relay is the active node of the portal")

    def _end_term(self) -> None:
        """End all that the active part does. What it began takes no more effect: its fence is shut."""
        self._forget_logins()
        active, self.active = self.active, self._made()
        fence = self._lease.fence if self._term == self._lease.token else None
        self._begun, self._term = False, None
        self._lease.drop()
        with behind(fence):
            ending = asyncio.create_task(self._end(active, self._beginning))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _forget_logins(self) -> None:
        """Leave the owner's sessions at the page to the next active relay, which may end them."""
        if self._pages is not None:
            self._pages.all.end_owners()

    async def _end(self, active: ActivePortal, beginning: asyncio.Task[None] | None) -> None:
        if beginning is not None:
            beginning.cancel()
        try:
            await active.close()
        except Exception:
            _log.exception("the active part of the portal did not end well")

    async def close(self) -> None:
        try:
            with behind(self._lease.fence):
                await self.active.close()  # the lease is kept meanwhile
        finally:
            await self._leave()

    async def _leave(self) -> None:
        """Let another relay be the active one."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        self._forget_logins()
        with contextlib.suppress(Failed):
            await self._lease.end()
        await asyncio.gather(*self._ending)

    async def upkeep(self, now: float) -> None:
        await self._names.follow()
        if self._missed:
            self._missed = False
            try:
                await self._names.load()
                if self.acts:
                    await self.active.find_addressed()
            except BaseException:
                self._missed = True
                raise
        if self.acts:
            with behind(self._lease.fence):
                await self.active.upkeep()

    async def _keep_owners(self) -> None:
        """Keep the owner's sessions at the page. A relay that is not active has none."""
        if self.acts:
            with behind(self._lease.fence):
                await self.active.page_logins.keep()

    # -- the mesh ----------------------------------------------------------------------------------------------------

    def _hear(self, event: Event | None) -> None:
        """Note what another relay did with the contacts, and what agents left for them there."""
        if event is None:
            self._missed = True
            return
        self._names.hear(event)
        contact = None if event.quiet else self._names.contact_at(event.partition_key)
        if contact is not None and self.acts:
            with behind(self._lease.fence):
                self.active.left(contact)

    async def _named(self, recipient: str) -> Agent | None:
        """Return the agent that stands for a contact, for ``NAME@portal``. Any relay of the mesh may be asked."""
        contact = await self.active.forwarded_tasks.named(recipient)
        if contact is None:
            return None
        if self.acts:
            self.active.address(contact.id)
        return await self.active.members.of(contact.id)

    async def _lapsed(self, delivery: Delivery) -> bool:
        """Tell the sender of what waited for a contact too long. The relay that looks after the records asks for it."""
        return await self.active.outbox.lapsed(delivery)

    # -- routes ------------------------------------------------------------------------------------------------------

    def news(self) -> list[str]:
        return self._news

    def routes(self) -> Iterator[tuple[Endpoint, Handler]]:
        known = [endpoint for endpoint, _ in self.active.routes()]
        for endpoint in known:
            yield endpoint, self._served(endpoint)
        for method in _METHODS:  # after all others, which go before them
            for slash in ("", "/"):
                name = f"elsewhere_{method}{slash and '_slash'}".lower()
                endpoint = Endpoint(name, method, slash + "/api/{rest}", "", None, open=True, text=True)
                yield endpoint, self._elsewhere(known, endpoint)

    def _elsewhere(self, known: list[Endpoint], endpoint: Endpoint) -> Handler:
        async def serve(relay: Relay, request: Request) -> Reply:
            return astray(known, request) if self.acts else self._refused(endpoint)

        return serve

    def _served(self, endpoint: Endpoint) -> Handler:
        async def serve(relay: Relay, request: Request) -> Any:
            if not self.acts:
                return self._refused(endpoint)
            with behind(self._lease.fence):
                return await self._handlers[endpoint.name](relay, request)

        return serve

    def _refused(self, endpoint: Endpoint) -> Reply:
        """Say that another relay is active. A proxy goes on to the next one by the status."""
        why = NotActive(
            "another relay of the mesh is the active node of this portal, or is about to be: ask that one, or all of "
            "them through a proxy, or try again in a moment",
            retry_after=_AGAIN_SECONDS,
        )
        error = refusal(self.relay, why, {"method": endpoint.method, "route": endpoint.path}, _log)
        return failed(error.status, error.message, error.retry_after, error)

    async def info(self) -> dict[str, Any]:
        places = ((Contact, CONTACTS), (Guest, WAITING), (Message, QUEUED))
        contacts, guests, queued = (await self.relay.core.store.admission((), places)).indexes
        return {
            "url": self.url,
            "active": self.acts,
            "contacts": contacts.count,
            "guests_waiting": guests.count,
            "messages_queued": queued.count,
            "agent_sockets": self.active.sockets,
        }
