"""A look for damage in a data folder. It changes no record, and a relay may use the folder meanwhile."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from clawlink.store.sqlite.backup import held_contents, require_finished
from clawlink.store.sqlite.contents import CONTENTS, file_name, listed
from clawlink.store.sqlite.database import NAME, SOUND_VERSION, DataFolderError, connect, require_ours, said
from clawlink.store.sqlite.folder import network_disk

_OTHERS = 0o077
_LITTLE_BYTES = 1 << 30
_MOST_TOLD = 5
_AHEAD_SECONDS = 10.0


class Finding(NamedTuple):
    """A check of a folder: ``status`` is ok, warn or FAIL, and ``fix`` is the command that repairs it."""

    name: str
    status: str
    detail: str
    fix: str | None = None


def findings(folder: Path) -> Iterator[Finding]:
    """Look at everything in a folder that may be wrong."""
    try:
        require_finished(folder)
    except DataFolderError as error:
        yield Finding("folder", "FAIL", error.message)
        return
    if not (folder / NAME).is_file():
        yield Finding("folder", "FAIL", f"{folder} has no {NAME}", f"clawlink serve --data {folder}   makes one")
        return
    yield _folder(folder)
    yield _engine()
    try:
        db = connect(folder / NAME, reads_only=True)
        try:
            yield from _database(folder, db)
        finally:
            db.close()
    except DataFolderError as error:
        yield Finding("database", "FAIL", error.message)
    except sqlite3.Error as error:
        yield Finding("database", "FAIL", said(folder / NAME, error), _restore(folder))
    except OSError as error:
        yield Finding("contents", "FAIL", f"the contents cannot be read: {error.strerror or error}")
    yield _disk(folder)


def _folder(folder: Path) -> Finding:
    if os.name == "posix" and folder.stat().st_mode & _OTHERS:
        return Finding("folder", "FAIL", f"others on this machine may read {folder}", f"chmod 700 {folder}")
    kind = network_disk(folder)
    if kind is not None:
        detail = f"{folder} is on a network disk ({kind}), where SQLite's locks may not hold"
        return Finding("folder", "warn", detail, "move it to a local disk, while the relay is stopped")
    return Finding("folder", "ok", f"only you may read {folder}")


def _engine() -> Finding:
    if sqlite3.sqlite_version_info >= SOUND_VERSION:
        return Finding("sqlite", "ok", sqlite3.sqlite_version)
    sound = ".".join(map(str, SOUND_VERSION))
    return Finding(
        "sqlite",
        "warn",
        f"{sqlite3.sqlite_version} has a fault that {sound} mends: two connections that write at once may lose "
        "commits. A relay writes over one",
        "let no other program write to the database, and update Python when its SQLite is newer",
    )


def _database(folder: Path, db: sqlite3.Connection) -> Iterator[Finding]:
    require_ours(db, folder / NAME)
    wrong = [row[0] for row in db.execute(f"PRAGMA integrity_check({_MOST_TOLD})")]
    if wrong != ["ok"]:
        yield Finding("database", "FAIL", f"it is damaged: {'; '.join(wrong)[:300]}", _restore(folder))
        return
    (count,) = db.execute("SELECT count(*) FROM record").fetchone()
    (lost,) = db.execute("SELECT count(*) FROM entry WHERE row NOT IN (SELECT row FROM record)").fetchone()
    if lost:
        yield Finding("database", "FAIL", f"{lost} entries of indexes have no record", _restore(folder))
        return
    yield Finding("database", "ok", f"{count} records, and the database is whole")
    yield _time(folder, db)
    there = listed(folder) if (folder / CONTENTS).is_dir() else {}
    wanted = {file_name(content): content for content in held_contents(db)}
    missing = [name for name, content in wanted.items() if there.get(name) != content.size]
    if missing:
        detail = f"{len(missing)} contents of files are missing or not whole, as {missing[0][:16]}..."
        yield Finding("contents", "FAIL", detail, _restore(folder) + ", or share these files again")
        return
    orphans = len(there.keys() - wanted.keys())
    if orphans:
        detail = f"{len(wanted)} are there, and {orphans} more that no file has"
        yield Finding("contents", "warn", detail, "none is needed: the relay removes them at its next start")
        return
    yield Finding("contents", "ok", f"all {len(wanted)} are there")


def _time(folder: Path, db: sqlite3.Connection) -> Finding:
    """Tell a relay that started while the clock was ahead: its time never goes back."""
    alive = db.execute("SELECT value FROM meta WHERE name = 'alive'").fetchone()
    ahead = 0.0 if alive is None else alive[0] - time.time()
    if ahead < _AHEAD_SECONDS:
        return Finding("time", "ok", "relay time is not ahead of this machine's clock")
    return Finding(
        "time",
        "warn",
        f"relay time is {_shown(ahead)} ahead of this machine's clock, as a relay started here while the clock was "
        "ahead. It stays ahead until the clock has caught up. Leases and deadlines last as long as they should; the "
        "times that are shown are wrong",
        f"clawlink restore BACKUP NEW-FOLDER   with a backup from before, or with {folder} stopped and the clock "
        "right, begin again in a new folder",
    )


def _shown(seconds: float) -> str:
    """Return a time in its largest unit."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _disk(folder: Path) -> Finding:
    usage = shutil.disk_usage(folder)
    free = f"{usage.free / (1 << 30):.1f} GiB of {usage.total / (1 << 30):.1f} GiB are free"
    if usage.free < _LITTLE_BYTES:
        return Finding("disk", "warn", free, "make room, or lower --max-data")
    return Finding("disk", "ok", free)


def _restore(folder: Path) -> str:
    return f"clawlink restore BACKUP NEW-FOLDER   and start the relay with --data NEW-FOLDER, not {folder}"
