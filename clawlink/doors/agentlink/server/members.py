"""The agents of the instances, each an agent of the relay as any other: ``instance/agent``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from clawlink.domain import access
from clawlink.domain.agent import Agent, fold
from clawlink.doors.agentlink.server.checks import agent_key_of
from clawlink.doors.agentlink.server.instances import Instance, Instances
from clawlink.doors.agentlink.wire import signing
from clawlink.errors import ClawLinkError, RelayFull, UnknownAgent
from clawlink.protocol import requests
from clawlink.relay.relay import Relay

MAX_AGENTS = 1000
# Agents of an old client that others may bring about by writing to them.
MAX_WRITTEN_TO = 64
# All agents of Agent Link count as those of one address, for fair shares.
_SHARED = "agent link"


class Members:
    """Registers the agents of instances at the relay, and finds the recipient of a message.

    Each is claimed, and its key stays here: only its instance's signatures let a client act as it.
    """

    def __init__(self, relay: Relay, instances: Instances, on_new: Callable[[str], object]) -> None:
        self._relay = relay
        self._instances = instances
        self._on_new = on_new
        self._agents: dict[str, Agent] = {}  # as they were when they registered last
        self._keys: dict[str, str] = {}
        self._of: dict[str, set[str]] = {}
        self._meant: dict[tuple[str, str], str] = {}  # by instance and folded agent id; no two agents fold alike

    def of(self, instance_id: str) -> set[str]:
        """Return the addresses of an instance's agents."""
        return self._of.get(instance_id, set())

    def known(self, address: str) -> bool:
        """Return True if this is an agent of an instance, for which only this door can act."""
        return address in self._keys

    def agent(self, address: str) -> Agent:
        """Return the agent with this address."""
        return self._agents[address]

    async def speaker(self, instance: Instance, agent_id: str) -> Agent:
        """Return an agent of the instance that has just shown a sign of life.

        Raises the errors of a register.
        """
        address = f"{instance.id}/{agent_id}"
        key = self._keys.get(address)
        if key is not None:
            with contextlib.suppress(UnknownAgent):  # the relay forgot it after a long silence
                agent = await self._relay.agents.acting(address, key, field="from")
                if self._is_ours(agent):
                    return agent
            return await self._register(instance, address)
        self._require_room(instance, MAX_AGENTS)
        return await self._register(instance, address)

    async def recipient(self, instance: Instance, to: str) -> Agent:
        """Return the recipient of an instance's message: ``instance/agent``, a neighbour's bare id, or any agent.

        A bare id in any case means a neighbour before any agent of the relay. Old clients do not name their agents, so
        an unknown agent of theirs is made. Raises UnknownAgent, AmbiguousName.
        """
        to = self._meant.get((instance.id, fold(to)), to)
        home, slash, _ = to.partition("/")
        theirs = self._instances.get(home) if slash else None
        if theirs is None:
            return await self._relay.agents.resolve(to, field="to")
        signing.split(to, field="to")
        with contextlib.suppress(UnknownAgent):
            agent = await self._relay.agents.resolve(to)
            if self._is_ours(agent):  # and not an agent that merely uses its name
                return agent
        if not theirs.legacy and not self.known(to):
            raise UnknownAgent(f"no agent {to!r} is registered here: it is once it has connected", field="to")
        if not self.known(to):
            self._require_room(theirs, MAX_WRITTEN_TO)
        return await self._register(theirs, to, seen=False)

    async def start(self) -> list[ClawLinkError]:
        """Register the agents of the operator's file; return the refusals."""
        refused = []
        for instance in self._instances.all():
            for agent_id in instance.agents:
                # Its bare id is its own, even if it is refused just now.
                self._meant.setdefault((instance.id, fold(agent_id)), f"{instance.id}/{agent_id}")
                try:
                    await self._register(instance, f"{instance.id}/{agent_id}", seen=False)
                except ClawLinkError as error:
                    refused.append(error)
        return refused

    def _is_ours(self, agent: Agent) -> bool:
        """Return True if it was claimed here. Others may have taken the address before, or after it was forgotten."""
        key = self._keys.get(agent.id)
        return key is not None and agent.key_hash == access.hash_key(key)

    def _require_room(self, instance: Instance, limit: int) -> None:
        if len(self.of(instance.id)) >= limit:
            raise RelayFull(f"instance {instance.id!r} has {limit} agents and may have no more", limit=limit)

    async def _register(self, instance: Instance, address: str, *, seen: bool = True) -> Agent:
        ask = requests.Register(
            agent_id=address,
            name=address,
            description=f"Agent Link, instance {instance.name}"[:200],
            subscriptions=[],
            claim=True,
            idempotency_key=agent_key_of(instance, address),
        )
        done = await self._relay.agents.register(
            ask, machine=instance.id, agent_key=None, address=_SHARED, seen=seen, by_door=True
        )
        self._agents[address] = done.agent
        if done.agent_key is not None:
            self._keys[address] = done.agent_key
        self._of.setdefault(instance.id, set()).add(address)
        self._meant[instance.id, fold(address.partition("/")[2])] = address
        self._on_new(address)
        return done.agent
