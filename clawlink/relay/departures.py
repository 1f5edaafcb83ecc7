"""Leaving: what becomes of an agent's mailbox and tasks when it goes, of its own accord or for long silence."""

from __future__ import annotations

from typing import NamedTuple

from clawlink.domain.agent import Agent
from clawlink.domain.message import AgentLeft
from clawlink.relay.agents import Agents
from clawlink.relay.core import Core
from clawlink.relay.mailbox import Mailbox
from clawlink.relay.upkeep import Upkeep


class Departure(NamedTuple):
    """How many messages nobody will read any more, and how many tasks wait for the next agent of the name."""

    dropped: int
    waiting: int


class Departures:
    """Agents that go."""

    def __init__(self, core: Core, agents: Agents, mailbox: Mailbox, upkeep: Upkeep) -> None:
        self._core = core
        self._agents = agents
        self._mailbox = mailbox
        self._upkeep = upkeep

    async def leave(self, agent: Agent) -> Departure:
        """Remove the agent. Its messages expire; what it was asked goes on to others, or waits for its name."""
        return await self._core.finish(self._leave(agent.id))

    async def _leave(self, agent_id: str) -> Departure:
        self._agents.note_left(agent_id)
        gone = await self._agents.remove(agent_id)
        dropped = await self._mailbox.close(agent_id)
        if gone is None:
            return Departure(dropped, 0)
        waiting = await self._upkeep.owner_left(gone)
        await self._agents.tell(gone, AgentLeft, self._core.clock())
        return Departure(dropped, waiting)

    async def forget(self, agent_id: str) -> None:
        """Remove an agent that has been silent for long. Nobody is told: nobody has heard of it for long either."""
        gone = await self._agents.remove(agent_id)
        if gone is not None:
            await self._upkeep.owner_left(gone)
