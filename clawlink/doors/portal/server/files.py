"""Files in parts: from contacts, and from the owner's programs for contacts.

The parts of a file go to an upload of the relay, which becomes a shared file that no other agent sees. A part that
comes before its turn is a shared file of its own until then.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from msgspec.structs import replace

from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Sender
from clawlink.domain.file import Version
from clawlink.domain.file_write import Write
from clawlink.doors.portal import transfers
from clawlink.doors.portal.records import AGENT, Contact, mailbox_of
from clawlink.doors.portal.rules import file_parts, texts
from clawlink.doors.portal.server.file_store import FileStore, apart
from clawlink.doors.portal.server.repository import Repository
from clawlink.doors.portal.settings import Settings
from clawlink.doors.portal.transfers import INCOMING, UNFINISHED_SECONDS, FileState, Transfer
from clawlink.errors import BadRequest, KeyReused, RateLimited, StorageFull, TooLarge, UnknownFile, UnknownUpload
from clawlink.relay.core import retrying
from clawlink.relay.files.quota import Block, size_of
from clawlink.relay.files.read import Opened
from clawlink.relay.relay import Relay
from clawlink.store.base import Put

MAX_UNFINISHED = 20
MAX_APART = 256
_OCTETS = "application/octet-stream"
_PAGE = 200
_READ_BYTES = 256 * 1024
_NOTED_SECONDS = 600.0
"""A file counts as under way this long after the last note of it, so not every part needs a commit."""


class Offer(NamedTuple):
    """A file as its sender announces it."""

    filename: str
    size: int
    part_size: int
    parts: int | None
    md5: str | None
    sha256: str | None
    key: str | None
    task: str | None = None


Pieces = Callable[[int, Any], AsyncIterator[Block]]


class Files:
    """The files. ``wake`` is called with a contact for which a file waits."""

    def __init__(
        self,
        relay: Relay,
        repository: Repository,
        file_store: FileStore,
        settings: Settings,
        wake: Callable[[str], None],
    ) -> None:
        self._relay = relay
        self._core = relay.core
        self._repository = repository
        self._file_store = file_store
        self._settings = settings
        self._wake = wake
        self._sums: dict[str, tuple[int, Any]] = {}
        """By file, the MD5 of its first bytes, and how many they are."""
        self.known: set[str] = set()
        """The files of which the agent has heard before they came: nobody tells it of them."""

    async def start(self) -> None:
        """Finish the files of which all parts had come when the relay was here last."""
        after: str | None = None
        while True:
            page = await self._core.store.page(Transfer, INCOMING, after, _PAGE)
            for transfer in page.records:
                if await self._file_store.written(transfer) is not None:
                    await self._finish_late(transfer.id)
            after = page.after
            if after is None:
                return

    async def _finish_late(self, id: str) -> None:
        async with self._file_store.lock(id):
            transfer = await self._file_store.get(id)
            if transfer.state is FileState.TRANSFERRING:
                with suppress(BadRequest):  # its sender sees that it has failed
                    await self._finish(transfer)

    # -- the beginning -----------------------------------------------------------------------------------------------

    async def begin(self, contact: Contact, offer: Offer, *, inbound: bool) -> Transfer:
        """Begin a file. With the sender's key a repeat is the same file.

        Raises BadRequest, TooLarge, KeyReused, RateLimited, StorageFull.
        """
        core = self._core
        core.require_working()
        file_parts.require_shape(offer.size, offer.part_size, offer.parts)
        md5, sha256 = file_parts.sums(offer.md5, offer.sha256, offer.size, required=inbound)
        offer = offer._replace(md5=md5, sha256=sha256, filename=file_parts.harmless(offer.filename))
        cause = core.ids.fresh() if offer.key is None else offer.key
        id = file_parts.derived_id(core.secret, "in" if inbound else "out", contact.id, cause)
        transfer = await core.finish(self._begin(id, contact, offer, inbound))
        if transfer.size == 0 and transfer.state is FileState.TRANSFERRING:
            async with self._file_store.lock(id):
                agent = await self._file_store.agent(contact.id, inbound=inbound)
                await self._relay.uploads.complete(self._relay.uploads.get(transfer.upload), agent)
                await core.finish(self._go_on(id, agent))
            transfer = await self._file_store.get(id)
        return transfer

    @retrying
    async def _begin(self, id: str, contact: Contact, offer: Offer, inbound: bool) -> Transfer:
        core = self._core
        old = await core.store.get(Transfer, id)
        if old is not None:
            if offer.md5 is None and offer.sha256 is None:  # the portal makes its own
                offer = offer._replace(md5=old.md5, sha256=old.sha256)
            said = offer.filename, offer.size, offer.part_size, offer.md5, offer.sha256, offer.task is None
            # A file for a task that has no id yet has that id later.
            if said != (old.filename, old.size, old.part_size, old.md5, old.sha256, old.task is None) or (
                offer.task and offer.task != old.task
            ):
                raise KeyReused("this idempotency key belongs to another file", field="idempotency_key")
            return old if old.state is not FileState.FAILED else await self._again(old)
        agent = await self._file_store.agent(contact.id, inbound=inbound)
        await self._require_room(contact, offer, inbound=inbound)
        await self._repository.require_memory(len(offer.filename), agent.origin)
        number, now = self._repository.number(Transfer), core.clock()
        file_key = file_parts.place(contact.id, number, offer.filename)
        transfer = Transfer(
            id=id,
            version=1,
            number=number,
            inbound=inbound,
            contact=contact.id,
            filename=offer.filename,
            size=offer.size,
            part_size=offer.part_size,
            file_key=file_key,
            created_at=core.steady(),
            moved_at=now,
            md5=offer.md5,
            sha256=offer.sha256,
            key=offer.key,
            task=offer.task,
        )
        transfer = replace(transfer, upload=await self._new_upload(agent, transfer))
        await core.commit(AGENT, Put(transfer))
        return transfer

    async def _again(self, failed: Transfer) -> Transfer:
        """Begin a file once more whose contents were wrong."""
        upload = await self._new_upload(await self._file_store.agent(failed.contact, inbound=failed.inbound), failed)
        now = self._core.clock()
        begun = replace(failed, version=failed.version + 1, state=FileState.TRANSFERRING, upload=upload, moved_at=now)
        await self._core.commit(AGENT, Put(begun))
        return begun

    async def _require_room(self, contact: Contact, offer: Offer, *, inbound: bool) -> None:
        most = self._settings.portal_contact_files
        if inbound and offer.size > most:
            raise TooLarge(
                f"a file of a contact may have {most} bytes here, and this one has {offer.size}; send it in smaller "
                "files, or ask the owner for more (--portal-contact-files)",
                field="size",
                limit=most,
                actual=offer.size,
            )
        kept = await self._core.store.usage(Transfer, transfers.kept_from(contact.id))
        if inbound and kept.bytes + offer.size > most:
            raise StorageFull(
                f"files of one contact may take {most} bytes here, and {kept.bytes} are taken; ask the owner to delete "
                "some",
                field="size",
                limit=most,
                actual=kept.bytes + offer.size,
            )
        under_way = (await self._core.store.usage(Transfer, transfers.under_way(contact.id, inbound=inbound))).count
        if under_way >= MAX_UNFINISHED:
            raise RateLimited(
                f"{under_way} files of this contact are under way, and no more may be; finish some first",
                limit=MAX_UNFINISHED,
                retry_after=60.0,
            )

    async def _new_upload(self, agent: Agent, transfer: Transfer) -> str:
        """Begin the upload that takes the parts. Raises TooLarge, StorageFull."""
        write = Write(key=transfer.file_key, content_type=_OCTETS, readers=())
        try:
            upload, _ = await self._relay.uploads.create(agent, write, transfer.size, "")
        except (TooLarge, StorageFull) as error:
            error.field = "size"
            raise
        return upload.id

    # -- parts -------------------------------------------------------------------------------------------------------

    async def take(self, id: str, index: int, pieces: Pieces) -> bool:
        """Take a part. Return True if it is new.

        ``pieces`` gives the bytes of the part after the first ones, and adds all that it gives to a sum. Raises
        UnknownFile, BadRequest, and the refusals of an upload.
        """
        async with self._file_store.lock(id):
            transfer = await self._file_store.get(id)
            length = file_parts.length(index, transfer.size, transfer.part_size)
            if transfer.state is FileState.FAILED:
                raise BadRequest(f"the file has failed: {transfer.detail}; begin it again", field="file_id")
            if transfer.state is not FileState.TRANSFERRING:
                return False
            agent = await self._file_store.agent(transfer.contact, inbound=transfer.inbound)
            came = await self._here(transfer, agent)
            start = index * transfer.part_size
            new = came < start + length
            if came < start:
                return await self._take_apart(transfer, agent, index, pieces)
            if new:
                await self._append(transfer, agent, came, start + length - came, pieces, skip=came - start)
            await self._core.finish(self._go_on(id, agent))
            return new

    async def _here(self, transfer: Transfer, agent: Agent) -> int:
        """Return how many bytes are here, one after another. An upload that is lost begins again."""
        came = await self._came(transfer)
        if came is None:
            await self._begin_again(transfer.id, await self._new_upload(agent, transfer))
            return 0
        return came

    async def _came(self, transfer: Transfer) -> int | None:
        """Return how many bytes are here, one after another; None if there is no upload."""
        if transfer.state is FileState.FAILED:
            return 0
        if transfer.state is not FileState.TRANSFERRING or await self._file_store.written(transfer) is not None:
            return transfer.size
        try:
            upload = self._relay.uploads.get(transfer.upload)
        except UnknownUpload:
            return None
        return transfer.size if upload.written is not None else upload.offset

    @retrying
    async def _begin_again(self, id: str, upload: str) -> None:
        transfer = await self._file_store.get(id)
        await self._core.commit(AGENT, Put(replace(transfer, version=transfer.version + 1, upload=upload)))

    async def _append(
        self, transfer: Transfer, agent: Agent, offset: int, length: int, pieces: Pieces, *, skip: int
    ) -> None:
        md5 = None
        if transfer.sha256 is None and transfer.md5 is not None:
            size, known = self._sums.pop(transfer.id, (0, None))
            md5 = known if size == offset else None
            md5 = hashlib.md5(usedforsecurity=False) if offset == 0 else md5
        upload = self._relay.uploads.get((await self._file_store.get(transfer.id)).upload)
        await self._relay.uploads.append(upload, agent, offset, _exactly(pieces(skip, md5), length), size=length)
        if md5 is not None:
            self._sums[transfer.id] = (offset + length, md5)

    async def _take_apart(self, transfer: Transfer, agent: Agent, index: int, pieces: Pieces) -> bool:
        """Keep a part whose turn has not come."""
        if index in transfer.apart:
            return False
        if len(transfer.apart) >= MAX_APART:
            raise RateLimited(
                f"{MAX_APART} parts wait for earlier ones; send those first", limit=MAX_APART, retry_after=1.0
            )
        length = file_parts.length(index, transfer.size, transfer.part_size)
        write = Write(key=apart(transfer, index), content_type=_OCTETS, readers=(), ttl=UNFINISHED_SECONDS)
        await self._relay.files.put(agent, write, _exactly(pieces(0, None), length), length)
        await self._core.finish(self._moved(transfer.id, apart=(*transfer.apart, index)))
        return True

    async def _go_on(self, id: str, agent: Agent) -> None:
        """Append the parts whose turn has come, and finish the file if it was the last one."""
        transfer = await self._file_store.get(id)
        waiting = list(transfer.apart)
        while (came := await self._here(transfer, agent)) < transfer.size:
            index, within = divmod(came, transfer.part_size)
            if within or index not in waiting:
                break
            key = apart(transfer, index)
            with suppress(UnknownFile):
                file, version = await self._relay.file_reads.find(key, asker=agent)
                async with self._relay.file_reads.open(file, version, agent.id) as opened:
                    await self._append(transfer, agent, came, version.content.size, partial(_read, opened), skip=0)
                await self._relay.files.delete(agent, key, None, force=True)
            waiting.remove(index)
        if tuple(waiting) != transfer.apart or self._core.clock() - transfer.moved_at > _NOTED_SECONDS:
            await self._moved(id, apart=tuple(waiting))
        if came == transfer.size:
            if transfer.size and await self._file_store.written(transfer) is None:
                await self._relay.uploads.complete(self._relay.uploads.get(transfer.upload), agent)
            await self._finish(transfer)

    @retrying
    async def _moved(self, id: str, *, apart: tuple[int, ...]) -> None:
        transfer = await self._core.store.get(Transfer, id)
        if transfer is not None:
            now = self._core.clock()
            moved = replace(transfer, version=transfer.version + 1, moved_at=now, apart=apart)
            await self._core.commit(AGENT, Put(moved))

    # -- the end -----------------------------------------------------------------------------------------------------

    async def _finish(self, transfer: Transfer) -> None:
        """Check the sums of a file of which all is here, and tell of it. Raises BadRequest for wrong sums."""
        version = await self._file_store.written(transfer)
        if version is None:
            raise UnknownFile("the file is not here any more; begin it again", field="file_id")
        fault = await self._fault(transfer, version)
        self._sums.pop(transfer.id, None)
        await self._settle(transfer.id, fault, version.content.digest)
        if fault:
            await self._file_store.drop_contents(transfer)
            raise BadRequest(fault, field="md5" if transfer.sha256 is None else "sha256")
        if not transfer.inbound:
            self._wake(transfer.contact)

    async def _fault(self, transfer: Transfer, version: Version) -> str:
        """Return what is wrong with the contents of a file; nothing if they are what their sender said."""
        if transfer.sha256 is None and transfer.md5 is None:
            return ""
        if transfer.sha256 is not None:
            name, said, found = "SHA-256", transfer.sha256, version.content.digest
        else:
            name, said = "MD5", str(transfer.md5)
            size, md5 = self._sums.get(transfer.id, (0, None))
            found = (
                md5.hexdigest() if md5 is not None and size == transfer.size else await self._file_store.md5(transfer)
            )
        return "" if said == found else f"the {name} of the file is {found}, not {said}; begin it again"

    @retrying
    async def _settle(self, id: str, fault: str, sha256: str) -> None:
        core = self._core
        now = core.clock()
        transfer = await self._file_store.get(id)
        if transfer.state is not FileState.TRANSFERRING:
            return
        settled = replace(transfer, version=transfer.version + 1, apart=(), settled_at=now, detail=fault)
        if transfer.md5 is None and transfer.sha256 is None:
            settled = replace(settled, sha256=sha256)
        if fault:
            await core.commit(AGENT, Put(replace(settled, state=FileState.FAILED)))
        elif transfer.inbound and (transfer.task is not None or id in self.known):  # its task tells of it
            await core.commit(AGENT, Put(replace(settled, state=FileState.COMPLETED)))
        elif transfer.task is not None:
            await core.commit(AGENT, Put(replace(settled, state=FileState.ATTACHED)))
        elif transfer.inbound:
            text = texts.file_notice(id)
            sender = Sender(mailbox_of(transfer.contact))
            delivery = self._repository.for_agent(
                f"file-{transfer.number}", text, sender=sender, name="portal", now=now
            )
            await self._relay.mailbox.put(delivery, Put(replace(settled, state=FileState.COMPLETED)))
        else:
            ends_at = now + self._settings.portal_ttl
            await core.commit(AGENT, Put(replace(settled, state=FileState.QUEUED, expires_at=ends_at)))

    async def remove(self, id: str) -> None:
        """Delete a file, whatever state it is in. Raises UnknownFile."""
        await self._file_store.remove(id)
        self._sums.pop(id, None)

    async def forget(self, contact: str) -> int:
        """Delete all files from and to a contact, and return how many there were."""
        return await self._file_store.forget(contact)

    async def received(self, transfer: Transfer) -> list[int]:
        """Return which parts are here."""
        came = await self._came(transfer) or 0
        whole = (
            file_parts.count(transfer.size, transfer.part_size) if came == transfer.size else came // transfer.part_size
        )
        return [*range(whole), *sorted(index for index in transfer.apart if index >= whole)]


async def _exactly(pieces: AsyncIterator[Block], length: int) -> AsyncIterator[Block]:
    """Give pieces, and refuse more or fewer bytes than they should have. Raises BadRequest."""
    came = 0
    async for piece in pieces:
        came += size_of(piece)
        if came > length:
            break
        yield piece
    if came != length:
        raise BadRequest(
            f"this part has {length} bytes, and {'more' if came > length else came} came", limit=length, actual=came
        )


async def _read(opened: Opened, skip: int, sum: Any) -> AsyncIterator[bytes]:
    while piece := await opened.read(_READ_BYTES):
        if sum is not None:
            sum.update(piece)
        yield piece
