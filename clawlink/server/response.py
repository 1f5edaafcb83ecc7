"""Writing replies: headers and body together, straight to the connection.

The relay's replies are complete when they are made, so they need no more of aiohttp's responses. That costs half as
much. To HEAD aiohttp's own response is used.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from email.utils import formatdate
from functools import cached_property
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from aiohttp import HttpVersion11, hdrs, web

from clawlink.domain.limits import Limits
from clawlink.errors import ClawLinkError
from clawlink.protocol import failure
from clawlink.server.address import Addresses, block_of
from clawlink.server.flow import UnreadReplies, Watch, on_its_way
from clawlink.server.handover import Handover

JSON = "application/json; charset=utf-8"
_SERVER = "ClawLink"
_LARGE_BYTES = 64 * 1024
_PART_BYTES = 256 * 1024

S = TypeVar("S", bound=msgspec.Struct)

_encoder = msgspec.json.Encoder()
_heads: dict[tuple[int, str], bytes] = {}
_second = 0


class Reply(msgspec.Struct, frozen=True, gc=False):
    """The answer of a route; without a content type, headers alone. A large body has ``more`` parts.

    A text from a peer stands in a header only if it is visible ASCII in one line, or percent-encoded.
    """

    body: bytes
    status: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] | None = None
    more: Sequence[bytes] = ()
    handover: Handover | None = None

    @property
    def size(self) -> int:
        """How many bytes the body has."""
        return len(self.body) + sum(map(len, self.more)) if self.more else len(self.body)


def reply(struct: Any, handover: Handover | None = None) -> Reply:
    """Answer with a struct as JSON; ``handover`` is told whether it was read."""
    return Reply(_encoder.encode(struct), handover=handover)


def tell_by_the_way(answer: S) -> S:
    """Add to an answer that its agent was registered by the way."""
    return msgspec.structs.replace(answer, registered_by_the_way=True)


def reply_failure(error: ClawLinkError) -> Reply:
    """Answer with an error."""
    return Reply(failure.to_body(error), error.status, headers=failure.to_headers(error))


class Asked(web.BaseRequest):
    """A request as far as a reply concerns it: its client's address, and the headers of every reply to it."""

    headers_too: Mapping[str, str] | None = None
    connection: Any
    """The ``_Connection`` that it came by. aiohttp's ``protocol`` is the same, and costs a call."""
    plain = False
    """True if it is HTTP/1.1 and not HEAD, and the connection stays after the reply."""
    addresses = Addresses()
    unread = UnreadReplies(Limits())

    @cached_property
    def address(self) -> str | None:
        """The client's address; None behind a proxy that does not tell it. See ``Addresses.of``."""
        return self.addresses.of(self.remote, self.headers)

    @property
    def block(self) -> str | None:
        """The key of all limits by address; None if none of them holds. See ``block_of``."""
        return None if self.address is None else block_of(self.address)

    def note_wait(self) -> None:
        """Note that it waits for its client: the connection is not asked to make room for others."""
        self.connection.seat.busy()

    def end_connection(self) -> None:
        """Tell the client in the reply that it is the last of the connection, unless further requests are here."""
        if not self.connection.more_to_answer:
            self._message = self._message._replace(should_close=True)
            self.plain = False

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        # Else aiohttp tells its own version and that of Python.
        response.headers[hdrs.SERVER] = _SERVER
        if self.headers_too is not None:
            response.headers.update(self.headers_too)


class Written(web.StreamResponse):
    """Tells aiohttp that the reply is written, and that the connection stays."""

    keep_alive: Any = True

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class _Last(Written):
    """Tells aiohttp that the reply is written, and is the last of its connection."""

    keep_alive = False


WRITTEN: web.StreamResponse = Written()
"""The response of a request whose reply is written, on a connection that stays."""
_LAST: web.StreamResponse = _Last()


def send_plain(request: Asked, answer: Reply) -> bool | None:
    """Write a small reply after which the connection stays, as most replies are.

    Return True if a part of it is not on its way yet. Return None for any other reply: ``write`` does all of them, and
    those of which it matters whether they are read.
    """
    body, connection, handover = answer.body, request.connection, answer.handover
    if (
        not request.plain
        or (handover is not None and handover.until_read)
        or answer.more
        or len(body) > _LARGE_BYTES
        or connection.ended
    ):
        return None
    if answer.headers is None and request.headers_too is None and body:
        data = b"%bContent-Length: %d\r\n\r\n%b" % (_head(answer.status, answer.content_type), len(body), body)
    else:
        data = _head_of(request, answer, len(body)) + body
    try:
        return _transmit(request, data)
    except BaseException:
        if handover is not None:
            connection.not_written(handover)
        raise


async def write(request: Asked, answer: Reply) -> web.StreamResponse:
    """Write the reply, and return the response for aiohttp.

    Raises ConnectionError if the peer has gone or reads nothing for 60 s. Raises RelayFull before the first byte if too
    many bytes wait for their readers.
    """
    response = WRITTEN
    if answer.handover is not None:
        response = await _hand_over(request, answer, answer.handover)
    elif _is_large(answer) or request.method == hdrs.METH_HEAD:
        response = await _write_large(request, answer)
    elif _send(request, answer):
        await _drain(request)
    return await _ended(request, response)


async def write_rest(request: Asked, answer: Reply) -> web.StreamResponse:
    """Wait until the peer takes what ``send_plain`` wrote, and return the response for aiohttp."""
    if answer.handover is None:
        await _drain(request)
    else:
        await _take_rest(request, answer.handover)
    return await _ended(request, WRITTEN)


async def _take_rest(request: Asked, handover: Handover) -> None:
    """Wait until the peer takes the rest of a reply with messages, and tell whether it has."""
    connection = request.connection
    try:
        connection.hand_over(handover)
        connection.handed_over()
        await _drain(request)
        if not connection.ended:
            connection.forget(handover)
    except BaseException:
        connection.not_written(handover)
        raise


async def _ended(request: Asked, response: web.StreamResponse) -> web.StreamResponse:
    """Return the response, or that of the last reply once it is known whether that was read."""
    connection = request.connection
    if request.keep_alive and not connection.ended:
        return response
    if request.method == hdrs.METH_HEAD or connection.more_to_answer:
        return response
    await connection.read_or_not()
    return _LAST


async def _hand_over(request: Asked, answer: Reply, handover: Handover) -> web.StreamResponse:
    """Write a reply with messages, and tell whether it was written, or where that matters whether it was read."""
    connection = request.connection
    response = WRITTEN
    try:
        if _is_large(answer) or request.method == hdrs.METH_HEAD:
            response = await _write_large(request, answer)
        elif _send_watched(request, answer, handover):
            await _drain(request)
        if not handover.until_read and not connection.ended:
            connection.forget(handover)
    except BaseException:
        connection.not_written(handover)
        raise
    return response


def _is_large(answer: Reply) -> bool:
    """Return True for a reply that is written in parts."""
    return len(answer.body) > _LARGE_BYTES or (bool(answer.more) and answer.size > _LARGE_BYTES)


async def _write_large(request: Asked, answer: Reply) -> web.StreamResponse:
    """Write a large reply, with or without messages, or the headers alone."""
    size = answer.size
    _require_there(request)
    if request.method == hdrs.METH_HEAD:
        return await _send_head(request, answer, size)
    with request.unread.hold(request.block, size), _watched(request):
        await _send_large(request, answer, size)
        await request.writer.drain()
    return WRITTEN


def _require_there(request: Asked) -> None:
    if request.connection.has_gone():
        raise ConnectionResetError("the client has gone")


async def _drain(request: Asked) -> None:
    """Wait until the peer takes the written bytes: a peer that asks on and reads nothing gets no more replies."""
    with _watched(request):
        await request.writer.drain()


@contextmanager
def _watched(request: Asked) -> Iterator[None]:
    """Abort the connection if its peer takes nothing for 60 s."""
    request.note_wait()
    transport: Any = request.transport
    watch = Watch(lambda: request.writer.output_size - on_its_way(transport), transport.abort)
    try:
        yield
    finally:
        watch.stop()


def _send(request: Asked, answer: Reply) -> bool:
    """Write a small reply. Return True if a part of it is not on its way yet."""
    body = b"".join((answer.body, *answer.more)) if answer.more else answer.body
    return _transmit(request, _head_of(request, answer, len(body)) + body)


def _transmit(request: Asked, data: bytes) -> bool:
    connection = request.connection
    if connection.has_gone():
        raise ConnectionResetError("the client has gone")
    request.writer.output_size += len(data)
    transport = connection.transport
    transport.write(data)
    return bool(transport.get_write_buffer_size())


def _send_watched(request: Asked, answer: Reply, handover: Handover) -> bool:
    """Write a small reply with messages as ``_send`` does, and see where that matters whether it is read."""
    connection = request.connection
    watched = handover.until_read or connection.ended
    if watched:
        _require_there(request)
        connection.hand_over(handover)
    left = _send(request, answer)
    if left and not watched:  # else all is written, and that is enough to know
        connection.hand_over(handover)
        watched = True
    if watched:
        connection.handed_over()
    return left


def _head_of(request: Asked, answer: Reply, size: int) -> bytes:
    status = answer.status
    head = _head(status, answer.content_type)
    stays = request.keep_alive
    more = _lines(answer.headers) if answer.headers else b""
    if request.headers_too is not None:
        more += _lines(request.headers_too)
    if request.version != HttpVersion11 or not stays:
        more += b"Connection: keep-alive\r\n" if stays else b"Connection: close\r\n"
    length = b"" if status == 204 else b"Content-Length: %d\r\n" % size
    return b"%b%b%b\r\n" % (head, more, length)


async def _send_large(request: Asked, answer: Reply, size: int) -> None:
    transport: Any = request.transport
    connection = request.connection
    if answer.handover is not None:
        connection.hand_over(answer.handover)
    writer = request.writer
    transport.write(_head_of(request, answer, size))  # copying the body behind it would take longer than a second write
    for part in (answer.body, *answer.more):
        for start in range(0, len(part), _PART_BYTES):
            piece = memoryview(part)[start : start + _PART_BYTES]
            await writer.drain()
            writer.output_size += len(piece)
            transport.write(piece)
    if answer.handover is not None:
        connection.handed_over()


async def _send_head(request: Asked, answer: Reply, size: int) -> web.StreamResponse:
    response = as_response(answer)
    response.headers[hdrs.CONTENT_LENGTH] = str(size)  # else clients would not use the connection again
    await response.prepare(request)
    await response.write_eof()
    return response


def _lines(headers: Mapping[str, str]) -> bytes:
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode()


def as_response(answer: Reply) -> web.Response:
    """Return the reply as aiohttp's own response."""
    headers = dict(answer.headers or {})
    if answer.content_type:
        headers[hdrs.CONTENT_TYPE] = answer.content_type
    return web.Response(body=answer.body, status=answer.status, headers=headers)


def as_bytes(answer: Reply) -> bytes:
    """Return the bytes of a small reply without a request; the connection ends after it."""
    more = _lines(answer.headers or {}) + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % answer.size
    return _head(answer.status, answer.content_type) + more + answer.body


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # a status of tus alone
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
