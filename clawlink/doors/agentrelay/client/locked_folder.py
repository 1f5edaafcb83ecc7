"""The folder of events: locked, put in order, and its registry as the original lets others at it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from clawlink.doors.agentrelay import names
from clawlink.doors.agentrelay.client.disk import make_private
from clawlink.doors.agentrelay.client.records import stamp
from clawlink.doors.agentrelay.client.recovery import Recovery, Swept
from clawlink.doors.agentrelay.client.registry import Registry, read_event
from clawlink.doors.agentrelay.client.transactions import Transactions, entry
from clawlink.errors import BadRequest, ClawLinkError, StorageFull, StoreUnavailable, UnknownEvent

LOCK_SECONDS, _PAUSE_SECONDS = 60.0, 0.005
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class Opened:
    """The locked folder: the records of all events, and the time when the next event is over."""

    def __init__(self, registry: Registry, storage: Path, next_at: float) -> None:
        self.registry = registry
        self.next_at = next_at
        self._storage = storage

    def has_contents(self, id: str) -> bool:
        """Return True if there is a file with an event's contents."""
        return os.path.lexists(self._storage / f"{id}.json")


class LockedFolder:
    """The files of one folder. ``tell`` is given a sentence for each thing in it that had to be mended."""

    def __init__(
        self, data: Path, *, tell: Callable[[str], object] = lambda _: None, clock: Callable[[], float] = time.time
    ) -> None:
        self.root = data / "agentrelay"
        self.storage = self.root / "storage"
        self.logs = self.root / "logs"
        self.registry = self.root / "registry.json"
        self.transactions = Transactions(self.logs, tell)
        self._mended: list[str] = []
        self._recovery = Recovery(self.root, self.transactions, self._mended.append)
        self._tell = tell
        self._clock = clock
        self._loaded: dict[str, Any] = {}

    def file_of(self, id: str) -> Path:
        """Return where the contents of an event are. Raises BadRequest for an id that is none."""
        return self._recovery.file_of(names.require_id(id))

    # -- the registry, as the original lets others at it -------------------------------------------------------------

    def knows(self, id: str) -> bool:
        """Return True if an event is known here. Nothing is made or changed where there is no folder."""
        try:
            return bool(self.file_of(id).exists() or self.record(id))
        except ClawLinkError:
            return False

    def record(self, id: str) -> dict[str, Any]:
        """Return the registry's record of an event; an empty one if it does not know it."""
        if not self.registry.exists():
            return {}
        with self._locked():
            return self._in_order(None)[0].get(id)

    def put_record(self, id: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Merge fields into the registry's record of an event, and return all of it."""
        names.require_id(id)
        require_object(fields, "event_data")
        with self._locked():
            registry, _ = self._in_order(None)
            merged = {**registry.get(id), **fields, "updated_at": stamp(self._clock())}
            try:
                registry.put(id, merged)
            except (TypeError, ValueError, RecursionError) as error:
                raise BadRequest(f"event_data is not JSON in UTF-8: {error}", field="event_data") from None
            registry.write()
        return merged

    def load(self) -> dict[str, Any]:
        """Return the whole registry, as ``{"events": {id: {...}}}``."""
        if not self.registry.exists():
            return {"events": {}}
        with self._locked():
            whole = self._in_order(None)[0].whole()
        self._loaded = json.loads(json.dumps(whole["events"]))
        return whole

    def save(self, registry: Mapping[str, Any]) -> None:
        """Write the changes since ``load``. Changes of other processes stay."""
        require_object(registry, "registry")
        events = registry.get("events", {})
        require_object(events, "registry.events")
        changed = {id: record for id, record in events.items() if record != self._loaded.get(id)}
        for id, record in changed.items():
            names.require_id(id)
            require_object(record, f"the record of event {id}")
        try:
            saved = json.loads(json.dumps(events))
        except (TypeError, ValueError, RecursionError) as error:
            raise BadRequest(f"registry is not JSON: {error}", field="registry") from None
        with self._locked():
            kept, _ = self._in_order(None)
            kept.change({id: saved[id] for id in changed}, self._loaded.keys() - events.keys())
            kept.write()
        self._loaded = saved

    def contents(self, id: str) -> dict[str, Any]:
        """Return the contents of an event's file. Raises UnknownEvent, BadRequest for a torn file."""
        self.file_of(id)
        with self._locked():
            return self.contents_of(id)

    def prepare(self) -> None:
        """Make the folders."""
        with self._locked():
            pass

    def note(self, *told: str) -> None:
        """Write a line into the log, of the fields after its time."""
        with self._locked():
            self.transactions.append(entry(self._clock(), *told))

    # -- lock and order ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def open(self) -> Iterator[Opened]:
        """Lock the folder, put it in order, and yield the records. The caller writes its changes."""
        with self._locked():
            now = self._clock()
            looked_at = None
            next_at = self._recovery.left_alone(now)
            if next_at is not None:
                registry = Registry(self.registry, trusted=True)
            else:
                looked_at = now
                registry, swept = self._in_order(datetime.fromtimestamp(now))
                next_at = swept.next_at
            opened = Opened(registry, self.storage, next_at)
            try:
                yield opened
            finally:
                self._recovery.leave(looked_at, opened.next_at)

    def _in_order(self, at: datetime | None, *, thorough: bool = False, **hours: int) -> tuple[Registry, Swept]:
        """Finish broken-off changes, mend torn files, drop old events; return the records, and the dropped events.

        Repairs are reported once they are on the disk. The write comes after the sweep, which may make the room for it.
        """
        now = self._clock()
        self._mended.clear()
        registry = Registry(self.registry)
        names = self._recovery.names()
        broke_off = self._recovery.recover(registry)
        mended = self._recovery.mend(registry, names, now)
        swept = Swept([], [], now)
        if at is not None:
            swept = self._recovery.sweep(registry, names, at, thorough=thorough, **hours)
        if mended or broke_off or thorough or swept.files or swept.records:
            registry.write()
        if broke_off:
            self._recovery.end()
        for sentence in self._mended:
            self._tell(sentence)
        return registry, swept

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with self._lock():
                yield
        except OSError as error:
            raise _unusable(error, self.root) from error
        except RecursionError:
            raise BadRequest(f"something in {self.root} is nested too deep to be read; remove it") from None

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        from filelock import FileLock, Timeout  # here, since it costs more to load than the rest

        make_private(self.root, may_be_link=True)  # which its owner may have put elsewhere
        for folder in (self.storage, self.logs):
            make_private(folder)
        path = self.root / ".lock"
        lock = FileLock(path, timeout=LOCK_SECONDS, mode=0o600)
        try:
            lock.acquire(poll_interval=_PAUSE_SECONDS)
        except Timeout:
            raise StoreUnavailable(
                f"another process has held {path} for {LOCK_SECONDS:.0f} s; try again", retry_after=1
            ) from None
        try:
            yield
        finally:
            lock.release()

    def contents_of(self, id: str) -> dict[str, Any]:
        """Return the contents of an event's file, in a folder that is locked. Raises as ``contents``."""
        data = read_event(self.file_of(id))
        if data is None:
            raise UnknownEvent(f"File not found: {self.file_of(id)}", field="event_id")
        return data


def _unusable(error: OSError, root: Path) -> ClawLinkError:
    """Return the error for a folder that the system does not let be read or written."""
    where, why = error.filename or root, error.strerror or type(error).__name__
    if error.errno in _FULL:
        return StorageFull(f"{where} cannot be written ({why}): make room on the disk of {root}, and try again")
    return StoreUnavailable(
        f"{where} cannot be read or written ({why}): see to it and to who owns {root}, and try again", retry_after=1
    )


def require_object(value: object, field: str) -> None:
    if not isinstance(value, dict):
        raise BadRequest(f"{field} must be an object of names and values, as {{}}", field=field)
