"""An upload: a file that comes in parts."""

from __future__ import annotations

import asyncio
import math
from typing import NamedTuple

import msgspec

from clawlink.domain.agent import Agent
from clawlink.domain.file import Content, Version
from clawlink.domain.file_write import UnfinishedUpload, Write
from clawlink.domain.readers import Party, party
from clawlink.domain.record import texts_bytes
from clawlink.errors import NotAllowed, TooLarge
from clawlink.relay.files.quota import UploadBuffer

CHECKSUMS = ("sha1", "sha256")
# The bytes that an upload takes beside its texts and contents, measured.
_UPLOAD_BYTES = 3000


class Checksum(NamedTuple):
    """The checksum of a part. ``name`` is one of ``CHECKSUMS``."""

    name: str
    digest: bytes


class Upload:
    """An upload. ``length`` is None until it is known; ``metadata`` is the client's text, word for word."""

    def __init__(
        self, id: str, owner: Agent, ask: Write, buffer: UploadBuffer, length: int | None, metadata: str
    ) -> None:
        self.id = id
        self.owner = owner.id
        self.address = owner.address
        self._party = party(owner)
        self.ask = ask
        self.length = length
        self.said = length  # when it was begun
        self.metadata = metadata
        self.expires_at = 0.0
        self.moved_at = 0.0
        self.written: Version | None = None
        self.readers: tuple[str, ...] | None = None  # of the file once it is written; None if it is for everyone
        self.buffer = buffer
        self.content: Content | None = None  # once all has come, until it is a file
        self.noted: UnfinishedUpload | None = None  # as it would survive
        self.lock = asyncio.Lock()
        self.sender: asyncio.Task[object] | None = None

        texts = texts_bytes(owner.id, ask.key, ask.content_type, ask.file_type, metadata)
        self.footprint = _UPLOAD_BYTES + texts  # its contents are counted where they are kept

    @property
    def offset(self) -> int:
        """The bytes that have come."""
        return self.buffer.draft.size

    def require_owner(self, asker: Agent) -> None:
        """Refuse any agent but the owner of the upload."""
        if not self._party.is_(asker):
            raise NotAllowed("another agent began this upload, and only it may go on with it", field="agent_id")

    def take_readers(self, parties: tuple[Party, ...]) -> None:
        """Keep the agents that the readers of its file meant when it was begun."""
        self.ask = msgspec.structs.replace(self.ask, parties=parties)
        self.footprint += sum(one.footprint for one in parties)

    def note(self) -> UnfinishedUpload:
        """Return the record by which it survives a restart, as the next version of the last one."""
        return UnfinishedUpload(
            id=self.id,
            version=1 if self.noted is None else self.noted.version + 1,
            owner=self.owner,
            file_key=self.ask.key,
            write=msgspec.msgpack.encode(self.ask),
            metadata=self.metadata,
            said=self.said,
            length=self.length,
            offset=self.offset,
        )

    @property
    def most(self) -> float:
        """The bytes that may come, as far as that is known."""
        return math.inf if self.length is None else self.length

    def too_long(self, came: int) -> TooLarge:
        """Return the refusal of a part with which this many bytes would have come, which is more than there are."""
        return TooLarge(
            f"the upload has {self.length} bytes, and with this part it would have {came}",
            field="Upload-Length",
            limit=self.length,
            actual=came,
        )

    @property
    def complete(self) -> bool:
        """Return True if all has come."""
        return self.offset == self.length
