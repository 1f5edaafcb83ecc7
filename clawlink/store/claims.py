"""Claims of a store that suspends between its read and its commit: those of a mailbox take turns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from weakref import WeakValueDictionary

from clawlink.domain.delivery import Delivery
from clawlink.store.base import Conflict, Put, Store

# A claim whose commit met a conflict reads again, so often in all.
_TRIES = 4


class Claims:
    """The claims of one store in this process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def claim(
        self,
        mailbox: str,
        due: Callable[[], Awaitable[tuple[Sequence[Delivery], float | None]]],
        rule: Callable[[Sequence[Delivery]], Sequence[Put]],
    ) -> float | None:
        """Claim as ``Store.claim`` does. ``due`` reads what is due, and if nothing is, when the next will be."""
        lock = self._locks.get(mailbox)
        if lock is None:
            lock = self._locks[mailbox] = asyncio.Lock()
        conflict: Conflict | None = None
        async with lock:
            for _ in range(_TRIES):
                found, next_at = await due()
                if not found:
                    break
                changes = rule(found)
                try:
                    if changes:
                        await self._store.commit(mailbox, *changes)
                    return None
                except Conflict as met:  # another relay claimed, or something was settled: read again
                    conflict = met
            if conflict is not None:  # the rule was called for deliveries that are not due any more
                raise conflict
            return next_at
