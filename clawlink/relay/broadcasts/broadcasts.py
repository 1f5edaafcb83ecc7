"""Broadcasts: a copy in every subscriber's mailbox, how far these came, and the history for agents that join later."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from datetime import timezone
from math import isfinite

import msgspec

from clawlink.domain.agent import Agent
from clawlink.domain.broadcast import (
    KNOWLEDGE,
    Broadcast,
    Knowledge,
    by_author,
    by_tag,
    by_topic,
    is_about,
    pattern_keys,
)
from clawlink.domain.chain import Chain
from clawlink.domain.delivery import Delivery, Sender, State, copy_id
from clawlink.domain.iso_time import read_iso
from clawlink.domain.limits import MAX_REPLY_BYTES
from clawlink.domain.message import KnowledgeBroadcast, decode, encode, of_person, says_the_same
from clawlink.errors import BadRequest, KeyReused, RelayFull
from clawlink.protocol import requests
from clawlink.protocol.replies import BroadcastSent, KnowledgeList
from clawlink.relay.core import Core, retrying
from clawlink.relay.ids import derived, derived_anew
from clawlink.relay.limits.memory import size_of
from clawlink.relay.limits.shares import Limit
from clawlink.relay.mailbox.admission import Admission
from clawlink.relay.mailbox.mailbox import Mailbox
from clawlink.relay.pages import page_within
from clawlink.relay.time_slices import Turns, parts
from clawlink.store.base import Conflict, Drop, Put, Store

_PAGE = 100
# A page of agents takes a fraction of a millisecond. A store may look through those before it to find its start.
_AGENTS_AT_ONCE = 256
# A list that leaves most of what it looks at stops here and goes on at the next request.
_LOOKED_AT = 5000


async def audience(core: Core, keys: Iterable[str], but: str) -> AsyncIterator[list[Agent]]:
    """Give the agents under any of these index keys but one, each once, in lists with turns for other requests."""
    store, turns = core.store, Turns()
    given, looked_at = {but}, 0
    for key in keys:
        after: str | None = None
        while True:
            if looked_at:
                await turns.next(looked_at)
            page = await store.page(Agent, key, after, _AGENTS_AT_ONCE)
            found: Sequence[Agent | None] = page.records
            if store.index_lag:
                found = [
                    agent if agent is not None and key in agent.index_keys else None
                    for agent in await store.get_many(Agent, [listed.id for listed in page.records])
                ]
            agents = []
            for agent in found:
                if agent is not None and agent.id not in given:
                    given.add(agent.id)
                    agents.append(agent)
            yield agents
            looked_at, after = len(page.records), page.after
            if after is None:
                break


class Broadcasts:
    """The broadcasts."""

    def __init__(self, core: Core, mailbox: Mailbox, admission: Admission) -> None:
        self._core = core
        self._mailbox = mailbox
        self._admission = admission

    async def broadcast(self, sender: Agent, ask: requests.Broadcast) -> BroadcastSent:
        """Put a copy into every subscriber's mailbox, each exactly once, however often the request is repeated."""
        self._core.require_working()
        key = ask.idempotency_key
        id = self._core.ids.fresh() if key is None else derived("broadcast", sender.id, key)
        if key is not None:
            first = await self._core.store.get(Broadcast, id) or await self._core.store.get(Knowledge, id)
            if first is not None and not first.is_by(sender):
                id = derived_anew("broadcast", sender, key)
        return await self._core.finish(self._broadcast(id, sender, ask))

    @retrying
    async def _broadcast(self, id: str, sender: Agent, ask: requests.Broadcast) -> BroadcastSent:
        core = self._core
        now = core.clock()
        record = await core.store.get(Broadcast, id)
        is_new = record is None
        known = await core.store.get(Knowledge, id) if record is None else None
        if known is not None:  # the history may outlast the record
            self._require_same(id, known.body, sender, ask, now)
            return BroadcastSent("broadcast_sent", id, known.recipients, known.refused)
        if record is None:
            chain = await self._admission.chain(sender, None, parent_task=ask.parent_task)
            self._admission.require_copies(sender)
            self._admission.require_pace(sender.id, None)
            body = encode(_message(id, sender, ask, chain, core.time.iso(now)))  # `since` compares with now
            ttl = ask.ttl or core.limits.message_ttl
            recipients = [
                agent.id async for agents in audience(core, pattern_keys(ask.topic), but=sender.id) for agent in agents
            ]
            knowledge = Knowledge(
                id,
                1,
                sender.id,
                body,
                ask.topic,
                ask.all_tags,
                now,
                now + (ask.ttl or core.limits.knowledge_ttl),
                len(recipients),
                sender.key_hash,
                sender.address,
            )
            ends_at = now + max(core.limits.retention, ttl)
            record = Broadcast(id, 1, sender.id, body, tuple(recipients), now, ends_at, sender_key=sender.key_hash)
            await core.memory.require(size_of(record) + size_of(knowledge), sender.origin)
            self._admission.require_copies(sender, len(recipients))  # others of this sender may have come meanwhile
            kept = (Put(knowledge),) if await self._make_room(knowledge) else ()
            await core.commit(record.partition_key, Put(record), *kept)
            core.stats.broadcasts += 1
        else:
            self._require_same(id, record.body, sender, ask, now)
        if record.refused is None:
            refused, left = await self._copy(sender, record, now, ask.ttl, is_new=is_new)
            record = record.done(refused, left)
            shown = await core.store.get(Knowledge, id) if refused or left else None
            await core.commit(record.partition_key, Put(record), *(() if shown is None else (Put(shown.done(record)),)))
        refused = record.refused or 0
        return BroadcastSent("broadcast_sent", id, len(record.recipients) - refused, refused)

    async def _make_room(self, new: Knowledge) -> bool:
        """Return True if a broadcast may be kept. At a share the author's own oldest goes for it, if there is one."""
        limits, store, shares = self._core.limits, self._core.store, self._core.shares
        while shares.percent < 100:  # else the oldest of all goes, whoever sent it
            used = await store.usage(Knowledge, KNOWLEDGE)
            try:
                await shares.require(
                    RelayFull,
                    new.origin,
                    lambda: shares.under(new.origin, (Knowledge, KNOWLEDGE)),
                    count=Limit(limits.max_knowledge, used.count, 1),
                    bytes=Limit(limits.max_knowledge_bytes, used.bytes, new.weight),
                    holds="the relay keeps",
                    what="broadcasts",
                    then="wait until some have expired",
                )
            except RelayFull:
                own = (await store.page(Knowledge, by_author(new.author), limit=1)).records
                if not own:
                    return False
                with contextlib.suppress(Conflict):  # it has gone at this moment
                    await self._core.commit(own[0].partition_key, Drop(own[0]), quiet=True)
            else:
                return True
        return True

    def _require_same(self, id: str, body: bytes, sender: Agent, ask: requests.Broadcast, now: float) -> None:
        """Refuse a key that belongs to another broadcast."""
        said = decode(body)
        if not isinstance(said, KnowledgeBroadcast) or not says_the_same(
            said, _message(id, sender, ask, said.chain, said.timestamp)
        ):
            raise KeyReused(
                "this idempotency key belongs to an earlier, different broadcast; use a new key for a new one",
                field="idempotency_key",
                current=id,
            )

    async def _copy(
        self, sender: Agent, record: Broadcast, now: float, ttl: float | None, *, is_new: bool
    ) -> tuple[int, set[str]]:
        """Put the copies that are missing, all for a broadcast that is new.

        Return how many mailboxes had no room, and the recipients that have left without a copy.
        """
        store = self._core.store
        refused = 0
        left: set[str] = set()
        turns = Turns()
        ends_at = None if ttl is None else record.stored_at + ttl
        for agent_ids in parts(record.recipients, store.partitions_at_once):
            agents = await store.get_many(Agent, agent_ids)
            missing: Sequence[str] = agent_ids
            if not is_new:
                copies = await store.get_many(Delivery, [copy_id(record.id, agent_id) for agent_id in agent_ids])
                missing = [agent_id for agent_id, copy in zip(agent_ids, copies, strict=True) if copy is None]
            here = {agent.id for agent in agents if agent is not None}
            left.update(agent_id for agent_id in missing if agent_id not in here)
            missing = [agent_id for agent_id in missing if agent_id in here]
            new = self._mailbox.copies(
                record.id,
                missing,
                sender=Sender(record.sender, sender.address, record.sender_key),
                body=record.body,
                now=now,
                ends_at=ends_at,
            )
            refused += await self._mailbox.put_copies(new)
            await turns.next(len(agent_ids))
        return refused, left

    # -- history -----------------------------------------------------------------------------------------------------

    async def knowledge(self, ask: requests.KnowledgeQuery) -> KnowledgeList[msgspec.Raw]:
        """List what the relay still holds, the newest first. Where to go on may stand after a short page."""
        store = self._core.store
        now = self._core.clock()
        since = 0.0 if ask.since is None else _time(ask.since)
        exact = ask.topic is not None and not ask.topic.endswith("*")
        if exact:
            key = by_topic(str(ask.topic))
        elif ask.tag is not None:
            key = by_tag(ask.tag)
        else:
            key = KNOWLEDGE if ask.author is None else by_author(ask.author)
        found: list[Knowledge] = []
        after, size, looked_at = ask.after, 0, 0
        while True:
            limit = min(ask.limit - len(found), _PAGE)
            room = MAX_REPLY_BYTES - size
            page = await page_within(store, Knowledge, key, after, limit, newest=True, room=room)
            fresh = [k for k in page.records if self._core.time.shown(k.stored_at) >= since]
            chosen = [k for k in fresh if k.ends_at > now and is_about(k, ask.topic, ask.tag, ask.author)]
            found += chosen
            size += sum(k.weight for k in chosen)
            looked_at += len(page.records)
            # They come newest first: behind the first that is too old there is nothing more.
            after = page.after if len(fresh) == len(page.records) else None
            if after is None or len(found) >= ask.limit or looked_at >= _LOOKED_AT or size >= MAX_REPLY_BYTES:
                return KnowledgeList([msgspec.Raw(k.body) for k in found], len(found), after)


def _message(id: str, sender: Agent, ask: requests.Broadcast, chain: Chain, stamp: str) -> KnowledgeBroadcast:
    return KnowledgeBroadcast(
        message_id=id,
        from_agent=sender.id,
        content=ask.content,
        topic=ask.topic,
        tags=ask.tags if isinstance(ask.tags, str) else ask.all_tags,
        timestamp=stamp,
        queued_at=stamp,
        from_name=sender.name,
        from_person=of_person(sender.person),
        chain=chain,
    )


def _time(text: str) -> float:
    """Read a time: seconds since the epoch, or ISO-8601, in UTC unless it says otherwise."""
    with suppress(ValueError):
        if isfinite(seconds := float(text)):
            return seconds
    try:
        at = read_iso(text.replace(" ", "+"))
    except ValueError:
        raise BadRequest(
            "since takes a time as 2026-05-13T06:51:00+00:00, or seconds since the epoch", field="since"
        ) from None
    return (at if at.tzinfo is not None else at.replace(tzinfo=timezone.utc)).timestamp()


class CopyCounts:
    """The copies of a broadcast by how far they came. To follow one change costs one read, not one a recipient."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._copies: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._refused = 0

    @property
    def counts(self) -> dict[str, int]:
        """How many copies there are by how far they came. A mailbox without room has none: it counts as refused."""
        missing = self._counts["unknown"]
        refused = min(self._refused, missing)
        counts = {**self._counts, "unknown": missing - refused, "refused": refused}
        return {state: count for state, count in counts.items() if count}

    async def count(self, broadcast: Broadcast) -> None:
        """Read all copies, with turns for other requests."""
        self._copies = {copy_id(broadcast.id, agent_id): "" for agent_id in broadcast.recipients}
        self._counts.clear()
        self._refused = broadcast.refused or 0
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
