"""Tasks and files as resources. All that other agents wrote stands under ``untrusted``, as in results of tools."""

from __future__ import annotations

from typing import Any

from clawlink.domain.agent import Agent
from clawlink.doors.mcp.server.tools import task_of
from clawlink.doors.mcp.wire import resources
from clawlink.doors.mcp.wire.quoting import MAX_RESULT_BYTES, MAX_TEXT_BYTES, identified, quoted, told
from clawlink.errors import BadRequest
from clawlink.protocol import requests
from clawlink.protocol.file_requests import FilesQuery
from clawlink.relay.relay import Relay

MAX_LISTED = 50
_FILE_BYTES = 2_000


async def listed(relay: Relay, agent: Agent | None) -> dict[str, Any]:
    """Return the open tasks of an agent, and the files that it may read; without an agent the files for everyone."""
    entries = []
    if agent is not None:
        query = requests.TasksQuery(agent_id=agent.id, status="open", limit=MAX_LISTED)
        for task in (await relay.task_views.list(agent, query)).tasks:
            part = "you delegated it" if task.requester == agent.id else "given to you"
            entries.append(resources.entry(resources.TASKS, task.task_id, f"{task.status}; {part}"))
    for file in (await relay.file_reads.list(agent, FilesQuery(limit=MAX_LISTED))).files:
        facts = f"version {file.version}, {file.size} bytes"
        entries.append(resources.entry(resources.FILES, file.file_key, facts))
    return {"resources": entries}


async def read(relay: Relay, agent: Agent | None, uri: Any) -> dict[str, Any]:
    """Return a task or a file. Raises NotFound, UnknownFile, and BadRequest for an address of another kind."""
    parts = resources.parts_of(uri)
    if parts is None:
        raise BadRequest(f"an address here is {resources.SCHEME}tasks/ID or {resources.SCHEME}files/KEY", field="uri")
    kind, id = parts
    if kind == resources.FILES:
        shown = await _file(relay, agent, id)
    elif agent is None:
        raise BadRequest("tasks are shown to their agents", field="uri")
    else:
        shown = await task_of(relay, agent, id)
    return {"contents": [{"uri": uri, "mimeType": resources.MIME_TYPE, "text": told(shown)}]}


async def _file(relay: Relay, agent: Agent | None, key: str) -> dict[str, Any]:
    """Return the facts of a file, and a text itself. Bytes do not pass, nor a file that is gone after one read."""
    file, version = await relay.file_reads.find(key, asker=agent)
    content = version.content
    shown: dict[str, Any] = {"version": version.revision, "size": content.size, "sha256": content.digest}
    said: dict[str, Any] = {"key": key, "content_type": version.content_type}
    text = None
    if file.burn:
        shown["content"] = "gone after one read; relay_fetch_file reads it"
    else:
        async with relay.file_reads.open(file, version, "" if agent is None else agent.id) as opened:
            text = _text(await opened.read(MAX_TEXT_BYTES + 4), whole=content.size <= MAX_TEXT_BYTES + 4)
        if text is None:
            shown["content"] = "no text; relay_fetch_file saves it"
        elif content.size > MAX_TEXT_BYTES:
            shown["content"] = "only its beginning; relay_fetch_file saves all of it"
    by = identified({"last_editor": version.editor})
    untrusted = by.pop("untrusted", {}) | quoted((*said.items(), ("text", text)), MAX_TEXT_BYTES, _room())
    return shown | by | {"untrusted": untrusted}


def _room() -> int:
    return MAX_RESULT_BYTES - _FILE_BYTES


def _text(data: bytes, *, whole: bool) -> str | None:
    """Return the text of a file or of its beginning; None if it is no text."""
    for end in (len(data),) if whole else range(len(data), len(data) - 4, -1):  # a character may be cut at the end
        try:
            return data[:end].decode()
        except UnicodeDecodeError:
            continue
    return None
