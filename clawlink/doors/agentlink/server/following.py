"""Follow records of the store that change at this relay or at another one of its mesh."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from clawlink.relay.core import Core

_log = logging.getLogger("clawlink.agentlink")

_RETRY_SECONDS = 1.0

Load = Callable[["set[str] | None"], Awaitable[None]]


class Following:
    """Calls ``load`` once with None, for all records, and then with the ids of those that changed.

    The ids of the records begin with ``key``, before a colon. After a break ``load`` is called with None again.
    """

    def __init__(self, core: Core, key: str, load: Load) -> None:
        self._core = core
        self._key = key
        self._load = load
        self._loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run())

    async def loaded(self) -> None:
        """Return once all records were loaded. Raises the error of the first attempt."""
        await asyncio.shield(self._loaded)

    async def _run(self) -> None:
        with self._core.watch(self._key) as watch:
            try:
                await self._load(None)
            except Exception as error:
                self._loaded.set_exception(error)
                self._loaded.exception()  # nobody may wait for it
                return
            self._loaded.set_result(None)
            while True:
                await watch.signal.wait(None)
                watch.signal.clear()
                changed, watch.changed = watch.changed, set()
                try:
                    await self._load(None if self._key in changed else changed)
                except Exception:
                    _log.exception("following records failed; it goes on")
                    await asyncio.sleep(_RETRY_SECONDS)
                    watch.changed |= changed
                    watch.signal.give()

    def close(self) -> None:
        """Follow nothing any more."""
        self._task.cancel()
        self._loaded.cancel()
