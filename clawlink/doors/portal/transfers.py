"""The record of a file that comes from a contact, or goes to one."""

from __future__ import annotations

from enum import Enum

from clawlink.domain.record import text_bytes
from clawlink.doors.portal.records import Kept

TRANSFERS = " portal files"
INCOMING = " portal files incoming"
OUTGOING = " portal files outgoing"
UNCLAIMED = " portal files unclaimed"

UNFINISHED_SECONDS = 24 * 3600.0
"""A file of which no part comes for this time is forgotten."""


class FileState(str, Enum):
    """How far a file came. A file to a contact is ``TRANSFERRING`` on its way to the own portal, too."""

    TRANSFERRING = "transferring"
    COMPLETED = "completed"
    FAILED = "failed"
    QUEUED = "queued"
    SENT = "sent"
    REFUSED = "refused"
    EXPIRED = "expired"
    ATTACHED = "attached"
    """The file waits here for the answer to a task that it goes with."""


class Transfer(Kept, frozen=True, gc=False, kw_only=True):
    """A file in parts. Its id is the file's id on the wire.

    ``number`` is its place in the relay's files, ``file_key`` its key there, and ``upload`` the upload that takes its
    parts. ``apart`` are the parts that came before their turn. ``md5`` and ``sha256`` are what the sender says of the
    whole, in hexadecimal. ``peer_id`` is the id that the other portal has for it. Times are seconds since the epoch.

    ``task`` is the task that it goes with, by its id at the portal that delegated it; empty while that has none yet.
    ``claimed`` is True once that has come. An attachment has the ``file_key`` and the ``revision`` of a file of another
    agent of this relay.
    """

    number: int
    inbound: bool
    contact: str
    filename: str
    size: int
    part_size: int
    file_key: str
    created_at: float
    moved_at: float
    md5: str | None = None
    sha256: str | None = None
    state: FileState = FileState.TRANSFERRING
    upload: str = ""
    apart: tuple[int, ...] = ()
    key: str | None = None
    peer_id: str | None = None
    expires_at: float | None = None
    detail: str = ""
    settled_at: float | None = None
    task: str | None = None
    claimed: bool = False
    revision: int | None = None

    @property
    def for_task(self) -> bool:
        """Return True for an attachment of a task of this relay, which its requester delegated to the contact."""
        return self.task is not None and self.revision is not None

    @property
    def unclaimed(self) -> bool:
        """Return True for a file that lies here for a task or an answer that has not come yet."""
        here = FileState.COMPLETED if self.inbound else FileState.ATTACHED
        return self.task is not None and self.state is here and not self.claimed

    @property
    def index_keys(self) -> tuple[str, ...]:
        keys = [TRANSFERS, files_with(self.contact)]
        if self.inbound and self.state is not FileState.FAILED:
            keys.append(kept_from(self.contact))
        if self.state is FileState.TRANSFERRING:
            keys += [INCOMING, under_way(self.contact, inbound=self.inbound)]
        elif self.state is FileState.QUEUED:
            keys += [OUTGOING, waiting_for(self.contact)]
        if self.task is not None and self.revision is None:
            keys.append(lies_at(self.file_key))
        if self.task:
            keys.append(of_task(self.contact, self.task))
        if self.unclaimed:
            keys.append(UNCLAIMED)
        if self.task is not None and (self.unclaimed or self.state is FileState.TRANSFERRING):
            keys.append(coming_for(self.contact, self.task))
        return tuple(keys)

    @property
    def weight(self) -> int:
        return self.size

    @property
    def footprint(self) -> int:
        return 600 + sum(map(text_bytes, (self.filename, self.file_key, self.detail)))

    @property
    def ends_at(self) -> float | None:
        return self.moved_at + UNFINISHED_SECONDS if self.state is FileState.TRANSFERRING else None


def files_with(contact: str) -> str:
    """Return the index key of all files from and to a contact."""
    return " portal files with " + contact


def under_way(contact: str, *, inbound: bool) -> str:
    """Return the index key of the files from or to a contact of which parts are missing here."""
    return f" portal files {'from' if inbound else 'for'} {contact} under way"


def waiting_for(contact: str) -> str:
    """Return the index key of the files that wait for a contact."""
    return " portal files waiting for " + contact


def lies_at(file_key: str) -> str:
    """Return the index key of the file for a task whose contents have this key among the relay's files."""
    return " portal file at " + file_key


def coming_for(contact: str, task: str) -> str:
    """Return the index key of the files for a task or an answer that has not come yet."""
    return f" portal files for {contact} {task}"


def of_task(contact: str, task: str) -> str:
    """Return the index key of all files that go with a task and with the reports on it."""
    return f" portal files of {contact} {task}"


def kept_from(contact: str) -> str:
    """Return the index key of the files of a contact that take room."""
    return " portal files from " + contact


def unfinished(transfer: Transfer, now: float) -> None:
    """Forget a file whose parts stopped coming. The janitor asks."""
