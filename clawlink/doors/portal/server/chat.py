"""The chat of the owner and the agent."""

from __future__ import annotations

from clawlink.domain.delivery import Sender
from clawlink.domain.shares import Origin
from clawlink.doors.portal.records import AGENT, CHAT, OPERATOR, Chat
from clawlink.doors.portal.rules import consent
from clawlink.doors.portal.server.book import Book, require_short
from clawlink.relay.core import retrying
from clawlink.relay.relay import Relay
from clawlink.store.base import Put


class OwnerChat:
    """The lines of the chat."""

    def __init__(self, relay: Relay, book: Book) -> None:
        self._relay = relay
        self._core = relay.core
        self._book = book

    @retrying
    async def say(self, role: str, text: str) -> Chat:
        """Keep a line of the chat. The agent hears what the owner says, unless ``role`` is its own. Raises TooLarge."""
        require_short(text)
        now = self._core.clock()
        number = self._book.number(Chat)
        line = Chat(id=str(number), version=1, number=number, role=role, content=text, created_at=self._core.steady())
        await self._book.require_memory(line.weight, Origin(None, OPERATOR))
        if role == "owner" and consent.decided(text) is None:
            delivery = self._book.for_agent(f"chat-{number}", text, sender=Sender(OPERATOR), name="owner", now=now)
            await self._relay.mailbox.require_room(delivery)
            await self._relay.mailbox.put(delivery, Put(line))
        else:
            await self._core.commit(AGENT, Put(line))
        return line

    async def last(self, limit: int) -> list[Chat]:
        """Return the last lines of the chat, the oldest of them first."""
        page = await self._core.store.page(Chat, CHAT, limit=limit, newest=True)
        return list(reversed(page.records))
