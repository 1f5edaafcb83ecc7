"""Shared files: their versions, and who wins when two write at once."""

from __future__ import annotations

import msgspec

from clawlink.domain.record import SETTLED
from clawlink.errors import UnknownFile, VersionConflict


class SharedFile(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The newest version of a shared file. The key is its home and its id.

    ``revision`` counts what users call the version: 1, 2, 3 ... and goes on counting over a deletion, so that an old
    version number never matches a new file. Times are seconds since the epoch.
    """

    id: str
    version: int
    revision: int
    content: bytes
    file_type: str
    last_editor: str
    updated_at: float
    deleted: bool = False
    ends_at: float | None = None

    @property
    def home(self) -> str:
        return "file:" + self.id

    @property
    def index_keys(self) -> tuple[str, ...]:
        return () if self.deleted else (PRESENT,)

    @property
    def weight(self) -> int:
        return len(self.content)


class FileWrite(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a write with an idempotency key did, so that repeating it answers the same. Its home is the file's."""

    id: str
    version: int
    file_key: str
    revision: int
    digest: str
    ends_at: float

    @property
    def home(self) -> str:
        return "file:" + self.file_key

    @property
    def index_keys(self) -> tuple[str, ...]:
        return (SETTLED,)

    @property
    def weight(self) -> int:
        return 0


PRESENT = "present"


def require_revision(key: str, file: SharedFile | None, expected: int | None) -> None:
    """Refuse a write that would overwrite what its writer has not seen; 0 expects that there is no such file."""
    revision = 0 if file is None or file.deleted else file.revision
    if expected is not None and expected != revision:
        raise VersionConflict(
            f"file {key!r} is at version {revision}, not {expected}; "
            f"read it, merge, and write with if_version {revision}",
            field="if_version",
            current=revision,
        )


def put(
    key: str,
    file: SharedFile | None,
    *,
    content: bytes,
    file_type: str,
    editor: str,
    now: float,
    if_version: int | None,
) -> SharedFile:
    """Return the next version of the file."""
    require_revision(key, file, if_version)
    return SharedFile(
        id=key,
        version=1 if file is None else file.version + 1,
        revision=1 if file is None else file.revision + 1,
        content=content,
        file_type=file_type,
        last_editor=editor,
        updated_at=now,
    )


def delete(
    key: str, file: SharedFile | None, *, editor: str, now: float, keep: float, if_version: int | None
) -> SharedFile:
    """Return the marker that the file is gone; it is kept ``keep`` seconds so that version numbers go on counting."""
    if file is None or file.deleted:
        raise UnknownFile(f"there is no file {key!r}", field="file_key")
    require_revision(key, file, if_version)
    return SharedFile(
        id=key,
        version=file.version + 1,
        revision=file.revision + 1,
        content=b"",
        file_type=file.file_type,
        last_editor=editor,
        updated_at=now,
        deleted=True,
        ends_at=now + keep,
    )
