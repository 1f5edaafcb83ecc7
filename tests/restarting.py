"""A relay in this process that is stopped and started again over one data folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from clawlink.config import ServerConfig
from clawlink.domain.limits import Limits
from clawlink.server.app import App
from clawlink.server.keys import with_secrets
from clawlink.store.sqlite.folder import DataFolder
from tests.conftest import Running
from tests.waiting import PATIENCE


class Wall:
    """The time of a machine on which relays start."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Restarting:
    """A relay over one folder, in this process. ``begin`` stops the one before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wall = Wall()
        self._open: list[tuple[App, DataFolder, aiohttp.ClientSession]] = []

    async def begin(self, *, doors: Mapping[str, Any] | None = None, **limits: Any) -> Running:
        """Start a relay, after the one before was stopped."""
        await self.end()
        data = DataFolder(self.folder, sync="normal")
        config = ServerConfig(port=0, limits=Limits(**limits), data=str(self.folder), doors=doors or {})
        app = App(with_secrets(config, {}), data=data, clock=self.wall)
        port = await app.start(close_seconds=0.1)
        session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE))
        self._open.append((app, data, session))
        return Running(f"http://127.0.0.1:{port}", app, session)

    async def end(self) -> None:
        """Stop the relay that runs."""
        for app, data, session in self._open:
            await session.close()
            await app.stop()
            data.close()
        self._open.clear()
