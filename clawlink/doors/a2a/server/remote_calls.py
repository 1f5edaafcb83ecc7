"""Calls of a remote agent, over the binding that its card names."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from msgspec import Raw, Struct

from clawlink.domain.dense_json import MAX_PARTS, has_too_many
from clawlink.domain.limits import MAX_JSON_DEPTH
from clawlink.doors.a2a import outward
from clawlink.doors.a2a.wire.large_strings import LONG, Cutter
from clawlink.doors.a2a.wire.remotes import Remote
from clawlink.errors import BadRequest, ClawLinkError, Unavailable
from clawlink.protocol.reading import is_shallow

MAX_ANSWER_BYTES = 8 * 1024 * 1024
MAX_ANSWER_JSON_BYTES = 1024 * 1024
"""The bytes of an answer without its long strings. They are what takes a reader its time."""
FILES_AT_ONCE = 2
"""The number of messages with files that one remote agent gets at a time."""
CALL_SECONDS = 60.0
_SILENCE_SECONDS = 60.0
_VERSION = "1.0"
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_PIECE = 64 * 1024
_encode = msgspec.json.Encoder().encode

_ROUTES = {
    "SendMessage": ("POST", "/message:send"),
    "GetTask": ("GET", "/tasks/{id}"),
    "CancelTask": ("POST", "/tasks/{id}:cancel"),
    "SubscribeToTask": ("GET", "/tasks/{id}:subscribe"),
}


T = TypeVar("T")


_MISSING, _NULL = Raw(), Raw(b"null")


class _Envelope(Struct):
    """An answer in JSON-RPC, or an error of either binding."""

    result: Raw = _MISSING
    error: Raw = _NULL


class _Error(Struct):
    message: str = ""


class Refused(ClawLinkError):
    """The remote agent refused the call, and would refuse it again."""

    code = "remote_refused"
    status = 400


class RemoteCalls:
    """The methods of one remote agent."""

    def __init__(self, session: aiohttp.ClientSession, remote: Remote) -> None:
        self._session = session
        self._remote = remote
        self._ids = itertools.count(1)
        self.turns = asyncio.Semaphore(FILES_AT_ONCE)

    async def call(self, method: str, params: dict[str, Any], kind: type[T]) -> T:
        """Call a method; return its result as ``kind``.

        Raises Unavailable for a failure that may pass, Refused for any other, and BadRequest for an answer that is
        too large, or none of A2A.
        """
        # The traceback of a failure may live on until the garbage collector runs. The body does not.
        held: list[bytes] = []
        try:
            if method == "SendMessage":
                held.append(await asyncio.to_thread(self._data, method, params))
            async with self._request(method, params, CALL_SECONDS, held) as response:
                status = response.status
                body = b"" if status in _AGAIN else await _limited(response)
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError, UnicodeError) as error:
            raise Unavailable(f"{self._remote.name} does not answer: {type(error).__name__}: {error}") from None
        finally:
            held.clear()
        if len(body) <= LONG:
            return self._result(status, body, kind)
        return await asyncio.to_thread(self._result, status, body, kind)

    async def changes(self, task_id: str) -> AsyncIterator[None]:
        """Give a turn for each event of a task's stream. Ends with the stream, however that ends."""
        try:
            async with self._request("SubscribeToTask", {"id": task_id}, None) as response:
                if response.status != 200 or response.content_type != "text/event-stream":
                    return
                at_line_start = True
                async for piece in response.content.iter_any():
                    if b"data:" in piece if at_line_start else b"\ndata:" in piece:
                        yield
                    at_line_start = piece.endswith(b"\n")
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError, UnicodeError):
            return

    def _data(self, method: str, params: dict[str, Any]) -> bytes:
        if self._remote.binding != "JSONRPC":
            return _encode(params)
        return _encode({"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params})

    def _request(self, method: str, params: dict[str, Any], seconds: float | None, held: Sequence[bytes] = ()) -> Any:
        remote = self._remote
        headers = {"A2A-Version": _VERSION, "Content-Type": "application/json"}
        if remote.credential is not None:
            headers["Authorization"] = f"Bearer {remote.credential}"
        timeout = aiohttp.ClientTimeout(total=seconds, sock_read=_SILENCE_SECONDS, sock_connect=CALL_SECONDS / 2)
        options: dict[str, Any] = {"headers": headers, "timeout": timeout, "allow_redirects": False}
        if remote.binding == "JSONRPC":
            return self._session.post(remote.interface, data=self._body(method, params, held, headers), **options)
        verb, path = _ROUTES[method]
        url = remote.interface + path.replace("{id}", quote(str(params.get("id", "")), safe=""))
        body = self._body(method, params, held, headers) if verb == "POST" else None
        return self._session.request(verb, url, data=body, **options)

    def _body(
        self, method: str, params: dict[str, Any], held: Sequence[bytes], headers: dict[str, str]
    ) -> bytes | AsyncIterator[bytes]:
        """Return the body to send: a large one goes in pieces, as the peer takes them."""
        data = held[0] if held else self._data(method, params)
        if len(data) <= LONG:
            return data
        headers["Content-Length"] = str(len(data))
        return _pieces(held or [data])

    def _result(self, status: int, body: bytes, kind: type[T]) -> T:
        name = self._remote.name
        if status in _AGAIN:
            raise Unavailable(f"{name} answered with HTTP {status}")
        try:
            answer = msgspec.json.decode(body, type=_Envelope)
        except msgspec.ValidationError:  # it is JSON, and no object
            answer = _Envelope()
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise Refused(f"{name} answered with HTTP {status} and no JSON") from None
        if status != 200 or answer.error != _NULL:
            said = _message(answer.error)
            raise Refused(f"{name} refused it with HTTP {status}: {said[:500] or 'without a reason'}")
        if self._remote.binding != "JSONRPC":
            return outward.read(body, kind)
        if answer.result == _MISSING:
            raise Refused(f"{name} answered with no result of JSON-RPC")
        return outward.read(answer.result, kind)


async def _pieces(held: Sequence[bytes]) -> AsyncIterator[bytes]:
    start = 0
    while True:
        if not held:
            raise ConnectionResetError("the call is over")
        piece = held[0][start : start + _PIECE]
        if not piece:
            return
        yield piece
        start += len(piece)


def _message(error: Raw) -> str:
    """Return the message of an error; empty for an error without one."""
    try:
        return msgspec.json.decode(error, type=_Error).message
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return ""


async def _limited(response: aiohttp.ClientResponse) -> bytes:
    """Return the body of an answer. Raises BadRequest for one that is too large, or nested too deep.

    Like a body that comes to the relay, it may have little besides long strings, such as files.
    """
    pieces: list[bytes] = []
    size = 0
    cutter = Cutter()
    async for piece in response.content.iter_chunked(_PIECE):
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise BadRequest(f"an answer of more than {MAX_ANSWER_BYTES} bytes is not read", limit=MAX_ANSWER_BYTES)
        for _ in cutter.feed(piece):
            await asyncio.sleep(0)
        cutter.cuts.clear()
        _require_small(cutter.kept)
        pieces.append(piece)
    rest = cutter.end()
    _require_small(len(rest))
    if not await asyncio.to_thread(is_shallow, rest, MAX_JSON_DEPTH):
        raise BadRequest(f"an answer may be nested {MAX_JSON_DEPTH} levels deep", limit=MAX_JSON_DEPTH)
    if await asyncio.to_thread(has_too_many, rest):
        raise BadRequest(
            f"an answer may have {MAX_PARTS} arrays, objects and commas besides its strings; let the remote agent "
            "return large data as a raw or a url part",
            limit=MAX_PARTS,
        )
    return b"".join(pieces)


def _require_small(actual: int) -> None:
    if actual > MAX_ANSWER_JSON_BYTES:
        raise BadRequest(
            f"an answer may have {MAX_ANSWER_JSON_BYTES} bytes besides its strings of more than {LONG} bytes without "
            "escapes; let the remote agent return large contents as a raw or a url part",
            limit=MAX_ANSWER_JSON_BYTES,
            actual=actual,
        )
