"""The routes of the owner's chat, of the login and of agent keys."""

from __future__ import annotations

from typing import Any

from clawlink.doors.portal.records import Portal
from clawlink.doors.portal.rules.consent import Decision, decided
from clawlink.doors.portal.rules.texts import MOST_DIGITS, stamp
from clawlink.doors.portal.server import views
from clawlink.doors.portal.server.chat import MOST_WAIT_SECONDS
from clawlink.doors.portal.server.keys import PORTAL_ID
from clawlink.doors.portal.server.mail import MOST_LISTED
from clawlink.doors.portal.server.parts import Parts
from clawlink.doors.portal.server.portal_request import PortalRequest, Shown, empty, key_of
from clawlink.errors import ClawLinkError, NotFound
from clawlink.version import VERSION

_MOST_NUMBER = 10**MOST_DIGITS - 1


class OwnerRoutes:
    """The use cases of these routes."""

    def __init__(self, parts: Parts) -> None:
        self._relay = parts.relay
        self._url = parts.url
        self._keys = parts.keys
        self._guests = parts.guests
        self._chat = parts.chat
        self._pages = parts.pages
        self._replied = parts.replied
        self._keys_ended = parts.keys_ended

    async def chat_send(self, ask: PortalRequest) -> Any:
        text = ask.body.content.strip()
        if not text:
            return empty()
        line = await self._chat.say("owner", text)
        said = decided(text)
        if said is not None:
            await self._chat.say("agent", await self._outcome(*said))
        return {"success": True, "message_id": line.number, "created_at": stamp(line.created_at)}

    async def _outcome(self, decision: Decision, number: int) -> str:
        """Do what the owner's words decide, and say what came of it."""
        try:
            guest, contact = await self._guests.decide(number, decision)
        except ClawLinkError as error:
            return error.message
        made = "" if contact is None else f"; contact {contact.number}: {contact.url}"
        return f"guest message {number} is {guest.status.value}{made}"

    async def chat_reply(self, ask: PortalRequest) -> Any:
        text = ask.body.content.strip()
        if not text:
            return empty()
        line = await self._chat.say("agent", text)
        self._replied(line)
        return {"success": True, "message_id": line.number}

    plugin_reply = chat_reply

    async def chat_history(self, ask: PortalRequest) -> Any:
        """List the last lines; with ``after`` the first ones after a line, for which ``wait`` waits."""
        shown = Shown()
        if "after" in ask.request.query:
            after, wait = ask.count("after", 0, _MOST_NUMBER), ask.count("wait", 0, MOST_WAIT_SECONDS)
            if wait:
                ask.request.stay()
            found = await self._chat.after(after, ask.count("limit", 50, MOST_LISTED) or 1, wait)
            await self._keys.require("chat_history", key_of(ask.request))  # it may have ended meanwhile
            for line in found:
                if not await shown.add(views.line(line)):
                    break
            return {"messages": list(shown.all)}
        for line in reversed(await self._chat.last(ask.count("limit", 50, MOST_LISTED) or 1)):
            if not await shown.add(views.line(line)):
                break
        return {"messages": list(reversed(shown.all))}

    async def login(self, ask: PortalRequest) -> Any:
        token, ends_at = await self._keys.login(ask.body.password, ask.request.block)
        return {"token": token, "expiry": int(ends_at * 1000)}

    async def page_login(self, ask: PortalRequest) -> Any:
        """Sign the owner in at the page."""
        if self._pages is None:
            raise NotFound("this portal shows no page: it was started with --page off")
        await self._keys.require_password(ask.body.password, ask.request.block)
        return await self._pages.begin_as_owner(secure=self._url.startswith("https://"))

    async def logout_all(self, ask: PortalRequest) -> Any:
        """End all logins of the owner, that of this request, too."""
        ended = await self._keys.end_sessions() + (0 if self._pages is None else self._pages.all.end_owners())
        await self._keys_ended()
        return {"status": "ended", "ended": ended}

    async def password(self, ask: PortalRequest) -> Any:
        await self._keys.change_password(ask.body.old_password, ask.body.new_password, ask.request.block)
        if self._pages is not None:
            self._pages.all.end_owners()
        await self._keys_ended()
        return {"status": "success", "message": "the password is changed, and all sessions have ended"}

    async def info(self, ask: PortalRequest) -> Any:
        key = key_of(ask.request) or ""
        own = key if key.startswith("ap2p_") else None  # the relay keeps the hash alone
        portal = await self._relay.core.store.get(Portal, PORTAL_ID)
        place = (None, None) if portal is None else (portal.openclaw_url, portal.openclaw_token)
        return {"url": self._url, "api_key": own, "openclaw_url": place[0], "openclaw_token": place[1]}

    async def about(self, ask: PortalRequest) -> Any:
        return {"portal": "clawlink", "version": VERSION, "url": self._url}

    # -- agent keys --------------------------------------------------------------------------------------------------

    async def key_create(self, ask: PortalRequest) -> Any:
        key = await self._keys.make(ask.body.agent_name or "agent")
        told = "an agent key, shown this once: it reads messages, writes to contacts and answers the owner"
        return {"status": "created", "api_key": key, "portal_url": self._url, "message": told}

    async def key_list(self, ask: PortalRequest) -> Any:
        found = [views.key(key, self._url) for key in await self._keys.agent_keys()]
        owner = await self._keys.owner()
        return {"api_keys": found, "total": len(found), "owner_key": None if owner is None else views.owner_key(owner)}

    async def owner_renew(self, ask: PortalRequest) -> Any:
        key = await self._keys.renew_owner()
        await self._keys_ended()
        return {"status": "created", "api_key": key, "message": "the owner key, shown this once; the old one has ended"}

    async def key_revoke(self, ask: PortalRequest) -> Any:
        if not await self._keys.revoke(ask.query("api_key")):
            raise NotFound("no agent key is this one; 'clawlink portal keys' lists them", field="api_key")
        await self._keys_ended()
        return {"status": "revoked"}
