"""Readers: the agents that may see a file that is not for everyone.

A reader is kept with its key; without a key, with the time of its registration. So an agent that takes a freed id is no
reader.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from clawlink.domain.agent import Agent
from clawlink.domain.record import text_bytes
from clawlink.domain.task import Task

# The bytes of the readers of a file, and of each of them, beside the texts, measured.
_ACCESS_BYTES = 100
_PARTY_BYTES = 75
_TASK_BYTES = 88  # with its id


class Party(msgspec.Struct, frozen=True, gc=False):
    """An agent as it was when it was named."""

    agent_id: str
    key_hash: str | None
    registered_at: float

    def is_(self, agent: Agent | None) -> bool:
        """Return True if this is the agent. An agent without a key may have claimed one since."""
        if agent is None or agent.id != self.agent_id:
            return False
        if self.key_hash is None:
            return agent.registered_at == self.registered_at
        return agent.key_hash == self.key_hash

    @property
    def footprint(self) -> int:
        """About how many bytes of memory it takes."""
        return _PARTY_BYTES + text_bytes(self.agent_id) + text_bytes(self.key_hash)


class Access(msgspec.Struct, frozen=True, gc=False):
    """The agents that may see a file: its owner, its readers, and the agents that hold one of the tasks."""

    owner: Party
    readers: tuple[Party, ...] = ()
    tasks: tuple[str, ...] = ()

    @property
    def parties(self) -> tuple[Party, ...]:
        """The owner and the readers."""
        return (self.owner, *self.readers)

    @property
    def reader_ids(self) -> tuple[str, ...]:
        """The ids of the readers."""
        return tuple([reader.agent_id for reader in self.readers])

    @property
    def footprint(self) -> int:
        """About how many bytes of memory it takes."""
        return _ACCESS_BYTES + sum(p.footprint for p in self.parties) + _TASK_BYTES * len(self.tasks)

    def admits(self, agent: Agent | None) -> bool:
        """Return True for the owner and the readers."""
        return any(party.is_(agent) for party in self.parties)

    def knows(self, agent_id: str) -> bool:
        """Return True if the owner or a reader has, or had, this id."""
        return any(party.agent_id == agent_id for party in self.parties)


def party(agent: Agent) -> Party:
    """Return the agent's entry among readers."""
    return Party(agent.id, agent.key_hash, agent.registered_at)


def admitting(owner: Agent | Party, readers: Iterable[Party], tasks: tuple[str, ...] = ()) -> Access:
    """Return the access of an owner and these readers, each once."""
    own = party(owner) if isinstance(owner, Agent) else owner
    once = {reader.agent_id: reader for reader in readers if reader.agent_id != own.agent_id}
    return Access(own, tuple(once.values()), tasks)


def holds(task: Task | None, agent: Agent) -> bool:
    """Return True if the agent holds the task, or has ended it. A later bearer of the holder's id does not."""
    return (
        task is not None
        and task.assignee == agent.id
        and task.delivered_at is not None
        and task.delivered_at >= agent.registered_at
    )
