"""Readiness: whether the store takes a commit at this moment."""

from __future__ import annotations

import asyncio

from clawlink.errors import StoreUnavailable
from clawlink.relay.core import Core

# A store that has not answered by then does not answer.
_PATIENCE_SECONDS = 2.0
_RETRY_SECONDS = 1.0


class Readiness:
    """Asks the store for its health. All who ask at one moment share the answer."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._asked: asyncio.Task[str | None] | None = None

    async def require(self) -> None:
        """Return if the relay takes work and its store reads and commits. Raises Draining, StoreUnavailable."""
        self._core.require_working()
        if self._asked is None or self._asked.done():
            self._asked = self._core.begin(self._core.store.health())
        done, _ = await asyncio.wait({self._asked}, timeout=_PATIENCE_SECONDS)
        why = self._asked.result() if done else f"it has not answered within {_PATIENCE_SECONDS:g} s"
        if why is not None:
            raise StoreUnavailable(
                f"the store of this relay reads or writes nothing at this moment ({why}); try again",
                retry_after=_RETRY_SECONDS,
            )
