"""Leaving: the end of an agent's mailbox and tasks when it leaves, is removed, or is forgotten."""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

from msgspec.structs import replace

from clawlink.domain.agent import Agent
from clawlink.domain.message import AgentLeft
from clawlink.protocol.replies import Asleep, Left
from clawlink.protocol.requests import Kick, Sleep
from clawlink.relay.agents.agents import Agents
from clawlink.relay.core import Core
from clawlink.relay.files.write import Files
from clawlink.relay.mailbox.mailbox import Mailbox
from clawlink.relay.tasks.lifecycle import TaskLifecycle

_log = logging.getLogger("clawlink.relay")


class Deregistered(NamedTuple):
    """The number of dropped messages, and of tasks that wait for the next agent of the name."""

    dropped: int
    waiting: int


class Deregistration:
    """Agents that go."""

    def __init__(self, core: Core, agents: Agents, mailbox: Mailbox, lifecycle: TaskLifecycle, files: Files) -> None:
        self._core = core
        self._agents = agents
        self._mailbox = mailbox
        self._lifecycle = lifecycle
        self._files = files
        self._under_way: set[str] = set()

    async def leave(self, agent: Agent) -> Left:
        """Remove the agent. Its messages expire; its tasks go on to others, or wait for its name."""
        gone = await self._core.finish(self._leave(agent.id))
        return Left("left", agent.id, gone.dropped, gone.waiting)

    async def sleep(self, agent: Agent, ask: Sleep) -> Asleep:
        """Take back the agent's tasks, and show it as stale until its next sign of life. It stays registered."""
        return await self._core.finish(self._sleep(agent.id, ask.forget_after))

    async def _sleep(self, agent_id: str, forget_after: float | None) -> Asleep:
        agent = await self._agents.put_to_sleep(agent_id, forget_after)
        return Asleep("asleep", agent_id, [] if agent is None else await self._lifecycle.owner_sleeps(agent))

    async def kick(self, ask: Kick) -> Left:
        """Remove an agent in its place, as the operator. Raises UnknownAgent, AmbiguousName."""
        agent = await self._agents.resolve(ask.agent, field="agent")
        gone = await self.leave(agent)
        _log.info("kicked by the operator", extra={"agent": agent.id, "dropped": gone.dropped, "waiting": gone.waiting})
        return replace(gone, status="kicked")

    async def _leave(self, agent_id: str) -> Deregistered:
        self._agents.note_left(agent_id)
        gone = await self._agents.remove(agent_id, self._lifecycle.heirs)
        if gone is None:
            return Deregistered(0, 0)
        departure = await self.take_back_work(gone)
        self._note("left", gone, departure)
        await self._agents.notices.tell(gone, AgentLeft, self._core.clock())
        return departure

    async def forget(self, agent_id: str) -> None:
        """Remove an agent that has been silent for long. No agent is told, because it has been stale for long."""
        gone = await self._agents.remove(agent_id, self._lifecycle.heirs)
        if gone is not None:
            self._note("removed after a long silence", gone, await self.take_back_work(gone))

    def _note(self, event: str, gone: Agent, departure: Deregistered) -> None:
        self._core.activity_log.note(
            event, agent_name=gone.name, agent_id=gone.id, dropped=departure.dropped, waiting=departure.waiting
        )

    async def take_back_work(self, gone: Agent) -> Deregistered:
        """Take back all tasks of an agent whose record is gone. The janitor repeats this after a failure.

        An index may lag, so that it shows a task only after a while. A look that begins ``index_lag`` after the end of
        the agent's record shows all, and is the last.
        """
        if gone.id in self._under_way:
            return Deregistered(0, 0)
        self._under_way.add(gone.id)
        try:
            waiting: dict[str, str] = {}
            dropped = await self._take_back_in_sight(gone, waiting)
            if self._core.store.index_lag:
                await asyncio.sleep(self._core.store.index_lag)
                dropped += await self._take_back_in_sight(gone, waiting)
            await self._lifecycle.open_to_heirs(gone.id, empty=gone.id not in waiting.values())
        finally:
            self._under_way.discard(gone.id)
        return Deregistered(dropped, len(waiting))

    async def _take_back_in_sight(self, gone: Agent, waiting: dict[str, str]) -> int:
        """Take back all tasks in sight; return the number of dropped messages."""
        dropped = 0
        if await self._core.store.get(Agent, gone.id) is None:
            dropped = await self._mailbox.close(gone.id)
        await self._lifecycle.owner_left(gone, waiting)
        await self._files.forget_unreadable(gone)
        return dropped
