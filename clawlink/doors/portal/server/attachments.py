"""Attachments of the owner's chat: shared files of the relay that no other agent and no stranger sees."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from clawlink.doors.portal.rules import file_parts
from clawlink.doors.portal.server.contacts import Contacts
from clawlink.doors.portal.server.keys import Keys
from clawlink.doors.portal.server.members import Members
from clawlink.doors.portal.server.owner_files import OwnerFiles, part_of, within
from clawlink.doors.portal.server.portal_request import PortalRequest, handler_of
from clawlink.doors.portal.wire.calls import ATTACHMENTS, CHAT_FILE, CHAT_UPLOAD
from clawlink.errors import UnknownFile
from clawlink.protocol.endpoint import Endpoint
from clawlink.random_text import random_text
from clawlink.relay.relay import Relay
from clawlink.server.request import Handler, parameter

_LARGE = f"an attachment has at most {file_parts.MAX_ATTACHMENT_BYTES} bytes; send larger files by send-file"
_ENDING = re.compile(r"\.[A-Za-z0-9]{1,10}")
NAME = re.compile(r"[A-Za-z0-9_-]{8,64}(?:\.[A-Za-z0-9]{1,10})?")
"""Names of attachments: those that are made here have 22 characters, and those of Agent P2P have others."""
PLACE = "portal/chat/"
"""The beginning of the keys of attachments among the relay's files."""


class Attachments:
    """The two routes of attachments."""

    def __init__(self, relay: Relay, keys: Keys, contacts: Contacts, members: Members) -> None:
        self._keys = keys
        self._contacts = contacts
        self._kept = OwnerFiles(relay, members)

    def all(self) -> Iterator[tuple[Endpoint, Handler]]:
        """Give each route, also with two slashes."""
        for call in (CHAT_UPLOAD, CHAT_FILE):
            handler = handler_of(self._keys, self._contacts.used, call, getattr(self, call.name))
            yield call, handler
            yield replace(call, name=f"{call.name}_slash", path="/" + call.path), handler

    async def chat_upload(self, ask: PortalRequest) -> Any:
        """Keep the part ``file`` of a form, and say where it is."""
        part = await part_of(ask.request, "file")
        filename = file_parts.harmless(part.filename or "file")
        ending = _ENDING.fullmatch("." + filename.rpartition(".")[2]) if "." in filename else None
        name = random_text(16) + ("" if ending is None else ending[0].lower())
        await self._kept.put(PLACE + name, within(part, file_parts.MAX_ATTACHMENT_BYTES, "file", _LARGE), field="file")
        return {"status": "ok", "url": ATTACHMENTS + name, "filename": filename}

    async def chat_file(self, ask: PortalRequest) -> Any:
        """Send an attachment. A browser opens none in the portal's name."""
        name = parameter(ask.request, "name")
        if NAME.fullmatch(name) is None:
            raise UnknownFile("there is no such attachment", field="name")
        return await self._kept.show(ask.request, PLACE + name)
