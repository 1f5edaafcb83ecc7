"""The files of the portal: their records, their contents among the relay's files, and their removal."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Container
from contextlib import asynccontextmanager, suppress
from weakref import WeakValueDictionary

from msgspec.structs import replace

from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Sender
from clawlink.domain.file import SharedFile, Version
from clawlink.doors.portal import transfers
from clawlink.doors.portal.records import AGENT, OPERATOR, mailbox_of
from clawlink.doors.portal.server.members import Members
from clawlink.doors.portal.server.repository import Repository
from clawlink.doors.portal.transfers import OUTGOING, TRANSFERS, FileState, Transfer
from clawlink.errors import UnknownFile, UnknownUpload
from clawlink.relay.core import retrying
from clawlink.relay.files.read import Opened
from clawlink.relay.relay import Relay
from clawlink.relay.time_slices import Turns
from clawlink.store.base import Drop, Put

_PAGE = 200
_WAITING_PAGE = 20
_READ_BYTES = 256 * 1024
_log = logging.getLogger("clawlink.portal")


class FileStore:
    """The files that are here, whole or in parts."""

    def __init__(self, relay: Relay, repository: Repository, members: Members) -> None:
        self._relay = relay
        self._core = relay.core
        self.time = relay.time
        self._repository = repository
        self._members = members
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def lock(self, id: str) -> asyncio.Lock:
        """Return the lock that all changes of a file take."""
        return self._locks.setdefault(id, asyncio.Lock())

    async def agent(self, contact: str, *, inbound: bool) -> Agent:
        """Return the agent that the contents of a file belong to."""
        agent = await self._core.store.get(Agent, mailbox_of(contact) if inbound else AGENT)
        if agent is not None:
            return agent
        return await self._members.of(contact) if inbound else await self._members.start()

    # -- looking back ------------------------------------------------------------------------------------------------

    async def get(self, id: str) -> Transfer:
        """Return a file by its id. Raises UnknownFile."""
        transfer = await self._core.store.get(Transfer, id)
        if transfer is None:
            raise UnknownFile("there is no such file; 'clawlink portal files' lists them", field="file_id")
        return transfer

    async def listed(self, contact: str | None) -> list[Transfer]:
        """Return the last files, the newest first, of one contact or of all."""
        key = TRANSFERS if contact is None else transfers.files_with(contact)
        return list((await self._core.store.page(Transfer, key, limit=_PAGE, newest=True)).records)

    @asynccontextmanager
    async def opened(self, transfer: Transfer, start: int = 0) -> AsyncIterator[tuple[SharedFile, Opened]]:
        """Open the contents of a file. Raises UnknownFile."""
        agent = await self._reader(transfer)
        file, version = await self._relay.file_reads.find(transfer.file_key, transfer.revision, asker=agent)
        async with self._relay.file_reads.open(file, version, agent.id, start) as opened:
            yield file, opened

    async def written(self, transfer: Transfer) -> Version | None:
        """Return the contents of a file of which all has come."""
        agent = await self._reader(transfer)
        with suppress(UnknownFile):
            return (await self._relay.file_reads.find(transfer.file_key, transfer.revision, asker=agent))[1]
        return None

    async def _reader(self, transfer: Transfer) -> Agent:
        """Return the agent that reads the contents: an attachment is shared with that of its contact."""
        return await self.agent(transfer.contact, inbound=transfer.inbound or transfer.revision is not None)

    async def md5(self, transfer: Transfer) -> str:
        """Read a file for its MD5, in hexadecimal. Raises UnknownFile."""
        sum = hashlib.md5(usedforsecurity=False)
        async with self.opened(transfer) as (_, opened):
            while piece := await opened.read(_READ_BYTES):
                await asyncio.to_thread(sum.update, piece)
        return sum.hexdigest()

    # -- the end of a record -----------------------------------------------------------------------------------------

    async def remove(self, id: str) -> None:
        """Delete a file, whatever state it is in. Raises UnknownFile."""
        await self._repository.keep_numbers()
        async with self.lock(id):
            await self._core.finish(self._remove(await self.get(id)))

    async def _remove(self, transfer: Transfer) -> None:
        await self.drop_contents(transfer)
        await self._relay.mailbox.expire(f"file-{transfer.number}")
        await self._drop(transfer.id)

    @retrying
    async def _drop(self, id: str) -> None:
        transfer = await self._core.store.get(Transfer, id)
        if transfer is not None:
            await self._core.commit(AGENT, Drop(transfer))

    async def drop_contents(self, transfer: Transfer) -> None:
        """Delete what is here of a file. Its record stays, and so does an attachment, which is its owner's."""
        if transfer.revision is not None:
            return
        with suppress(UnknownUpload):
            upload = self._relay.uploads.get(transfer.upload)
            if upload.written is None:
                await self._relay.uploads.end(upload)
        agent = await self.agent(transfer.contact, inbound=transfer.inbound)
        for key in (transfer.file_key, *(apart(transfer, index) for index in transfer.apart)):
            with suppress(UnknownFile):
                await self._relay.files.delete(agent, key, None, force=True)

    async def forget(self, contact: str) -> int:
        """Delete all files from and to a contact, and return how many there were."""
        forgotten = 0
        turns = Turns()
        while found := (await self._core.store.page(Transfer, transfers.files_with(contact), limit=_PAGE)).records:
            for transfer in found:
                await self.remove(transfer.id)
                forgotten += 1
                await turns.next()
        return forgotten

    # -- files for contacts ------------------------------------------------------------------------------------------

    async def next_waiting(self, contact: str, but: Container[str]) -> Transfer | None:
        """Return the first file that waits for a contact, but for those of these ids; None if none waits."""
        after: str | None = None
        while True:
            page = await self._core.store.page(Transfer, transfers.waiting_for(contact), after, _WAITING_PAGE)
            for transfer in page.records:
                if transfer.state is FileState.QUEUED and transfer.id not in but:
                    return transfer
            after = page.after
            if after is None:
                return None

    async def receivers(self) -> list[str]:
        """Return the contacts for which files wait."""
        found: dict[str, None] = {}
        after: str | None = None
        while True:
            page = await self._core.store.page(Transfer, OUTGOING, after, _PAGE)
            found |= dict.fromkeys(transfer.contact for transfer in page.records)
            after = page.after
            if after is None:
                return list(found)

    async def sent(self, id: str, state: FileState, detail: str, text: str | None) -> None:
        """Note what became of a file to a contact. Its contents are not kept. ``text`` is told to the owner's agent."""
        transfer = await self.note(id, state, detail, text=text)
        if transfer is not None:
            try:
                await self.drop_contents(transfer)
            except Exception:  # it is settled, and what is left of it goes when it is removed
                _log.exception("the contents of a file cannot be dropped", extra={"file": id})

    @retrying
    async def note(
        self, id: str, state: FileState, detail: str, peer_id: str | None = None, *, text: str | None = None
    ) -> Transfer | None:
        """Note how far a file to a contact came, and the id that the other portal has for it.

        A ``text`` reaches the owner's agent in the same commit.
        """
        transfer = await self._core.store.get(Transfer, id)
        if transfer is None or transfer.state is not FileState.QUEUED:
            return None
        now = self._core.clock()
        noted = replace(
            transfer,
            version=transfer.version + 1,
            state=state,
            detail=detail,
            peer_id=peer_id or transfer.peer_id,
            settled_at=None if state is FileState.QUEUED else now,
        )
        if text is None:
            await self._core.commit(AGENT, Put(noted))
        else:
            told = self._repository.for_agent(f"notice-{id}", text, sender=Sender(OPERATOR), name="portal", now=now)
            await self._relay.mailbox.put(told, Put(noted))
        return noted


def apart(transfer: Transfer, index: int) -> str:
    """Return the key of a part that waits for its turn."""
    return f"{transfer.file_key}.part-{index}"
