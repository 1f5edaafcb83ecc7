"""The tools that share and fetch files. Paths are of this machine, and bytes never pass through the model."""

from __future__ import annotations

import os
from typing import Any

from clawlink.client.aio import AsyncClient
from clawlink.doors.mcp.wire.tools import FetchFile, ShareFile
from clawlink.errors import BadRequest


async def share(client: AsyncClient, ask: ShareFile) -> dict[str, Any]:
    """Upload a file. Without readers it is for all agents."""
    saved = await client.upload(ask.key, _source(ask.path), readers=ask.readers or None)
    return {
        "key": saved.file_key,
        "version": saved.version,
        "size": saved.size,
        "readers": "all agents" if saved.readers is None else saved.readers,
    }


async def fetch(client: AsyncClient, ask: FetchFile) -> dict[str, Any]:
    """Download a file, whole or not at all. It replaces no file unless that is asked for."""
    path = _target(ask.path, overwrite=ask.overwrite)
    facts = await client.download(ask.key, path)
    return {"path": path, "version": facts.version, "size": facts.size}


def _source(given: str) -> str:
    path = os.path.abspath(os.path.expanduser(given))
    if not os.path.isfile(path):
        raise BadRequest(f"there is no file {path!r} on this machine", field="path")
    return path


def _target(given: str, *, overwrite: bool) -> str:
    path = os.path.abspath(os.path.expanduser(given))
    if os.path.isdir(path):
        raise BadRequest(f"{path!r} is a folder; give the path of a file", field="path")
    if os.path.lexists(path) and not overwrite:
        raise BadRequest(f"{path!r} is there already; give another path, or overwrite", field="path")
    return path
