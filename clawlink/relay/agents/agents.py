"""Agents: show signs of life, be found, leave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence

from clawlink.domain import access
from clawlink.domain import agent as rules
from clawlink.domain.agent import (
    REGISTERED,
    Agent,
    by_capability,
    by_key,
    by_name,
)
from clawlink.domain.delivery import Delivery
from clawlink.errors import BadRequest, NameTaken, NotAllowed, StoreUnavailable, UnknownAgent
from clawlink.protocol import requests
from clawlink.protocol.reading import read_fields
from clawlink.protocol.replies import Beat, Pong, Subscribed
from clawlink.relay.agents.registration import AgentRegistration
from clawlink.relay.core import retrying
from clawlink.store.base import Batch, Drop, Put

_TOUCH_SECONDS = 1.0
_PAGE = 512
_MOST_LEFT = 10_000


class Agents(AgentRegistration):
    """The registered agents: their signs of life, their topics, lists of them, and their end.

    ``registration.py`` has ``register``, ``rename``, ``reserve``, ``make_key`` and the parts ``notices`` and
    ``directory``. ``lookup.py`` has ``resolve``, ``resolve_also``, ``called``, ``means``, ``presence`` and
    ``recipient``.
    """

    # -- be there ----------------------------------------------------------------------------------------------------

    async def acting(self, agent_id: str, agent_key: str | None, *, field: str, quiet: bool = False) -> Agent:
        """Return the agent a request acts as, and record its sign of life, unless the request is ``quiet``.

        Raises UnknownAgent, or NotAllowed for a claimed agent without its key.
        """
        core = self._core
        agent = await core.store.get(Agent, agent_id)
        if agent is None or agent.key_hash is not None:
            agent = _shown(agent, agent_id, agent_key, field)
        if not quiet and core.clock() - agent.last_heartbeat >= _TOUCH_SECONDS:
            await self._seen(agent.id)
        return agent

    async def acting_on(
        self, agent_id: str, agent_key: str | None, ids: Sequence[str], *, field: str
    ) -> tuple[Agent, Sequence[Delivery | None]]:
        """Return the agent as ``acting`` does, and the deliveries of these ids: one call of the store reads both."""
        (agent,), deliveries = await self._core.store.get_both((Agent, (agent_id,)), (Delivery, ids))
        if agent is None or agent.key_hash is not None:
            agent = _shown(agent, agent_id, agent_key, field)
        if self._core.clock() - agent.last_heartbeat >= _TOUCH_SECONDS:
            await self._seen(agent.id)
        return agent, deliveries

    async def _seen(self, agent_id: str) -> None:
        """Record a sign of life. A request does not fail if the store cannot record it."""
        with contextlib.suppress(StoreUnavailable):
            await self.touch(agent_id)

    async def with_key(self, agent_key: str) -> Agent | None:
        """Return the agent that holds a key; None if none does. It is no sign of life."""
        found = (await self._core.store.page(Agent, by_key(access.hash_key(agent_key)), limit=1)).records
        return found[0] if found else None

    async def register_by_the_way(
        self, agent_id: str, agent_key: str | None, *, machine: str, address: str | None
    ) -> tuple[Agent, bool] | None:
        """Register an unknown agent that a client of 1.0.x acts as; return it, and whether it was registered just now.

        Such a client does not register again at a relay that was restarted. So an id that is not known becomes an agent
        of that id and name. None where an agent key is given or needed, where another agent has the name, and for an
        agent that has left or was removed: that one is done here until it registers.
        """
        if agent_key is not None or self.keys_required or agent_id in self._left:
            return None
        if (await self._core.store.page(Agent, by_name(agent_id), limit=1)).records:
            return None
        try:
            ask = read_fields({"agent_id": agent_id}, requests.Register)
            done = await self.register(ask, machine=machine, agent_key=None, address=address)
        except (BadRequest, NameTaken, NotAllowed):
            return None
        return done.agent, not done.resumed

    @retrying
    async def touch(self, agent_id: str) -> None:
        """Record a sign of life, at most once a second: presence needs no more. The agent may have left meanwhile."""
        agent = await self._core.store.get(Agent, agent_id)
        now = self._core.clock()
        if agent is not None and now - agent.last_heartbeat >= _TOUCH_SECONDS:
            await self._core.commit(agent.id, Put(rules.seen(agent, now)), quiet=True)

    @retrying
    async def put_to_sleep(self, agent_id: str, forget_after: float | None) -> Agent | None:
        """Record that an agent sleeps. Return its record, None if it has left meanwhile."""
        core = self._core
        agent = await core.store.get(Agent, agent_id)
        if agent is None:
            return None
        now = core.clock()
        longest = core.limits.forget_after if agent.key_hash is None else core.limits.forget_claimed_after
        after = longest if forget_after is None else min(forget_after, longest)
        sleeper = rules.put_to_sleep(agent, now, now + after)
        await core.commit(agent.id, Put(sleeper), quiet=True)
        core.relist(agent.id)
        return sleeper

    async def heartbeat(self, agent: Agent, ask: requests.Heartbeat) -> Beat:
        """Record a sign of life."""
        await self.beat(agent.id)
        return Beat("ok")

    async def ping(self, agent: Agent, ask: requests.Ping) -> Pong:
        """Answer that the relay is there."""
        return Pong("pong", self._core.time.stamp())

    async def choose_topics(self, agent: Agent, ask: requests.Subscribe) -> Subscribed:
        """Change the topics of the broadcasts that the agent gets."""
        now = await self.subscribe(agent.id, ask.subscriptions)
        return Subscribed("subscribed", list(now.subscriptions))

    @retrying
    async def beat(self, agent_id: str) -> None:
        """Record a heartbeat, at most once a second: the agent is at work on what it holds."""
        agent = await self._core.store.get(Agent, agent_id)
        now = self._core.clock()
        if agent is not None and now - agent.beat_at >= _TOUCH_SECONDS:
            await self._core.commit(agent.id, Put(rules.beaten(agent, now)), quiet=True)

    @retrying
    async def subscribe(self, agent_id: str, subscriptions: Iterable[str]) -> Agent:
        """Return the agent with other topics of broadcasts. Raises UnknownAgent if it has left."""
        agent = await self._core.store.get(Agent, agent_id)
        if agent is None:
            raise UnknownAgent(f"no agent {agent_id!r} is registered here; register it first", field="agent_id")
        before, agent = agent, rules.subscribe(agent, subscriptions)
        await self._require_memory(before, agent)
        await self._core.commit(agent.partition_key, Put(agent))
        return agent

    # -- be found ---------------------------------------------------------------------------------------------------

    async def discover(self, ask: requests.DiscoverQuery) -> tuple[list[bytes], str | None]:
        """List the agents that match, encoded, in the order they registered, and where to go on after a page."""
        keys = [by_capability(ask.capability)] if ask.capability is not None else []
        if ask.name is not None:
            keys.insert(0, by_name(ask.name))
        if ask.limit is None:
            return await self.directory.all(keys or [REGISTERED], ask.status), None
        return await self.directory.page(keys or [REGISTERED], ask.status, ask.after, ask.limit)

    async def came_back(self, away: float) -> None:
        """Leave out of every agent's silence the seconds in which no relay was there to hear it.

        An agent that shows a sign of life meanwhile needs none of that.
        """
        store, now = self._core.store, self._core.clock()
        after: str | None = None
        while True:
            page = await store.page(Agent, REGISTERED, after, _PAGE)
            batches = [Batch(agent.partition_key, (Put(rules.unheard(agent, away, now)),)) for agent in page.records]
            slices = [
                batches[at : at + store.partitions_at_once] for at in range(0, len(batches), store.partitions_at_once)
            ]
            await asyncio.gather(*map(self._core.commit_many, slices))
            after = page.after
            if after is None:
                return

    # -- leave -------------------------------------------------------------------------------------------------------

    def note_left(self, agent_id: str) -> None:
        """Note that the agent leaves or is removed, so that it is not registered by the way."""
        self._left.pop(agent_id, None)
        self._left[agent_id] = None
        if len(self._left) > _MOST_LEFT:
            del self._left[next(iter(self._left))]

    @retrying
    async def remove(self, agent_id: str, heirs: Callable[[Agent], Awaitable[Put]]) -> Agent | None:
        """Remove the agent and free its name; None if it is gone already.

        In the same commit its mailbox becomes the pool that ``heirs`` returns, so that nobody else can have it.
        """
        core = self._core
        agent = await core.store.get(Agent, agent_id)
        if agent is not None:
            await core.commit(agent.partition_key, Drop(agent), await heirs(agent))
            self.directory.remove(agent_id)
            await self._names.give_up(agent)
        return agent


def _shown(agent: Agent | None, agent_id: str, agent_key: str | None, field: str) -> Agent:
    """Return the agent if the key is its key. Raises UnknownAgent, NotAllowed."""
    if agent is None:
        raise UnknownAgent(f"no agent {agent_id!r} is registered here; register it first", field=field)
    if agent.key_hash is not None:
        access.require_agent(agent, agent_key, field=field)
    return agent
