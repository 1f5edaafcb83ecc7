"""The folder of ``--data``: its lock, and its contents.

clawlink.db, -wal, -shm   records
contents/                 contents of files, by SHA-256
incoming/                 contents on their way in
orphans/                  contents that no record named at a start, for a week
reserve                   room on the disk for work that makes room, once there is none
lock                      held by the relay that has the folder
secret, token, ...        the relay's own secrets, written by the server
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock, Timeout

from clawlink import private
from clawlink.domain.file import Content, SharedFile
from clawlink.domain.file_write import UnfinishedUpload
from clawlink.domain.limits import MIB
from clawlink.store.sqlite.backup import require_finished
from clawlink.store.sqlite.contents import CONTENTS, INCOMING, FolderBlobs
from clawlink.store.sqlite.database import NAME, DataFolderError
from clawlink.store.sqlite.room import PROBE, RESERVE, RESERVE_BYTES, Room, sync_folder
from clawlink.store.sqlite.store import SqliteStore

LOCK = "lock"
# A relay makes these after its database.
_PARTS = (CONTENTS, INCOMING, "secret")
_IGNORED = {"lost+found", LOCK, ".DS_Store", RESERVE, PROBE}
_NETWORK = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs", "davfs")
_FRAME_BYTES, _LOG_HEADER_BYTES, _PAGE_BYTES = 24, 32, 4096
_log = logging.getLogger("clawlink.store")


class DataFolder:
    """A folder that this process has for itself, with its store and its contents. Call ``close`` at the end."""

    def __init__(self, path: str | Path, *, sync: str = "full") -> None:
        """Open the folder, made if need be. Raises DataFolderError with a sentence; nothing is changed then."""
        self.path = Path(path)
        self.warnings: list[str] = []
        """The things that an operator should know of this folder."""
        _prepare(self.path)
        self._lock = take_lock(self.path)
        try:
            self._look()
            self.room = Room(self.path, reserve=RESERVE_BYTES)
            self.room.make_way()
            self.store = SqliteStore(
                self.path / NAME,
                sync=sync,
                room=self.room,
                before_commit=lambda: self.blobs.sync_names(),
                leaving=lambda: self.blobs.leaving(),
            )
            self.store.open_now()
            try:
                files: list[SharedFile] = []
                uploads: list[str] = []
                for record in self.store.all(SharedFile, UnfinishedUpload):
                    if type(record) is SharedFile:
                        files.append(record)
                    else:
                        uploads.append(record.id)
                self.blobs = FolderBlobs(
                    self.path,
                    contents_of(files),
                    uploads,
                    room=self.room,
                    lazy=sync == "normal",
                )
                if not self.room.keep():
                    self.warnings.append(
                        f"the disk of {self.path} has no room for the {RESERVE_BYTES // MIB} MiB of the reserve: new "
                        "work is refused until it has; delete files here, or make room on it"
                    )
            except BaseException:
                self.store.close_now()
                raise
        except OSError as error:
            self._lock.release()
            raise DataFolderError(f"--data {self.path} cannot be used: {error.strerror or error}") from None
        except BaseException:
            self._lock.release()
            raise
        if self.blobs.missing:
            self.warnings.append(
                f"{len(self.blobs.missing)} contents of files are missing or not whole below {self.path}; restore a "
                f"backup, or share those files again (see: clawlink doctor --data {self.path})"
            )

    def _look(self) -> None:
        kind = network_disk(self.path)
        if kind is not None:
            self.warnings.append(
                f"{self.path} is on a network disk ({kind}): SQLite's locks may not hold there, and records may be "
                "lost; use a local disk for --data"
            )
        log = self.path / (NAME + "-wal")
        with contextlib.suppress(OSError):
            size = log.stat().st_size
            if size > _LOG_HEADER_BYTES and (size - _LOG_HEADER_BYTES) % (_FRAME_BYTES + _PAGE_BYTES):
                self.warnings.append(
                    f"{log} ends in the middle of a page: the machine stopped during a write, the disk was full, "
                    "or the file was cut; all commits before that are here"
                )

    def close(self) -> None:
        """Finish begun commits, and release the folder."""
        self.store.close_now()
        if self.store.broken is None:
            self.blobs.leaving()()
        self.blobs.close()
        self._lock.release()


def contents_of(files: Iterable[SharedFile]) -> Iterable[Content]:
    """Give the contents that files hold, each as often as they do."""
    for file in files:
        for version in file.versions:
            yield version.content


def _prepare(path: Path) -> None:
    """Make the folder, or see that it is ours. Raises DataFolderError."""
    try:
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        private.make_folder(path)
        for folder in made:
            sync_folder(folder.parent)
        if not (path / NAME).exists():
            require_finished(path)
            others = sorted(set(os.listdir(path)) - _IGNORED)
            if others:
                raise DataFolderError(
                    f"--data {path} holds other files ({', '.join(others[:3])}) and no {NAME}; give it a folder of "
                    "its own, which may be new"
                )
        _require_whole(path)
        if os.name == "posix":
            path.chmod(0o700)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except (FileExistsError, NotADirectoryError):
        raise DataFolderError(f"--data {path} is no folder; give it a folder of its own") from None
    except OSError as error:
        raise _unwritable(path, error) from None


def _require_whole(path: Path) -> None:
    """Refuse an emptied database beside other parts of the folder, and a link to one. Raises DataFolderError, OSError.

    A relay that starts over an emptied database takes all contents for leftovers.
    """
    database = path / NAME
    if database.is_symlink():
        raise DataFolderError(f"{database} is a link, so two relays could use it; give --data the folder of the file")
    if database.exists() and not database.stat().st_size:
        log = path / (NAME + "-wal")
        parts = [part for part in _PARTS if (path / part).exists()]
        if parts or (log.exists() and log.stat().st_size):
            raise DataFolderError(
                f"{database} is empty, and other parts of a relay are beside it ({', '.join(parts) or log.name}); "
                f"nothing was changed: restore a backup (clawlink restore BACKUP {path})"
            )


def _unwritable(path: Path, error: OSError) -> DataFolderError:
    return DataFolderError(
        f"--data {path} cannot be written ({error.strerror or error}): look at the permissions of the folder and its "
        "disk"
    )


def take_lock(path: Path) -> FileLock:
    """Have the folder for this process alone. Raises DataFolderError."""
    lock = FileLock(path / LOCK, timeout=0, mode=0o600, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise DataFolderError(
            f"another relay uses {path} at this moment; stop it first, or give --data another folder"
        ) from None
    except PermissionError as error:
        raise _unwritable(path, error) from None
    except (OSError, NotImplementedError) as error:
        raise DataFolderError(
            f"--data {path} cannot be locked ({error}); use a local disk that you may write"
        ) from None
    return lock


def network_disk(path: Path, mounts: Path = Path("/proc/mounts")) -> str | None:
    """Return the kind of network disk that a folder is on; None for a local one, and where the system does not tell."""
    if str(path).startswith("\\\\"):
        return "UNC"
    try:
        lines = mounts.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    best, kind = "", ""
    resolved = str(path.resolve())
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")
        if (resolved == point or resolved.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind if kind.startswith(_NETWORK) else None
