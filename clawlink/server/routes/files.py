"""Routes about shared files as ClawLink 1.0.x knows them: in one JSON object."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator

from aiohttp import hdrs, web

from clawlink.errors import BadRequest
from clawlink.protocol import file_paths, file_replies, file_requests, requests
from clawlink.relay.files.write import Write
from clawlink.relay.relay import Relay
from clawlink.server import http_files
from clawlink.server.request import Request, Routes, acting_anyway, asking, parameter, read, read_query
from clawlink.server.response import JSON, Reply, reply, tell_by_the_way, write
from clawlink.server.routes.blobs import found, opened, reader_of

routes = Routes()


@routes.serves(file_paths.PUT_FILE)
async def put_file(relay: Relay, request: Request) -> Reply:
    """Write a file."""
    ask = await read(request, file_requests.PutFile)
    plain = ask.idempotency_key is None
    editor, new = await acting_anyway(relay, request, ask.agent_id, "agent_id", plain=plain)
    content = _content(ask)
    write = Write(
        key=ask.file_key,
        file_type=ask.file_type,
        content_type="text/plain; charset=utf-8" if ask.encoding == "utf-8" else "application/octet-stream",
        if_version=ask.if_version,
        force=ask.force,
        idempotency_key=ask.idempotency_key,
        readers=None if ask.readers is None else tuple(dict.fromkeys(ask.readers)),
    )
    written = await relay.files.put(editor, write, _at_once(content), len(content), field="content")
    done, readers = written.version, None if written.readers is None else list(written.readers)
    saved = file_replies.FilePut("saved", done.revision, ask.file_key, done.content.size, done.content.digest, readers)
    return reply(tell_by_the_way(saved, new))


def _content(ask: file_requests.PutFile) -> bytes:
    if ask.encoding == "utf-8":
        return ask.content.encode()
    try:
        return base64.b64decode(ask.content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"the content is not valid base64: {error}", field="content") from error


async def _at_once(content: bytes) -> AsyncIterator[bytes]:
    yield content


@routes.serves(file_paths.GET_FILE)
async def get_file(relay: Relay, request: Request) -> Reply | web.StreamResponse:
    """Read a file."""
    ask = read_query(request, requests.Asker)
    file, _, looker = await found(relay, request, parameter(request, "file_key"), ask.agent_id)
    relay.file_reads.require_small(file)
    reader = reader_of(request, looker, burns=file.burn)
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


@routes.serves(file_paths.DELETE_FILE)
async def delete_file(relay: Relay, request: Request) -> Reply:
    """Delete a file."""
    ask = read_query(request, file_requests.DeleteFileQuery)
    editor = await asking(relay, request, ask.agent_id)
    file = await relay.files.delete(editor, parameter(request, "file_key"), ask.if_version, force=ask.force)
    return reply(file_replies.FileDeleted("deleted", file.id, file.revision))
