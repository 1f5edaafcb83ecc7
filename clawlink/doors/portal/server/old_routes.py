"""Routes that old agents and pages call, over the use cases of today, and words about those that are gone."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from clawlink.doors.portal.records import AGENT, Portal
from clawlink.doors.portal.server import views
from clawlink.doors.portal.server.keys import PORTAL_ID
from clawlink.doors.portal.server.parts import Parts
from clawlink.doors.portal.server.portal_request import PortalRequest, failed
from clawlink.doors.portal.server.repository import require_said
from clawlink.doors.portal.wire.old_calls import GONE, instead
from clawlink.errors import BadRequest, NotFound
from clawlink.relay.core import retrying
from clawlink.server.response import Reply
from clawlink.store.base import Put

MAX_PLACE_LENGTH = 2000


class OldRoutes:
    """The use cases of these routes."""

    def __init__(self, parts: Parts) -> None:
        self._core = parts.relay.core
        self._contacts = parts.contacts
        self._mail = parts.mail

    async def old_send(self, ask: PortalRequest) -> Any:
        """Queue a message for the contact with this number. The original pushed it to a socket of nobody."""
        require_said(ask.body.content)
        contact = await self._contacts.numbered(ask.body.contact_id)
        message = await self._mail.send(contact, ask.body.content, ask.body.message_type, None, None)
        return {"status": views.state(message), "message_id": message.number}

    async def openclaw(self, ask: PortalRequest) -> Any:
        """Keep where the owner's OpenClaw is. The portal itself does not use it: the bridge reads ``gateway.env``."""
        for field in ("url", "token"):
            text = getattr(ask.body, field)
            if len(text) > MAX_PLACE_LENGTH or not text.isprintable():
                raise BadRequest(
                    f"{field} has at most {MAX_PLACE_LENGTH} characters, and none that hide",
                    field=field,
                    limit=MAX_PLACE_LENGTH,
                    actual=len(text),
                )
        await self._keep(ask.body.url, ask.body.token)
        return {"status": "saved"}

    @retrying
    async def _keep(self, url: str, token: str) -> None:
        portal = await self._core.store.get(Portal, PORTAL_ID)
        if portal is not None:
            kept = replace(portal, version=portal.version + 1, openclaw_url=url or None, openclaw_token=token or None)
            await self._core.commit(AGENT, Put(kept))

    async def old_page(self, ask: PortalRequest) -> Any:
        """Lead a bookmark of the old page to the owner's page."""
        return Reply(b"{}", 302, headers={"Location": "/?owner"})

    async def old_icon(self, ask: PortalRequest) -> Any:
        """Lead to the icon of the page, where the front page of Agent P2P had its own."""
        return Reply(b"{}", 302, headers={"Location": "/page/icon.svg"})

    async def file_confirm(self, ask: PortalRequest) -> Any:
        return gone("file_confirm")

    async def file_noted(self, ask: PortalRequest) -> Any:
        return gone("file_noted")

    async def notifications(self, ask: PortalRequest) -> Any:
        return gone("notifications")

    async def key_exchange(self, ask: PortalRequest) -> Any:
        return gone("key_exchange")


def gone(name: str) -> Any:
    """Return the answer of a route that is gone."""
    told = instead(name)
    return failed(GONE[name], told, error=NotFound(told))
