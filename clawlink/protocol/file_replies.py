"""The replies of shared files: JSON bodies as in ``replies``."""

from __future__ import annotations

from msgspec import UNSET, Struct

from clawlink.protocol.replies import ByTheWay


class FileSaved(Struct, frozen=True):
    """The version just written. ``size`` is in bytes, ``sha256`` in hexadecimal.

    ``readers`` are the ids of the agents that may read the file beside its owner, or null if everyone may.
    """

    status: str
    version: int
    file_key: str
    size: int = 0
    sha256: str = ""
    readers: list[str] | None = None


class FilePut(FileSaved, frozen=True):
    """The version just written, also by an agent of 1.0.x."""

    registered_by_the_way: ByTheWay = UNSET


class FileLock(Struct, frozen=True, gc=False):
    """A lock: the agent that asks others not to write, the time of its end, and the reason."""

    holder: str
    until: str
    note: str | None


class FileInfo(Struct, frozen=True, gc=False):
    """A shared file without its content. ``size`` is in bytes, ``sha256`` in hexadecimal.

    ``readers`` are the ids of the agents that may read it beside its ``owner``, or null if everyone may. So may the
    holders of ``tasks`` tasks.
    """

    file_key: str
    file_type: str
    last_editor: str
    version: int
    updated_at: str
    size: int
    sha256: str = ""
    content_type: str = ""
    expires_at: str | None = None
    burn_after_read: bool = False
    lock: FileLock | None = None
    owner: str | None = None
    readers: list[str] | None = None
    tasks: int = 0


class FileList(Struct, frozen=True):
    """The shared files."""

    files: list[FileInfo]
    count: int
    next: str | None = None


class FileContent(Struct, frozen=True, kw_only=True):
    """A shared file. ``encoding`` is ``utf-8``, or ``base64`` for bytes that are not text."""

    file_key: str
    content: str
    file_type: str
    last_editor: str
    version: int
    updated_at: str
    encoding: str
    size: int
    sha256: str = ""
    content_type: str = ""
    expires_at: str | None = None
    burn_after_read: bool = False
    lock: FileLock | None = None
    owner: str | None = None
    readers: list[str] | None = None
    tasks: int = 0


class FileVersion(Struct, frozen=True, gc=False):
    """A kept version of a shared file. ``size`` is in bytes, ``sha256`` in hexadecimal."""

    version: int
    size: int
    sha256: str
    content_type: str
    file_type: str
    editor: str
    updated_at: str


class FileHistory(Struct, frozen=True, kw_only=True):
    """The kept versions of a file, the newest first. ``version`` is the current one, 0 if there is no file."""

    file_key: str
    version: int
    deleted: bool
    versions: list[FileVersion]
    expires_at: str | None
    burn_after_read: bool
    lock: FileLock | None
    owner: str | None = None
    readers: list[str] | None = None


class FileLocked(Struct, frozen=True):
    """The lock holds until then."""

    status: str
    file_key: str
    holder: str
    until: str
    note: str | None


class FileUnlocked(Struct, frozen=True):
    """The lock has ended."""

    status: str
    file_key: str


class FileDeleted(Struct, frozen=True):
    """The file is gone; its version number goes on counting."""

    status: str
    file_key: str
    version: int
