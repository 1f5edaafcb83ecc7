"""Plain bytes: bodies and contents in parts, so that neither is in memory as a whole."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from email.utils import formatdate
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote

from aiohttp import hdrs, web

from clawlink.domain.file import Expected, SharedFile, Version
from clawlink.domain.limits import IDLE_BODY_SECONDS, LEAST_BODY_RATE, MAX_NAME_LENGTH
from clawlink.errors import BadRequest, BodyTimeout, ClawLinkError, RangeNotSatisfiable
from clawlink.relay.files.read import Opened
from clawlink.relay.timestamps import StoppableTime
from clawlink.server.flow import Watch, has_gone, on_its_way
from clawlink.server.request import Request, require_unpacked, was_reset

PART_BYTES = 256 * 1024
READERS = "ClawLink-Readers"
# Not aiohttp's ``http_range``: it reads ``bytes=-0`` as the whole file, and leaves out a range of over 4,300 digits.
_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)", re.IGNORECASE)
# Not aiohttp's ``if_match``: it leaves out all that follows a fault, and a write refuses the fault by its field.
_TAG = re.compile(r'(W/)?"([^"]*)"')
_REVISION = re.compile("[1-9][0-9]{0,17}")
_SHA256 = re.compile(r"sha-256\s*=\s*:([^:]*):", re.IGNORECASE)
_OLD_SHA256 = re.compile(r"sha-256\s*=\s*([^,\s]+)", re.IGNORECASE)
_DIGESTS = {"Content-Digest": _SHA256, "Repr-Digest": _SHA256, "Digest": _OLD_SHA256}
_SHAPES = {"Content-Digest": "sha-256=:BASE64:", "Repr-Digest": "sha-256=:BASE64:", "Digest": "sha-256=BASE64"}
_SHA256_BYTES = 32
_HEADERS = {"readers": READERS, "force": "ClawLink-Force"}
_MOST_DIGITS = 18
_SHOWN_RANGE = 64
_ARRIVAL_PAUSE_SECONDS = 0.01

# -- in ----------------------------------------------------------------------------------------------------------------


async def parts(request: Request) -> AsyncIterator[bytes]:
    """Give the body as it comes. Raises BodyTimeout when too little comes, UnsupportedMediaType."""
    headers, content = request.headers, request.content
    if hdrs.CONTENT_ENCODING in headers or hdrs.TRANSFER_ENCODING in headers:
        require_unpacked(request)
    if content.is_eof():  # all of it has come, as mostly with a small one
        try:
            part = content.read_nowait()
        except web.RequestPayloadError:
            raise _broken() from None
        if part:
            yield part
        return
    request.note_wait()
    if headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0

    def give_up() -> None:
        seconds = IDLE_BODY_SECONDS
        content.set_exception(
            BodyTimeout(
                f"too little of the body came within {seconds:.0f} s; send at least {LEAST_BODY_RATE} bytes a second",
                limit=seconds,
                retry_after=1,
            )
        )

    come = 0
    watch = Watch(lambda: come, give_up, rate=LEAST_BODY_RATE)
    try:
        while True:
            part = await content.readany()
            if not part:
                return
            come += len(part)
            yield part
    except web.RequestPayloadError:
        raise _broken() from None
    finally:
        watch.stop()


def _broken() -> BadRequest:
    return BadRequest("the body is not what its headers say: its chunks or its length are wrong")


def sha256_of(headers: Mapping[str, str]) -> tuple[str | None, str]:
    """Return the SHA-256 that the body must have, in hexadecimal, and the header that says so. Raises BadRequest."""
    for name, pattern in _DIGESTS.items():
        given = headers.get(name)
        found = None if given is None else pattern.search(given)
        if given is not None and found is None and "sha-256" in given.lower():
            raise BadRequest(f"{name} takes a SHA-256 as {_SHAPES[name]}, not {given[:64]!r}", field=name)
        if found is not None:
            digest = from_base64(found[1], name)
            if len(digest) != _SHA256_BYTES:
                raise BadRequest(
                    f"a SHA-256 has {_SHA256_BYTES} bytes, and that in {name} has {len(digest)}",
                    field=name,
                    limit=_SHA256_BYTES,
                    actual=len(digest),
                )
            return digest.hex(), name
    return None, "Content-Digest"


def from_base64(text: str, field: str) -> bytes:
    """Decode base64. Raises BadRequest."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(f"{field} has no base64 where it should: {text[:64]!r}", field=field) from None


def number(given: str | None, name: str, *, least: int = 0, field: str | None = None) -> int | None:
    """Read an optional whole number. A number beyond all limits stays unchanged. Raises BadRequest."""
    if given is None:
        return None
    found = _position(given) if given.isascii() and given.isdecimal() else -1
    if found < least:
        raise BadRequest(
            f"{name} takes a whole number of at least {least}, not {given[:32]!r}", field=field or name, limit=least
        )
    return found


@contextmanager
def named_by_headers() -> Iterator[None]:
    """Have what is refused name the headers of a request instead of the fields of a JSON body."""
    try:
        yield
    except ClawLinkError as error:
        error.field = _HEADERS.get(error.field or "", error.field)
        raise


def flag(given: str | None, name: str) -> bool:
    """Read a yes or no that may not be given. Raises BadRequest."""
    said = (given or "0").strip().lower()
    if said not in ("0", "1", "true", "false"):
        raise BadRequest(f"{name} takes 1 or 0, not {said[:32]!r}", field=name)
    return said in ("1", "true")


def readers(given: Sequence[str], name: str, *, field: str) -> tuple[str, ...] | None:
    """Read the readers of a file: names and ids, percent-encoded, with commas between; None if they are not given.

    ``given`` are all headers of that ``name``. Raises BadRequest.
    """
    if not given:
        return None
    try:
        said = [unquote(one.strip(), errors="strict") for one in ",".join(given).split(",")]
    except UnicodeDecodeError:
        raise BadRequest(f"{name} takes names in UTF-8, percent-encoded, with commas between", field=field) from None
    named = tuple(dict.fromkeys(one for one in said if one))
    for one in named:
        if len(one) > MAX_NAME_LENGTH or not one.isprintable():
            raise BadRequest(
                f"{name} takes ids and names of one line and {MAX_NAME_LENGTH} characters at most, not {one[:32]!r}; "
                "see who is there with discover",
                field=field,
                limit=MAX_NAME_LENGTH,
                actual=len(one),
            )
    return named


# -- out ---------------------------------------------------------------------------------------------------------------


class Span(NamedTuple):
    """The bytes that go out, and the size of the whole; ``part`` if a range was asked for."""

    start: int
    end: int
    size: int
    part: bool

    @property
    def headers(self) -> dict[str, str]:
        """The header that names the range."""
        return {hdrs.CONTENT_RANGE: f"bytes {self.start}-{self.end - 1}/{self.size}"} if self.part else {}

    @property
    def status(self) -> int:
        """The status of the reply."""
        return 206 if self.part else 200


class Tags(NamedTuple):
    """The entity tags of a conditional header. ``every`` stands for ``*``."""

    every: bool
    strong: frozenset[int]
    weak: frozenset[int]

    def strongly(self, revision: int) -> bool:
        """Return True if the version matches as ``If-Match`` compares: a weak tag matches nothing."""
        return self.every or revision in self.strong

    def weakly(self, revision: int) -> bool:
        """Return True if the version matches as ``If-None-Match`` compares."""
        return self.every or revision in self.strong or revision in self.weak


def tags(given: str) -> Tags:
    """Read the tags of a conditional header. Tags without a version match none, and text that is no tag is left out."""
    found: dict[bool, set[int]] = {True: set(), False: set()}
    for weak, tag in _TAG.findall(given):
        if _REVISION.fullmatch(tag):
            found[bool(weak)].add(int(tag))
    return Tags(given.strip() == "*", frozenset(found[False]), frozenset(found[True]))


def expected(headers: Mapping[str, str]) -> Expected | None:
    """Return the versions of a file that allow a write. Raises BadRequest for text that is no tag."""
    conditions = {name: headers.get(name) for name in (hdrs.IF_MATCH, hdrs.IF_NONE_MATCH)}
    for name, given in conditions.items():
        if given is not None and given.strip() != "*" and (_TAG.sub("", given).strip(", \t") or '"' not in given):
            raise BadRequest(f'{name} takes versions in quotes, such as "3", or *, not {given[:64]!r}', field=str(name))
    match, none = conditions.values()
    among: frozenset[int] | None = None
    but: frozenset[int] = frozenset()
    if match is not None:
        wanted = tags(match)
        among, but = (None, frozenset({0})) if wanted.every else (wanted.strong, but)
    if none is not None:
        unwanted = tags(none)
        if unwanted.every:
            among = frozenset({0}) if among is None else among & {0}
        but |= unwanted.strong | unwanted.weak
    names = [str(name) for name, given in conditions.items() if given is not None]
    return None if among is None and not but else Expected(among, but, names[0])


def span_of(headers: Mapping[str, str], version: Version) -> Span:
    """Return the range of bytes that a request wants. Several ranges at once mean the whole file, as HTTP allows.

    Raises RangeNotSatisfiable.
    """
    size = version.content.size
    whole = Span(0, size, size, part=False)
    found = _RANGE.fullmatch(headers.get(hdrs.RANGE, "").strip())
    if found is None or not (found[1] or found[2]):
        return whole
    condition = headers.get(hdrs.IF_RANGE)  # aiohttp's ``if_range`` reads times alone, and no tags
    if condition is not None and condition.strip() not in (etag_of(version), http_date(int(version.written_at))):
        return whole
    first, last = (_position(text) for text in found.groups())
    if not found[1]:  # the last bytes, this many
        start, end = max(size - last, 0), size
    elif found[2] and last < first:
        return whole
    else:
        start, end = first, min(last + 1, size) if found[2] else size
    if start >= end:
        asked = headers.get(hdrs.RANGE, "").strip()
        shown = asked if len(asked) <= _SHOWN_RANGE else asked[:_SHOWN_RANGE] + "..."
        has = f"has {size} bytes; ask for bytes 0 to {size - 1}" if size else "is empty; leave the header out"
        raise RangeNotSatisfiable(
            f"Range: {shown} has none of the file, which {has}", field="Range", limit=size, current=size
        )
    return Span(start, end, size, part=True)


def _position(text: str) -> int:
    """Return a position, which may be far beyond the end of any file, and have more digits than Python reads."""
    digits = text.lstrip("0")
    return int(digits or "0") if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS


def etag_of(version: Version) -> str:
    """Return the entity tag of this version of a file."""
    return f'"{version.revision}"'


@lru_cache(maxsize=64)
def http_date(second: int) -> str:
    """Write a time as headers have it."""
    return formatdate(second, usegmt=True)


def ids(named: Sequence[str]) -> str:
    """Return ids as a header carries them: percent-encoded, with commas between."""
    return ",".join(quote(one, safe="") for one in named)


def headers_of(file: SharedFile, version: Version, time: StoppableTime) -> dict[str, str]:
    """Return the headers of a version, for the whole and for a part alike.

    The content belongs to another agent: it must not become a page with the relay's name in a browser.
    """
    digest = base64.b64encode(bytes.fromhex(version.content.digest)).decode()
    headers = {
        hdrs.ETAG: etag_of(version),
        hdrs.ACCEPT_RANGES: "bytes",
        hdrs.LAST_MODIFIED: http_date(int(version.written_at)),
        hdrs.CACHE_CONTROL: "no-store" if file.burn else "no-cache",
        hdrs.CONTENT_DISPOSITION: "attachment",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Repr-Digest": f"sha-256=:{digest}:",
        "ClawLink-Version": str(version.revision),
        "ClawLink-Editor": quote(version.editor, safe=""),
        "ClawLink-File-Type": quote(version.file_type, safe=""),
        "ClawLink-Updated-At": time.iso(version.written_at),
    }
    if file.ends_at is not None:
        headers["ClawLink-Expires-At"] = time.iso(file.ends_at)
    if file.burn:
        headers["ClawLink-Burn-After-Read"] = "1"
    if file.access is not None:
        headers["ClawLink-Owner"] = quote(file.access.owner.agent_id, safe="")
        headers[READERS] = ids([one.agent_id for one in file.access.readers])
    return headers


async def send(
    request: Request, span: Span, content_type: str, headers: Mapping[str, str], opened: Opened
) -> web.StreamResponse:
    """Send the opened content, as fast as the peer takes it.

    Raises ConnectionError if the peer goes or stands still, and RelayFull if too many bytes wait for their readers.
    """
    with request.unread.hold(request.block, PART_BYTES):
        return await _stream(request, span, content_type, headers, opened)


async def _stream(
    request: Request, span: Span, content_type: str, headers: Mapping[str, str], opened: Opened
) -> web.StreamResponse:
    request.stay()
    response = web.StreamResponse(status=span.status, headers={**headers, **span.headers})
    response.headers[hdrs.CONTENT_TYPE] = content_type
    response.content_length = span.end - span.start
    await response.prepare(request)
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has gone")
    watch = Watch(lambda: opened.at - on_its_way(transport), transport.abort)
    try:
        while opened.at < span.end:
            await response.write(await opened.read(min(PART_BYTES, span.end - opened.at)))
        await response.write_eof()
    finally:
        watch.stop()
    await arrive(request, opened)
    return response


async def arrive(request: Request, opened: Opened) -> None:
    """Note that all has gone out; of a file for one reader, once it has arrived. Raises ConnectionError otherwise.

    The system buffers megabytes that a slow line still carries for minutes. A reader whose connection breaks in that
    time has not got them.
    """
    opened.sent()
    transport = request.transport
    if opened.reading is not None and transport is not None:
        watch = Watch(lambda: -on_its_way(transport), transport.abort)
        try:
            while on_its_way(transport):
                if has_gone(transport):
                    raise ConnectionResetError("the client has gone")
                await asyncio.sleep(_ARRIVAL_PAUSE_SECONDS)
        except asyncio.CancelledError:  # the connection is over: in peace, if nothing was left on its way
            opened.done = not was_reset(request)
            raise
        finally:
            watch.stop()
    opened.done = True
