"""Calls of a remote agent, over the binding that its card names."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

from clawlink.doors.a2a.wire.remotes import Remote
from clawlink.errors import BadRequest, ClawLinkError, Unavailable

MAX_ANSWER_BYTES = 8 * 1024 * 1024
CALL_SECONDS = 60.0
_SILENCE_SECONDS = 60.0
_VERSION = "1.0"
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_PIECE = 64 * 1024
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

_ROUTES = {
    "SendMessage": ("POST", "/message:send"),
    "GetTask": ("GET", "/tasks/{id}"),
    "CancelTask": ("POST", "/tasks/{id}:cancel"),
    "SubscribeToTask": ("GET", "/tasks/{id}:subscribe"),
}


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

    async def call(self, method: str, params: dict[str, Any]) -> Any:
        """Call a method. Raises Unavailable for a failure that may pass, Refused for any other."""
        try:
            async with self._request(method, params, CALL_SECONDS) as response:
                body = await _limited(response)
                status = response.status
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            raise Unavailable(f"{self._remote.name} does not answer: {type(error).__name__}: {error}") from None
        return self._result(status, body)

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
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError):
            return

    def _request(self, method: str, params: dict[str, Any], seconds: float | None) -> Any:
        remote = self._remote
        headers = {"A2A-Version": _VERSION, "Content-Type": "application/json"}
        if remote.credential is not None:
            headers["Authorization"] = f"Bearer {remote.credential}"
        timeout = aiohttp.ClientTimeout(total=seconds, sock_read=_SILENCE_SECONDS, sock_connect=CALL_SECONDS / 2)
        options: dict[str, Any] = {"headers": headers, "timeout": timeout, "allow_redirects": False}
        if remote.binding == "JSONRPC":
            body = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
            return self._session.post(remote.interface, data=_encode(body), **options)
        verb, path = _ROUTES[method]
        url = remote.interface + path.replace("{id}", quote(str(params.get("id", "")), safe=""))
        return self._session.request(verb, url, data=_encode(params) if verb == "POST" else None, **options)

    def _result(self, status: int, body: bytes) -> Any:
        name = self._remote.name
        if status in _AGAIN:
            raise Unavailable(f"{name} answered with HTTP {status}")
        try:
            answer = _decode(body)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise Refused(f"{name} answered with HTTP {status} and no JSON") from None
        error = answer.get("error") if isinstance(answer, dict) else None
        if status != 200 or error is not None:
            said = error.get("message") if isinstance(error, dict) else None
            raise Refused(f"{name} refused it with HTTP {status}: {str(said or 'without a reason')[:500]}")
        if self._remote.binding == "JSONRPC":
            if not isinstance(answer, dict) or "result" not in answer:
                raise Refused(f"{name} answered with no result of JSON-RPC")
            return answer["result"]
        return answer


async def _limited(response: aiohttp.ClientResponse) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_chunked(_PIECE):
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise BadRequest(f"an answer of more than {MAX_ANSWER_BYTES} bytes is not read", limit=MAX_ANSWER_BYTES)
        pieces.append(piece)
    return b"".join(pieces)
