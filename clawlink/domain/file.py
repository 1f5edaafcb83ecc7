"""Shared files: their versions, who wins when two write at once, and who may write while one holds the lock.

Each function takes the file as it is, or None, and returns the file to store next, or raises. Contents are not here: a
version names its content by its SHA-256.
"""

from __future__ import annotations

from typing import Any

import msgspec

from clawlink.domain.record import SETTLED, text_bytes
from clawlink.errors import FileLocked, UnknownFile, VersionConflict

PRESENT = "present"
ABSENT = "absent"
"""The index keys of files that are there, and of what is left of others: a lock, or where to go on counting."""


# The bytes that each takes beside its texts, measured.
_RECORD_BYTES = 110
_VERSION_BYTES = 250
_LOCK_BYTES = 70
_WRITE_BYTES = 190


class Content(msgspec.Struct, frozen=True, gc=False):
    """Some bytes, by name: ``digest`` is their SHA-256 in hexadecimal."""

    digest: str
    size: int


class Version(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A version of a file. Users call ``revision`` its version; times are seconds since the epoch."""

    revision: int
    content: Content
    file_type: str
    content_type: str
    editor: str
    written_at: float


class Lock(msgspec.Struct, frozen=True, gc=False):
    """An agent asks the others not to write until ``until``. It lapses by itself."""

    holder: str
    until: float
    note: str | None = None


class SharedFile(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A shared file: its versions, the newest first. The key is its home and its id.

    ``revision`` counts what users call the version: 1, 2, 3 ... and goes on counting over a deletion, so that an old
    version number never matches a new file; it is 0 where there is no more than a lock. Without versions the file is
    not there. ``ends_at`` is when the janitor looks: a file whose time to live is over is gone from that moment.
    """

    id: str
    version: int
    revision: int
    versions: tuple[Version, ...] = ()
    burn: bool = False
    lock: Lock | None = None
    ends_at: float | None = None

    @property
    def home(self) -> str:
        return "file:" + self.id

    @property
    def index_keys(self) -> tuple[str, ...]:
        return (PRESENT,) if self.versions else (ABSENT,)

    @property
    def weight(self) -> int:
        return self.versions[0].content.size if self.versions else 0

    @property
    def footprint(self) -> int:
        """Without the contents, which are counted where they are kept."""
        size = _RECORD_BYTES
        for version in self.versions:
            size += _VERSION_BYTES + text_bytes(version.file_type) + text_bytes(version.content_type)
        return size if self.lock is None else size + _LOCK_BYTES + text_bytes(self.lock.note)

    @property
    def newest(self) -> Version:
        """The version it is at; only where there is one."""
        return self.versions[0]

    @property
    def deleted(self) -> bool:
        """Whether it is not there, or no longer."""
        return not self.versions


class Expected(msgspec.Struct, frozen=True, gc=False):
    """At which versions a file may be for a write to happen; version 0 is that there is no file."""

    among: frozenset[int] | None = None  # None: every version
    but: frozenset[int] = frozenset()

    def fits(self, revision: int) -> bool:
        """Return True if the write may happen at this version."""
        return (self.among is None or revision in self.among) and revision not in self.but


class FileWrite(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The result of a write with an idempotency key, so that a repeat answers the same. Its home is the file's."""

    id: str
    version: int
    file_key: str
    revision: int
    content: Content
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

    @property
    def footprint(self) -> int:
        return _WRITE_BYTES + text_bytes(self.file_key)


def present(file: SharedFile | None, now: float) -> SharedFile | None:
    """Return the file if it is there: written, not deleted, and its time to live not over."""
    return None if file is None or file.deleted or (file.ends_at is not None and file.ends_at <= now) else file


def revision_of(file: SharedFile | None, now: float) -> int:
    """Return which version a file is at; 0 if it is not there."""
    there = present(file, now)
    return 0 if there is None else there.revision


def locked(file: SharedFile | None, now: float) -> Lock | None:
    """Return the lock that holds at this moment."""
    return None if file is None or file.lock is None or file.lock.until <= now else file.lock


def require_revision(key: str, file: SharedFile | None, expected: Expected | int | None, now: float) -> None:
    """Refuse a write that would overwrite what its writer has not seen; 0 expects that there is no such file."""
    if expected is None:
        return
    revision = revision_of(file, now)
    fits = expected.fits(revision) if isinstance(expected, Expected) else expected == revision
    if not fits:
        wanted = f", not {expected}" if isinstance(expected, int) else ", and this write asked for another"
        raise VersionConflict(
            f"file {key!r} is at version {revision}{wanted}; read it, merge, and write with if_version {revision}",
            field="if_version",
            current=revision,
        )


def require_unlocked(key: str, file: SharedFile | None, editor: str, now: float, *, force: bool, shown: Any) -> None:
    """Refuse a write while another agent holds the lock, unless it is forced. ``shown`` makes the lock readable."""
    lock = locked(file, now)
    if lock is not None and lock.holder != editor and not force:
        raise FileLocked(
            f"file {key!r} is locked by {lock.holder} for {lock.until - now:.0f} s more"
            f"{f' ({lock.note})' if lock.note else ''}; wait for it, ask, or use force",
            field="force",
            retry_after=lock.until - now,
            current=shown(lock),
        )


def put(
    key: str,
    file: SharedFile | None,
    *,
    content: Content,
    file_type: str,
    content_type: str,
    editor: str,
    now: float,
    keep: int,
    if_version: Expected | int | None = None,
    ttl: float | None = None,
    burn: bool = False,
) -> SharedFile:
    """Return the file with a new version; of those before it, ``keep`` less one are kept."""
    require_revision(key, file, if_version, now)
    revision = 1 if file is None else file.revision + 1
    written = Version(
        revision=revision,
        content=content,
        file_type=file_type,
        content_type=content_type,
        editor=editor,
        written_at=now,
    )
    there = present(file, now)
    # A file for a single reader has no versions beside it: anyone could read them.
    before = () if there is None or burn or there.burn else there.versions[: keep - 1]
    return SharedFile(
        id=key,
        version=1 if file is None else file.version + 1,
        revision=revision,
        versions=(written, *before),
        burn=burn,
        lock=locked(file, now),
        ends_at=None if ttl is None else now + ttl,
    )


def delete(
    key: str, file: SharedFile | None, *, now: float, keep: float, if_version: Expected | int | None = None
) -> SharedFile:
    """Return the marker that the file is gone; it is kept ``keep`` seconds so that version numbers go on counting."""
    there = present(file, now)
    if there is None:
        raise UnknownFile(f"there is no file {key!r}", field="file_key")
    require_revision(key, there, if_version, now)
    return _marker(there, revision=there.revision + 1, lock=locked(file, now), until=now + keep)


def expire(file: SharedFile, *, now: float, keep: float) -> SharedFile | None:
    """Return what is left of a file whose ``ends_at`` has come; None if nothing is, and the record may go."""
    lock = locked(file, now)
    if not file.deleted:
        return _marker(file, revision=file.revision + 1, lock=lock, until=now + keep)
    return None if lock is None else _marker(file, revision=file.revision, lock=lock, until=lock.until)


def take_lock(
    key: str, file: SharedFile | None, *, holder: str, until: float, note: str | None, now: float, keep: float
) -> SharedFile:
    """Return the file, or a marker where there is none, with the lock. Raises nothing: see ``require_unlocked``."""
    lock = Lock(holder, until, note)
    if file is None:
        return SharedFile(id=key, version=1, revision=0, lock=lock, ends_at=until)
    if present(file, now) is None:
        return _marker(file, revision=file.revision, lock=lock, until=max(now + keep, until))
    return msgspec.structs.replace(file, version=file.version + 1, lock=lock)


def drop_lock(file: SharedFile) -> SharedFile:
    """Return the file without its lock."""
    return msgspec.structs.replace(file, version=file.version + 1, lock=None)


def _marker(file: SharedFile, *, revision: int, lock: Lock | None, until: float) -> SharedFile:
    ends_at = until if lock is None else max(until, lock.until)
    return SharedFile(id=file.id, version=file.version + 1, revision=revision, lock=lock, ends_at=ends_at)
