"""Shared files: their versions, the winner of two writes at once, and the writers that a lock admits.

Each function takes the file as it is, or None, and returns the file to store next, or raises. Contents are not here: a
version names its content by its SHA-256.
"""

from __future__ import annotations

from typing import Any

import msgspec

from clawlink.domain import shares
from clawlink.domain.agent import Agent, is_same
from clawlink.domain.readers import Access
from clawlink.domain.record import text_bytes, texts_bytes
from clawlink.domain.shares import Origin
from clawlink.errors import FileLocked, UnknownFile, VersionConflict

PRESENT = "present"
RESTRICTED = "for readers"
ABSENT = "absent"
"""The index keys of files for everyone, of files for readers, and of what is left of others: a lock, or a count."""


# The bytes that each takes beside its texts, measured.
_RECORD_BYTES = 110
_VERSION_BYTES = 258
_SCOPE_BYTES = 64
_LOCK_BYTES = 86


class Content(msgspec.Struct, frozen=True, gc=False):
    """Some bytes, by name: ``digest`` is their SHA-256 in hexadecimal.

    Equal bytes of one ``scope`` are kept once. A file for readers is a scope of its own: else the memory in use would
    tell a stranger that another file has the same content.
    """

    digest: str
    size: int
    scope: str = ""


class Version(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A version of a file. Users call ``revision`` its version; times are seconds since the epoch."""

    revision: int
    content: Content
    file_type: str
    content_type: str
    editor: str
    written_at: float
    editor_key: str | None = None
    address: str | None = None

    @property
    def origin(self) -> Origin:
        """The address and the agent that wrote it."""
        return Origin(self.address, shares.holder(self.editor, self.editor_key))

    def is_by(self, agent: Agent) -> bool:
        """Return True if the agent wrote it, and is no later bearer of its editor's id."""
        return is_same(agent, self.editor, self.editor_key, self.written_at)


class Lock(msgspec.Struct, frozen=True, gc=False):
    """An agent asks the others not to write until ``until``. It lapses by itself.

    ``holder_key`` is the hash of the key that the holder had ``since`` it took the lock.
    """

    holder: str
    until: float
    note: str | None = None
    holder_key: str | None = None
    since: float = 0.0

    def is_of(self, agent: Agent) -> bool:
        """Return True if the agent holds it, and is no later bearer of its holder's id."""
        return is_same(agent, self.holder, self.holder_key, self.since)


class SharedFile(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A shared file: its versions, the newest first. The key is its partition and its id.

    ``revision`` is the version number that users see: 1, 2, 3 .... It goes on counting over a deletion, so that an old
    number never matches a new file. It is 0 if there is only a lock. Without versions there is no file. ``ends_at`` is
    the time of the janitor's look. A file is gone from the moment when its time to live is over. ``access`` is None if
    everyone may see it. The remains of a file for readers are for its readers, too. ``counts_for`` is the last writer,
    or the holder of the lock where there is no more, as a holder of shares; ``address`` is its address.
    """

    id: str
    version: int
    revision: int
    versions: tuple[Version, ...] = ()
    burn: bool = False
    lock: Lock | None = None
    ends_at: float | None = None
    access: Access | None = None
    counts_for: str = ""
    address: str | None = None

    @property
    def partition_key(self) -> str:
        return "file:" + self.id

    @property
    def origin(self) -> Origin:
        """The address and the agent that it counts for."""
        return Origin(self.address, self.counts_for)

    @property
    def index_keys(self) -> tuple[str, ...]:
        if not self.versions:
            return (ABSENT,)
        if self.access is None:
            keys: tuple[str, ...] = (PRESENT,)
        else:
            keys = (RESTRICTED, *(by_reader(party.agent_id) for party in self.access.parties))
        if len(self.versions) > 1:
            of_address, of_agent = self.of_others
            keys += (by_heir_address(self.address),) if of_address and self.address is not None else ()
            keys += (by_heir(self.counts_for),) if of_agent else ()
        return keys

    @property
    def of_others(self) -> tuple[int, int]:
        """The bytes of kept versions that came from another address than the last, and of those by another agent."""
        of_address = of_agent = 0
        for version in self.versions:
            address, agent = version.origin
            of_address += version.content.size * (address != self.address)
            of_agent += version.content.size * (agent != self.counts_for)
        return of_address, of_agent

    @property
    def weight(self) -> int:
        size = 0
        for version in self.versions:
            size += version.content.size
        return size

    @property
    def footprint(self) -> int:
        """Without the contents, which are counted where they are kept."""
        size = _RECORD_BYTES
        for version in self.versions:
            size += _VERSION_BYTES + texts_bytes(version.file_type, version.content_type)
            size += _SCOPE_BYTES + text_bytes(version.content.scope) if version.content.scope else 0
        if self.access is not None:
            size += self.access.footprint
        return size if self.lock is None else size + _LOCK_BYTES + text_bytes(self.lock.note)

    @property
    def newest(self) -> Version:
        """The version it is at; only where there is one."""
        return self.versions[0]

    @property
    def deleted(self) -> bool:
        """Return True if the file does not exist, or was deleted."""
        return not self.versions


def by_heir(holder: str) -> str:
    """Return the index key of the files that count for an agent, and have versions by others."""
    return "heir:" + holder


def by_heir_address(address: str) -> str:
    """Return the index key of the files that count for an address, and have versions from others."""
    return "heir at:" + address


def by_reader(agent_id: str) -> str:
    """Return the index key of the files for readers that an agent of this id owns or reads."""
    return "reader:" + agent_id


class Expected(msgspec.Struct, frozen=True, gc=False):
    """At which versions a file may be for a write to happen; version 0 is that there is no file.

    ``field`` is the header that says so.
    """

    among: frozenset[int] | None = None  # None: every version
    but: frozenset[int] = frozenset()
    field: str = "If-Match"

    def fits(self, revision: int) -> bool:
        """Return True if the write may happen at this version."""
        return (self.among is None or revision in self.among) and revision not in self.but


def present(file: SharedFile | None, now: float) -> SharedFile | None:
    """Return the file if it is there: written, not deleted, and its time to live not over."""
    return None if file is None or not file.versions or (file.ends_at is not None and file.ends_at <= now) else file


def revision_of(file: SharedFile | None, now: float) -> int:
    """Return the number of a file's newest version; 0 if the file is not there."""
    there = present(file, now)
    return 0 if there is None else there.revision


def locked(file: SharedFile | None, now: float) -> Lock | None:
    """Return the lock that holds at this moment."""
    return None if file is None or file.lock is None or file.lock.until <= now else file.lock


def require_revision(key: str, file: SharedFile | None, expected: Expected | int | None, now: float) -> None:
    """Refuse a write over a version that its writer has not seen; 0 expects that there is no file."""
    if expected is None:
        return
    revision = revision_of(file, now)
    fits = expected.fits(revision) if isinstance(expected, Expected) else expected == revision
    if fits:
        return
    if isinstance(expected, Expected):
        field = expected.field
        wanted = f"and {field} asks for {'none' if expected.among == frozenset({0}) else 'another'}"
        anew = f'If-Match: "{revision}"' if revision else "If-None-Match: *"
    else:
        field, wanted, anew = "if_version", f"not {expected}", f"if_version {revision}"
    if revision:
        text = f"file {key!r} is at version {revision}, {wanted}; read it, merge, and write with {anew}"
    else:
        text = f"there is no file {key!r}, and {field} asks for a version of it; to make the file write with {anew}"
    raise VersionConflict(text, field=field, current=revision)


def lock_of_others(file: SharedFile | None, editor: Agent, now: float) -> Lock | None:
    """Return the lock that keeps an agent from writing."""
    lock = locked(file, now)
    return None if lock is None or lock.is_of(editor) else lock


def refusal_of_lock(key: str, lock: Lock, holder: str, now: float, *, shown: Any) -> FileLocked:
    """Return the refusal of a write while another agent holds the lock. ``holder`` is the name of that agent."""
    return FileLocked(
        f"file {key!r} is locked by {holder} for {lock.until - now:.0f} s more"
        f"{f' ({lock.note})' if lock.note else ''}; wait until it ends, ask its holder, or force it",
        field="force",
        retry_after=lock.until - now,
        current=shown,
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
    address: str | None = None,
    if_version: Expected | int | None = None,
    ttl: float | None = None,
    burn: bool = False,
    access: Access | None = None,
    editor_key: str | None = None,
) -> SharedFile:
    """Return the file with a new version, and the ``keep`` - 1 versions before it.

    ``access`` is the result of ``access_after``. A file that is opened to everyone drops its earlier versions.
    """
    require_revision(key, file, if_version, now)
    revision = 1 if file is None else file.revision + 1
    written = Version(
        revision=revision,
        content=content,
        file_type=file_type,
        content_type=content_type,
        editor=editor,
        written_at=now,
        editor_key=editor_key,
        address=address,
    )
    there = None if file is None else present(file, now)
    # A file for a single reader has no versions beside it: anyone could read them.
    alone = there is None or burn or there.burn or (access is None and there.access is not None)
    before = () if there is None or alone else there.versions[: keep - 1]
    lock = None if file is None else locked(file, now)
    if lock is not None and access is not None and not access.knows(lock.holder):
        lock = None  # its holder may not see the file any more
    return SharedFile(
        id=key,
        version=1 if file is None else file.version + 1,
        revision=revision,
        versions=(written, *before),
        burn=burn,
        lock=lock,
        ends_at=None if ttl is None else now + ttl,
        access=access,
        counts_for=shares.holder(editor, editor_key),
        address=address,
    )


def delete(
    key: str,
    file: SharedFile | None,
    *,
    now: float,
    keep: float,
    if_version: Expected | int | None = None,
    origin: Origin | None = None,
) -> SharedFile:
    """Return the marker that the file is gone; it is kept ``keep`` seconds so that version numbers go on counting.

    It counts for the ``origin`` of the deletion; without one, for the last writer still.
    """
    there = present(file, now)
    if there is None:
        raise UnknownFile(f"there is no file {key!r}", field="file_key")
    require_revision(key, there, if_version, now)
    gone = _marker(there, revision=there.revision + 1, lock=locked(file, now), until=now + keep)
    return gone if origin is None else msgspec.structs.replace(gone, address=origin.address, counts_for=origin.agent)


def expire(file: SharedFile, *, now: float, keep: float) -> SharedFile | None:
    """Return the remains of a file whose ``ends_at`` has come; None if nothing remains, and the record may go."""
    lock = locked(file, now)
    if not file.deleted:
        return _marker(file, revision=file.revision + 1, lock=lock, until=now + keep)
    return None if lock is None else _marker(file, revision=file.revision, lock=lock, until=lock.until)


def take_lock(
    key: str,
    file: SharedFile | None,
    *,
    holder: str,
    until: float,
    note: str | None,
    now: float,
    keep: float,
    address: str | None = None,
    holder_key: str | None = None,
) -> SharedFile:
    """Return the file, or a marker where there is none, with the lock. Raises nothing: see ``lock_of_others``."""
    lock = Lock(holder, until, note, holder_key, now)
    if file is None:
        counts_for = shares.holder(holder, holder_key)
        return SharedFile(
            id=key, version=1, revision=0, lock=lock, ends_at=until, counts_for=counts_for, address=address
        )
    if present(file, now) is None:
        return _marker(file, revision=file.revision, lock=lock, until=max(now + keep, until))
    return msgspec.structs.replace(file, version=file.version + 1, lock=lock)


def drop_lock(file: SharedFile) -> SharedFile:
    """Return the file without its lock."""
    return msgspec.structs.replace(file, version=file.version + 1, lock=None)


def _marker(file: SharedFile, *, revision: int, lock: Lock | None, until: float) -> SharedFile:
    ends_at = until if lock is None else max(until, lock.until)
    return SharedFile(
        id=file.id,
        version=file.version + 1,
        revision=revision,
        lock=lock,
        ends_at=ends_at,
        access=file.access,
        counts_for=file.counts_for,
        address=file.address,
    )
