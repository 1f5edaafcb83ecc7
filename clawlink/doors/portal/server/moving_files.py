"""Moving in: the files that Agent P2P kept in its database, and the photos and attachments beside it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from clawlink.domain.file_write import Write
from clawlink.doors.portal.records import Contact
from clawlink.doors.portal.rules import cutting, moving
from clawlink.doors.portal.rules.moving import Left, Report
from clawlink.doors.portal.rules.urls import normalised
from clawlink.doors.portal.server.active import ActivePortal
from clawlink.doors.portal.server.attachments import NAME, PLACE
from clawlink.doors.portal.server.files import Offer, Pieces
from clawlink.doors.portal.server.old_database import OldDatabase
from clawlink.doors.portal.transfers import FileState
from clawlink.errors import BadRequest, ClawLinkError, UnknownFile
from clawlink.relay.ids import derived

_READ_BYTES = 256 * 1024
_HOLES = "parts of it are missing in the old database"


class FileMover:
    """Brings files through the same steps as those that contacts send, so their sums are compared."""

    def __init__(self, door: ActivePortal, report: Report, contacts: Mapping[str, Contact]) -> None:
        self._door = door
        self._report = report
        self._contacts = contacts

    async def all(self, database: OldDatabase, folder: Path) -> None:
        """Bring the complete files of contacts, and the photos and attachments that lie beside the database."""
        for row in database.rows("file_transfers"):
            name, id = moving.text(row, "filename"), moving.text(row, "file_id")
            what = f"file {moving.shortened(name)} ({moving.shortened(id)})"
            contact = self._contacts.get(_normalised(moving.text(row, "from_portal")))
            if moving.text(row, "status") != "completed":
                self._report.left.append(Left(what, "it never completed"))
            elif contact is None:
                self._report.left.append(Left(what, "its sender is no contact here"))
            else:
                try:
                    self._report.count("files", came=await self._file(database, contact, row))
                except ClawLinkError as error:
                    self._report.left.append(Left(what, error.message))
        for name in ("photos", "owner_files"):
            for path in sorted((folder / name).glob("*")):
                if path.is_file() and not path.is_symlink():
                    of_chat = name == "owner_files" and NAME.fullmatch(path.name) is not None
                    kept = PLACE if of_chat else f"portal/{name}/"  # links in the chat go on leading there
                    harmless = cutting.harmless(path.name)
                    await self._beside(path, kept + harmless)
                    if name == "photos":
                        await self._door.photos.note(harmless)

    async def _file(self, database: OldDatabase, contact: Contact, row: Mapping[str, Any]) -> bool:
        """Bring a file in the parts that the old portal kept. Return False for one that was here before.

        Raises ClawLinkError, also for parts that are missing or have other sums.
        """
        id, size = moving.text(row, "file_id"), _size(row.get("size"))
        part_size = _size(row.get("chunk_size")) or cutting.PART_BYTES
        md5 = moving.text(row, "md5").lower()
        key = derived("portal import", "file", id)
        offer = Offer(moving.text(row, "filename") or "file", size, part_size, None, md5, None, key)
        transfer = await self._door.files.begin(contact, offer, inbound=True)
        if transfer.state is FileState.COMPLETED and transfer.size:
            return False
        try:
            for index, data in enumerate(database.chunks(id)):
                if len(data) != cutting.length(index, size, part_size):
                    raise BadRequest(_HOLES)
                await self._door.files.take(transfer.id, index, _pieces(data))
            if (await self._door.shelf.get(transfer.id)).state is not FileState.COMPLETED:
                raise BadRequest(_HOLES)
        except ClawLinkError:
            await self._door.files.remove(transfer.id)
            raise
        await self._door.relay.mailbox.expire(f"file-{transfer.number}")  # the agent heard of it long ago
        return True

    async def _beside(self, path: Path, key: str) -> None:
        """Bring a file of a folder into the relay's files, for the owner's agent alone."""
        relay = self._door.relay
        agent = await self._door.agent()
        with contextlib.suppress(UnknownFile):
            await relay.file_reads.find(key, asker=agent)
            self._report.count("photos", came=False)
            return
        try:
            write = Write(key=key, content_type="application/octet-stream", readers=())
            await relay.files.put(agent, write, _read(path), None)
            self._report.count("photos")
        except (ClawLinkError, OSError) as error:
            why = error.message if isinstance(error, ClawLinkError) else error.strerror or str(error)
            self._report.left.append(Left(f"{path.parent.name}/{moving.shortened(path.name)}", why))


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
    with open(path, "rb") as file:  # noqa: ASYNC230 - no relay runs meanwhile
        while data := file.read(_READ_BYTES):
            yield data


def _normalised(url: str) -> str:
    try:
        return normalised(url)
    except BadRequest:
        return ""


def _size(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
