"""A store whose methods run to their end on a loop of their own, for tests that have none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class AtOnce:
    """Passes every call on, and never suspends."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.loop = asyncio.new_event_loop()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*args: Any, **options: Any) -> Any:
            return self.loop.run_until_complete(getattr(self.store, name)(*args, **options))

        return call

    def close(self) -> None:
        """End the loop and close the store."""
        self.loop.close()
        self.store.close()
