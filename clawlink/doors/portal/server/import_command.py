"""The import by a command: ``portal.db`` comes into a portal that does not run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clawlink.doors.portal.rules.import_report import Choice, Report
from clawlink.doors.portal.rules.urls import normalised
from clawlink.doors.portal.server.import_run import ImportRun, Target, own_address
from clawlink.doors.portal.server.importer import Importer
from clawlink.doors.portal.server.old_database import OldDatabase
from clawlink.doors.portal.server.opened import opened
from clawlink.doors.portal.settings import Settings
from clawlink.errors import BadRequest


async def look(path: Path, own_url: str | None, choice: Choice) -> Report:
    """Say what would come, and change nothing. Raises BadRequest."""
    with OldDatabase(path) as database:
        run = await _begun(database, own_url, choice)
        await run.all(Target())
    return run.report


async def import_database(
    path: Path, data: Path | None, own_url: str | None, choice: Choice, environ: Mapping[str, str]
) -> Report:
    """Bring all that may come into a folder, or without one over the server that the environment names.

    Raises BadRequest, and the errors of ``opened``.
    """
    with OldDatabase(path) as database:
        run = await _begun(database, own_url, choice)
        async with opened(data, run.own_url, environ) as portal:
            home = portal.home
            await home.repository.start()
            importer = Importer(home, database, run.report)
            await importer.begin()
            await run.all(importer)
    return run.report


async def set_password(data: Path | None, password: str | None, environ: Mapping[str, str]) -> str:
    """Set the owner's password of a portal that does not run, and return it. Raises as ``import_database``."""
    async with opened(data, None, environ) as portal:
        return await portal.keys.set_password(password)


async def _begun(database: OldDatabase, given: str | None, choice: Choice) -> ImportRun:
    """Return the way through a database, with the owner's keys chosen. Raises BadRequest."""
    if given is None:
        guess = await own_address(database)
        if guess is None:
            raise BadRequest("the database does not say which address its portal had: give --at https://YOUR-PORTAL")
        raise BadRequest(f"say which address the portal has, so that contacts notice nothing; perhaps --at {guess}")
    run = ImportRun(database, normalised(given, field="at"), most_waiting=Settings().portal_guests)
    await run.choose(choice)
    return run
