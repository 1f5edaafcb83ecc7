"""The first steps in a folder of events: finish broken-off steps, mend torn files, and drop old events.

A change of an event takes several writes: its file, the registry, the log. So a note of the change is written first.
The next process finishes a noted change if its first write had been done, and forgets it otherwise. All of it runs
under the folder's lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from clawlink.doors.agentrelay import names, rules
from clawlink.doors.agentrelay.client.disk import overwrite, read_plain
from clawlink.doors.agentrelay.client.records import from_log, from_meta, moment, seconds, to_event, to_record
from clawlink.doors.agentrelay.client.registry import TORN, Registry, read_event
from clawlink.doors.agentrelay.client.transactions import PLACE, Transactions
from clawlink.errors import BadRequest
from clawlink.private import UNFINISHED, replace

_NOTE, _SEEN, _ASIDE = ".doing", ".seen", ".damaged"
_LOOK_SECONDS = 10.0
_NAMED = 10


class Note(msgspec.Struct, frozen=True):
    """A change that is under way. ``digest`` is of the event's file as it will be, if it is written at all."""

    verb: str
    event_id: str
    record: dict[str, Any]
    digest: str | None = None
    unlink: bool = False
    log: list[dict[str, str]] = []


class _Ageing(msgspec.Struct, frozen=True, gc=False):
    """The fields of a record that give its age."""

    created_at: Any = None
    updated_at: Any = None
    expired_at: Any = None
    ttl_hours: Any = None


_decode_ageing = msgspec.json.Decoder(_Ageing).decode


class Swept(msgspec.Struct, frozen=True):
    """Lost and forgotten events, and the time of the next step, in seconds since the epoch."""

    files: list[str]
    records: list[str]
    next_at: float


class Recovery:
    """Keeps one folder in order. ``tell`` is given a sentence for each thing that was not."""

    def __init__(self, root: Path, transactions: Transactions, tell: Callable[[str], object]) -> None:
        self._root = root
        self._storage = root / "storage"
        self._log = transactions
        self._tell = tell

    def file_of(self, id: str) -> Path:
        """Return where the contents of an event are."""
        return self._storage / f"{id}.json"

    def names(self) -> set[str]:
        """Return the names of all files with contents, and remove leftovers of interrupted writes."""
        found, left = set(), 0
        for folder in (self._root, self._storage):
            for name in os.listdir(folder):
                if name.startswith(".") and name.endswith(UNFINISHED):
                    with contextlib.suppress(OSError):
                        os.unlink(folder / name)
                        left += 1
                elif folder is self._storage and name.endswith(".json"):
                    found.add(name.removesuffix(".json"))
        if left:
            self._tell(f"removed {left} half-written file{'s' * (left > 1)} of an interrupted write")
        return found

    # -- an untouched folder -----------------------------------------------------------------------------------------

    def left_alone(self, now: float) -> float | None:
        """Return the time of the next sweep, if that is still to come and nothing was touched since ``leave``.

        So not every call looks at all events. Now and then a call does so all the same, because two changes within a
        tick of the clock look like one.
        """
        try:
            told, looked, next_at = self._seen().split()
            if told == self._state() and float(looked) <= now < min(float(looked) + _LOOK_SECONDS, float(next_at)):
                return None if (self._root / _NOTE).exists() else float(next_at)
        except (OSError, ValueError, BadRequest):
            pass
        return None

    def _seen(self) -> str:
        return (read_plain(self._root / _SEEN) or b"").decode("ascii")

    def leave(self, looked_at: float | None, next_at: float) -> None:
        """Note how the folder is left; ``looked_at`` is when all of it was looked at, None for as before."""
        with contextlib.suppress(OSError, ValueError, IndexError, BadRequest):
            looked = self._seen().split()[1] if looked_at is None else repr(looked_at)
            overwrite(self._root / _SEEN, f"{self._state()} {looked} {next_at!r}".encode("ascii"))

    def _state(self) -> str:
        registry, storage = os.stat(self._root / "registry.json"), os.stat(self._storage)
        return f"{registry.st_mtime_ns}.{registry.st_size}.{registry.st_ino}.{storage.st_mtime_ns}"

    # -- broken-off changes ------------------------------------------------------------------------------------------

    def begin(self, note: Note) -> None:
        """Write a note of the next change."""
        overwrite(self._root / _NOTE, msgspec.json.encode(note))

    def end(self) -> None:
        """Note that it is done, or never was begun."""
        (self._root / _NOTE).unlink(missing_ok=True)

    def recover(self, registry: Registry) -> bool:
        """Finish the change that broke off, or forget it; tell whether there was one. It is over with ``end``."""
        raw = read_plain(self._root / _NOTE)
        if raw is None:
            return False
        try:
            self._finish(registry, msgspec.json.decode(raw, type=Note))
        except (msgspec.DecodeError, UnicodeError, RecursionError, BadRequest):
            self._tell("a change was interrupted before it began: nothing of it is kept")
        return True

    def _finish(self, registry: Registry, note: Note) -> None:
        id = note.event_id
        path = self.file_of(names.require_id(id))
        there = registry.get(id) == note.record
        if note.digest is None:
            begun = there
        else:
            data = read_plain(path)
            begun = data is not None and hashlib.sha256(data).hexdigest() == note.digest
        if not begun:
            self._tell(f"{note.verb} of event {id} was interrupted before it took effect: nothing of it is kept")
            return
        undone = not there
        registry.put(id, note.record)
        if note.unlink and path.exists():
            path.unlink()
            undone = True
        if self._log.append_missing(*note.log) or undone:
            self._tell(f"{note.verb} of event {id} was interrupted: it is finished now")

    # -- torn and lost records ---------------------------------------------------------------------------------------

    def mend(self, registry: Registry, names: Iterable[str], now: float) -> bool:
        """Take lost events into the registry; return True if it has to be written."""
        known = registry.raw()
        lost = [name for name in names if name not in known]
        adopted = self._adopt(registry, lost, now) if lost else []
        for id in set(registry.senseless).difference(adopted):
            self._tell(f"what the registry had of event {id!r} made no sense, and was dropped")
        if registry.torn:
            self._tell(
                f"registry.json was torn (it is kept as {TORN}): {len(known)} events were whole, "
                f"{len(adopted)} were restored from their files and the log"
            )
            gone = {one["event_id"] for one in self._log.read() if PLACE not in one} - set(registry.raw())
            if gone:
                self._tell(
                    f"only the log knows of {_listed(gone)}: without record and file "
                    f"{'they' if len(gone) > 1 else 'it'} can be neither read nor verified; send again what is needed"
                )
        elif adopted:
            self._tell(f"the registry had lost {_listed(adopted)}: restored from the files and the log")
        return bool(adopted or registry.senseless) or registry.torn

    def _adopt(self, registry: Registry, lost: list[str], now: float) -> list[str]:
        """Take events into the registry from their files and the log; return them."""
        found = {id: meta for id in sorted(lost) if (meta := self._found(id, now)) is not None}
        history: dict[str, list[dict[str, Any]]] = {id: [] for id in found}
        begun = {id: seconds(meta.get("created_at")) or 0.0 for id, meta in found.items()}
        for entry in self._log.read() if found else ():
            id = entry["event_id"]
            # Neither a relay's event with the same id, nor an earlier event with that id.
            if id in history and PLACE not in entry and (seconds(entry.get("timestamp")) or 0.0) >= begun[id]:
                history[id].append(entry)
        for id, meta in found.items():
            record = {**from_log(history[id]), **from_meta(meta)}
            event = to_event(id, record, present=True, burns=False, now=now)
            registry.put(id, to_record(event, record, file_path=str(self.file_of(id)), now=now))
        return list(found)

    def _found(self, id: str, now: float) -> dict[str, Any] | None:
        """Return the record in an event's file; None if it is torn (this is reported) or foreign (it is left alone)."""
        path = self.file_of(id)
        try:
            data = read_event(path)
        except BadRequest as error:
            with contextlib.suppress(OSError):
                replace(path, path.with_name(path.name + _ASIDE))
                os.utime(path.with_name(path.name + _ASIDE), (now, now))
            self._tell(
                f"{error.message}; neither does the registry know it. It is kept as {path.name}{_ASIDE} for a day"
            )
            return None
        meta: dict[str, Any] = {} if data is None else data["meta"]
        with contextlib.suppress(BadRequest):
            if meta.get("event_id") == names.require_id(id):
                return meta
        return None

    def _forget_old(self, path: Path, now: float) -> None:
        with contextlib.suppress(OSError):
            if now - path.lstat().st_mtime >= rules.DEFAULT_TTL_HOURS * rules.HOUR:
                path.unlink()

    # -- old events --------------------------------------------------------------------------------------------------

    def sweep(
        self,
        registry: Registry,
        names: set[str],
        now: datetime,
        *,
        ttl_hours: int = rules.DEFAULT_TTL_HOURS,
        registry_ttl_hours: int = rules.DEFAULT_REGISTRY_TTL_HOURS,
        thorough: bool = False,
    ) -> Swept:
        """Delete contents whose time is over, and forget old events.

        Unless ``thorough``, it looks only into files of events that are old by the registry.
        """
        files: list[str] = []
        records: list[str] = []
        changed: dict[str, dict[str, Any]] = {}
        rest = math.inf  # hours until the next is over
        for id, raw in registry.raw().items():
            try:
                age = _decode_ageing(raw)
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                continue
            if id in names:
                left = self._hours_left(id, age, now, ttl_hours, thorough)
                if left > 0:
                    rest = min(rest, left)
                    if thorough:
                        changed[id] = {**registry.get(id), "file_exists": True}
                    continue
                try:
                    self.file_of(id).unlink(missing_ok=True)
                except OSError as error:
                    self._tell(f"{self.file_of(id)} is over and cannot be deleted ({error.strerror}): remove it")
                    continue
                gone = {"file_exists": False, "status": rules.Status.EXPIRED.value, "expired_at": now.isoformat()}
                changed[id] = {**registry.get(id), **gone}
                files.append(id)
                age = _Ageing(expired_at=gone["expired_at"])
            since = moment(age.expired_at) or moment(age.updated_at) or moment(age.created_at) or now
            left = registry_ttl_hours - _hours(now, since)
            if left > 0:
                rest = min(rest, left)
            else:
                records.append(id)
        if changed or records:
            registry.change({id: record for id, record in changed.items() if id not in records}, set(records))
        for path in self._storage.glob(f"*{_ASIDE}"):
            self._forget_old(path, now.timestamp())
        return Swept(files, records, now.timestamp() + rest * rules.HOUR)

    def _hours_left(self, id: str, age: _Ageing, now: datetime, ttl_hours: int, thorough: bool) -> float:
        """Return for how long contents are kept yet. The file of an event tells it, and is read where it matters."""
        hours = rules.whole_hours(age.ttl_hours) or ttl_hours
        since = moment(age.created_at) or moment(age.updated_at) or now
        left = hours - _hours(now, since)
        if left > 0 and not thorough:
            return left
        meta: dict[str, Any] = {}
        with contextlib.suppress(BadRequest):
            meta = (read_event(self.file_of(id)) or {}).get("meta", {})
        return (rules.whole_hours(meta.get("ttl_hours")) or hours) - _hours(
            now, moment(meta.get("created_at")) or since
        )


def _hours(now: datetime, since: datetime) -> float:
    if since.tzinfo is not None:
        with contextlib.suppress(OverflowError, OSError, ValueError):  # a year that no clock has
            since = since.astimezone()
        since = since.replace(tzinfo=None)
    return (now - since).total_seconds() / rules.HOUR


def _listed(ids: Iterable[str]) -> str:
    named = sorted(ids)
    more = len(named) - _NAMED
    return f"event{'s' * (len(named) > 1)} {', '.join(named[:_NAMED])}" + (f" and {more} more" if more > 0 else "")
