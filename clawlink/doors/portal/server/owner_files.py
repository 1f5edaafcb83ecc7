"""Small files of the owner among the relay's files, and the forms in which browsers and scripts bring them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import BodyPartReader, hdrs, web

from clawlink.domain.file_write import Write
from clawlink.doors.portal.server.members import Members
from clawlink.errors import BadRequest, TooLarge
from clawlink.relay.relay import Relay
from clawlink.server.http_files import headers_of, send, span_of
from clawlink.server.request import Request, require_unpacked

_PIECE_BYTES = 64 * 1024
_OCTETS = "application/octet-stream"


class OwnerFiles:
    """Files of the owner's agent, which no other agent sees."""

    def __init__(self, relay: Relay, members: Members) -> None:
        self._relay = relay
        self._members = members

    async def put(self, key: str, body: AsyncIterator[bytes], *, field: str) -> None:
        """Keep a file. Raises TooLarge, StorageFull."""
        write = Write(key=key, content_type=_OCTETS, readers=())
        await self._relay.files.put(await self._members.start(), write, body, None, field=field)

    async def delete(self, key: str) -> None:
        """Delete a file. Raises UnknownFile."""
        await self._relay.files.delete(await self._members.start(), key, None, force=True)

    async def show(self, request: Request, key: str, content_type: str = _OCTETS) -> web.StreamResponse:
        """Send a file, or the range of it that is asked for. No browser opens it in the portal's name.

        Raises UnknownFile, RangeNotSatisfiable, ConnectionError.
        """
        agent = await self._members.start()
        file, version = await self._relay.file_reads.find(key, asker=agent)
        all_of_them = headers_of(file, version, self._relay.core.time)
        headers = {n: value for n, value in all_of_them.items() if not n.startswith("ClawLink-")}
        span = span_of(request.headers, version)
        if request.method == hdrs.METH_HEAD:
            response = web.StreamResponse(headers={**headers, hdrs.CONTENT_TYPE: content_type})
            response.content_length = version.content.size
            return response
        async with self._relay.file_reads.open(file, version, agent.id, span.start) as opened:
            return await send(request, span, content_type, headers, opened)


async def part_of(request: Request, name: str) -> BodyPartReader:
    """Return the part of a form with this name. Raises BadRequest."""
    require_unpacked(request)
    if not request.content_type.startswith("multipart/"):
        raise BadRequest(f"send a form as multipart/form-data with the part {name}", field=name)
    try:
        form = await request.multipart()
        part = await form.next()
        while part is not None and not (isinstance(part, BodyPartReader) and part.name == name):
            part = await form.next()
    except (ValueError, AssertionError):
        part = None
    if not isinstance(part, BodyPartReader):
        raise BadRequest(f"the form has no part {name}", field=name)
    return part


async def within(part: BodyPartReader, most: int, name: str, told: str) -> AsyncIterator[bytes]:
    """Give the bytes of a part of a form. ``told`` is the sentence for a part above ``most`` bytes. Raises TooLarge."""
    size = 0
    while piece := await part.read_chunk(_PIECE_BYTES):
        size += len(piece)
        if size > most:
            raise TooLarge(told, field=name, limit=most, actual=size)
        yield piece
