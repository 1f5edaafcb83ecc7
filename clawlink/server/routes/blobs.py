"""Routes for shared files: byte for byte, and in one JSON object, as ClawLink 1.0.x reads them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from urllib.parse import unquote

from aiohttp import hdrs, web

from clawlink.domain.file import SharedFile, Version
from clawlink.domain.file_write import Write
from clawlink.domain.limits import MAX_FILE_TTL_SECONDS, MAX_NAME_LENGTH
from clawlink.errors import BadRequest, UnknownFile, VersionConflict
from clawlink.protocol import admin_paths, admin_views, file_paths, file_replies, file_requests, requests
from clawlink.relay.files.read import Opened
from clawlink.relay.relay import Relay
from clawlink.server import http_files
from clawlink.server.auth import require_no_page
from clawlink.server.request import (
    Looker,
    Request,
    Routes,
    asking,
    key_in_header,
    looking,
    parameter,
    read_query,
    when_lost,
)
from clawlink.server.response import JSON, Reply, reply, write

routes = Routes()

MEDIA_TYPE = re.compile(r"[\x20-\x7e]{1,255}")
_OCTETS = "application/octet-stream"
_MATCH = "If-Match"


@routes.serves(file_paths.PUT_BLOB)
async def put_blob(relay: Relay, request: Request) -> Reply:
    """Write a file."""
    editor = await asking(relay, request, None, place="")
    if hdrs.CONTENT_RANGE in request.headers:
        raise BadRequest("a put writes a whole file; parts of one go to /uploads", field="Content-Range")
    ask = _write(request)
    with http_files.named_by_headers():
        written = await relay.files.put(editor, ask, http_files.parts(request), request.content_length)
    done, readers = written.version, None if written.readers is None else list(written.readers)
    answer = reply(
        file_replies.FileSaved("saved", done.revision, ask.key, done.content.size, done.content.digest, readers)
    )
    status = 201 if done.revision == 1 else 200
    return Reply(answer.body, status, headers={hdrs.ETAG: http_files.etag_of(done)})


def _write(request: Request) -> Write:
    headers = request.headers
    digest, field = http_files.sha256_of(headers)
    file_type = headers.get("ClawLink-File-Type")
    return Write(
        key=parameter(request, "file_key"),
        file_type=None if file_type is None else type_of(_unquoted(file_type), "ClawLink-File-Type"),
        content_type=media_type(headers.get(hdrs.CONTENT_TYPE), "Content-Type"),
        if_version=http_files.expected(headers),
        ttl=ttl(headers.get("ClawLink-TTL"), "ClawLink-TTL"),
        burn=http_files.flag(headers.get("ClawLink-Burn-After-Read"), "ClawLink-Burn-After-Read"),
        force=http_files.flag(headers.get("ClawLink-Force"), "ClawLink-Force"),
        idempotency_key=key_in_header(request),
        digest=digest,
        digest_field=field,
        readers=http_files.readers(
            headers.getall(http_files.READERS, ()), http_files.READERS, field=http_files.READERS
        ),
    )


def _unquoted(given: str) -> str:
    try:
        return unquote(given, errors="strict")
    except UnicodeDecodeError:
        raise BadRequest("ClawLink-File-Type takes UTF-8, percent-encoded", field="ClawLink-File-Type") from None


def media_type(given: str | None, field: str) -> str:
    """Return a content type as it may be sent on. Raises BadRequest."""
    if not given:
        return _OCTETS
    if MEDIA_TYPE.fullmatch(given) is None:
        raise BadRequest(f"{field} takes up to 255 characters of ASCII", field=field, limit=255, actual=len(given))
    return given


def type_of(given: str, field: str) -> str:
    """Return the editor's type of a file. Raises BadRequest."""
    if not given.isprintable():
        raise BadRequest(f"{field} takes one line of text", field=field)
    if len(given) > MAX_NAME_LENGTH:
        raise BadRequest(
            f"{field} may have {MAX_NAME_LENGTH} characters at most",
            field=field,
            limit=MAX_NAME_LENGTH,
            actual=len(given),
        )
    return given


def ttl(given: str | None, field: str, name: str | None = None) -> float | None:
    """Return for how many seconds a file is kept. Raises BadRequest."""
    seconds = http_files.number(given, name or field, least=1, field=field)
    if seconds is not None and seconds > MAX_FILE_TTL_SECONDS:
        raise BadRequest(
            f"{name or field} takes {MAX_FILE_TTL_SECONDS:.0f} seconds at most",
            field=field,
            limit=int(MAX_FILE_TTL_SECONDS),
            actual=seconds,
        )
    return seconds


async def found(
    relay: Relay, request: Request, key: str, agent_id: str | None, revision: int | None = None
) -> tuple[SharedFile, Version, Looker]:
    """Find a file for the asking agent.

    Raises UnknownFile, or the reason why the request is not from the agent that it names.
    """
    looker = await looking(relay, request, agent_id)
    try:
        return *await relay.file_reads.find(key, revision, asker=looker.agent), looker
    except UnknownFile as error:
        raise (looker.refused if error.field == "file_key" and looker.refused is not None else error) from None


@routes.serves(file_paths.GET_BLOB)
async def get_blob(relay: Relay, request: Request) -> Reply | web.StreamResponse:
    """Read a file, or list its versions."""
    ask = read_query(request, file_requests.BlobQuery)
    key = parameter(request, "file_key")
    if ask.versions is not None:
        return await _history(relay, request, key, ask)
    file, version, looker = await found(relay, request, key, ask.agent_id, ask.version)
    reader = reader_of(request, looker) if file.burn else None
    headers = http_files.headers_of(file, version, relay.time)
    if _has_it(request, version):
        return web.Response(status=304, headers=headers)
    span = http_files.span_of(request.headers, version)
    if not file.burn and span.end - span.start <= http_files.PART_BYTES:
        body = await relay.file_reads.read(version, span.start, span.end)
        return Reply(body, span.status, version.content_type, {**headers, **span.headers})
    async with opened(relay, request, file, version, reader, span.start) as content:
        return await http_files.send(request, span, version.content_type, headers, content)


@routes.serves(admin_paths.FILE_BYTES)
async def file_bytes(relay: Relay, request: Request) -> Reply | web.StreamResponse:
    """Read a version of a file, as the operator. Nothing burns by it."""
    ask = read_query(request, admin_views.ContentQuery)
    file = await relay.library_views.require_contents(parameter(request, "file_key"))
    version = relay.file_reads.version_of(file, ask.version)
    headers = http_files.headers_of(file, version, relay.time)
    if _has_it(request, version):
        return web.Response(status=304, headers=headers)
    span = http_files.span_of(request.headers, version)
    async with relay.file_reads.open(file, version, request, span.start) as content:
        return await http_files.send(request, span, version.content_type, headers, content)


async def _history(relay: Relay, request: Request, key: str, ask: file_requests.BlobQuery) -> Reply:
    looker = await looking(relay, request, ask.agent_id)
    try:
        return reply(await relay.file_reads.history(key, ask.since, ask.wait, asker=looker.agent))
    except UnknownFile as error:
        raise (error if looker.refused is None else looker.refused) from None


@asynccontextmanager
async def opened(
    relay: Relay, request: Request, file: SharedFile, version: Version, reader: Hashable, start: int = 0
) -> AsyncIterator[Opened]:
    """Open a version for one reply; a file for one reader hears of a lost connection.

    Raises NotAllowed if it may be an image in a foreign page that would burn it.
    """
    if file.burn:
        require_no_page(request)
    content: Opened | None = None
    try:
        async with relay.file_reads.open(file, version, reader, start) as content:
            if content.reading is not None:
                request.stay()
            yield content
    finally:
        reading = None if content is None else content.reading
        if reading is not None and not request.by_proxy:  # its connection says nothing of the peer
            when_lost(request, lambda reset: reading.connection_ended(relay.clock(), reset=reset))


@routes.serves(file_paths.HEAD_BLOB)
async def head_blob(relay: Relay, request: Request) -> Reply | web.StreamResponse:
    """Return the headers of a file, without its content."""
    ask = read_query(request, file_requests.BlobQuery)
    file, version, _ = await found(relay, request, parameter(request, "file_key"), ask.agent_id, ask.version)
    headers = http_files.headers_of(file, version, relay.time)
    if _has_it(request, version):
        return web.Response(status=304, headers=headers)
    response = web.StreamResponse(headers={**headers, hdrs.CONTENT_TYPE: version.content_type})
    response.content_length = version.content.size
    return response


def _has_it(request: Request, version: Version) -> bool:
    """Return True if the asker has this version already. Raises VersionConflict if it insists on another one."""
    match = request.headers.get(hdrs.IF_MATCH)
    if match is not None and not http_files.tags(match).strongly(version.revision):
        raise VersionConflict(
            f"the file is at version {version.revision}, and {_MATCH} asks for {match[:32]}; read it without {_MATCH}",
            field=_MATCH,
            current=version.revision,
        )
    none = request.headers.get(hdrs.IF_NONE_MATCH)
    return none is not None and http_files.tags(none).weakly(version.revision)


def reader_of(request: Request, looker: Looker) -> Hashable:
    """Return the reader of a file that burns: the agent that the header names, or else this connection.

    A connection counts with the agent that the query names. Several peers may share the connection of a proxy: there a
    request without the header is a reader of its own. Raises the reason why the request is not from the agent that its
    header names.
    """
    agent_id = None if looker.agent is None else looker.agent.id
    if request.headers.get("ClawLink-Agent"):
        if looker.refused is not None:
            raise looker.refused
        if agent_id is not None:
            return agent_id
    return object() if request.by_proxy else (request.protocol, agent_id)


@routes.serves(file_paths.DELETE_BLOB)
async def delete_blob(relay: Relay, request: Request) -> Reply:
    """Delete a file, or confirm that it was read."""
    ask = read_query(request, file_requests.DropBlobQuery)
    key = parameter(request, "file_key")
    gone: SharedFile
    if ask.read:
        looker = await looking(relay, request, ask.agent_id)
        gone = await relay.file_reads.confirm(key, reader_of(request, looker))
    else:
        editor = await asking(relay, request, ask.agent_id)
        force = ask.force or http_files.flag(request.headers.get("ClawLink-Force"), "ClawLink-Force")
        with http_files.named_by_headers():
            gone = await relay.files.delete(editor, key, http_files.expected(request.headers), force=force)
    return reply(file_replies.FileDeleted("deleted", key, gone.revision))


@routes.serves(file_paths.GET_FILE)
async def get_file(relay: Relay, request: Request) -> Reply | web.StreamResponse:
    """Read a file."""
    ask = read_query(request, requests.Asker)
    file, _, looker = await found(relay, request, parameter(request, "file_key"), ask.agent_id)
    relay.file_reads.require_small(file)
    reader = reader_of(request, looker) if file.burn else None
    if request.method == hdrs.METH_HEAD:  # that file is there; its content is neither encoded nor read
        return web.StreamResponse(headers={hdrs.CONTENT_TYPE: JSON})
    async with opened(relay, request, file, file.newest, reader) as content:
        first, *more = await relay.file_reads.as_json(file, content)
        answer = Reply(first, more=more)
        if content.reading is None:
            return answer
        response = await write(request, answer)
        await http_files.arrive(request, content)
    return response
