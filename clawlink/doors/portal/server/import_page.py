"""The import at the owner's page: the old database is uploaded, looked at, and imported while the portal runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

from clawlink.domain.limits import MIB
from clawlink.doors.portal.rules import file_parts
from clawlink.doors.portal.rules.file_parts import MAX_ATTACHMENT_BYTES
from clawlink.doors.portal.rules.import_report import Choice, Note
from clawlink.doors.portal.rules.urls import normalised, same
from clawlink.doors.portal.server.bodies import to_disk
from clawlink.doors.portal.server.import_run import FOLDERS, ImportRun, own_address
from clawlink.doors.portal.server.importer import Importer, Preview
from clawlink.doors.portal.server.old_database import OldDatabase, Unreadable
from clawlink.doors.portal.server.parts import Home
from clawlink.doors.portal.server.portal_request import PortalRequest, handler_of
from clawlink.doors.portal.wire.calls import IMPORT, IMPORT_CALLS, StartImport
from clawlink.errors import NotFound, StorageFull, TooLarge, WrongState
from clawlink.protocol.endpoint import Endpoint
from clawlink.relay.error_mapping import refusal
from clawlink.server.http_files import parts
from clawlink.server.request import Handler, parameter

MAX_DATABASE_BYTES = 1024 * MIB
MAX_BESIDE = 2000
KEPT_SECONDS = 3600.0
MOST_SHOWN = 200
_ROOM_BYTES = 256 * MIB
_PREFIX = "clawlink-import-"
_DATABASE = "portal.db"
_BY_COMMAND = "stop the portal, and bring it by 'clawlink portal import'"
_log = logging.getLogger("clawlink.portal")


class Step(str, Enum):
    """The state of an import."""

    NONE = "none"
    UPLOADING = "uploading"
    UPLOADED = "uploaded"
    LOOKING = "looking"
    LOOKED = "looked"
    BRINGING = "bringing"
    BROUGHT = "brought"
    FAILED = "failed"


_BUSY = (Step.UPLOADING, Step.LOOKING, Step.BRINGING)


class PageImport:
    """Keeps one old database at a time, in a folder that only this account may read, until the process ends."""

    def __init__(
        self, home: Home, *, most_waiting: int, folder: str | None, keys_ended: Callable[[], Awaitable[None]]
    ) -> None:
        """``folder`` is the place of what is brought; None is the system's."""
        self._home = home
        self._most_waiting = most_waiting
        self._place = folder
        self._keys_ended = keys_ended
        self._step = Step.NONE
        self._folder: Path | None = None
        self._size = 0
        self._beside = 0
        self._at = home.url
        self._run: ImportRun | None = None
        self._fault: dict[str, Any] | None = None
        self._working: asyncio.Task[None] | None = None
        self._touched = 0.0

    def all(self) -> Iterator[tuple[Endpoint, Handler]]:
        """Give each route, also with two slashes."""
        for call in IMPORT_CALLS:
            handler = handler_of(self._home.keys, self._home.contacts.used, call, getattr(self, call.name))
            yield call, handler
            yield replace(call, name=f"{call.name}_slash", path="/" + call.path), handler

    # -- what is brought ---------------------------------------------------------------------------------------------

    async def import_upload(self, ask: PortalRequest) -> Any:
        """Take the bytes of a database. An earlier one gives way."""
        self._home.relay.core.require_working()
        self._require_idle()
        self._step = Step.UPLOADING
        try:
            await self._forget(Step.UPLOADING)
            self._folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=_PREFIX, dir=self._place))
            told = f"a database on this page may have {MAX_DATABASE_BYTES} bytes: {_BY_COMMAND}"
            self._size = await self._keep(ask, self._folder / _DATABASE, MAX_DATABASE_BYTES, told)
            self._step = Step.UPLOADED
        finally:
            if self._step is Step.UPLOADING:
                await asyncio.shield(self._forget())
        return self._view()

    async def import_beside(self, ask: PortalRequest) -> Any:
        """Take a file of one of the folders beside the database."""
        self._require_idle()
        place, name = parameter(ask.request, "place"), file_parts.harmless(parameter(ask.request, "name"))
        if place not in FOLDERS:
            raise NotFound(f"the folders beside a database are {' and '.join(FOLDERS)}", field="place")
        if self._folder is None:
            raise WrongState(f"bring the database first: PUT {IMPORT}", field="place", current=self._step.value)
        if self._beside >= MAX_BESIDE:
            raise TooLarge(f"{MAX_BESIDE} files beside a database may come on this page: {_BY_COMMAND}")
        self._beside += 1
        folder, before = self._folder / place, self._step
        self._step = Step.UPLOADING
        try:
            await asyncio.to_thread(folder.mkdir, exist_ok=True)
            told = f"a file beside the database may have {MAX_ATTACHMENT_BYTES} bytes on this page: {_BY_COMMAND}"
            await self._keep(ask, folder / name, MAX_ATTACHMENT_BYTES, told)
        except BaseException:
            with contextlib.suppress(OSError):
                (folder / name).unlink()
            raise
        finally:
            self._step = before
        return self._view()

    async def _keep(self, ask: PortalRequest, path: Path, most: int, told: str) -> int:
        """Write a body to a file. Raises TooLarge, StorageFull."""
        announced = ask.request.content_length or 0
        if announced > most:
            raise TooLarge(told, limit=most, actual=announced)
        free = (await asyncio.to_thread(shutil.disk_usage, path.parent)).free
        if announced + _ROOM_BYTES > free:
            raise StorageFull(f"the portal's disk has {free} bytes left; make room on it", actual=announced)
        file = await asyncio.to_thread(open, path, "wb")
        try:
            return await to_disk(file, parts(ask.request), most, told)
        finally:
            self._touched = self._home.relay.steady()
            await asyncio.shield(asyncio.to_thread(file.close))

    def _require_idle(self) -> None:
        if self._step in _BUSY:
            raise WrongState(
                "an import is under way; wait for its end, or stop it with DELETE " + IMPORT, current=self._step.value
            )

    # -- what is done with it ----------------------------------------------------------------------------------------

    async def import_start(self, ask: PortalRequest) -> Any:
        """Say what would come, or bring it. The answer comes at once, and ``import_view`` tells the rest."""
        self._home.relay.core.require_working()
        self._require_idle()
        if self._folder is None:
            raise WrongState(f"bring the database first: PUT {IMPORT}", current=self._step.value)
        body: StartImport = ask.body
        self._at = self._home.url if not body.at else normalised(body.at, field="at")
        choice = Choice(body.owner_key or None, tuple(body.agent_keys))
        self._step = Step.BRINGING if body.bring else Step.LOOKING
        self._run, self._fault = None, None
        self._working = asyncio.create_task(self._work(self._folder, choice, bring=body.bring))
        return self._view()

    async def import_view(self, ask: PortalRequest) -> Any:
        """Tell how far it came, with the report."""
        return self._view()

    async def import_drop(self, ask: PortalRequest) -> Any:
        """Stop, and forget what was brought. What came into the portal stays."""
        if self._step is Step.UPLOADING:
            raise WrongState("the database is on its way; end that request first", current=self._step.value)
        await self._stop()
        await self._forget()
        return self._view()

    async def _work(self, folder: Path, choice: Choice, *, bring: bool) -> None:
        try:
            await self._through(folder, choice, bring=bring)
        except Exception as failure:  # after a cancellation it stays busy, until all is forgotten
            error = refusal(self._home.relay, failure, {"method": "POST", "route": IMPORT}, _log)
            self._step = Step.FAILED
            self._fault = {"detail": error.message, "code": error.code, "field": error.field}
            if isinstance(failure, Unreadable):
                self._fault["reason"] = failure.reason
        else:
            if bring:
                await self._delete()  # before the state says so: the upload has keys in it
            self._step = Step.BROUGHT if bring else Step.LOOKED
        self._touched = self._home.relay.steady()

    async def _through(self, folder: Path, choice: Choice, *, bring: bool) -> None:
        database = await asyncio.to_thread(OldDatabase, folder / _DATABASE, name=_DATABASE)
        try:
            run = self._run = ImportRun(database, self._at, most_waiting=self._most_waiting)
            await run.choose(choice)
            guess = await own_address(database)
            named = self._at if guess is None else guess
            if not same(named, self._home.url):
                run.report.notes.append(Note("address", named, self._home.url))
            if bring:
                importer = Importer(self._home, database, run.report)
                await importer.begin()
                await run.all(importer)
            else:
                await run.all(Preview(self._home))
        finally:
            await asyncio.shield(asyncio.to_thread(database.close))
            if bring and choice.owner is not None:
                await self._keys_ended()

    def _view(self) -> dict[str, Any]:
        run = self._run
        return {
            "state": self._step.value,
            "at": self._at,
            "size": self._size,
            "beside": self._beside,
            "done": 0 if run is None else run.done,
            "total": 0 if run is None else run.total,
            "report": None if run is None else run.report.as_json(MOST_SHOWN),
            "fault": self._fault,
        }

    # -- the end -----------------------------------------------------------------------------------------------------

    async def clear(self) -> None:
        """Delete what a relay that was killed has left."""
        if self._place is not None:
            await asyncio.to_thread(_delete_all, Path(self._place))

    async def upkeep(self) -> None:
        """Forget a database for which the owner did not come back."""
        idle = self._home.relay.steady() - self._touched
        if self._folder is not None and self._step not in _BUSY and idle > KEPT_SECONDS:
            await self._forget()

    async def close(self) -> None:
        """Stop, and delete what was brought."""
        await self._stop()
        await self._delete()

    async def _stop(self) -> None:
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait([self._working])
            self._working = None

    async def _forget(self, step: Step = Step.NONE) -> None:
        # The next upload may begin while the files of this one are deleted.
        self._step, self._run, self._fault = step, None, None
        self._size = self._beside = 0
        await self._delete()

    async def _delete(self) -> None:
        folder, self._folder = self._folder, None
        if folder is not None:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _delete_all(place: Path) -> None:
    for folder in place.glob(_PREFIX + "*"):
        shutil.rmtree(folder, ignore_errors=True)
