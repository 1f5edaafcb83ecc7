"""Acts of the operator for agents, through the use cases of the agents."""

from __future__ import annotations

from clawlink.domain.limits import MAX_LIST_LENGTH
from clawlink.protocol.admin import PutBack, RedriveFor
from clawlink.relay.agents.agents import Agents
from clawlink.relay.mailbox.mailbox import Mailbox


class AdminActs:
    """The acts of the operator."""

    def __init__(self, agents: Agents, mailbox: Mailbox) -> None:
        self._agents = agents
        self._mailbox = mailbox

    async def redrive(self, ask: RedriveFor) -> PutBack:
        """Put dead letters of an agent back, the named ones or the oldest. Raises UnknownAgent, AmbiguousName."""
        agent = await self._agents.resolve(ask.agent, field="agent")
        back = await self._mailbox.redrive(agent.id, ask.message_ids, MAX_LIST_LENGTH)
        return PutBack(agent.id, back, len(back))
