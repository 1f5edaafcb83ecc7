"""Shared files in one JSON object, as ClawLink 1.0.x knows them: write and delete. ``FileReads.as_json`` reads them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator

from clawlink.domain.agent import Agent
from clawlink.domain.file_write import Write
from clawlink.errors import BadRequest
from clawlink.protocol.file_replies import FileDeleted, FilePut
from clawlink.protocol.file_requests import DeleteFileQuery, PutFile
from clawlink.relay.files.write import Files


class JsonFiles:
    """The shared files, for requests whose body has all of a file."""

    def __init__(self, files: Files) -> None:
        self._files = files

    async def put(self, editor: Agent, ask: PutFile) -> FilePut:
        """Write the next version of a file. Raises BadRequest for bad base64, and as ``Files.put``."""
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
        written = await self._files.put(editor, write, _at_once(content), len(content), field="content")
        done, readers = written.version, None if written.readers is None else list(written.readers)
        return FilePut("saved", done.revision, ask.file_key, done.content.size, done.content.digest, readers)

    async def delete(self, editor: Agent, key: str, ask: DeleteFileQuery) -> FileDeleted:
        """Delete a file. Raises as ``Files.delete``."""
        file = await self._files.delete(editor, key, ask.if_version, force=ask.force)
        return FileDeleted("deleted", file.id, file.revision)


def _content(ask: PutFile) -> bytes:
    if ask.encoding == "utf-8":
        return ask.content.encode()
    try:
        return base64.b64decode(ask.content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"the content is not valid base64: {error}", field="content") from error


async def _at_once(content: bytes) -> AsyncIterator[bytes]:
    yield content
