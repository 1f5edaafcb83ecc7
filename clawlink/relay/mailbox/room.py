"""The room for messages: in a mailbox, in all of them together, and in memory."""

from __future__ import annotations

import math
from enum import Enum

from msgspec.structs import replace

from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery
from clawlink.domain.pool import is_pool
from clawlink.domain.shares import Origin
from clawlink.errors import MailboxFull, RelayFull, StorageFull
from clawlink.relay.core import Core
from clawlink.relay.limits.memory import NEW_RECORD_BYTES
from clawlink.relay.limits.shares import Held, Limit
from clawlink.store.base import Admission, Store, Usage

_NOTICE_SHARE = 0.5
_FULL_RETRY_SECONDS = 5.0
_COUNT_FLAG, BYTES_FLAG = "--max-mailbox-messages", "--max-mailbox-bytes"


async def owner(store: Store, mailbox: str) -> str:
    """Name a mailbox in a sentence."""
    if is_pool(mailbox):
        return "the pool of agents that can do this"
    agent = await store.get(Agent, mailbox)
    return f"the mailbox of {mailbox if agent is None else repr(agent.name)}"


class Purpose(Enum):
    """The reason for a message. It decides how much room there is for it."""

    WORK = "work"
    """It has its sender's fair share of the mailbox and of the relay."""
    NOTICE = "notice"
    """It has a share of half of the mailbox, so that work still finds room."""
    REPORT = "report"
    """It is about open work. It has a share, and room in memory when new work finds none."""
    ANSWER = "answer"
    """It says what became of a task, once. It has no share, so that messages of others do not keep it out."""


# Looking a member up in its class costs more than the comparison.
_NOTICE = Purpose.NOTICE
_REPLIES = (Purpose.REPORT, Purpose.ANSWER)


class Room:
    """Decides whether a message finds room."""

    def __init__(self, core: Core) -> None:
        self._core = core
        limits, shares = core.limits, core.shares
        half = _NOTICE_SHARE
        self._calm = shares.calm(limits.max_mailbox_messages, limits.max_mailbox_bytes)
        self._calm_half = shares.calm(limits.max_mailbox_messages * half, limits.max_mailbox_bytes * half)
        self._calm_in_all = shares.calm(math.inf, limits.max_stored_bytes)

    async def require_room(self, new: Delivery, purpose: Purpose = Purpose.WORK, read: Admission | None = None) -> None:
        """Refuse what would overfill the mailbox, the relay, its memory, or its sender's share of the first two.

        ``read`` is what the store has just said of this mailbox, first of all.
        """
        size, memory, in_all = len(new.body), self._core.memory, self._calm_in_all
        calm = self._calm_half if purpose is _NOTICE else self._calm
        if read is None:
            read = await self._core.store.admission((new.mailbox,))
        used, held = read.mailboxes[0], read.total
        if used.count > calm.records or used.bytes + size > calm.size:
            await self._require_room_in(used, new, purpose)
        if held.bytes + size > in_all.size or held.count > in_all.records:
            await self._require_room_in_all(held, new, purpose)
        size += NEW_RECORD_BYTES
        if not memory.has_plenty(size, read):
            await memory.require(size, new.origin, answers=purpose in _REPLIES, read=read)

    async def _require_room_in(self, used: Usage, new: Delivery, purpose: Purpose) -> None:
        limits, store, shares = self._core.limits, self._core.store, self._core.shares
        mailbox = new.mailbox
        part = _NOTICE_SHARE if purpose is _NOTICE else 1.0
        count, size = limits.max_mailbox_messages, limits.max_mailbox_bytes
        fair = shares.percent < 100
        count_limit = Limit(count * part, used.count, 1, shares.bound(count) if fair else None, _COUNT_FLAG)
        bytes_limit = Limit(size * part, used.bytes, len(new.body), shares.bound(size) if fair else None, BYTES_FLAG)
        if not shares.asks(mailbox, count_limit, bytes_limit):
            return
        await shares.require(
            MailboxFull,
            new.origin,
            lambda: store.load_from(mailbox, *new.origin),
            count=count_limit,
            bytes=bytes_limit,
            fair=purpose is not Purpose.ANSWER,
            holds=f"{await owner(store, mailbox)} holds",
            what="messages",
            then="try again when its owner has read some",
            retry_after=_FULL_RETRY_SECONDS,
        )

    async def _require_room_in_all(self, held: Usage, new: Delivery, purpose: Purpose) -> None:
        await self._core.shares.require(
            RelayFull,
            new.origin,
            lambda: self._in_all_from(new.origin),
            bytes=Limit(self._core.limits.max_stored_bytes, held.bytes, len(new.body), flag="--max-stored-bytes"),
            records=held.count,
            fair=purpose is not Purpose.ANSWER,
            holds="the relay holds",
            what="messages",
            then="try again when some have been read",
            retry_after=_FULL_RETRY_SECONDS,
        )

    async def _in_all_from(self, origin: Origin) -> Held:
        """Return how much of all mailboxes is from an origin. The store counts that from the first question on.

        The first question comes while that takes a millisecond. The next come near the limit on bytes alone.
        """
        held = await self._core.store.load_from(None, *origin)
        self._calm_in_all = replace(self._calm_in_all, records=math.inf)
        return held

    async def has_room(self, new: Delivery, purpose: Purpose, read: Admission | None = None) -> bool:
        """Return True if the delivery finds room; see ``require_room``."""
        try:
            await self.require_room(new, purpose, read)
        except (MailboxFull, RelayFull, StorageFull):
            return False
        return True

    async def _relay_has_room(self, new: Delivery, copies: int, read: Admission) -> bool:
        """Return True if the relay surely has room for this many copies of a message."""
        core = self._core
        most, size = core.limits.max_stored_bytes, len(new.body)
        more = copies * size
        held = read.total
        if held.count > self._calm_in_all.records or held.bytes + more > self._calm_in_all.size:
            theirs = await self._in_all_from(new.origin)
            if not core.shares.allow(theirs, new.origin, Limit(most, held.bytes, size), more - size):
                return False
        return await core.memory.has_room(copies * (size + NEW_RECORD_BYTES), new.origin, read)
