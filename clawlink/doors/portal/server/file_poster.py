"""The way of a file to another portal over HTTP: its beginning, its parts, and what the other portal has of it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import msgspec

from clawlink.doors.portal.records import Contact
from clawlink.doors.portal.rules import file_parts
from clawlink.doors.portal.server.bodies import ahead
from clawlink.doors.portal.server.poster import (
    CONNECT_SECONDS,
    FAILURES,
    LATER,
    Poster,
    fields,
    refusal_in_words,
    said,
)
from clawlink.doors.portal.transfers import Transfer

PART_SECONDS = 900.0
PART_ANSWER_SECONDS = 60.0
_GONE = 404
_DOUBTFUL_FROM = 500
_TIMEOUT = aiohttp.ClientTimeout(total=PART_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=PART_ANSWER_SECONDS)

_JSON = {"Content-Type": "application/json"}
Bytes = Callable[[], AsyncGenerator[bytes, None]]


class _Asked(NamedTuple):
    """A request to another portal."""

    method: str
    path: str
    headers: Mapping[str, str]
    data: Any


class Begun(NamedTuple):
    """A file that the other portal takes: its id there, and whether it takes parts as bytes."""

    file_id: str
    raw: bool


class There(NamedTuple):
    """The parts of a file that the other portal has; ``status`` is empty if it does not know the file."""

    status: str
    received: frozenset[int]


class Refusal(NamedTuple):
    """A request that brought nothing: ``final`` if the same would be refused again.

    ``status`` is that of the answer; 0 if none came.
    """

    detail: str
    final: bool = False
    status: int = 0


class FilePoster:
    """Sends files."""

    def __init__(self, poster: Poster) -> None:
        self._poster = poster

    async def begin(self, contact: Contact, transfer: Transfer) -> Begun | Refusal:
        """Announce a file."""
        body: dict[str, Any] = {
            "filename": transfer.filename,
            "size": transfer.size,
            "md5": transfer.md5,
            "chunks_total": file_parts.count(transfer.size, transfer.part_size),
            "to_portal": contact.url,
            "chunk_size": transfer.part_size,
            "sha256": transfer.sha256,
            "idempotency_key": transfer.id,
        }
        if transfer.task is not None:
            body["task_id"] = transfer.task

        def begin(key: str) -> _Asked:
            return _Asked("POST", "/api/file/initiate", _JSON, msgspec.json.encode({"api_key": key, **body}))

        answer = await self._ask(contact, begin)
        if isinstance(answer, Refusal):
            return answer
        id = answer.get("file_id")
        if answer.get("status") != "ready" or not isinstance(id, str) or not 1 <= len(id) <= 200:
            return Refusal("the address answers 200, but not as a portal does")
        return Begun(id, answer.get("raw_parts") is True)

    async def look(self, contact: Contact, file_id: str) -> There | Refusal:
        """Ask which parts are there."""
        path = f"/api/file/status/{quote(file_id, safe='')}?api_key="
        gone = {"status": "", "received_chunks": []}
        answer = await self._ask(contact, lambda key: _Asked("GET", path + quote(key, safe=""), {}, None), gone=gone)
        if isinstance(answer, Refusal):
            return answer
        status, received = answer.get("status"), answer.get("received_chunks")
        if not isinstance(status, str) or not isinstance(received, list):
            return Refusal("the address answers 200, but not as a portal does")
        return There(status, frozenset(index for index in received if isinstance(index, int)))

    async def part(self, contact: Contact, begun: Begun, index: int, length: int, contents: Bytes) -> Refusal | None:
        """Send a part; None once the other portal has it."""
        id = quote(begun.file_id, safe="")

        def as_bytes(key: str) -> _Asked:
            headers = {
                "Authorization": f"Bearer {key}",
                "Content-Type": "application/octet-stream",
                "Content-Length": str(length),
            }
            return _Asked("PUT", f"/api/portal/files/{id}/{index}", headers, ahead(contents()))

        def as_json(key: str) -> _Asked:
            head = {"api_key": key, "file_id": begun.file_id, "chunk_index": index}
            before = msgspec.json.encode(head)[:-1] + b',"data":"'
            size = len(before) + 4 * -(-length // 3) + len(_ending(""))
            data = _as_json(before, ahead(contents()))
            return _Asked("POST", f"/api/file/chunk/{id}/{index}", {**_JSON, "Content-Length": str(size)}, data)

        answer = await self._ask(contact, as_bytes if begun.raw else as_json)
        if isinstance(answer, Refusal):
            return answer
        return None if answer.get("status") in ("received", "exists") else Refusal("the answer is not that of a portal")

    async def _ask(
        self, contact: Contact, asked: Callable[[str], _Asked], *, gone: dict[str, Any] | None = None
    ) -> dict[str, Any] | Refusal:
        """Ask what ``asked`` makes of the key that the other portal takes."""

        async def send(key: str) -> tuple[int, bytes]:
            one = asked(key)
            return await self._poster.request(contact, one.method, one.path, one.data, one.headers, timeout=_TIMEOUT)

        try:
            status, answer = await self._poster.signed(contact, send)
        except FAILURES as error:
            return Refusal(said(error))
        if status == 200:
            return fields(answer)
        if status == _GONE and gone is not None:
            return gone
        later = status in LATER or status >= _DOUBTFUL_FROM or 300 <= status < 400
        return Refusal(refusal_in_words(status, answer), not later, status)


def _ending(md5: str) -> bytes:
    return b'","chunk_md5":"' + (md5 or "0" * 32).encode() + b'"}'


async def _as_json(before: bytes, contents: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Give the body of a part in base64, piece by piece. The MD5 stands behind the bytes that it is of."""
    sum = hashlib.md5(usedforsecurity=False)
    yield before
    left = b""
    async for piece in contents:
        sum.update(piece)
        piece = left + piece
        whole = len(piece) - len(piece) % 3
        left = piece[whole:]
        yield base64.b64encode(memoryview(piece)[:whole])
    yield base64.b64encode(left) + _ending(sum.hexdigest())
