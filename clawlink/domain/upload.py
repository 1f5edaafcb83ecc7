"""Uploads that are no files yet."""

from __future__ import annotations

import msgspec

from clawlink.domain.record import text_bytes

_UPLOAD_BYTES = 300


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


UPLOADS = "uploads"
"""The index key of all uploads that are no files yet."""
