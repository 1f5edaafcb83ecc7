"""A relay that goes away and comes back at the same address, with all that it knew."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

from clawlink.config import ServerConfig
from clawlink.domain.limits import Limits
from clawlink.server.app import App
from clawlink.store.memory import MemoryStore
from tests.waiting import PATIENCE


class Restartable:
    """A relay in a thread of the test's process, over a store that outlives it."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._store = MemoryStore()
        self._port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._app: App | None = None
        self.start()

    @property
    def url(self) -> str:
        """The address, the same for good."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen."""
        self._run(self._start())

    def stop(self) -> None:
        """Close all connections and stop listening."""
        if self._app is not None:
            self._run(self._app.stop())
            self._app = None

    def forget(self) -> None:
        """Come back, the next time, with nothing of what was known."""
        self._store = MemoryStore()

    def drain(self) -> None:
        """Take no new work, answer who waits, and go on listening."""
        assert self._app is not None
        self._run(self._app.relay.drain())

    def close(self) -> None:
        """End for good."""
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    async def _start(self) -> None:
        self._app = App(ServerConfig(port=self._port, limits=self._limits), store=self._store)
        self._port = await self._app.start(close_seconds=0.1)

    def _run(self, work: Any) -> None:
        done: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        done.result(20)
