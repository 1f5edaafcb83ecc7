"""Writes of shared files: their terms, their results, and uploads that are no files yet."""

from __future__ import annotations

import re

import msgspec

from clawlink.domain.file import Content, Expected, Version
from clawlink.domain.limits import EVERYONE, MAX_KEY_LENGTH
from clawlink.domain.readers import Party
from clawlink.domain.record import SETTLED, text_bytes
from clawlink.errors import BadRequest, KeyReused

UPLOADS = "uploads"
"""The index key of all uploads that are no files yet."""

# The bytes that a record takes beside its texts, measured.
_WRITE_BYTES = 190
_UPLOAD_BYTES = 300

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DOTS = re.compile(r"(?:^|[/\\])\.\.?(?:[/\\]|\Z)")


def require_key(key: str) -> None:
    """Refuse keys that an address cannot carry, or that would lead out of a folder when used as a file's name."""
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise BadRequest(
            f"a file key has 1 to {MAX_KEY_LENGTH} characters", field="file_key", limit=MAX_KEY_LENGTH, actual=len(key)
        )
    if _CONTROL.search(key):
        raise BadRequest("a file key may not contain control characters", field="file_key")
    if _DOTS.search(key):
        raise BadRequest("a file key may not have '.' or '..' between slashes", field="file_key")


def require_readers(named: tuple[str, ...], *, most: int) -> None:
    """Refuse more readers than ``most``, and readers beside everyone. Raises BadRequest."""
    if EVERYONE in named:
        raise BadRequest(
            f"{EVERYONE!r} among the readers stands for everyone, and so alone; leave it out, or the others",
            field="readers",
        )
    if len(named) > most:
        raise BadRequest(
            f"a file may have {most} readers, and {len(named)} are named; name fewer, share the content "
            "once more under another key, or start the relay with a higher --max-readers",
            field="readers",
            limit=most,
            actual=len(named),
        )


class Write(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a write. ``digest`` is the SHA-256 in hexadecimal that the content must have, if it is known.

    ``readers`` are names and ids: None leaves the readers as they are, ``*`` is everyone, and none is the owner alone.
    ``parties`` are the agents that they meant when the write began.
    """

    key: str
    file_type: str | None = None  # else text or binary, by the content type
    content_type: str
    if_version: Expected | int | None = None
    ttl: float | None = None
    burn: bool = False
    force: bool = False
    idempotency_key: str | None = None
    digest: str | None = None
    digest_field: str = "sha256"
    readers: tuple[str, ...] | None = None
    parties: tuple[Party, ...] | None = None

    @property
    def opens(self) -> bool:
        """Return True if it lets everyone see the file."""
        return self.readers == (EVERYONE,)


class Written(msgspec.Struct, frozen=True):
    """The version that a write made, and the ids of the file's readers then; None if it was for everyone.

    ``unnoted`` is True if the note of its upload went in the same step.
    """

    version: Version
    readers: tuple[str, ...] | None
    unnoted: bool = False


class FileWrite(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The result of a write with an idempotency key, so that a repeat answers the same. Its partition is the file's."""

    id: str
    version: int
    file_key: str
    revision: int
    content: Content
    ends_at: float
    readers: tuple[str, ...] | None = None  # as the write named them
    read_by: tuple[str, ...] | None = None  # the ids of the readers that the file had then; None if it was for everyone

    @property
    def partition_key(self) -> str:
        return "file:" + self.file_key

    @property
    def index_keys(self) -> tuple[str, ...]:
        return (SETTLED,)

    @property
    def weight(self) -> int:
        return 0

    @property
    def footprint(self) -> int:
        return (
            _WRITE_BYTES
            + text_bytes(self.file_key)
            + sum(map(text_bytes, (*(self.readers or ()), *(self.read_by or ()))))
        )


def as_written(before: FileWrite, content: Content, ask: Write, editor: str, now: float) -> Version:
    """Return the version that an earlier write with the same key made. Raises KeyReused if it was another write."""
    if before.content.digest != content.digest or before.readers != ask.readers:
        raise KeyReused(
            "this idempotency key belongs to an earlier write with other contents or readers; "
            "use a new key for a new write",
            field="idempotency_key",
            current=before.revision,
        )
    return Version(
        revision=before.revision,
        content=content,
        file_type=ask.file_type or "",
        content_type=ask.content_type,
        editor=editor,
        written_at=now,
    )


class UnfinishedUpload(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An upload that is no file yet, as it survives a restart: ``offset`` bytes of it are on the disk.

    ``write`` is how its file will be written, in the form of the use case. ``said`` is the length that was stated at
    its beginning, and ``length`` the length that is known by now. Times are seconds since the epoch.
    """

    id: str
    version: int
    owner: str
    file_key: str
    write: bytes
    metadata: str
    said: int | None
    length: int | None
    offset: int = 0

    @property
    def partition_key(self) -> str:
        return "upload:" + self.id

    @property
    def index_keys(self) -> tuple[str, ...]:
        return (UPLOADS,)

    @property
    def weight(self) -> int:
        return self.offset

    @property
    def footprint(self) -> int:
        texts = (self.owner, self.file_key, self.metadata)
        return _UPLOAD_BYTES + len(self.write) + sum(map(text_bytes, texts))

    @property
    def ends_at(self) -> float | None:
        """The relay looks at all uploads in turn."""
        return None
