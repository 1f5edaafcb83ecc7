"""Shared files: write, read, list, delete, and tell the others."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re

from clawlink.domain import file as rules
from clawlink.domain.agent import Agent
from clawlink.domain.delivery import copy_id
from clawlink.domain.file import PRESENT, FileWrite, SharedFile
from clawlink.domain.message import FileUpdated, Priority, encode
from clawlink.errors import BadRequest, KeyReused, StorageFull, TooLarge, UnknownFile
from clawlink.protocol import requests
from clawlink.protocol.replies import FileContent, FileInfo, FileList
from clawlink.relay.broadcasts import SLICE, everyone
from clawlink.relay.clock import iso
from clawlink.relay.core import Core, retrying
from clawlink.relay.ids import derived
from clawlink.relay.mailbox import Mailbox
from clawlink.store.base import Put

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def require_key(key: str) -> None:
    """Refuse keys that an address cannot carry, or that would lead out of a folder when used as a file's name."""
    if _CONTROL.search(key):
        raise BadRequest("a file key may not contain control characters", field="file_key")
    if any(part in (".", "..") for part in re.split(r"[/\\]", key)):
        raise BadRequest("a file key may not have '.' or '..' between slashes", field="file_key")


class Files:
    """The shared files."""

    def __init__(self, core: Core, mailbox: Mailbox) -> None:
        self._core = core
        self._mailbox = mailbox

    async def put(self, editor: Agent, ask: requests.PutFile) -> SharedFile:
        """Write the next version of a file and tell the other agents. Raises VersionConflict, TooLarge, StorageFull."""
        self._core.require_working()
        require_key(ask.file_key)
        content = _content(ask)
        limit = self._core.limits.max_file_bytes
        if len(content) > limit:
            raise TooLarge(
                f"a file may have {limit} bytes, and {ask.file_key!r} has {len(content)}; share it in parts",
                field="content",
                limit=limit,
                actual=len(content),
            )
        return await self._core.finish(self._put(editor, ask, content))

    @retrying
    async def _put(self, editor: Agent, ask: requests.PutFile, content: bytes) -> SharedFile:
        core = self._core
        now = core.clock()
        key = ask.file_key
        old = await core.store.get(SharedFile, key)
        write: FileWrite | None = None
        if ask.idempotency_key is not None:
            id = derived("file", editor.id, key, ask.idempotency_key)
            digest = hashlib.sha256(content).hexdigest()
            before = await core.store.get(FileWrite, id)
            if before is not None:
                return _as_written(before, digest, ask, editor, now)
            revision = 1 if old is None else old.revision + 1
            write = FileWrite(
                id=id,
                version=1,
                file_key=key,
                revision=revision,
                digest=digest,
                ends_at=now + core.limits.retention,
            )
        new = rules.put(
            key,
            old,
            content=content,
            file_type=ask.file_type,
            editor=editor.id,
            now=now,
            if_version=ask.if_version,
        )
        await self._require_storage(len(content) - (0 if old is None else len(old.content)))
        await core.commit(new.home, Put(new), *([] if write is None else [Put(write)]))
        core.stats.files_written += 1
        await self._tell(new, now)
        return new

    async def _require_storage(self, growth: int) -> None:
        used = await self._core.store.usage(SharedFile, PRESENT)
        limit = self._core.limits.max_files_bytes
        if used.bytes + growth > limit:
            raise StorageFull(
                f"all files together may have {limit} bytes; {used.bytes} are in use and this one needs {growth} more; "
                "delete some first",
                limit=limit,
                actual=used.bytes + growth,
                current={"free": max(limit - used.bytes, 0)},
            )

    async def get(self, key: str) -> FileContent:
        """Return a file with its content: text as text, other bytes as base64. Raises UnknownFile."""
        file = await self._core.store.get(SharedFile, key)
        if file is None or file.deleted:
            # The sentence is the one ClawLink 1.0.x sends; the code and field are for newer clients.
            raise UnknownFile("file not found", field="file_key")
        try:
            content, encoding = file.content.decode(), "utf-8"
        except UnicodeDecodeError:
            content, encoding = base64.b64encode(file.content).decode(), "base64"
        return FileContent(
            file_key=file.id,
            content=content,
            file_type=file.file_type,
            last_editor=file.last_editor,
            version=file.revision,
            updated_at=iso(file.updated_at),
            encoding=encoding,
            size=len(file.content),
        )

    async def list(self, ask: requests.ListQuery) -> FileList:
        """List the files without their contents."""
        page = await self._core.store.page(SharedFile, PRESENT, ask.after, ask.limit)
        files = [
            FileInfo(f.id, f.file_type, f.last_editor, f.revision, iso(f.updated_at), len(f.content))
            for f in page.records
        ]
        return FileList(files, len(files), page.after)

    async def delete(self, editor: Agent, key: str, if_version: int | None) -> SharedFile:
        """Delete a file and tell the other agents. Raises UnknownFile, VersionConflict."""
        self._core.require_working()
        return await self._core.finish(self._delete(editor, key, if_version))

    @retrying
    async def _delete(self, editor: Agent, key: str, if_version: int | None) -> SharedFile:
        core = self._core
        now = core.clock()
        old = await core.store.get(SharedFile, key)
        gone = rules.delete(key, old, editor=editor.id, now=now, keep=core.limits.retention, if_version=if_version)
        await core.commit(gone.home, Put(gone))
        await self._tell(gone, now)
        return gone

    async def _tell(self, file: SharedFile, now: float) -> None:
        core = self._core
        id = derived("file", file.id, str(file.revision), str(file.updated_at))
        body = encode(
            FileUpdated(
                file_key=file.id,
                version=file.revision,
                last_editor=file.last_editor,
                timestamp=iso(now),
                queued_at=iso(now),
                message_id=id,
                deleted=file.deleted,
            )
        )
        told = 0
        async for agent in everyone(core, but=file.last_editor):
            await self._mailbox.put_notice(
                self._mailbox.new(
                    copy_id(id, agent.id),
                    agent.id,
                    sender=file.last_editor,
                    body=body,
                    now=now,
                    level=Priority.LOW.level,
                    merge="file:" + file.id,
                )
            )
            told += 1
            if told % SLICE == 0:
                await asyncio.sleep(0)


def _content(ask: requests.PutFile) -> bytes:
    if ask.encoding == "utf-8":
        return ask.content.encode()
    try:
        return base64.b64decode(ask.content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"the content is not valid base64: {error}", field="content") from error


def _as_written(before: FileWrite, digest: str, ask: requests.PutFile, editor: Agent, now: float) -> SharedFile:
    if before.digest != digest:
        raise KeyReused(
            "this idempotency key belongs to an earlier write with other contents; use a new key for a new write",
            field="idempotency_key",
            current=before.revision,
        )
    return SharedFile(
        id=ask.file_key,
        version=1,
        revision=before.revision,
        content=b"",
        file_type=ask.file_type,
        last_editor=editor.id,
        updated_at=now,
    )
