"""The states of a broadcast's copies: all are counted once, and then only changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from clawlink.domain.broadcast import Broadcast
from clawlink.domain.delivery import Delivery, State, copy_id
from clawlink.relay.time_slices import Turns
from clawlink.store.base import Store


class CopyCounts:
    """The copies of a broadcast by how far they came. To follow one change costs one read, not one a recipient."""

    def __init__(self, store: Store, broadcast: Broadcast) -> None:
        self._store = store
        self._copies = {copy_id(broadcast.id, agent_id): "" for agent_id in broadcast.recipients}
        self._counts: Counter[str] = Counter()

    @property
    def counts(self) -> dict[str, int]:
        """How many copies there are by how far they came."""
        return {state: count for state, count in self._counts.items() if count}

    async def count(self) -> None:
        """Read all copies, with turns for other requests."""
        turns = Turns()
        for id in self._copies:
            await turns.next()
            await self._look(id)

    async def follow(self, changed: Iterable[str]) -> None:
        """Read changed copies again, by their ids. Other ids are skipped."""
        turns = Turns()
        for id in self._copies.keys() & set(changed):
            await turns.next()
            await self._look(id)

    async def _look(self, id: str) -> None:
        copy = await self._store.get(Delivery, id)
        state = "unknown" if copy is None else furthest(copy)
        self._counts[self._copies[id]] -= bool(self._copies[id])
        self._counts[state] += 1
        self._copies[id] = state


def furthest(d: Delivery) -> str:
    """Return the furthest fact about a delivery."""
    if d.state is State.PENDING:
        return "stored" if d.delivered_at is None else "delivered"
    return str(d.state.value)
