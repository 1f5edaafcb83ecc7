"""Broadcasts: one message, a copy in every other agent's mailbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from clawlink.domain.agent import REGISTERED, Agent
from clawlink.domain.broadcast import Broadcast
from clawlink.domain.delivery import Delivery, copy_id
from clawlink.domain.message import KnowledgeBroadcast, decode, encode, says_the_same
from clawlink.errors import KeyReused
from clawlink.protocol import requests
from clawlink.protocol.replies import BroadcastSent
from clawlink.relay.clock import iso
from clawlink.relay.core import Core, retrying
from clawlink.relay.ids import derived
from clawlink.relay.mailbox import Mailbox
from clawlink.store.base import Put

SLICE = 32  # copies made before other requests get their turn: a fraction of a millisecond


async def everyone(core: Core, but: str) -> AsyncIterator[str]:
    """Give the ids of all registered agents but one, with a turn for other requests now and then."""
    after: str | None = None
    while True:
        page = await core.store.page(Agent, REGISTERED, after, SLICE)
        for agent in page.records:
            if agent.id != but:
                yield agent.id
        if page.after is None:
            return
        after = page.after
        await asyncio.sleep(0)


class Broadcasts:
    """What was told to everyone."""

    def __init__(self, core: Core, mailbox: Mailbox) -> None:
        self._core = core
        self._mailbox = mailbox

    async def broadcast(self, sender: Agent, ask: requests.Broadcast) -> BroadcastSent:
        """Put a copy into every other agent's mailbox, each exactly once, however often the request is repeated."""
        self._core.require_working()
        key = ask.idempotency_key
        id = self._core.ids.fresh() if key is None else derived("broadcast", sender.id, key)
        return await self._core.finish(self._broadcast(id, sender, ask))

    @retrying
    async def _broadcast(self, id: str, sender: Agent, ask: requests.Broadcast) -> BroadcastSent:
        core = self._core
        now = core.clock()
        stamp = iso(now)
        message = KnowledgeBroadcast(
            message_id=id,
            from_agent=sender.id,
            content=ask.content,
            topic=ask.topic,
            tags=tuple(ask.tags or ()),
            timestamp=stamp,
            queued_at=stamp,
            from_name=sender.name,
        )
        record = await core.store.get(Broadcast, id)
        if record is None:
            recipients = tuple([agent_id async for agent_id in everyone(core, but=sender.id)])
            record = Broadcast(
                id,
                1,
                sender.id,
                encode(message),
                recipients,
                now,
                now + max(core.limits.retention, core.limits.message_ttl),
            )
            await core.commit(record.home, Put(record))
            core.stats.broadcasts += 1
        elif not says_the_same(decode(record.body), message):
            raise KeyReused(
                "this idempotency key belongs to an earlier, different broadcast; use a new key for a new one",
                field="idempotency_key",
                current=id,
            )
        refused = record.refused
        if refused is None:
            refused = await self._copy(record, now)
            await core.commit(record.home, Put(record.done(refused)))
        return BroadcastSent("broadcast_sent", id, len(record.recipients) - refused, refused)

    async def _copy(self, record: Broadcast, now: float) -> int:
        """Put the copies that are missing; return how many mailboxes had no room."""
        store = self._core.store
        refused = 0
        for done, agent_id in enumerate(record.recipients, 1):
            id = copy_id(record.id, agent_id)
            if await store.get(Delivery, id) is None and await store.get(Agent, agent_id) is not None:
                copy = self._mailbox.new(id, agent_id, sender=record.sender, body=record.body, now=now)
                refused += not await self._mailbox.put_notice(copy)
            if done % SLICE == 0:
                await asyncio.sleep(0)
        return refused
