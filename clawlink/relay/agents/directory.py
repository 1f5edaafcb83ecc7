"""The entries of ``discover``, each encoded once and kept until something about its agent changes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic

import msgspec

from clawlink.domain.agent import REGISTERED, Agent, Presence, is_asleep
from clawlink.domain.delivery import Delivery
from clawlink.domain.message import AgentCard, of_person
from clawlink.domain.task import Task, by_owner
from clawlink.protocol.replies import ListedAgent, Load
from clawlink.relay.agents.lookup import StandIns
from clawlink.relay.core import Core
from clawlink.relay.timestamps import StoppableTime

_SLICE = 64
_AT_ONCE = 1000
# A page that leaves most of what it looks at stops here and goes on at the next request.
_LOOKED_AT = 5000
_ONLINE = b'"status":"online"'
_STALE = b'"status":"stale"'
_encoder = msgspec.json.Encoder()


def card(agent: Agent, status: Presence, time: StoppableTime) -> AgentCard:
    """Return the agent as messages and replies show it."""
    return AgentCard(
        agent_id=agent.id,
        name=agent.name,
        capabilities=agent.capabilities,
        machine=agent.machine,
        description=agent.description,
        registered_at=time.iso(agent.registered_at),
        last_heartbeat=time.shown(agent.last_heartbeat),
        status=status.value,
        person=of_person(agent.person),
    )


class Directory:
    """The listing of every agent. Refreshing costs by what has changed since, not by how many agents there are."""

    def __init__(self, core: Core, stand_ins: StandIns) -> None:
        self._core = core
        self._stand_ins = stand_ins
        self._listings: dict[str, tuple[float, bytes]] = {}
        self._lagging: dict[str, float] = {}  # until when what the indexes tell of an agent may be out of date

    async def page(
        self, keys: Sequence[str], status: str, after: str | None, limit: int
    ) -> tuple[list[bytes], str | None]:
        """Return up to ``limit`` encoded agents under all of these index keys, and where to go on.

        ``status`` is ``online``, ``stale`` or ``all``. A page may be short, or even empty, and not be the last.
        """
        await self._refresh()
        since = self._core.clock() - self._core.limits.stale_after
        found: list[bytes] = []
        looked_at = 0
        while True:
            page = await self._core.store.page(Agent, keys[0], after, limit - len(found))
            for agent in page.records:
                if len(keys) == 1 or set(keys).issubset(agent.index_keys):
                    shown = self._shown(agent.id, status, since)
                    if shown is not None:
                        found.append(shown)
            after = page.after
            looked_at += len(page.records)
            if after is None or len(found) >= limit or looked_at >= _LOOKED_AT:
                return found, after
            await asyncio.sleep(0)

    async def all(self, keys: Sequence[str], status: str) -> list[bytes]:
        """Return all of them."""
        found: list[bytes] = []
        if list(keys) == [REGISTERED]:
            await self._refresh()
            since = self._core.clock() - self._core.limits.stale_after
            ids = list(self._listings)
            for start in range(0, len(ids), _AT_ONCE):
                shown = [self._shown(id, status, since) for id in ids[start : start + _AT_ONCE]]
                found += [one for one in shown if one is not None]
                await asyncio.sleep(0)
            return found
        after: str | None = None
        while True:
            some, after = await self.page(keys, status, after, _AT_ONCE)
            found += some
            if after is None:
                return found
            await asyncio.sleep(0)

    def _shown(self, agent_id: str, status: str, since: float) -> bytes | None:
        """Return an agent as it is listed; None if it has not that status, or is gone."""
        listed = self._listings.get(agent_id)
        if listed is None:
            return None
        heartbeat, encoded = listed
        if heartbeat > since:
            return None if status == "stale" else encoded
        return None if status == "online" else _as_stale(encoded)

    async def presence(self) -> tuple[int, int]:
        """Count the agents that are online and those that are stale."""
        await self._refresh()
        since = self._core.clock() - self._core.limits.stale_after
        listed = list(self._listings.values())
        online = 0
        for start in range(0, len(listed), _AT_ONCE):
            online += sum(heartbeat > since for heartbeat, _ in listed[start : start + _AT_ONCE])
            await asyncio.sleep(0)
        return online, len(listed) - online

    def add(self, agent_id: str) -> None:
        """List an agent that has just registered."""
        self._core.listed.add(agent_id)
        self._core.changed[agent_id] = None

    def remove(self, agent_id: str) -> None:
        """Forget an agent that is gone, whether anybody lists agents or not."""
        self._core.listed.discard(agent_id)
        self._core.changed.pop(agent_id, None)
        self._listings.pop(agent_id, None)
        self._lagging.pop(agent_id, None)

    async def _matching(self, key: str) -> list[Agent]:
        found: list[Agent] = []
        after: str | None = None
        while True:
            page = await self._core.store.page(Agent, key, after, 1000)
            found.extend(page.records)
            if page.after is None:
                return found
            after = page.after

    async def _refresh(self) -> None:
        core = self._core
        if not core.listed_all:
            core.listed_all = True
            for agent in await self._matching(REGISTERED):
                self.add(agent.id)
        done = 0
        again = self._look_again()
        while core.changed:
            agent_id = next(iter(core.changed))
            del core.changed[agent_id]
            if core.store.index_lag and agent_id not in again:
                self._lagging[agent_id] = monotonic() + core.store.index_lag
            again.discard(agent_id)
            current = await core.store.get(Agent, agent_id)
            encoded = None if current is None else await self._encode(current)
            if current is None:
                if agent_id not in core.changed:  # else it has registered again meanwhile
                    self.remove(agent_id)
            elif encoded is not None and agent_id in core.listed:  # else it has left meanwhile
                self._listings[agent_id] = (0.0 if is_asleep(current) else current.last_heartbeat, encoded)
            done += 1
            if done % _SLICE == 0:
                await asyncio.sleep(0)

    def _look_again(self) -> set[str]:
        """List those agents again whose mail and tasks an index may have shown late; return them."""
        again = self._lagging.keys() - self._core.changed.keys()
        now = monotonic()
        for agent_id in again:
            self._core.changed[agent_id] = None
            if self._lagging[agent_id] <= now:
                del self._lagging[agent_id]
        return again

    def renew(self, agent_id: str) -> None:
        """Encode an entry again: the name of the recipient that the agent stands for has changed."""
        self._core.changed[agent_id] = None

    async def _encode(self, agent: Agent) -> bytes:
        key = by_owner(agent.id)
        read = await self._core.store.admission((agent.id,), ((Task, key), (Delivery, key)))
        mailbox, tasks = read.mailboxes[0], sum(usage.count for usage in read.indexes)
        shown = card(agent, Presence.ONLINE, self._core.time)
        there = self._stand_ins.of(agent.id)
        return _encoder.encode(
            ListedAgent(
                agent_id=shown.agent_id,
                name=shown.name if there is None else there.name,
                capabilities=shown.capabilities,
                machine=shown.machine,
                description=shown.description,
                registered_at=shown.registered_at,
                last_heartbeat=shown.last_heartbeat,
                status=shown.status,
                load=Load(mailbox.count, tasks),
                claimed=agent.key_hash is not None,
                person=shown.person,
                through=msgspec.UNSET if there is None else there.through,
            )
        )


def _as_stale(encoded: bytes) -> bytes:
    # Quotes inside users' text are escaped, so these bytes occur only where the field itself stands.
    return encoded.replace(_ONLINE, _STALE, 1)
