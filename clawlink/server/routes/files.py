"""Routes about shared files."""

from __future__ import annotations

from clawlink.protocol import paths, replies, requests
from clawlink.relay.relay import Relay
from clawlink.server.reply import Reply, reply
from clawlink.server.wire import Request, Routes, acting, asking, parameter, read, read_query

routes = Routes()


@routes.serves(paths.PUT_FILE)
async def put_file(relay: Relay, request: Request) -> Reply:
    """Write a file."""
    ask = await read(request, requests.PutFile)
    editor = await acting(relay, request, ask.agent_id, "agent_id")
    file = await relay.files.put(editor, ask)
    return reply(replies.FileSaved("saved", file.revision, file.id))


@routes.serves(paths.LIST_FILES)
async def list_files(relay: Relay, request: Request) -> Reply:
    """List files."""
    return reply(await relay.files.list(read_query(request, requests.ListQuery)))


@routes.serves(paths.GET_FILE)
async def get_file(relay: Relay, request: Request) -> Reply:
    """Read a file."""
    return reply(await relay.files.get(parameter(request, "file_key")))


@routes.serves(paths.DELETE_FILE)
async def delete_file(relay: Relay, request: Request) -> Reply:
    """Delete a file."""
    ask = read_query(request, requests.DeleteFileQuery)
    editor = await asking(relay, request, ask.agent_id)
    file = await relay.files.delete(editor, parameter(request, "file_key"), ask.if_version)
    return reply(replies.FileDeleted("deleted", file.id, file.revision))
