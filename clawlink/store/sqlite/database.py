"""The database file: its connections, its schema, and the reasons not to open it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clawlink.errors import ClawLinkError
from clawlink.store import records
from clawlink.store.sqlite.room import is_full
from clawlink.store.sqlite.rows import ENTRY_BYTES, pack, unpack

NAME = "clawlink.db"
# "Claw" in ASCII: the mark of our files among all SQLite databases.
APPLICATION_ID = 0x436C6177
# The oldest release without the WAL-reset fault, which needs two connections that write or checkpoint at once.
SOUND_VERSION = (3, 51, 3)
# The first release with iif().
OLDEST_VERSION = (3, 32, 0)
NOTED = "noted"
"""The name of the fact that tells when a relay was here last, by the clock of the machine."""
# A relay notes that at least every five seconds. A file that changed this much later was changed by another program.
_STRANGE_SECONDS = 60.0
_CACHE_KIB = 16 * 1024
_STATEMENTS = 256

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE kind (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE record (
    row INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,
    id TEXT NOT NULL,
    version INTEGER NOT NULL,
    home TEXT NOT NULL,
    ends_at REAL,
    rank INTEGER,
    ready_at REAL,
    later REAL,
    held INTEGER,
    address TEXT,
    agent TEXT,
    weight INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    entries BLOB,
    data BLOB NOT NULL
);
CREATE UNIQUE INDEX record_id ON record (id, kind);
CREATE INDEX record_ends ON record (kind, ends_at) WHERE ends_at IS NOT NULL;
CREATE INDEX record_ready ON record (home, rank) WHERE ready_at IS NOT NULL;
CREATE INDEX record_later ON record (home, later) WHERE later IS NOT NULL;
CREATE TABLE entry (
    kind INTEGER NOT NULL,
    key TEXT NOT NULL,
    number INTEGER NOT NULL,
    row INTEGER NOT NULL,
    weight INTEGER NOT NULL,
    PRIMARY KEY (kind, key, number)
) WITHOUT ROWID;
"""


def _create(db: sqlite3.Connection) -> None:
    for statement in _TABLES.split(";"):
        db.execute(statement)


_AT_ONCE = 256


def _index_tasks(db: sqlite3.Connection) -> None:
    """Enter tasks under their states, and dead letters under the key of all of them.

    A record keeps its place: the number of its latest entry is that of its present state.
    """
    kinds = db.execute("SELECT number FROM kind WHERE name IN ('task', 'delivery')").fetchall()
    last = 0
    while rows := db.execute(
        "SELECT row, kind, weight, entries, data FROM record WHERE row > ? ORDER BY row LIMIT ?", (last, _AT_ONCE)
    ).fetchall():
        for row, kind, weight, packed, data in rows:
            entries = unpack(packed)
            if (kind,) not in kinds or not entries:
                continue
            known = dict(entries)
            number = max(known.values())
            new = tuple([(key, number) for key in records.decode(data).index_keys if key not in known])
            for key, _ in new:
                db.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?)", (kind, key, number, row, weight))
            cost = sum(ENTRY_BYTES + len(key) for key, _ in new)
            db.execute("UPDATE record SET entries = ?, cost = cost + ? WHERE row = ?", (pack(entries + new), cost, row))
        last = rows[-1][0]


def _rename_columns(db: sqlite3.Connection) -> None:
    """Give the columns of a record the names of its fields. No row is written for that."""
    db.execute("ALTER TABLE record RENAME COLUMN home TO partition_key")
    db.execute("ALTER TABLE record RENAME COLUMN rank TO sort_key")


# The step to each version from the version before. A released step never changes.
MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_create, _index_tasks, _rename_columns)
VERSION = len(MIGRATIONS)


class DataFolderError(ClawLinkError):
    """A folder of ``--data`` cannot be used. Nothing in it was changed."""

    code = "data_folder"


def connect(path: Path, *, reads_only: bool = False, leaves_log: bool = False) -> sqlite3.Connection:
    """Open the database. One thread at a time may use the connection.

    The last connection that closes puts the log into the database, unless it ``leaves_log``.
    """
    # SQLite can lock no file that is open for reading alone, and so it puts no log into it.
    place = f"{path.absolute().as_uri()}?mode=ro" if leaves_log else os.fspath(path)
    db = sqlite3.connect(
        place,
        uri=leaves_log,
        timeout=5.0,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=_STATEMENTS,
    )
    try:
        db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        db.execute("PRAGMA temp_store = MEMORY")
        db.execute("PRAGMA mmap_size = 0")
        if reads_only:
            db.execute("PRAGMA query_only = 1")
            db.execute("PRAGMA wal_autocheckpoint = 0")
    except sqlite3.Error:
        db.close()
        raise
    return db


def open_writer(path: Path, *, sync: str) -> sqlite3.Connection:
    """Open the database for the only writing connection; make it or update its schema if needed.

    ``sync`` is ``full`` or ``normal``. Raises DataFolderError with a sentence.
    """
    if sqlite3.sqlite_version_info < OLDEST_VERSION:
        oldest = ".".join(map(str, OLDEST_VERSION))
        raise DataFolderError(f"--data needs SQLite {oldest} or later, and this Python has {sqlite3.sqlite_version}")
    new = not path.exists() or not path.stat().st_size
    try:
        make_private(path)
        db = connect(path)
    except OSError as error:
        raise DataFolderError(f"the database {path} cannot be written: {error.strerror or error}") from None
    except sqlite3.Error as error:
        raise DataFolderError(said(path, error)) from None
    try:
        if new:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        else:
            require_ours(db, path)
        place, known = _place(path), _fact(db, "place")
        if not new and (known != place or _was_changed_since(db, path)):
            require_whole(db, path)
        (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise DataFolderError(
                f"the disk below {path} cannot keep a write-ahead log (SQLite says {mode}); use a local disk for --data"
            )
        db.execute(f"PRAGMA synchronous = {'NORMAL' if sync == 'normal' else 'FULL'}")
        db.execute("PRAGMA fullfsync = 1")  # macOS: down to the medium; no effect elsewhere
        db.execute("PRAGMA checkpoint_fullfsync = 1")
        db.execute("PRAGMA wal_autocheckpoint = 0")  # the writer does so, and learns what fails
        migrate(db)
        if known != place:
            _note_place(db, place)
        db.execute("PRAGMA busy_timeout = 0")  # the event loop waits for no other process
    except sqlite3.Error as error:
        db.close()
        raise DataFolderError(said(path, error)) from None
    except BaseException:
        db.close()
        raise
    return db


def make_private(path: Path) -> None:
    """Make a database if there is none, for its owner alone. Its log gets the same mode. Raises OSError."""
    flags = os.O_CREAT | os.O_RDWR | getattr(os, "O_BINARY", 0)
    if not path.exists():
        os.close(os.open(path, flags, 0o600))
    if os.name == "posix":
        for part in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
            with contextlib.suppress(FileNotFoundError):
                if part.stat().st_mode & 0o077:
                    part.chmod(0o600)


def require_ours(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a database of other software or of a later ClawLink. Raises DataFolderError, sqlite3.Error."""
    (found,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables and not found and not version:
        return  # made, and then nothing came of it
    if found != APPLICATION_ID:
        raise DataFolderError(f"{path} is a database of other software; give --data a folder of its own")
    if version > VERSION:
        raise DataFolderError(
            f"{path} was written by a later ClawLink (schema {version}, and this one reads up to {VERSION}); "
            "start that version, or restore a backup of this one"
        )


def _place(path: Path) -> str:
    """Return what tells a file from its copies."""
    status = path.stat()
    return f"{status.st_dev}:{status.st_ino}"


def _fact(db: sqlite3.Connection, name: str) -> Any:
    """Return a fact about the database; None if it is not known."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is None:
        return None
    found = db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if found is None else found[0]


def _was_changed_since(db: sqlite3.Connection, path: Path) -> bool:
    """Return True if the file was changed after a relay was here last, as by a copy that was put back over it."""
    noted = _fact(db, NOTED)
    status = path.stat()
    changed = status.st_mtime if os.name == "nt" else status.st_ctime  # no program sets the latter
    return noted is not None and changed > noted + _STRANGE_SECONDS


def _note_place(db: sqlite3.Connection, place: str) -> None:
    """Note where the database is now. On a full disk the next start does."""
    try:
        db.execute("INSERT OR REPLACE INTO meta VALUES ('place', ?)", (place,))
    except sqlite3.Error as error:
        if not is_full(error):
            raise


def require_whole(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a database with damage. Raises DataFolderError, sqlite3.Error.

    A copy that other programs made of a database in use mixes several moments, and SQLite may not notice at first.
    """
    (found,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise DataFolderError(
            f"the database {path} is damaged ({found}), and nothing was changed; see: clawlink doctor --data "
            f"{path.parent}, and restore a backup. Copy a folder that a relay uses with clawlink backup alone"
        )


def said(path: Path, error: sqlite3.Error) -> str:
    """Return the sentence for a database that SQLite cannot read or write."""
    why = str(error)
    if "not a database" in why:
        return f"{path} is no SQLite database; give --data a folder of its own"
    if "malformed" in why or "corrupt" in why:
        return (
            f"the database {path} is damaged ({why}), and nothing was changed; see: clawlink doctor --data "
            f"{path.parent}, and restore a backup"
        )
    if "readonly" in why or "unable to open" in why:
        return f"the database {path} cannot be written ({why}); look at the permissions of its folder and its disk"
    if is_full(error):
        return f"there is no room on the disk of {path} ({why}); make room, and start the relay again"
    return f"the database {path} cannot be used: {why}"


def migrate(db: sqlite3.Connection) -> int:
    """Bring the schema up to date, each step in a transaction of its own. Return the number of steps."""
    steps = 0
    while True:
        db.execute("BEGIN IMMEDIATE")
        try:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version == VERSION:
                db.execute("COMMIT")
                return steps
            MIGRATIONS[version](db)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {version + 1}")
            db.execute("COMMIT")
            steps += 1
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
