"""Moving in by a command: ``portal.db`` comes into a portal that does not run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clawlink.doors.portal.rules.moving_report import Choice, Report
from clawlink.doors.portal.rules.urls import normalised
from clawlink.doors.portal.server.mover import Mover
from clawlink.doors.portal.server.moving_tour import Taker, Tour, own_address
from clawlink.doors.portal.server.old_database import OldDatabase
from clawlink.doors.portal.server.opened import opened
from clawlink.doors.portal.settings import Settings
from clawlink.errors import BadRequest


async def look(path: Path, own_url: str | None, choice: Choice) -> Report:
    """Say what would come, and change nothing. Raises BadRequest."""
    with OldDatabase(path) as database:
        tour = await _begun(database, own_url, choice)
        await tour.all(Taker())
    return tour.report


async def move_in(
    path: Path, data: Path | None, own_url: str | None, choice: Choice, environ: Mapping[str, str]
) -> Report:
    """Bring all that may come into a folder, or without one over the server that the environment names.

    Raises BadRequest, and the errors of ``opened``.
    """
    with OldDatabase(path) as database:
        tour = await _begun(database, own_url, choice)
        async with opened(data, tour.own_url, environ) as portal:
            home = portal.home
            await home.book.start()
            mover = Mover(home, database, tour.report)
            await mover.begin()
            await tour.all(mover)
    return tour.report


async def set_password(data: Path | None, password: str | None, environ: Mapping[str, str]) -> str:
    """Set the owner's password of a portal that does not run, and return it. Raises as ``move_in``."""
    async with opened(data, None, environ) as portal:
        return await portal.keys.set_password(password)


async def _begun(database: OldDatabase, given: str | None, choice: Choice) -> Tour:
    """Return the way through a database, with the owner's keys chosen. Raises BadRequest."""
    if given is None:
        guess = await own_address(database)
        if guess is None:
            raise BadRequest("the database does not say which address its portal had: give --at https://YOUR-PORTAL")
        raise BadRequest(f"say which address the portal has, so that contacts notice nothing; perhaps --at {guess}")
    tour = Tour(database, normalised(given, field="at"), most_waiting=Settings().portal_guests)
    await tour.choose(choice)
    return tour
