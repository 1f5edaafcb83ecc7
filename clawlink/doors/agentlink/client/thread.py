"""An event loop on a thread of its own, for what must go on whatever the program does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

# Connections that were closed, those with TLS above all, take a moment until they are.
_CLOSE_SECONDS = 0.25


class LoopThread:
    """A loop that runs until it is stopped, or the program ends."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(asyncio.sleep(_CLOSE_SECONDS))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run work on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def stop_after(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run the last work, and stop then."""
        last = self.run(work)
        last.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._loop.stop))
        return last


def here() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs the caller, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
