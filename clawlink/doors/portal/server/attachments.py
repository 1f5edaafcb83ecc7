"""Attachments of the owner's chat: shared files of the relay that no other agent and no stranger sees."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

from aiohttp import BodyPartReader, hdrs, web

from clawlink.domain.limits import MIB
from clawlink.doors.portal.rules import cutting
from clawlink.doors.portal.server.asking import Ask, handler_of
from clawlink.doors.portal.server.contacts import Contacts
from clawlink.doors.portal.server.keys import Keys
from clawlink.doors.portal.server.members import Members
from clawlink.doors.portal.wire.calls import ATTACHMENTS, CHAT_FILE, CHAT_UPLOAD
from clawlink.errors import BadRequest, TooLarge, UnknownFile
from clawlink.protocol.endpoint import Endpoint
from clawlink.relay.files.write_terms import Write
from clawlink.relay.relay import Relay
from clawlink.server.http_files import headers_of, send, span_of
from clawlink.server.request import Handler, parameter, require_unpacked

MAX_ATTACHMENT_BYTES = 10 * MIB
_PIECE_BYTES = 64 * 1024
_OCTETS = "application/octet-stream"
_ENDING = re.compile(r"\.[A-Za-z0-9]{1,10}")
NAME = re.compile(r"[A-Za-z0-9_-]{8,64}(?:\.[A-Za-z0-9]{1,10})?")
"""Names of attachments: those that are made here have 22 characters, and those of Agent P2P have others."""
PLACE = "portal/chat/"
"""The beginning of the keys of attachments among the relay's files."""


class Attachments:
    """The two routes of attachments."""

    def __init__(self, relay: Relay, keys: Keys, contacts: Contacts, members: Members) -> None:
        self._relay = relay
        self._keys = keys
        self._contacts = contacts
        self._members = members

    def all(self) -> Iterator[tuple[Endpoint, Handler]]:
        """Give each route, also with two slashes."""
        for call in (CHAT_UPLOAD, CHAT_FILE):
            handler = handler_of(self._keys, self._contacts.used, call, getattr(self, call.name))
            yield call, handler
            yield replace(call, name=f"{call.name}_slash", path="/" + call.path), handler

    async def chat_upload(self, ask: Ask) -> Any:
        """Keep the part ``file`` of a form, and say where it is."""
        require_unpacked(ask.request)
        if not ask.request.content_type.startswith("multipart/"):
            raise BadRequest("send a form as multipart/form-data with the part file", field="file")
        try:
            form = await ask.request.multipart()
            part = await form.next()
            while part is not None and not (isinstance(part, BodyPartReader) and part.name == "file"):
                part = await form.next()
        except (ValueError, AssertionError):
            part = None
        if not isinstance(part, BodyPartReader):
            raise BadRequest("the form has no part file", field="file")
        filename = cutting.harmless(part.filename or "file")
        ending = _ENDING.fullmatch("." + filename.rpartition(".")[2]) if "." in filename else None
        name = secrets.token_urlsafe(16) + ("" if ending is None else ending[0].lower())
        write = Write(key=PLACE + name, content_type=_OCTETS, readers=())
        await self._relay.files.put(await self._members.start(), write, _within(part), None, field="file")
        return {"status": "ok", "url": ATTACHMENTS + name, "filename": filename}

    async def chat_file(self, ask: Ask) -> Any:
        """Send an attachment. A browser opens none in the portal's name."""
        name = parameter(ask.request, "name")
        if NAME.fullmatch(name) is None:
            raise UnknownFile("there is no such attachment", field="name")
        agent = await self._members.start()
        file, version = await self._relay.file_reads.find(PLACE + name, asker=agent)
        all_of_them = headers_of(file, version, self._relay.core.time)
        headers = {n: value for n, value in all_of_them.items() if not n.startswith("ClawLink-")}
        span = span_of(ask.request.headers, version)
        if ask.request.method == hdrs.METH_HEAD:
            response = web.StreamResponse(headers={**headers, hdrs.CONTENT_TYPE: _OCTETS})
            response.content_length = version.content.size
            return response
        async with self._relay.file_reads.open(file, version, agent.id, span.start) as opened:
            return await send(ask.request, span, _OCTETS, headers, opened)


async def _within(part: BodyPartReader) -> AsyncIterator[bytes]:
    """Give the bytes of a part of a form. Raises TooLarge."""
    size = 0
    while piece := await part.read_chunk(_PIECE_BYTES):
        size += len(piece)
        if size > MAX_ATTACHMENT_BYTES:
            raise TooLarge(
                f"an attachment has at most {MAX_ATTACHMENT_BYTES} bytes; send larger files by send-file",
                field="file",
                limit=MAX_ATTACHMENT_BYTES,
                actual=size,
            )
        yield piece
