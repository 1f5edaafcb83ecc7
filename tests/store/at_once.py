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
        self.loop.run_until_complete(store.open())

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*args: Any, **options: Any) -> Any:
            return self.loop.run_until_complete(getattr(self.store, name)(*args, **options))

        return call

    def close(self) -> None:
        """Close the store and end the loop."""
        self.loop.run_until_complete(self.store.close())
        self.loop.close()
