"""Writing replies: headers and body together, straight to the connection.

A reply of ours is complete when it is made, so nothing of what aiohttp's responses can do besides is needed; going
without costs half as much. Where a connection wants more (HTTP/1.0, closing, HEAD), aiohttp's own response is used.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from aiohttp import HttpVersion11, hdrs, web

from clawlink.errors import ClawLinkError
from clawlink.protocol import failure

JSON = "application/json; charset=utf-8"
_SERVER = "ClawLink"
_LARGE_BYTES = 64 * 1024

S = TypeVar("S", bound=msgspec.Struct)

_encoder = msgspec.json.Encoder()
_heads: dict[tuple[int, str], bytes] = {}
_second = 0


class Reply(msgspec.Struct, frozen=True, gc=False):
    """What a route answers; without a content type, headers alone.

    What others sent stands in them only where it was checked to be visible ASCII of one line, or is percent-encoded.
    """

    body: bytes
    status: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] | None = None


def reply(struct: Any) -> Reply:
    """Answer with a struct as JSON."""
    return Reply(_encoder.encode(struct))


def tell_by_the_way(answer: S, registered: bool) -> S:
    """Add to an answer that its agent was registered by the way."""
    return msgspec.structs.replace(answer, registered_by_the_way=True) if registered else answer


def reply_failure(error: ClawLinkError) -> Reply:
    """Answer with an error."""
    return Reply(failure.to_body(error), error.status, headers=failure.to_headers(error))


class _Written(web.StreamResponse):
    """Tells aiohttp that the reply is written, and that the connection stays."""

    @property
    def keep_alive(self) -> bool:
        return True

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


_WRITTEN = _Written()


async def write(request: web.BaseRequest, answer: Reply) -> web.StreamResponse:
    """Write the reply, and return what aiohttp is to be told. Raises ConnectionError if nobody is there any more."""
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client has gone")
    if request.version != HttpVersion11 or not request.keep_alive or request.method == hdrs.METH_HEAD:
        response = as_response(answer)
        if request.method == hdrs.METH_HEAD:  # else clients would not use the connection again
            response.headers[hdrs.CONTENT_LENGTH] = str(len(answer.body))
        await response.prepare(request)
        await response.write_eof()
        return response
    more = b"" if not answer.headers else "".join(f"{k}: {v}\r\n" for k, v in answer.headers.items()).encode()
    body = answer.body
    head = _head(answer.status, answer.content_type)
    size = b"" if answer.status == 204 else b"Content-Length: %d\r\n" % len(body)
    head = b"%b%b%b\r\n" % (head, more, size)
    request.writer.output_size += len(head) + len(body)
    if len(body) <= _LARGE_BYTES:
        transport.write(head + body)
    else:  # copying it would take longer than a second write
        transport.write(head)
        transport.write(body)
        await request.writer.drain()
    return _WRITTEN


def as_response(answer: Reply) -> web.Response:
    """Return the reply as aiohttp's own response."""
    headers = {hdrs.SERVER: _SERVER, **(answer.headers or {})}
    if answer.content_type:
        headers[hdrs.CONTENT_TYPE] = answer.content_type
    return web.Response(body=answer.body, status=answer.status, headers=headers)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # one that tus has for itself
        return "Checksum Mismatch"


def _head(status: int, content_type: str) -> bytes:
    """Return the headers that are the same for all replies of this kind within a second."""
    global _second
    second = int(time.time())
    if second != _second:
        _heads.clear()
        _second = second
    head = _heads.get((status, content_type))
    if head is None:
        lines = (
            f"HTTP/1.1 {status} {_phrase(status)}",
            f"Date: {formatdate(second, usegmt=True)}",
            f"Server: {_SERVER}",
            *([f"Content-Type: {content_type}"] if content_type else []),
            "",
        )
        head = _heads[status, content_type] = "\r\n".join(lines).encode()
    return head
