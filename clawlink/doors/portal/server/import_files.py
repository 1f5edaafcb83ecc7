"""The import of files: those that Agent P2P kept in its database, and photos and attachments beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from clawlink.domain.file_write import Write
from clawlink.doors.portal.records import Contact
from clawlink.doors.portal.rules import file_parts, import_rows
from clawlink.doors.portal.rules.import_report import Skipped
from clawlink.doors.portal.rules.import_rows import FileRow
from clawlink.doors.portal.server.files import Offer, Pieces
from clawlink.doors.portal.server.import_run import FileBeside
from clawlink.doors.portal.server.old_database import OldDatabase
from clawlink.doors.portal.server.parts import Home
from clawlink.doors.portal.transfers import FileState
from clawlink.errors import BadRequest, ClawLinkError, RateLimited, StorageFull, TooLarge, UnknownFile

_READ_BYTES = 256 * 1024


class FileImporter:
    """Brings files through the same steps as those that contacts send, so their sums are compared."""

    def __init__(self, home: Home, database: OldDatabase) -> None:
        self._home = home
        self._database = database

    async def add(self, file_row: FileRow, id: str) -> Skipped | None:
        """Bring a file in the parts that the old portal kept. Return the reason if it cannot come."""
        home = self._home
        contact = await home.relay.core.store.get(Contact, file_row.contact)
        if contact is None:  # the owner has just removed it
            return file_row.skipped("no_contact")
        part_size = file_row.part_size or file_parts.PART_BYTES
        offer = Offer(file_row.filename, file_row.size, part_size, None, file_row.md5.lower(), None, file_row.key)
        home.files.known.add(id)  # the agent heard of it long ago
        skipped: Skipped | None = None
        try:
            await home.files.begin(contact, offer, inbound=True)
            index = 0
            async for data in self._database.read_chunks(file_row.id):
                if len(data) != file_parts.length(index, file_row.size, part_size):
                    skipped = file_row.skipped("holes")
                    break
                await home.files.take(id, index, _pieces(data))
                index += 1
            if (await home.file_store.get(id)).state is not FileState.COMPLETED:
                skipped = skipped or file_row.skipped("holes")
        except ClawLinkError as error:
            skipped = file_row.skipped(_reason(error), error.message)
        finally:
            home.files.known.discard(id)
        if skipped is not None:
            with suppress(UnknownFile):  # it may not have begun
                await home.files.remove(id)
        return skipped

    async def add_beside(self, file: FileBeside) -> Skipped | None:
        """Bring a file of a folder into the relay's files, for the owner's agent alone."""
        agent = await self._home.members.start()
        try:
            write = Write(key=file.key, content_type="application/octet-stream", readers=())
            await self._home.relay.files.put(agent, write, _read(file.path), None)
            if file.is_photo:
                await self._home.photos.note(file.key.rpartition("/")[2])
        except (ClawLinkError, OSError) as error:
            name = f"{file.path.parent.name}/{import_rows.shortened(file.path.name)}"
            if isinstance(error, ClawLinkError):
                return Skipped("beside", name, _reason(error), error.message)
            return Skipped("beside", name, "unreadable", error.strerror or str(error))
        return None


def _reason(error: ClawLinkError) -> str:
    """Return the reason of a refusal, for which the page has texts."""
    if isinstance(error, BadRequest):
        return "sums" if error.field in ("md5", "sha256") else "sizes"
    if isinstance(error, TooLarge | StorageFull):
        return "no_room"
    return "later" if isinstance(error, RateLimited) else "refused"


def _pieces(data: bytes) -> Pieces:
    """Return what gives a part from its first byte that is not here yet, and adds it to a sum."""

    async def give(skip: int, sum: Any) -> AsyncIterator[bytes]:
        for start in range(skip, len(data), _READ_BYTES):
            piece = data[start : start + _READ_BYTES]
            if sum is not None:
                sum.update(piece)
            yield piece

    return give


async def _read(path: Path) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(open, path, "rb")
    try:
        while data := await asyncio.to_thread(file.read, _READ_BYTES):
            yield data
    finally:
        file.close()
