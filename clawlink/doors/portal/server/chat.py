"""The chat of the owner and the agent."""

from __future__ import annotations

import asyncio
from operator import attrgetter

from clawlink.domain.delivery import Sender
from clawlink.domain.shares import Origin
from clawlink.doors.portal.records import AGENT, CHAT, OPERATOR, Chat
from clawlink.doors.portal.rules import consent
from clawlink.doors.portal.server.repository import Repository, require_short
from clawlink.relay import wait_loop
from clawlink.relay.core import retrying
from clawlink.relay.relay import Relay
from clawlink.relay.time_slices import Turns, parts
from clawlink.store.base import Put

MOST_WAIT_SECONDS = 60
_AT_ONCE = 100
# Messages and guest messages have the numbers between two lines. Behind this many without a line the lines are read.
_NEAR = 1000
_LOOK_SECONDS = 10.0


class OwnerChat:
    """The lines of the chat."""

    def __init__(self, relay: Relay, repository: Repository) -> None:
        self._relay = relay
        self._core = relay.core
        self._repository = repository

    @retrying
    async def say(self, role: str, text: str) -> Chat:
        """Keep a line of the chat. The agent hears what the owner says, unless ``role`` is its own. Raises TooLarge."""
        require_short(text)
        now = self._core.clock()
        number = self._repository.number(Chat)
        line = Chat(id=str(number), version=1, number=number, role=role, content=text, created_at=self._core.steady())
        await self._repository.require_memory(line.weight, Origin(None, OPERATOR))
        if role == "owner" and consent.decided(text) is None:
            delivery = self._repository.for_agent(
                f"chat-{number}", text, sender=Sender(OPERATOR), name="owner", now=now
            )
            await self._relay.mailbox.require_room(delivery)
            await self._relay.mailbox.put(delivery, Put(line))
        else:
            await self._core.commit(AGENT, Put(line))
        return line

    async def last(self, limit: int) -> list[Chat]:
        """Return the last lines of the chat, the oldest of them first."""
        page = await self._core.store.page(Chat, CHAT, limit=limit, newest=True)
        return list(reversed(page.records))

    async def after(self, number: int, limit: int, wait: float) -> list[Chat]:
        """Return the first lines after the one with this number, the oldest of them first.

        If there are none, wait up to ``wait`` seconds for one.
        """
        with self._core.signals.listen(AGENT) as signal:
            return await wait_loop.first(
                signal,
                read=lambda: self._after(number, limit),
                clock=self._core.steady,
                wait=wait,
                over=lambda: self._relay.draining,
                tick=_LOOK_SECONDS,
            )

    async def _after(self, number: int, limit: int) -> list[Chat]:
        store = self._core.store
        newest = (await store.page(Chat, CHAT, limit=1, newest=True)).records
        if not newest or newest[0].number <= number:
            return []
        found: list[Chat] = []
        turns = Turns()
        for some in parts(range(number + 1, min(number + _NEAR, newest[0].number) + 1), _AT_ONCE):
            found += [one for one in await store.get_many(Chat, list(map(str, some))) if one is not None]
            if len(found) >= limit:
                break
            await turns.next(_AT_ONCE)
        return found[:limit] or await self._beyond(number, limit)

    async def _beyond(self, number: int, limit: int) -> list[Chat]:
        """Read all lines, and return those with the lowest numbers after this one.

        Lines of an old portal stand behind later ones in the index.
        """
        found: list[Chat] = []
        place: str | None = None
        while True:
            page = await self._core.store.page(Chat, CHAT, place, _AT_ONCE)
            found += [one for one in page.records if one.number > number]
            found = sorted(found, key=_number)[:limit]
            place = page.after
            if place is None:
                return found
            await asyncio.sleep(0)


_number = attrgetter("number")
