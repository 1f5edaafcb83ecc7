"""The routes of files: parts in, contents out."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from aiohttp import hdrs, web

from clawlink.doors.portal.rules import file_parts
from clawlink.doors.portal.rules.access import Role
from clawlink.doors.portal.server import views
from clawlink.doors.portal.server.bodies import ahead, on_disk
from clawlink.doors.portal.server.contacts import Contacts, require_reachable
from clawlink.doors.portal.server.file_store import FileStore
from clawlink.doors.portal.server.files import Files, Offer
from clawlink.doors.portal.server.keys import Caller, Keys
from clawlink.doors.portal.server.portal_request import (
    Invalid,
    PortalRequest,
    handler_of,
    key_of,
    refuse_shut,
    require_open,
)
from clawlink.doors.portal.server.tasks import Tasks
from clawlink.doors.portal.transfers import FileState, Transfer
from clawlink.doors.portal.wire.file_calls import FILE_CALLS
from clawlink.errors import BadRequest, NotAllowed, RateLimited
from clawlink.protocol.endpoint import Endpoint
from clawlink.relay.files.quota import Block
from clawlink.relay.time_slices import Turns
from clawlink.server.http_files import headers_of, parts, send, span_of
from clawlink.server.request import Handler, parameter

MAX_BODIES = 8
"""Bodies of parts that one contact may have on the disk at a time."""
RAW_BLOCK_BYTES = 1024 * 1024
MOST_PIECES = 16
_OCTETS = "application/octet-stream"
_FIELDS_BYTES = 64 * 1024


class FileRoutes:
    """The routes of files."""

    def __init__(
        self,
        url: str,
        keys: Keys,
        contacts: Contacts,
        files: Files,
        file_store: FileStore,
        tasks: Tasks,
        *,
        folder: str | None,
        clock: Callable[[], float],
    ) -> None:
        """``folder`` is the place of bodies under way; None is the system's."""
        self._url = url
        self._keys = keys
        self._contacts = contacts
        self._files = files
        self._file_store = file_store
        self._tasks = tasks
        self._folder = folder
        self._now = clock
        self._bodies: Counter[str] = Counter()

    def all(self) -> Iterator[tuple[Endpoint, Handler]]:
        """Give each route, also with two slashes."""
        for call in FILE_CALLS:
            handler = handler_of(self._keys, self._contacts.used, call, getattr(self, call.name))
            yield call, handler
            yield replace(call, name=f"{call.name}_slash", path="/" + call.path), handler

    # -- in ----------------------------------------------------------------------------------------------------------

    async def file_initiate(self, ask: PortalRequest) -> Any:
        refuse_shut(ask, self._now())
        body = ask.body
        offer = Offer(
            filename=body.filename,
            size=body.size,
            part_size=body.chunk_size,
            parts=body.chunks_total,
            md5=body.md5,
            sha256=body.sha256,
            key=body.idempotency_key,
            task=body.task_id,
        )
        transfer = await self._files.begin(ask.contact, offer, inbound=True)
        told = "send the parts" if transfer.state is FileState.TRANSFERRING else f"the file is {transfer.state.value}"
        return {"status": "ready", "file_id": transfer.id, "message": told, "raw_parts": True}

    async def file_chunk(self, ask: PortalRequest) -> Any:
        """Take a part as base64. Its key may be the last field of its body, so that is kept before it is known."""
        transfer = await self._file_store.get(parameter(ask.request, "file_id"))
        index = ask.number("chunk_index")
        length = file_parts.length(index, transfer.size, transfer.part_size)
        if ask.request.content_type != "application/json":
            raise Invalid("send JSON as Content-Type: application/json", None, "content_type")
        given = key_of(ask.request) or ask.request.query.get("api_key")
        if given is not None:
            await self._require(given, transfer, "file_chunk")
        with self._body(transfer):
            async with on_disk(ask.request, length * 4 // 3 + _FIELDS_BYTES, self._folder) as body:
                cut = await body.cut()
                await self._require(cut.fields.api_key or given, transfer, "file_chunk")
                if cut.fields.chunk_md5 is not None and cut.fields.chunk_md5.strip().lower() != cut.md5:
                    raise BadRequest(f"MD5 mismatch: the part has the MD5 {cut.md5}; send it again", field="chunk_md5")
                if cut.size != length:
                    raise BadRequest(
                        f"part {index} has {length} bytes, and {cut.size} came", field="data", limit=length
                    )
                new = await self._files.take(transfer.id, index, lambda skip, sum: body.pieces(skip, sum=sum))
        return await self._taken(transfer.id, index, new)

    async def file_part(self, ask: PortalRequest) -> Any:
        """Take a part as bytes, straight to its place."""
        transfer = await self._file_store.get(parameter(ask.request, "file_id"))
        self._require_own(ask.caller, transfer, writes=True)
        index = ask.number("chunk_index")
        length = file_parts.length(index, transfer.size, transfer.part_size)
        if ask.request.content_length not in (None, length):
            raise BadRequest(
                f"part {index} has {length} bytes, and {ask.request.content_length} are announced", limit=length
            )
        new = await self._files.take(transfer.id, index, lambda skip, sum: ahead(_after(parts(ask.request), skip, sum)))
        return await self._taken(transfer.id, index, new)

    async def _taken(self, id: str, index: int, new: bool) -> dict[str, Any]:
        transfer = await self._file_store.get(id)
        if not new:
            return {"status": "exists", "message": f"part {index} is here already"}
        total = file_parts.count(transfer.size, transfer.part_size)
        here = total if transfer.state is not FileState.TRANSFERRING else len(await self._files.received(transfer))
        return {"status": "received", "chunk_index": index, "chunks_received": here, "chunks_total": total}

    @contextmanager
    def _body(self, transfer: Transfer) -> Iterator[None]:
        """Count a body under way. Raises RateLimited."""
        if self._bodies[transfer.contact] >= MAX_BODIES:
            raise RateLimited(
                f"{MAX_BODIES} parts of this contact are on their way; send them one after another",
                limit=MAX_BODIES,
                retry_after=1.0,
            )
        self._bodies[transfer.contact] += 1
        try:
            yield
        finally:
            self._bodies[transfer.contact] -= 1
            if not self._bodies[transfer.contact]:
                del self._bodies[transfer.contact]

    # -- rights ------------------------------------------------------------------------------------------------------

    async def _require(self, key: str | None, transfer: Transfer, route: str) -> None:
        caller = await self._keys.require(route, key)
        self._require_own(caller, transfer, writes=True)
        if caller.contact is not None:
            await self._contacts.used(caller.contact, caller.key)

    def _require_own(self, caller: Caller, transfer: Transfer, *, writes: bool) -> None:
        """Refuse a contact the files of others and those to it, and writes by others to what a contact sends."""
        if caller.role is Role.CONTACT:
            if caller.contact is not None:
                require_open(caller.contact, self._now())
            if caller.contact is None or not transfer.inbound or caller.contact.id != transfer.contact:
                raise NotAllowed("this file is not one of yours", field="file_id")
        elif writes and transfer.inbound:
            raise NotAllowed("a contact sends this file, and the contact alone adds to it", field="file_id")

    # -- out ---------------------------------------------------------------------------------------------------------

    async def file_status(self, ask: PortalRequest) -> Any:
        transfer = await self._file_store.get(parameter(ask.request, "file_id"))
        self._require_own(ask.caller, transfer, writes=False)
        shown = views.file(transfer, await self._files.received(transfer), self._url)
        return shown | {"detail": transfer.detail or await self._contacts.waits(transfer)}

    async def file_download(self, ask: PortalRequest) -> Any:
        transfer = await self._file_store.get(parameter(ask.request, "file_id"))
        self._require_own(ask.caller, transfer, writes=False)
        if transfer.state is not FileState.COMPLETED:
            raise BadRequest(f"the file is not ready: it is {transfer.state.value}", field="file_id")
        async with self._file_store.opened(transfer) as (file, opened):
            version = file.newest
            headers = {
                name: value
                for name, value in headers_of(file, version, self._file_store.time).items()
                if not name.startswith("ClawLink-")
            }
            headers[hdrs.CONTENT_DISPOSITION] = file_parts.disposition(transfer.filename)
            span = span_of(ask.request.headers, version)
            if ask.request.method == hdrs.METH_HEAD:
                response = web.StreamResponse(headers={**headers, hdrs.CONTENT_TYPE: _OCTETS})
                response.content_length = version.content.size
                return response
            opened.at = span.start
            return await send(ask.request, span, _OCTETS, headers, opened)

    async def file_list(self, ask: PortalRequest) -> Any:
        named = ask.request.query.get("contact")
        contact = None if named is None else (await self._contacts.find(named)).id
        files, turns = [], Turns()
        for one in await self._file_store.listed(contact):
            shown = views.file(one, await self._files.received(one), self._url)
            shown["received_chunks"] = len(shown["received_chunks"])
            shown["detail"] = one.detail or await self._contacts.waits(one)
            shown["task_id"] = await self._tasks.here(one)
            files.append(shown)
            await turns.next()
        return {"files": files}

    async def file_send(self, ask: PortalRequest) -> Any:
        body = ask.body
        if (body.to is None) == (body.task is None):
            raise BadRequest("give to, the contact, or task, whose answer it goes with, and not both", field="to")
        contact, task = await self._tasks.asked_by(body.task) if body.task else (None, "" if body.attach else None)
        if contact is None:
            contact = await self._contacts.find(body.to)
            require_reachable(contact, self._now())
        offer = Offer(
            filename=body.filename,
            size=body.size,
            part_size=body.chunk_size,
            parts=None,
            md5=body.md5,
            sha256=body.sha256,
            key=body.idempotency_key,
            task=task,
        )
        transfer = await self._files.begin(contact, offer, inbound=False)
        return views.file(transfer, await self._files.received(transfer), self._url)

    async def file_remove(self, ask: PortalRequest) -> Any:
        id = parameter(ask.request, "file_id")
        await self._files.remove(id)
        return {"status": "deleted", "file_id": id}


async def _after(pieces: AsyncIterator[bytes], skip: int, sum: Any) -> AsyncGenerator[Block, None]:
    """Give a body without its first bytes, in blocks: each takes a thread on its way to the disk."""
    gathered: list[bytes] = []
    size = 0
    async for piece in pieces:
        left = piece[skip:] if skip else piece
        skip = max(skip - len(piece), 0)
        if sum is not None:
            sum.update(left)
        gathered.append(left)
        size += len(left)
        if size >= RAW_BLOCK_BYTES:
            yield _block(gathered)
            gathered, size = [], 0
    if size:
        yield _block(gathered)


def _block(gathered: list[bytes]) -> Block:
    """Return pieces as a block. Many small ones are joined: each would be a call of the system."""
    return b"".join(gathered) if len(gathered) > MOST_PIECES else tuple(gathered)
