"""What ``discover`` sends, encoded once an agent and kept until something about that agent changes."""

from __future__ import annotations

import asyncio

import msgspec

from clawlink.domain.agent import REGISTERED, Agent, Presence
from clawlink.domain.delivery import Delivery
from clawlink.domain.message import AgentCard
from clawlink.domain.task import Task, by_owner
from clawlink.protocol.replies import ListedAgent, Load
from clawlink.relay.clock import iso
from clawlink.relay.core import Core

_SLICE = 256
_ONLINE = b'"status":"online"'
_STALE = b'"status":"stale"'
_encoder = msgspec.json.Encoder()


def card(agent: Agent, status: Presence) -> AgentCard:
    """Return the agent as messages and replies show it."""
    return AgentCard(
        agent_id=agent.id,
        name=agent.name,
        capabilities=agent.capabilities,
        machine=agent.machine,
        description=agent.description,
        registered_at=iso(agent.registered_at),
        last_heartbeat=agent.last_heartbeat,
        status=status.value,
    )


class Directory:
    """The listing of every agent. Refreshing costs by what has changed since, not by how many agents there are."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._listings: dict[str, tuple[float, bytes]] = {}
        self._filled = False

    async def listing(self, key: str, status: str) -> list[bytes]:
        """Return the encoded agents under index ``key`` whose presence is ``status``, or all of them for ``all``."""
        await self._refresh()
        if key == REGISTERED:
            found = list(self._listings.values())
        else:
            ids = [agent.id for agent in await self._matching(key)]
            found = [self._listings[id] for id in ids if id in self._listings]
        since = self._core.clock() - self._core.limits.stale_after
        if status == "online":
            return [encoded for heartbeat, encoded in found if heartbeat > since]
        if status == "stale":
            return [_as_stale(encoded) for heartbeat, encoded in found if heartbeat <= since]
        return [encoded if heartbeat > since else _as_stale(encoded) for heartbeat, encoded in found]

    async def presence(self) -> tuple[int, int]:
        """Count the agents that are online and those that are stale."""
        await self._refresh()
        since = self._core.clock() - self._core.limits.stale_after
        online = sum(heartbeat > since for heartbeat, _ in self._listings.values())
        return online, len(self._listings) - online

    def add(self, agent_id: str) -> None:
        """List an agent that has just registered."""
        self._core.listed.add(agent_id)
        self._core.changed[agent_id] = None

    def remove(self, agent_id: str) -> None:
        """Forget an agent that is gone, whether anybody lists agents or not."""
        self._core.listed.discard(agent_id)
        self._core.changed.pop(agent_id, None)
        self._listings.pop(agent_id, None)

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
        if not self._filled:
            self._filled = True
            for agent in await self._matching(REGISTERED):
                self.add(agent.id)
        done = 0
        while core.changed:
            agent_id = next(iter(core.changed))
            del core.changed[agent_id]
            current = await core.store.get(Agent, agent_id)
            if current is None:
                self.remove(agent_id)
            else:
                self._listings[agent_id] = (current.last_heartbeat, await self._encode(current))
            done += 1
            if done % _SLICE == 0:
                await asyncio.sleep(0)

    async def _encode(self, agent: Agent) -> bytes:
        store = self._core.store
        mailbox = await store.load(agent.id)
        key = by_owner(agent.id)
        tasks = (await store.usage(Task, key)).count + (await store.usage(Delivery, key)).count
        shown = card(agent, Presence.ONLINE)
        return _encoder.encode(
            ListedAgent(
                agent_id=shown.agent_id,
                name=shown.name,
                capabilities=shown.capabilities,
                machine=shown.machine,
                description=shown.description,
                registered_at=shown.registered_at,
                last_heartbeat=shown.last_heartbeat,
                status=shown.status,
                load=Load(mailbox.count, tasks),
                claimed=agent.key_hash is not None,
            )
        )


def _as_stale(encoded: bytes) -> bytes:
    # Quotes inside users' text are escaped, so these bytes occur only where the field itself stands.
    return encoded.replace(_ONLINE, _STALE, 1)
