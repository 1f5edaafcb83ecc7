"""A portal that does not run, opened for a command that changes it: in a folder, or over the server of its relays."""

from __future__ import annotations

import asyncio
import contextlib
from argparse import ArgumentParser
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from clawlink.config import ServerConfig
from clawlink.doors.portal.records import Portal
from clawlink.doors.portal.server.active import ActivePortal
from clawlink.doors.portal.server.door import PortalServer
from clawlink.doors.portal.server.keys import PORTAL_ID
from clawlink.doors.portal.server.lease import Lease
from clawlink.doors.portal.settings import Settings
from clawlink.errors import BadRequest, ClawLinkError
from clawlink.server.app import App
from clawlink.server.keys import with_secrets
from clawlink.server.run import open_mesh
from clawlink.store.base import Store
from clawlink.store.events import Peers
from clawlink.store.fence import behind
from clawlink.store.sqlite.folder import DataFolder


@contextlib.asynccontextmanager
async def opened(data: Path | None, url: str | None, environ: Mapping[str, str]) -> AsyncIterator[ActivePortal]:
    """Open the portal of a folder; without one, that over the server which the environment names.

    Without a ``url`` the portal has run before, and keeps its own. Raises BadRequest, DataFolderError while a relay has
    the folder, StoreError, and ClawLinkError while a relay is the active one.
    """
    if data is not None:
        folder = DataFolder(data, sync="normal")
        try:
            config = _of_folder(data, Settings(url=url or await _url(folder.store, str(data))))
            async with _portal(App(with_secrets(config, environ), data=folder)) as portal:
                yield portal
        finally:
            folder.close()
        return
    config = _of_environment(environ)
    mesh = await open_mesh(config, str(config.store))
    try:
        async with _leased(mesh) as lease:
            with behind(lease.fence):
                settings = Settings(url=url or await _url(mesh.store, "the server of CLAWLINK_STORE"))
                app = App(replace(config, doors={"portal": settings}), mesh=mesh)
                async with _portal(app) as portal:
                    yield portal
    finally:
        await mesh.close()


@contextlib.asynccontextmanager
async def _portal(app: App) -> AsyncIterator[ActivePortal]:
    yield cast("PortalServer", app.doors["portal"]).active
    await app.relay.finished()
    app.relay.close()


async def _url(store: Store, where: str) -> str:
    portal = await store.get(Portal, PORTAL_ID)
    if portal is None:
        raise BadRequest(f"no portal has run in {where}; the first start prints the password")
    return str(portal.url)


def _of_folder(data: Path, settings: Settings) -> ServerConfig:
    """Return the configuration of a portal over a folder, with the room for files that it has when it runs."""
    from clawlink.doors.portal import with_room_for_files

    config = ServerConfig(data=str(data), doors={"portal": settings}, mdns=False, public=True)
    return replace(config, limits=with_room_for_files(config.limits))


def _of_environment(environ: Mapping[str, str]) -> ServerConfig:
    """Return the configuration that ``clawlink serve`` reads from the environment. Raises BadRequest."""
    from clawlink.server import options

    parser = ArgumentParser()
    options.add_arguments(parser)
    try:
        config = options.read(parser.parse_args([]), environ)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    if config.store is None:
        raise BadRequest("CLAWLINK_STORE names no server; set it as at the relays, or give --data DIR")
    return replace(config, mdns=False, public=True)


@contextlib.asynccontextmanager
async def _leased(mesh: Peers) -> AsyncIterator[Lease]:
    """Be the only one that changes the portal. Raises ClawLinkError while a relay is the active one."""
    lease = Lease(mesh, Settings().portal_lease)
    await lease.renew()
    if not lease.held:
        raise ClawLinkError(
            "a relay is the active node of this portal, or was until a moment ago; stop all relays with --portal, wait "
            "for --portal-lease, and run the command again"
        )

    async def keep() -> None:
        while True:
            await asyncio.sleep(lease.pause)
            await lease.renew()

    keeping = asyncio.create_task(keep())
    try:
        yield lease
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await lease.end()
