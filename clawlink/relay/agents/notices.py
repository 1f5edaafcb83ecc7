"""Notices of agents that join or leave, and the agents that get them."""

from __future__ import annotations

from clawlink.domain import agent as rules
from clawlink.domain.agent import (
    REGISTERED,
    Agent,
    Presence,
)
from clawlink.domain.limits import PRESENCE_AUDIENCE
from clawlink.domain.message import AgentJoined, AgentLeft, Priority, encode
from clawlink.relay.agents.directory import card
from clawlink.relay.core import Core
from clawlink.relay.mailbox.mailbox import Mailbox
from clawlink.relay.time_slices import Turns, parts


class AgentNotices:
    """The notices of all agents that come and go."""

    def __init__(self, core: Core, mailbox: Mailbox) -> None:
        self._core = core
        self._mailbox = mailbox

    async def tell(self, agent: Agent, kind: type[AgentJoined] | type[AgentLeft], now: float) -> None:
        """Tell the agents that are online and hear of agents, while they are few enough for that to make sense."""
        core = self._core
        registered = await core.store.usage(Agent, REGISTERED)
        if registered.count > PRESENCE_AUDIENCE:
            return
        audience = (await core.store.page(Agent, REGISTERED, limit=PRESENCE_AUDIENCE)).records
        id = core.ids.fresh()
        shown = card(agent, Presence.ONLINE if kind is AgentJoined else Presence.STALE, core.time)
        stamp = core.time.stamp()
        body = encode(kind(agent=shown, timestamp=stamp, queued_at=stamp, message_id=id))
        turns = Turns()
        for some in parts(audience, core.store.partitions_at_once):
            told = []
            for other in some:
                if other.id == agent.id or rules.presence(other, core.clock(), core.limits) is not Presence.ONLINE:
                    continue
                if kind is AgentJoined and rules.hears_on_sockets(other):
                    core.sockets.tell(other.id, body)
                elif rules.hears_of_agents(other):
                    told.append(other.id)
            await self._mailbox.put_copies(
                self._mailbox.copies(
                    id,
                    told,
                    sender=agent,
                    body=body,
                    now=now,
                    level=Priority.LOW.level,
                    merge="agent:" + agent.id,
                )
            )
            await turns.next(len(some))
