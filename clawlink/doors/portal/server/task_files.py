"""Files that go with tasks, answers and messages: they cross before the words that name them.

An attachment is sent as it lies in the relay, without a copy. A file for an answer came from the owner's program, and
lies with the portal. At the other portal the file becomes a shared file, and an attachment of the task there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from clawlink.domain.agent import Agent
from clawlink.domain.message import Attachment
from clawlink.domain.shares import Origin
from clawlink.doors.portal import transfers
from clawlink.doors.portal.records import AGENT, Contact, mailbox_of
from clawlink.doors.portal.rules import file_parts
from clawlink.doors.portal.rules.urls import shown
from clawlink.doors.portal.server.file_store import FileStore
from clawlink.doors.portal.server.repository import Repository
from clawlink.doors.portal.settings import Settings
from clawlink.doors.portal.transfers import UNFINISHED_SECONDS, FileState, Transfer
from clawlink.errors import BadRequest, NotFound, UnknownFile
from clawlink.relay.core import retrying
from clawlink.relay.relay import Relay
from clawlink.store.base import Put

_SWEPT_AT_ONCE = 50
_log = logging.getLogger("clawlink.portal")


class Crossing(NamedTuple):
    """The files of a message on their way: the ids that the other portal gave them, and those that do not arrive.

    ``waits`` is True while any may still arrive. ``missing`` says for people what does not, and why.
    """

    files: list[str]
    missing: list[str]
    waits: bool


class TaskFiles:
    """The files that go with tasks, answers and messages."""

    def __init__(
        self,
        relay: Relay,
        repository: Repository,
        file_store: FileStore,
        settings: Settings,
        look: Callable[[str], None],
    ) -> None:
        """``look`` is called with a contact for which a file waits."""
        self._relay = relay
        self._core = relay.core
        self._repository = repository
        self._file_store = file_store
        self._settings = settings
        self._look = look
        self._stuck: set[str] = set()
        """Files that cannot be deleted. They are tried again after a restart."""

    # -- out ---------------------------------------------------------------------------------------------------------

    async def send(
        self, peer: Contact, task: str | None, cause: str, attachments: Any, ends_at: float | None = None
    ) -> Crossing:
        """Send the attachments of a message, and say how far they came. A repeat with the same ``cause`` goes on.

        ``task`` is the id of their task at the portal that delegated it; None for those of a plain message.
        """
        files: list[str] = []
        missing: list[str] = []
        waits = False
        for index, attachment in enumerate(() if attachments is msgspec.UNSET else attachments):
            try:
                transfer = await self._sent(peer, task, f"{cause} {index}", attachment, ends_at)
            except (NotFound, BadRequest) as refused:
                missing.append(_sentence(attachment.name, attachment.size, peer, refused.message))
                continue
            if transfer.state is FileState.SENT and transfer.peer_id is not None:
                files.append(transfer.peer_id)
            elif transfer.state is FileState.QUEUED:
                waits = True
            else:
                missing.append(_sentence(attachment.name, attachment.size, peer, transfer.detail))
        return Crossing(files, missing, waits)

    async def _sent(
        self, peer: Contact, task: str | None, cause: str, attachment: Attachment, ends_at: float | None
    ) -> Transfer:
        """Return the file of an attachment, which goes to the contact from now on. Raises UnknownFile, BadRequest."""
        transfer = await self._core.finish(self._queued(peer, task, cause, attachment, ends_at))
        if transfer.state is FileState.QUEUED:
            self._look(peer.id)
        return transfer

    @retrying
    async def _queued(
        self, peer: Contact, task: str | None, cause: str, attachment: Attachment, ends_at: float | None
    ) -> Transfer:
        core = self._core
        now = core.clock()
        ends_at = min(now + self._settings.portal_ttl, ends_at or float("inf"))
        own = None if task is None else await self._lying_at(attachment.file_key)
        if own is not None and not own.inbound and own.contact == peer.id and own.task in ("", task):
            if own.state is FileState.ATTACHED:
                own = replace(own, version=own.version + 1, state=FileState.QUEUED, expires_at=ends_at, task=task)
                await core.commit(AGENT, Put(own))
            return own
        id = self._id_of(peer.id, cause)
        known = await core.store.get(Transfer, id)
        if known is not None:
            return known
        await self._require_there(peer, attachment)
        file_parts.require_shape(attachment.size, file_parts.PART_BYTES, None)
        name = file_parts.harmless(attachment.name)
        await self._repository.require_memory(len(name), Origin(None, AGENT))
        transfer = Transfer(
            id=id,
            version=1,
            number=self._repository.number(Transfer),
            inbound=False,
            contact=peer.id,
            filename=name,
            size=attachment.size,
            part_size=file_parts.PART_BYTES,
            file_key=attachment.file_key,
            created_at=now,
            moved_at=now,
            sha256=attachment.sha256,
            state=FileState.QUEUED,
            expires_at=ends_at,
            revision=attachment.version,
            task=task,
        )
        await core.commit(AGENT, Put(transfer))
        return transfer

    async def _require_there(self, peer: Contact, attachment: Attachment) -> None:
        """Refuse a file that the agent which stands for the contact cannot read. Raises UnknownFile."""
        agent = await self._core.store.get(Agent, mailbox_of(peer.id))
        try:
            _, version = await self._relay.file_reads.find(attachment.file_key, attachment.version, asker=agent)
        except UnknownFile:
            version = None
        if version is None or (version.content.digest, version.content.size) != (attachment.sha256, attachment.size):
            raise UnknownFile(
                f"version {attachment.version} of {attachment.file_key!r} is not there with these sums, or it is not "
                "the sender's to share; share it and attach it again",
                field="attachments",
            )

    # -- in ----------------------------------------------------------------------------------------------------------

    async def received(self, contact: Contact, task: str, files: Sequence[str]) -> list[Attachment]:
        """Return the attachments that a contact has sent for a task. Raises BadRequest for files that are not here."""
        return [await self._came(contact, task, id) for id in files]

    async def _came(self, contact: Contact, task: str, id: str) -> Attachment:
        transfer = await self._core.store.get(Transfer, id)
        version = None
        if transfer is not None and transfer.inbound and (transfer.contact, transfer.task) == (contact.id, task):
            version = await self._file_store.written(transfer) if transfer.state is FileState.COMPLETED else None
        if transfer is None or version is None:
            raise BadRequest(f"no complete file {id[:64]!r} for this task came from your portal", field="files")
        return Attachment(
            file_key=transfer.file_key,
            version=version.revision,
            size=version.content.size,
            sha256=version.content.digest,
            name=transfer.filename,
        )

    async def drop(self, attachments: Any) -> None:
        """Delete the files that were brought for an answer which never goes."""
        for one in () if attachments is msgspec.UNSET else attachments:
            for own in (await self._core.store.page(Transfer, transfers.lies_at(one.file_key), limit=1)).records:
                if own.state is FileState.ATTACHED:
                    await self._file_store.remove(own.id)
                elif own.state is FileState.QUEUED:
                    self._look(own.contact)

    async def claim(self, files: Sequence[str]) -> None:
        """Note that what the files were sent for has come."""
        for id in files:
            await self._claim(id)

    @retrying
    async def _claim(self, id: str) -> None:
        transfer = await self._core.store.get(Transfer, id)
        if transfer is not None and not transfer.claimed:
            await self._core.commit(AGENT, Put(replace(transfer, version=transfer.version + 1, claimed=True)))

    # -- for an answer -----------------------------------------------------------------------------------------------

    async def given(self, contact: str, task: str | None, files: Sequence[str]) -> list[Attachment]:
        """Return the attachments of an answer, of files that the owner's program brought for it.

        Those of a new ``task``, which has no id yet, were brought to be attached. Raises BadRequest.
        """
        found = []
        for id in files:
            transfer = await self._core.store.get(Transfer, id)
            known = transfer is not None and not transfer.inbound and transfer.contact == contact
            if transfer is None or not known or transfer.task is None or task not in (None, transfer.task):
                raise BadRequest(f"no file {id[:64]!r} was brought for this task; bring it first", field="files")
            if transfer.state in (FileState.TRANSFERRING, FileState.FAILED):
                raise BadRequest(f"file {id} is {transfer.state.value}; bring all of its parts first", field="files")
            found.append(
                Attachment(
                    file_key=transfer.file_key,
                    version=1,
                    size=transfer.size,
                    sha256=str(transfer.sha256),
                    name=transfer.filename,
                )
            )
        return found

    # -- what is left ------------------------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """Delete files for a task or an answer that never came, a day after the last of them moved."""
        page = await self._core.store.page(Transfer, transfers.UNCLAIMED, limit=_SWEPT_AT_ONCE)
        for transfer in page.records:
            if not transfer.unclaimed or transfer.id in self._stuck or await self._moved_lately(transfer):
                continue
            try:
                await self._file_store.remove(transfer.id)
            except Exception:
                _log.exception("a file without its task cannot be deleted", extra={"file": transfer.id})
                self._stuck.add(transfer.id)

    # -- looking back ------------------------------------------------------------------------------------------------

    async def _moved_lately(self, transfer: Transfer) -> bool:
        """Return True if a part of any file for the same task or answer came within a day."""
        since = self._core.clock() - UNFINISHED_SECONDS
        if (transfer.settled_at or 0.0) > since:
            return True
        key = transfers.coming_for(transfer.contact, str(transfer.task))
        newest = (await self._core.store.page(Transfer, key, limit=_SWEPT_AT_ONCE, newest=True)).records
        return any(max(one.moved_at, one.settled_at or 0.0) > since for one in newest)

    async def told(self, attachments: Any) -> str:
        """Return what the owner's agent hears of the files of a task: each with the command that brings it."""
        lines = []
        for one in () if attachments is msgspec.UNSET else attachments:
            transfer = await self._lying_at(one.file_key)
            if transfer is not None and transfer.inbound:
                lines.append(f"\nFile {one.name}, {one.size} bytes: clawlink portal get-file {transfer.id}")
        return "".join(lines)

    async def transfer_of(self, contact: str, cause: str, index: int, attachment: Any) -> Transfer | None:
        """Return the file of the attachment at this place of a message; None if it is not on its way, or deleted."""
        found = await self._lying_at(attachment.file_key)
        if found is not None and found.contact == contact:
            return found
        return await self._core.store.get(Transfer, self._id_of(contact, f"{cause} {index}"))

    async def _lying_at(self, file_key: str) -> Transfer | None:
        found = (await self._core.store.page(Transfer, transfers.lies_at(file_key), limit=1)).records
        return found[0] if found else None

    def _id_of(self, contact: str, cause: str) -> str:
        return file_parts.derived_id(self._core.secret, "attachment", contact, cause)


def _sentence(name: str, size: int, peer: Contact, why: str) -> str:
    return f"attachments: {name!r} ({size} bytes) does not reach {shown(peer.id)}: {why}"
