"""Raw parts of messages: they become shared files, which only the agent that gets the message may read."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from aiohttp import hdrs, web

from clawlink.domain.agent import Agent
from clawlink.domain.file_write import Write
from clawlink.domain.limits import MAX_ATTACHMENTS
from clawlink.domain.message import Attachment
from clawlink.doors.a2a.rules import asking, states, tasks
from clawlink.doors.a2a.rules.states import Json
from clawlink.doors.a2a.wire import base64s
from clawlink.doors.a2a.wire.failures import A2AError
from clawlink.doors.a2a.wire.large_strings import Pieces
from clawlink.doors.a2a.wire.shapes import Message
from clawlink.errors import ClawLinkError, NotAllowed, UnknownFile
from clawlink.protocol.replies import TaskView
from clawlink.relay.relay import Relay
from clawlink.server.http_files import headers_of, span_of
from clawlink.server.http_files import send as send_span
from clawlink.server.request import Request
from clawlink.server.response import Reply

KEPT_SECONDS = 7 * 86_400.0
"""How long a file is kept that came as a raw part."""

_OCTETS = "application/octet-stream"
_MEDIA_TYPE = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,254}")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class Files:
    """The files of A2A messages."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    @asynccontextmanager
    async def of(
        self, caller: Agent, message: Message, readers: tuple[str, ...], cuts: Mapping[str, Pieces]
    ) -> AsyncIterator[tuple[list[Json], list[Attachment]]]:
        """Share the raw parts of a message; give its parts, with names of files in their place, and the attachments.

        ``cuts`` has the raw parts that are marks only.
        If the message is refused, its files are deleted. Raises A2AError, and the refusals of a write.
        """
        parts = asking.parts_of(message)
        raw = [at for at, part in enumerate(parts) if "raw" in part]
        if len(raw) > MAX_ATTACHMENTS:
            raise A2AError("INVALID_PARAMS", f"a message may have {MAX_ATTACHMENTS} raw parts", field="message.parts")
        attached: list[Attachment] = []
        try:
            for at in raw:
                raw_part = str(parts[at]["raw"])
                pieces = cuts.get(raw_part) or [raw_part.encode()]
                attached.append(await self._share(caller, parts[at], at, readers, pieces))
                rest = {name: value for name, value in parts[at].items() if name != "raw"}
                parts[at] = {"url": states.FILE + attached[-1].file_key, **rest}
            yield parts, attached
        except (ClawLinkError, A2AError):
            for one in attached:
                with suppress(ClawLinkError):
                    await self._relay.files.delete(caller, one.file_key, None, force=True)
            raise

    async def _share(self, caller: Agent, part: Json, at: int, readers: tuple[str, ...], pieces: Pieces) -> Attachment:
        media_type = part.get("mediaType") or _OCTETS
        name = part.get("filename") or f"part-{at}"
        safe = _UNSAFE.sub("_", name).strip("._")[-64:] or "file"
        write = Write(
            key=f"a2a/{self._relay.core.ids.fresh()}/{safe}",
            content_type=media_type if _MEDIA_TYPE.fullmatch(media_type) else _OCTETS,
            ttl=KEPT_SECONDS,
            readers=readers,
        )
        written = await self._relay.files.put(caller, write, _decoded(pieces, at), None, field="message.parts")
        done = written.version
        return Attachment(
            file_key=write.key, version=done.revision, size=done.content.size, sha256=done.content.digest, name=name
        )

    async def send(self, caller: Agent, request: Request, view: TaskView, key: str) -> Reply | web.StreamResponse:
        """Answer with a file that a task names. Raises UnknownFile, NotAllowed for a file that burns after its read."""
        if key not in tasks.keys(view):
            raise UnknownFile("the task names no such file", field="file")
        file, version = await self._relay.file_reads.find(key, asker=caller)
        if file.burn:
            raise NotAllowed("this file is gone after one read, and cannot be read by A2A", field="file")
        headers = headers_of(file, version, self._relay.time)
        span = span_of(request.headers, version)
        if request.method == hdrs.METH_HEAD:
            response = web.StreamResponse(headers={**headers, hdrs.CONTENT_TYPE: version.content_type})
            response.content_length = version.content.size
            return response
        async with self._relay.file_reads.open(file, version, caller.id, span.start) as content:
            return await send_span(request, span, version.content_type, headers, content)


async def _decoded(pieces: Pieces, at: int) -> AsyncIterator[bytes]:
    """Decode base64 in pieces of any length. Raises A2AError."""
    field = f"message.parts[{at}].raw"
    left = b""
    try:
        for number, piece in enumerate(pieces, 1):
            left += piece
            whole = len(left) if number == len(pieces) else (len(left) // 4 - 1) * 4
            if whole > 0:
                if b"=" in left[:whole] and number < len(pieces):
                    raise ValueError("padding inside")
                yield base64s.from_base64(left[:whole])
                left = left[whole:]
            await asyncio.sleep(0)
    except ValueError:
        raise A2AError("INVALID_PARAMS", f"{field} is not base64", field=field) from None
