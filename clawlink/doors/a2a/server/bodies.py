"""The bodies of requests: read in pieces, with large strings cut out, and few large ones at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

import msgspec
from aiohttp import hdrs

from clawlink.domain.agent import Agent
from clawlink.domain.dense_json import MAX_PARTS, has_too_many
from clawlink.domain.limits import MAX_JSON_DEPTH
from clawlink.doors.a2a.server import callers
from clawlink.doors.a2a.wire import v0_3
from clawlink.doors.a2a.wire.failures import A2AError
from clawlink.doors.a2a.wire.large_strings import LONG, Cutter, Pieces, marks, restored
from clawlink.errors import BadJson, BadRequest, BodyTimeout, TooLarge
from clawlink.protocol.reading import is_shallow
from clawlink.relay.relay import Relay
from clawlink.server.http_files import parts
from clawlink.server.request import Request

JSON, A2A_JSON = "application/json", "application/a2a+json"
# The number of requests that may read a large body at a time.
LARGE_AT_ONCE = 4
# A large body has these seconds, and one more for each LARGE_RATE bytes: others wait for its slot.
LARGE_SECONDS = 60.0
LARGE_RATE = 64 * 1024
_decode = msgspec.json.Decoder().decode


class Bodies:
    """Reads the bodies of one relay's requests."""

    def __init__(self, relay: Relay, *, max_body: int) -> None:
        self._relay = relay
        self._max_body = max_body
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by client

    async def read(self, request: Request, caller: Agent, *path: str) -> tuple[Any, Mapping[str, Pieces]]:
        """Read and decode a body; ``path`` leads to the request in it. Raises A2AError, and the refusals of a body.

        The raw parts of a message may be marks of strings that were cut out, which are returned, too.
        """
        given = request.headers.get(hdrs.CONTENT_TYPE, JSON).partition(";")[0].strip().lower()
        if given not in (JSON, A2A_JSON):
            raise A2AError("CONTENT_TYPE_NOT_SUPPORTED", f"the body is {JSON} or {A2A_JSON}, not {given[:64]}")
        length = request.content_length
        if length is not None and length > self._max_body:
            raise self._too_large(length)
        if length is not None and length <= LONG:
            return _parsed(b"".join([piece async for piece in parts(request)])), {}
        async with self._turn(caller), self._large:
            deadline = _Deadline(request)
            try:
                return await self._cut(request, path, deadline)
            finally:
                deadline.stop()

    def _turn(self, caller: Agent) -> asyncio.Lock:
        """Return the lock of a client: it sends one large body at a time. Clients of the token differ by address."""
        client = f"{caller.id} {caller.address or ''}" if caller.id == callers.OWN else caller.id
        return self._turns.setdefault(client, asyncio.Lock())

    async def _cut(
        self, request: Request, path: tuple[str, ...], deadline: _Deadline
    ) -> tuple[Any, Mapping[str, Pieces]]:
        """Read a large body: its long strings apart, all else within the limit of a body of the relay."""
        cutter, size = Cutter(), 0
        async for piece in parts(request):
            size += len(piece)
            deadline.took(len(piece))
            if size > self._max_body:
                raise self._too_large(size)
            for _ in cutter.feed(piece):
                await asyncio.sleep(0)
                self._require_small(cutter.kept)
        self._require_small(cutter.kept)
        asked = _parsed(cutter.end())
        if not cutter.cuts:
            return asked, {}
        raw = _raw_in(asked, *path)
        self._require_small(
            cutter.kept + sum(sum(map(len, cutter.cuts[mark])) for mark in marks(asked, cutter.cuts, raw))
        )
        try:
            return restored(asked, cutter.cuts, raw), cutter.cuts
        except UnicodeDecodeError as error:
            raise BadJson(f"the body is not JSON in UTF-8: {error}") from None

    def _require_small(self, actual: int) -> None:
        limit = self._relay.limits.max_body_bytes
        if actual > limit:
            raise TooLarge(
                f"all but the raw parts of a message may have {limit} bytes, and this has {actual} or more; send large "
                "contents as a raw part, which becomes a file",
                field="message.parts",
                limit=limit,
                actual=actual,
            )

    def _too_large(self, actual: int) -> TooLarge:
        return TooLarge(
            f"a body may have {self._max_body} bytes, and this one has {actual} or more; send a file as a url part, or "
            "start the relay with a higher --a2a-max-body",
            limit=self._max_body,
            actual=actual,
        )


class _Deadline:
    """Has a body refused once it is late. Each byte that comes moves the end."""

    def __init__(self, request: Request) -> None:
        self._content = request.content
        self._loop = asyncio.get_running_loop()
        self._ends_at = self._loop.time() + LARGE_SECONDS
        self._timer = self._loop.call_at(self._ends_at, self._look)

    def took(self, size: int) -> None:
        """Note that ``size`` bytes more have come."""
        self._ends_at += size / LARGE_RATE

    def stop(self) -> None:
        """The body has come."""
        self._timer.cancel()

    def _look(self) -> None:
        if self._loop.time() < self._ends_at:
            self._timer = self._loop.call_at(self._ends_at, self._look)
            return
        self._content.set_exception(
            BodyTimeout(
                f"a body of more than {LONG} bytes has {LARGE_SECONDS:g} s, and 1 s for each {LARGE_RATE} bytes of it; "
                "send it faster, or send a file as a url part",
                limit=LARGE_SECONDS,
                retry_after=1,
            )
        )


def _parsed(body: bytes) -> Any:
    """Decode a body that is no longer than those of the relay. Raises BadRequest, TooLarge."""
    if not is_shallow(body, MAX_JSON_DEPTH):
        raise BadRequest(f"JSON may be nested {MAX_JSON_DEPTH} levels deep", limit=MAX_JSON_DEPTH)
    if has_too_many(body):
        raise TooLarge(
            f"JSON may have {MAX_PARTS} arrays, objects and commas besides its strings; send large data as a raw part, "
            "which becomes a file",
            limit=MAX_PARTS,
        )
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadJson(f"the body is not JSON in UTF-8: {error}") from None


def _raw_in(asked: Any, *path: str) -> dict[int, str]:
    """Return the objects that have bytes in the message of a decoded body: the name of the field, by the object's id.

    In A2A 1.0 these are the parts, in 0.3 their files.
    """
    for name in (*path, "message", "parts"):
        asked = asked.get(name) if isinstance(asked, dict) else None
    found = [part for part in asked if isinstance(part, dict)] if isinstance(asked, list) else []
    files = [file for part in found if (file := v0_3.file_of(part)) is not None]
    return {id(part): "raw" for part in found} | {id(file): "bytes" for file in files}
