"""The owner's logins at the page, kept with the portal: they outlive a restart, and go on at another relay."""

from __future__ import annotations

from msgspec.structs import replace

from clawlink.doors.portal.records import AGENT, PageLogin, Portal
from clawlink.doors.portal.server.keys import PORTAL_ID
from clawlink.relay.core import retrying
from clawlink.relay.relay import Relay
from clawlink.server.page_sessions import PageSessions
from clawlink.server.sessions import Session
from clawlink.store.base import Put


class PageLogins:
    """Keeps the sessions that the owner has at the page. ``pages`` is None where the relay shows none."""

    def __init__(self, relay: Relay, pages: PageSessions | None) -> None:
        self._core = relay.core
        self._pages = pages
        self._unkept = False

    async def restore(self) -> None:
        """Open the sessions again that had not ended. Raises Failed."""
        if self._pages is None:
            return
        portal = await self._core.store.get(Portal, PORTAL_ID)
        sessions, now = self._pages.all, self._core.steady()
        for hashed, login in ({} if portal is None else portal.pages).items():
            if login.ends_at > now:
                ends_at = sessions.now + login.ends_at - now
                sessions.restore(hashed, Session(login.name, login.csrf, False, ends_at, owner=True))

    async def keep(self) -> None:
        """Note the sessions of the owner as they are now. Raises Failed; the upkeep tries it again then."""
        self._unkept = True
        await self._keep()
        self._unkept = False

    @retrying
    async def _keep(self) -> None:
        portal = await self._core.store.get(Portal, PORTAL_ID)
        if portal is None or self._pages is None:
            return
        sessions, now = self._pages.all, self._core.steady()
        pages = {
            hashed: PageLogin(ends_at=now + session.ends_at - sessions.now, name=session.name, csrf=session.csrf)
            for hashed, session in sessions.owners().items()
        }
        if pages.keys() == portal.pages.keys():
            return
        await self._core.commit(AGENT, Put(replace(portal, version=portal.version + 1, pages=pages)))

    async def upkeep(self) -> None:
        """Note the sessions if that failed before."""
        if self._unkept:
            await self.keep()
