"""Routes about shared files as ClawLink 1.0.x knows them: in one JSON object."""

from __future__ import annotations

from aiohttp import hdrs, web

from clawlink.protocol import file_paths, requests
from clawlink.relay.relay import Relay
from clawlink.server import http_files
from clawlink.server.request import Request, Routes, parameter, read_query
from clawlink.server.response import JSON, Reply, write
from clawlink.server.routes.blobs import found, opened, reader_of

routes = Routes()


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
