"""The agents of the instances, each an agent of the relay as any other: ``instance/agent``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

from msgspec.structs import replace

from clawlink.domain import access
from clawlink.domain.agent import Agent, by_id, fold
from clawlink.doors.agentlink.server.checks import agent_key_of
from clawlink.doors.agentlink.server.instances import Instance, Instances
from clawlink.doors.agentlink.server.records import Member, member_id, of_instance
from clawlink.doors.agentlink.wire import signing
from clawlink.errors import ClawLinkError, RelayFull, UnknownAgent
from clawlink.protocol import requests
from clawlink.relay.core import retrying
from clawlink.relay.kinds import Kind
from clawlink.relay.relay import Relay
from clawlink.store.base import Put

MAX_AGENTS = 1000
# Agents of an old client that others may bring about by writing to them.
MAX_WRITTEN_TO = 64
# All agents of Agent Link count as those of one address, for fair shares.
_SHARED = "agent link"
_PAGE = 200


class Here(NamedTuple):
    """An agent of an instance, as this relay knows it: its record and that of the relay's agent."""

    member: Member
    agent: Agent


class Members:
    """Registers the agents of instances at the relay, and finds the recipient of a message.

    Each is claimed, and its key derives from the secrets of instance and relay: only the instance's signatures let a
    client act as it, at any relay of a mesh. ``on_new`` is called with an address whose record is new to this relay, or
    has changed.
    """

    def __init__(self, relay: Relay, instances: Instances, on_new: Callable[[Member], object]) -> None:
        self._relay = relay
        self._core = relay.core
        self._instances = instances
        self._on_new = on_new
        self._here: dict[str, Here] = {}
        self._of: dict[str, set[str]] = {}
        self._listed: dict[tuple[str, str], str] = {}  # of the file, by instance and folded agent id
        relay.keep(Kind(Member, _forget))

    def of(self, instance_id: str) -> set[str]:
        """Return the addresses of an instance's agents that this relay knows of."""
        return self._of.get(instance_id, set())

    def agent(self, address: str) -> Agent:
        """Return the agent with this address."""
        return self._here[address].agent

    def is_ours(self, agent: Agent) -> bool:
        """Return True if only this door can act as the agent.

        Others may have taken the address before, or after the relay forgot its agent.
        """
        instance = self._instances.get(agent.id.partition("/")[0])
        return instance is not None and agent.key_hash == access.hash_key(self._key(instance, agent.id))

    async def speaker(self, instance: Instance, agent_id: str, *, named: bool = False) -> Agent:
        """Return an agent of the instance that has just shown a sign of life.

        ``named`` tells that a connection of the new form is the agent's. Raises the errors of a register.
        """
        address = f"{instance.id}/{agent_id}"
        with contextlib.suppress(UnknownAgent):  # the relay forgot it after a long silence
            agent = await self._relay.agents.acting(address, self._key(instance, address), field="from")
            if self.is_ours(agent):
                await self._note(agent, named=named)
                return agent
        await self._require_room(instance, address, MAX_AGENTS)
        return await self._register(instance, address, named=named)

    async def heard(self, agent: Agent) -> None:
        """Note that an agent has sent over a connection of the old form."""
        await self._note(agent, heard=True)

    async def stays(self, address: str) -> None:
        """Note that an agent is connected, however long it says nothing."""
        await self._note(self.agent(address))

    async def recipient(self, instance: Instance, to: str) -> Agent:
        """Return the recipient of an instance's message: ``instance/agent``, a neighbour's bare id, or any agent.

        A bare id in any case means a neighbour before any agent of the relay. Old clients do not name their agents, so
        an unknown agent of theirs is made. Raises UnknownAgent, AmbiguousName.
        """
        to = await self._meant(instance, to)
        home, slash, _ = to.partition("/")
        theirs = await self._instances.find(home) if slash else None
        if theirs is None:
            return await self._relay.agents.resolve(to, field="to")
        _, agent_id = signing.split(to, field="to")
        with contextlib.suppress(UnknownAgent):
            agent = await self._relay.agents.resolve(to)
            if self.is_ours(agent):  # and not an agent that merely uses its name
                await self._note(agent)
                return agent
        known = await self._known(theirs.id, agent_id)
        if not theirs.legacy and not known:
            raise UnknownAgent(f"no agent {to!r} is registered here: it is once it has connected", field="to")
        if not known:
            await self._require_room(theirs, to, MAX_WRITTEN_TO)
        return await self._register(theirs, to, seen=False)

    async def _meant(self, instance: Instance, to: str) -> str:
        """Return the address of the neighbour that a bare id means, in any case; else the text itself."""
        if "/" in to:
            return to
        listed = self._listed.get((instance.id, fold(to)))
        if listed is not None:
            return listed
        (agent,) = await self._core.store.first_of(Agent, [by_id(f"{instance.id}/{to}")])
        if agent is not None and self.is_ours(agent):
            return agent.id
        address = f"{instance.id}/{to}"  # a neighbour that the relay has forgotten
        return address if await self._known(instance.id, to) else to

    async def _known(self, instance_id: str, agent_id: str) -> bool:
        return await self._core.store.get(Member, member_id(instance_id, agent_id)) is not None

    async def start(self) -> list[ClawLinkError]:
        """Register the agents of the operator's file; return the refusals."""
        refused = []
        for instance in self._instances.all():
            for agent_id in instance.agents:
                address = f"{instance.id}/{agent_id}"
                # Its bare id is its own, even if it is refused just now.
                self._listed.setdefault((instance.id, fold(agent_id)), address)
                try:
                    # A register ends the leases of an agent that is at work, perhaps at another relay.
                    agent = await self._core.store.get(Agent, address)
                    if agent is not None and self.is_ours(agent):
                        await self._note(agent)
                    else:
                        await self._register(instance, address, seen=False)
                except ClawLinkError as error:
                    refused.append(error)
        return refused

    async def load(self, instance_id: str, changed: Iterable[str] | None = None) -> None:
        """Read the agents of an instance again, or those with these ids of records; tell of each that is new."""
        if changed is not None:
            found = await self._core.store.get_many(Member, list(changed))
            await self._learn([member for member in found if member is not None])
            return
        after: str | None = None
        while True:
            page = await self._core.store.page(Member, of_instance(instance_id), after, _PAGE)
            await self._learn(page.records)
            after = page.after
            if after is None:
                return

    async def _learn(self, members: Iterable[Member]) -> None:
        new = [one for one in members if one.address not in self._here or self._here[one.address].member != one]
        agents = await self._core.store.get_many(Agent, [member.address for member in new])
        for member, agent in zip(new, agents, strict=True):
            if agent is not None:
                self._know(member, agent)

    def _know(self, member: Member, agent: Agent) -> None:
        before = self._here.get(member.address)
        self._here[member.address] = Here(member, agent)
        self._of.setdefault(member.instance, set()).add(member.address)
        if before is None or (before.member.named, before.member.heard) != (member.named, member.heard):
            self._on_new(member)

    def _key(self, instance: Instance, address: str) -> str:
        return self._relay.agents.make_key(address, agent_key_of(instance, address))

    async def _require_room(self, instance: Instance, address: str, limit: int) -> None:
        count = (await self._core.store.usage(Member, of_instance(instance.id))).count
        if count >= limit and not await self._known(instance.id, address.partition("/")[2]):
            raise RelayFull(f"instance {instance.id!r} has {limit} agents and may have no more", limit=limit)

    async def _register(self, instance: Instance, address: str, *, seen: bool = True, named: bool = False) -> Agent:
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
        await self._note(done.agent, named=named)
        return done.agent

    @retrying
    async def _note(self, agent: Agent, *, named: bool = False, heard: bool = False) -> None:
        """Have a record of an agent say at least this, and that it is in use."""
        core, here = self._core, self._here.get(agent.id)
        until = core.clock() + 2 * core.limits.forget_claimed_after  # the relay forgets its agent before
        if here is not None and _says(here.member, named, heard, until=until):
            return
        ends_at = until + 2 * core.limits.forget_claimed_after
        instance_id, _, agent_id = agent.id.partition("/")
        id = member_id(instance_id, agent_id)
        member = await core.store.get(Member, id)
        if member is None:
            member = Member(id, 1, instance_id, agent_id, ends_at, named=named, heard=heard)
            await core.commit(id, Put(member))
        elif not _says(member, named, heard, until=until):
            member = replace(
                member,
                version=member.version + 1,
                ends_at=ends_at,
                named=member.named or named,
                heard=member.heard or heard,
            )
            await core.commit(id, Put(member))
        self._know(member, agent)


def _says(member: Member, named: bool, heard: bool, *, until: float) -> bool:
    return member.ends_at > until and member.named >= named and member.heard >= heard


def _forget(member: Member, now: float) -> None:
    return None
