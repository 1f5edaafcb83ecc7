"""Agents by id or name, and whether they are there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import NamedTuple

from clawlink.domain import agent as rules
from clawlink.domain.agent import (
    Agent,
    Presence,
    by_id,
    by_name,
)
from clawlink.errors import AmbiguousName, UnknownAgent
from clawlink.protocol.replies import RecipientInfo
from clawlink.relay.core import Core

_NAMESAKES = 100
# The agents whose names are read in one turn of the event loop.
_AT_ONCE = 256
# To ask a member for its value costs more than the comparison.
_ONLINE, _STALE = Presence.ONLINE.value, Presence.STALE.value


class StandIn(NamedTuple):
    """The recipient that an agent stands for, by the name that agents give it, and the door that leads there."""

    name: str
    through: str


class StandIns:
    """The agents that stand for others, by their ids. Each door notes its own after a start."""

    def __init__(self) -> None:
        self._known: dict[str, StandIn] = {}
        self.some = False
        """True if there are any."""

    def of(self, agent_id: str) -> StandIn | None:
        """Return the recipient that an agent stands for; None for an agent that stands for itself."""
        return self._known.get(agent_id)

    def names(self, ids: Collection[str]) -> dict[str, str]:
        """Return the names of the recipients for which some of these agents stand."""
        return {id: self._known[id].name for id in self._known.keys() & ids} if self._known else {}

    def note(self, agent_id: str, stand_in: StandIn | None) -> bool:
        """Note for which recipient an agent stands; None for none. Return True if that is new."""
        if self._known.get(agent_id) == stand_in:
            return False
        if stand_in is None:
            del self._known[agent_id]
        else:
            self._known[agent_id] = stand_in
        self.some = bool(self._known)
        return True


class AgentLookup:
    """Finds registered agents."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.stand_ins = StandIns()
        self._also: list[Callable[[str], Awaitable[Agent | None]]] = []

    def resolve_also(self, find: Callable[[str], Awaitable[Agent | None]]) -> None:
        """Ask a door, too, for a recipient that no agent has as id or name."""
        self._also.append(find)

    async def called(self, agent_id: str) -> str:
        """Return the name of an agent as a sentence shows it, or else its id."""
        agent = await self._core.store.get(Agent, agent_id)
        return repr(agent_id if agent is None else agent.name)

    def shown_name(self, agent: Agent) -> str:
        """Return the name of an agent as others see it: that of the recipient for which it stands, or else its own."""
        there = self.stand_ins.of(agent.id)
        return agent.name if there is None else there.name

    async def names(self, ids: Iterable[str | None]) -> dict[str, str]:
        """Return the names of those agents that are registered, by their ids."""
        wanted = [id for id in dict.fromkeys(ids) if id is not None]
        found: dict[str, str] = {}
        for start in range(0, len(wanted), _AT_ONCE):
            agents = await self._core.store.get_many(Agent, wanted[start : start + _AT_ONCE])
            found |= {agent.id: agent.name for agent in agents if agent is not None}
            await asyncio.sleep(0)
        return found | self.stand_ins.names(found)

    async def id_of(self, recipient: str) -> str:
        """Return the id of the agent of that id or name; an unknown one is taken for an id. Raises AmbiguousName."""
        try:
            return (await self.resolve(recipient)).id
        except UnknownAgent:
            return recipient

    async def resolve(self, recipient: str, *, field: str = "to_agent") -> Agent:
        """Return the agent of that id, else the only agent whose id it is when folded, else the only one of that name.

        Of several, the claimed agent has the name; without one, an online agent goes before stale ones.
        """
        store = self._core.store
        agent = await store.get(Agent, recipient)
        if agent is not None:
            return agent
        named = list((await store.page(Agent, by_id(recipient), limit=_NAMESAKES)).records)
        if not named:
            named = list((await store.page(Agent, by_name(recipient), limit=_NAMESAKES)).records)
        if len(named) > 1:
            claimed = [a for a in named if a.key_hash is not None]
            named = claimed or [a for a in named if self.presence(a) is Presence.ONLINE] or named
        for find in () if named else self._also:
            agent = await find(recipient)
            if agent is not None:
                return agent
        if not named:
            raise UnknownAgent(
                f"no agent with the id or name {recipient!r} is registered here; list the agents with discover",
                field=field,
                current=recipient,
            )
        if len(named) > 1:
            raise AmbiguousName(
                f"{len(named)} agents have the name {recipient!r}; address one by its id: "
                + ", ".join(a.id for a in named[:10]),
                field=field,
                current=[a.id for a in named],
            )
        return named[0]

    async def means(self, named: str, agent_id: str) -> bool:
        """Return True if a recipient, as named now, is the agent of that id; one that has left meanwhile may be any."""
        try:
            return named == agent_id or (await self.resolve(named)).id == agent_id
        except UnknownAgent:
            return await self._core.store.get(Agent, agent_id) is None

    def presence(self, agent: Agent) -> Presence:
        """Tell whether the agent is there."""
        return rules.presence(agent, self._core.clock(), self._core.limits)

    def recipient(self, agent: Agent, now: float | None = None) -> RecipientInfo:
        """Return the facts about a recipient that its sender is told, at the time ``now`` if the caller knows it."""
        core, heard = self._core, agent.last_heartbeat
        if now is None:
            now = core.clock()
        status = _ONLINE if rules.presence(agent, now, core.limits) is rules.ONLINE else _STALE
        age = int(now - heard) if now > heard else 0
        shown = heard if core.never_stopped else core.time.shown(heard)
        there = self.stand_ins.of(agent.id) if self.stand_ins.some else None
        if there is None:
            return RecipientInfo(agent.id, agent.name, status, shown, age)
        return RecipientInfo(agent.id, there.name, status, shown, age, there.through)
