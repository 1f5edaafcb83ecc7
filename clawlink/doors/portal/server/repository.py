"""The ground of a portal's records: numbers, room, and what the owner's agent is told."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from clawlink.domain import chain
from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery, Sender
from clawlink.domain.message import PlainMessage, encode
from clawlink.domain.shares import Origin
from clawlink.doors.portal.records import (
    AGENT,
    CHAT,
    CONTACTS,
    DECIDED,
    GUESTS,
    MESSAGES,
    OPERATOR,
    SETTLED_MESSAGES,
    AgentKey,
    Chat,
    Contact,
    ForwardedTask,
    Guest,
    Message,
    Photo,
    Portal,
)
from clawlink.doors.portal.rules import outbox_steps
from clawlink.doors.portal.server.keys import PORTAL_ID
from clawlink.doors.portal.server.reachability import Reachability
from clawlink.doors.portal.settings import Settings
from clawlink.doors.portal.transfers import TRANSFERS, Transfer, unfinished
from clawlink.errors import BadRequest, TooLarge
from clawlink.relay.core import retrying
from clawlink.relay.kinds import Kind
from clawlink.relay.limits.memory import NEW_RECORD_BYTES
from clawlink.relay.relay import Relay
from clawlink.store.base import Put
from clawlink.store.records import register

MAX_MESSAGE_BYTES = 128 * 1024
"""The most bytes of a message's text: old bridges die of a frame over 1 MiB, and JSON may need six bytes for one."""
_MOST_OF_A_BYTE = 6
"""JSON takes at most as many bytes for one byte of a text."""
_PAGE = 500
_SHARING = (Message, Guest, Chat)
"""Kinds without a common number: the channel plugin of OpenClaw would take a frame of one for that of another."""

for _kind, _name in (
    (Portal, "portal"),
    (Contact, "portal_contact"),
    (Guest, "portal_guest"),
    (Message, "portal_message"),
    (Chat, "portal_chat"),
    (AgentKey, "portal_agent_key"),
    (Transfer, "portal_file"),
    (ForwardedTask, "portal_errand"),
    (Photo, "portal_photo"),
):
    register(_kind, _name)


def _over(record: Any, now: float) -> None:
    """Forget a record at its end."""


def _stays(record: Any, now: float) -> None:
    """Never called: these records have no end."""


def keep_kinds(relay: Relay) -> None:
    """Have the relay keep the records of a portal."""
    for kind, lapse, history in (
        (Portal, _stays, None),
        (Contact, _stays, None),
        (AgentKey, _stays, None),
        (Photo, _stays, None),
        (Guest, _stays, DECIDED),
        (Chat, _stays, CHAT),
        (Message, outbox_steps.lapse, SETTLED_MESSAGES),
        (Transfer, unfinished, None),
        (ForwardedTask, _over, None),
    ):
        relay.keep(Kind(kind, lapse, history=history))


class Repository:
    """Numbers of records, room for them, and notices. News for the agent and their record are one commit."""

    def __init__(self, relay: Relay, url: str, settings: Settings) -> None:
        self.url = url
        self._relay = relay
        self._core = relay.core
        self._settings = settings
        self._numbers: dict[type[Any], int] = {}
        self.reach = Reachability()

    async def start(self) -> None:
        """Count numbers on from the newest record of each kind."""
        self._numbers = await self._highest()

    async def _highest(self) -> dict[type[Any], int]:
        """Read the highest number of each kind of record."""
        kinds: tuple[tuple[type[Any], str], ...] = (
            (Contact, CONTACTS),
            (Guest, GUESTS),
            (Message, MESSAGES),
            (Chat, CHAT),
            (Transfer, TRANSFERS),
        )
        portal = await self._core.store.get(Portal, PORTAL_ID)
        kept = {} if portal is None else portal.highest
        found: dict[type[Any], int] = {}
        for kind, key in kinds:
            newest = (await self._core.store.page(kind, key, limit=_PAGE, newest=True)).records
            found[kind] = max((kept.get(kind.__name__, 0), *(record.number for record in newest)))
        return found

    def number(self, kind: type[Any]) -> int:
        """Return the next number of a kind of record, which no record of the kinds has that share their numbers."""
        shared = _SHARING if kind in _SHARING else (kind,)
        self._numbers[kind] = max(self._numbers.get(one, 0) for one in shared) + 1
        return self._numbers[kind]

    def seen(self, kind: type[Any], number: int) -> None:
        """Give no number again that came from an earlier portal."""
        self._numbers[kind] = max(self._numbers.get(kind, 0), number)

    def for_agent(self, id: str, text: str, *, sender: Sender, name: str, now: float, agent: str = AGENT) -> Delivery:
        """Return a delivery for the owner's agent, or another, kept as long as the portal's settings say."""
        stamp = self._core.time.iso(now)
        body = PlainMessage(
            message_id=id,
            from_agent=sender.id,
            to_agent=agent,
            content=text,
            in_reply_to=None,
            thread=None,
            timestamp=stamp,
            queued_at=stamp,
            from_name=name,
            chain=chain.first(sender.id),
        )
        ends_at = now + self._settings.portal_inbox_ttl
        return self._relay.mailbox.new(id, agent, sender=sender, body=encode(body), now=now, ends_at=ends_at)

    async def require_memory(self, size: int, origin: Origin) -> None:
        """Refuse a new record for which there is no room. Raises StorageFull."""
        await self._core.memory.require(size + NEW_RECORD_BYTES, origin)

    async def tell_sender(self, cause: str, text: str, sender: str) -> None:
        """Tell the owner's agent and the agent that sent something what became of it, once for each cause."""
        await self.notice(cause, text)
        if sender != AGENT and await self._core.store.get(Agent, sender) is not None:
            await self.notice(f"{cause}-sender", text, sender)

    async def notice(self, cause: str, text: str, to: str = AGENT) -> None:
        """Tell the owner's agent, or another, something, once for each cause."""
        now = self._core.clock()
        delivery = self.for_agent(f"notice-{cause}", text, sender=Sender(OPERATOR), name="portal", now=now, agent=to)
        await self._relay.mailbox.put_once(delivery)

    @retrying
    async def keep_numbers(self) -> None:
        """Note the numbers that were given, before records are forgotten: an id of the wire means one thing.

        A relay that is not the active one of its mesh has given none, and reads them.
        """
        numbers = self._numbers or await self._highest()
        portal = await self._core.store.get(Portal, PORTAL_ID)
        if portal is not None:
            given = {kind.__name__: number for kind, number in numbers.items()}
            highest = {
                name: max(given.get(name, 0), portal.highest.get(name, 0)) for name in {**portal.highest, **given}
            }
            portal = replace(portal, version=portal.version + 1, highest=highest)
            await self._core.commit(portal.partition_key, Put(portal))


def require_said(text: str) -> None:
    """Refuse an empty text of the owner, or of the owner's agent. Raises BadRequest."""
    if not text.strip():
        raise BadRequest("content is empty; give a text", field="content")


def require_short(text: str) -> None:
    """Refuse a text that no frame to an old bridge can carry. Raises TooLarge."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_MESSAGE_BYTES:
        raise too_long(size)


def too_long(size: int, *, known: bool = True) -> TooLarge:
    """Return the refusal of a text. ``known`` tells whether ``size`` is that of the text, or of what carries it."""
    return TooLarge(
        f"a message has at most {MAX_MESSAGE_BYTES} bytes, and this one has {size if known else 'more'}; "
        "send it in parts, or as a file",
        field="content",
        limit=MAX_MESSAGE_BYTES,
        actual=size,
    )


def is_beyond(most: int, error: TooLarge) -> bool:
    """Return True if a body is so large that its text has more bytes than ``most``."""
    return int(error.limit or 0) >= most * _MOST_OF_A_BYTE
