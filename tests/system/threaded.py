"""A relay in a thread of the test's own process, for tests that block while they ask it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Queue
from typing import Any

from clawlink.config import ServerConfig
from clawlink.server.app import App
from tests.waiting import PATIENCE


@contextmanager
def relay_in_thread(config: ServerConfig) -> Iterator[str]:
    """Run a relay for as long as the context lasts; give its address."""
    told: Queue[Any] = Queue()

    async def serve() -> None:
        app = App(config)
        port = await app.start(close_seconds=0.1)
        stop = asyncio.Event()
        told.put((f"http://127.0.0.1:{port}", asyncio.get_running_loop(), stop))
        await stop.wait()
        await app.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    url, loop, stop = told.get(timeout=PATIENCE)
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(PATIENCE)
