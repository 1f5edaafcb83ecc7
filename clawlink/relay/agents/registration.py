"""Registration of agents: their ids, names and keys."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from clawlink.domain import access, skeletons
from clawlink.domain import agent as rules
from clawlink.domain.agent import REGISTERED, Agent, Presence, fold
from clawlink.domain.broadcast import EVERYTHING
from clawlink.domain.limits import AGENT_KEY_BITS, MIN_CLAIM_IDEMPOTENCY_KEY_LENGTH
from clawlink.domain.message import AgentJoined
from clawlink.domain.shares import Origin
from clawlink.errors import BadRequest, NameTaken, NotAllowed, RelayFull, UnknownAgent
from clawlink.protocol import proof, requests
from clawlink.random_text import random_text
from clawlink.relay.agents.directory import Directory
from clawlink.relay.agents.lookup import AgentLookup, StandIn
from clawlink.relay.agents.names import Names
from clawlink.relay.agents.notices import AgentNotices
from clawlink.relay.core import Core, retrying
from clawlink.relay.ids import derived
from clawlink.relay.limits.memory import size_of
from clawlink.relay.limits.shares import Limit
from clawlink.relay.mailbox.admission import Admission
from clawlink.relay.mailbox.mailbox import Mailbox
from clawlink.store.base import Put

_FULL_RETRY_SECONDS = 60.0
_ID_LENGTH = 16


class Registration(NamedTuple):
    """The agent as registered, and whether it was there before; its key, if it has just been made.

    ``relay_key`` is for whoever has shown the agent's key, or has just been given it.
    """

    agent: Agent
    resumed: bool
    agent_key: str | None
    relay_key: str | None


class _Asker(NamedTuple):
    """The sender of a registration, with the arguments of ``register``."""

    machine: str
    agent_key: str | None
    address: str | None
    by_operator: bool
    seen: bool
    by_door: bool
    person: bool


class AgentRegistration(AgentLookup):
    """Registers agents, resumes them and gives them other names."""

    def __init__(self, core: Core, mailbox: Mailbox, admission: Admission, *, require_keys: bool) -> None:
        super().__init__(core)
        self.notices = AgentNotices(core, mailbox)
        self._names = Names(core)
        self._admission = admission
        self.keys_required = require_keys
        self._reserved: list[Callable[[str], str | None]] = []
        self.directory = Directory(core, self.stand_ins)
        self._left: dict[str, None] = {}  # ids that left, the latest last

    def stand_in(self, agent_id: str, name: str | None, *, through: str) -> None:
        """Show an agent of a door by the name of the recipient elsewhere that it stands for; None for none.

        ``through`` is the name of the door.
        """
        if self.stand_ins.note(agent_id, None if name is None else StandIn(name, through)):
            self.directory.renew(agent_id)

    def reserve(self, reserved: Callable[[str], str | None]) -> None:
        """Keep ids and names for a door, which registers their agents itself.

        ``reserved`` says in words what an id or a name is, and returns None for all that the door does not keep.
        """
        self._reserved.append(reserved)

    async def register(
        self,
        ask: requests.Register,
        *,
        machine: str,
        agent_key: str | None,
        address: str | None = None,
        by_operator: bool = False,
        seen: bool = True,
        by_door: bool = False,
        person: bool = False,
    ) -> Registration:
        """Register an agent, or resume the one of that id with its mailbox; ``machine`` is the default.

        Somebody else may do it in its place: then it was not ``seen``, and is stale until it shows a sign of life.

        A claim makes an agent key, which is returned this once; the relay keeps its hash. An ``agent_key`` that comes
        with the claim of an agent that has none becomes its key: it was kept over a restart of the relay.

        Raises NotAllowed for an id that another agent has claimed or that is reserved. Raises NameTaken for a name or
        id of another agent, and for an agent that is online elsewhere. Raises RateLimited. ``by_door`` tells that it is
        asked by the one for whom ids are reserved, ``by_operator`` that the request shows the operator's right.
        ``address`` is from where the request comes, as limits by address count it. ``person`` is True for the relay's
        operator.
        """
        self._core.require_working()
        if ask.claim and ask.idempotency_key and len(ask.idempotency_key) < MIN_CLAIM_IDEMPOTENCY_KEY_LENGTH:
            raise BadRequest(
                "with a claim the idempotency key stands for the agent key, so it must be hard to guess: "
                f"at least {MIN_CLAIM_IDEMPOTENCY_KEY_LENGTH} characters",
                field="idempotency_key",
                limit=MIN_CLAIM_IDEMPOTENCY_KEY_LENGTH,
                actual=len(ask.idempotency_key),
            )
        if ask.agent_id is not None:
            agent_id = ask.agent_id
        elif ask.idempotency_key is not None:
            agent_id = derived("register", ask.idempotency_key)[:_ID_LENGTH]
        else:
            agent_id = self._core.ids.fresh()[:_ID_LENGTH]
        if not by_door:
            own = await self._is_own(agent_id, ask, agent_key)
            self._admission.require_registration(agent_id if own else None, address)
        asker = _Asker(machine, agent_key, address, by_operator, seen, by_door, person)
        return await self._core.finish(self._register(agent_id, ask, asker))

    @retrying
    async def _register(self, agent_id: str, ask: requests.Register, asker: _Asker) -> Registration:
        core = self._core
        now = core.clock()
        old = await core.store.get(Agent, agent_id)
        if ask.claim and old is not None and not asker.by_operator:
            self._require_claimable(old, asker.address, now)
        key_hash, made = self._key(agent_id, ask, old, asker.agent_key)
        claimed = key_hash is not None
        access.require_claim(claimed, self.keys_required)
        before = self._unnamed(agent_id, asker, now) if old is None else old
        name = (ask.name or before.name).strip() or agent_id
        if not asker.by_door:  # who had them before they were reserved keeps them
            self._require_unreserved(agent_id, None if old is None else old.id, field="agent_id")
            self._require_unreserved(name, None if old is None else old.name, field="name")
        if old is None:
            _require_plain(agent_id, field="agent_id")
            await self._require_room(agent_id, asker.address)
            await self._names.require_free_id(agent_id, now, claimed=claimed)
            await self._names.require_its_own(agent_id, name, key_hash)
        if old is None or old.name != name:
            _require_plain(name, field="name")
        takes_name = old is None or fold(old.name) != fold(name) or (claimed and old.key_hash is None)
        if takes_name:
            await self._names.require_free_name(name, agent_id, claimed=claimed)
        subscriptions = before.subscriptions if ask.subscriptions is None else tuple(dict.fromkeys(ask.subscriptions))
        agent = replace(
            before,
            version=before.version + 1,
            name=name,
            capabilities=_chosen(ask.capabilities, before.capabilities),
            machine=ask.machine or before.machine,
            description=ask.description or before.description,
            last_heartbeat=now if asker.seen else before.last_heartbeat,
            key_hash=key_hash,
            subscriptions=subscriptions,
            topic_keys=rules.topic_keys(subscriptions),
            resumed_at=now,
            beat_at=0.0,
            notices=before.notices if ask.notices is None else ask.notices,
            address=asker.address if old is None else rules.counted_at(old, asker.address, now, core.limits),
            person=asker.person,
            asleep=None,
        )
        await self._require_memory(old, agent)
        await self._names.take(name, agent_id, now, claimed=claimed)
        await core.commit(agent.partition_key, Put(agent))
        if takes_name and not claimed:
            await self._names.require_kept(agent, old, now)
        self.directory.add(agent_id)
        self._left.pop(agent_id, None)
        if old is None:
            await self.notices.tell(agent, AgentJoined, now)
            core.activity_log.note("joined", agent_name=name, agent_id=agent_id, claimed=claimed)
        elif fold(old.name) != fold(name):
            await self._names.give_up(old)
            core.activity_log.note("renamed", agent_name=name, agent_id=agent_id, before=old.name)
        if asker.seen and old is not None and self.presence(old) is Presence.STALE:
            core.activity_log.note("came back", agent_name=name, agent_id=agent_id)
        return Registration(agent, old is not None, made, self._relay_key(agent, made or asker.agent_key))

    def _unnamed(self, agent_id: str, asker: _Asker, now: float) -> Agent:
        """Return an agent of this id as it is before it has said anything: stale, with its id for a name."""
        return Agent(
            id=agent_id,
            version=0,
            name=agent_id,
            capabilities=(),
            machine=asker.machine,
            description="",
            registered_at=self._core.time.arrival(),
            last_heartbeat=now - self._core.limits.stale_after,
            subscriptions=(EVERYTHING,),
        )

    def _key(
        self, agent_id: str, ask: requests.Register, old: Agent | None, agent_key: str | None
    ) -> tuple[str | None, str | None]:
        """Return the hash of the agent's key, and the key itself if it is made now.

        Raises NotAllowed if another agent has claimed the id, BadRequest for a key that is easy to guess.
        """
        key_hash = None if old is None else old.key_hash
        if ask.claim and key_hash is None and agent_key is not None:
            access.require_strong(agent_key)
            return access.hash_key(agent_key), None
        if ask.claim and (old is None or key_hash is None or self._is_repeat(ask, old)):
            made = self.make_key(agent_id, ask.idempotency_key)
            return access.hash_key(made), made
        if old is not None:
            access.require_agent(old, agent_key, field="agent_id")
        return key_hash, None

    async def rename(self, agent_id: str, name: str) -> Agent:
        """Give an agent another name, for the operator, and return it.

        Raises UnknownAgent, NameTaken, BadRequest for a name that shows nothing, and NotAllowed for one that is kept.
        """
        return await self._core.finish(self._rename(agent_id, name.strip()))

    @retrying
    async def _rename(self, agent_id: str, name: str) -> Agent:
        core, now = self._core, self._core.clock()
        old = await core.store.get(Agent, agent_id)
        if old is None:
            raise UnknownAgent(f"no agent {agent_id!r} is registered here any more", field="agent")
        if old.name == name:
            return old
        self._require_unreserved(old.id, None, field="agent")
        self._require_unreserved(name, old.name, field="name")
        _require_plain(name, field="name")
        claimed, takes_name = old.key_hash is not None, fold(old.name) != fold(name)
        if takes_name:
            await self._names.require_free_name(name, agent_id, claimed=claimed)
        agent = replace(old, version=old.version + 1, name=name)
        await self._require_memory(old, agent)
        await self._names.take(name, agent_id, now, claimed=claimed)
        await core.commit(agent.partition_key, Put(agent))
        if takes_name and not claimed:
            await self._names.require_kept(agent, old, now)
        if takes_name:
            await self._names.give_up(old)
        core.activity_log.note("renamed", agent_name=name, agent_id=agent_id, before=old.name)
        return agent

    def _require_claimable(self, agent: Agent, address: str | None, now: float) -> None:
        if not rules.claimable(agent, address, now, self._core.limits):
            raise NameTaken(
                f"agent {agent.id} is online, has no key, and registered from another address; claim it from there, "
                "as the operator, or once it is stale, or choose another agent_id",
                field="agent_id",
                current={"agent_id": agent.id, "last_heartbeat": agent.last_heartbeat},
            )

    def _relay_key(self, agent: Agent, agent_key: str | None) -> str | None:
        if agent.key_hash is None or agent_key is None:
            return None
        return proof.relay_key(self._core.secret, proof.key_id(agent_key))

    def _require_unreserved(self, wanted: str, had: str | None, *, field: str) -> None:
        if wanted == had:
            return
        for reserved in self._reserved:
            what = reserved(wanted)
            if what is not None:
                raise NotAllowed(f"{wanted!r} is {what}; choose another {field}", field=field)

    def make_key(self, agent_id: str, idempotency_key: str | None) -> str:
        """Return an agent key. With an idempotency key it derives from it, so that a repeat can be given the same."""
        if idempotency_key is None:
            return random_text(AGENT_KEY_BITS // 8)
        cause = derived(agent_id, idempotency_key)
        return hmac.new(self._core.secret, cause.encode(), hashlib.sha256).hexdigest()

    def _is_repeat(self, ask: requests.Register, old: Agent) -> bool:
        if ask.idempotency_key is None or old.key_hash is None:
            return False
        made = self.make_key(old.id, ask.idempotency_key)
        return hmac.compare_digest(access.hash_key(made), old.key_hash)

    async def _is_own(self, agent_id: str, ask: requests.Register, agent_key: str | None) -> bool:
        """Return False if the id is of a claimed agent whose key the request does not show.

        Such a request is refused, and must not use up what the agent may do itself.
        """
        old = await self._core.store.get(Agent, agent_id)
        if old is None or (ask.claim and self._is_repeat(ask, old)):
            return True
        try:
            access.require_agent(old, agent_key, field="agent_id")
        except NotAllowed:
            return False
        return True

    async def _require_room(self, agent_id: str, address: str | None) -> None:
        """Refuse an agent too many, of all or of an address. Raises RelayFull."""
        registered = await self._core.store.usage(Agent, REGISTERED)
        shares, origin = self._core.shares, Origin(address, agent_id)
        await shares.require(
            RelayFull,
            origin,
            lambda: shares.under(origin, (Agent, REGISTERED)),
            count=Limit(self._core.limits.max_agents, registered.count, 1),
            holds="the relay has",
            what="agents",
            then="have some leave, or raise --max-agents",
            retry_after=_FULL_RETRY_SECONDS,
        )

    async def _require_memory(self, old: Agent | None, new: Agent) -> None:
        """Refuse an agent, or more of its texts, for which there is no memory. Raises StorageFull."""
        growth = size_of(new) - (0 if old is None else size_of(old))
        if growth > 0:
            await self._core.memory.require(growth, new.origin)


def _chosen(asked: list[str] | None, before: tuple[str, ...]) -> tuple[str, ...]:
    """Return the capabilities asked for, each once whatever its case, or those the agent had."""
    if asked is None:
        return before
    chosen: dict[str, str] = {}
    for capability in filter(None, map(str.strip, asked)):
        chosen.setdefault(fold(capability), capability)
    return tuple(chosen.values())


def _require_plain(text: str, *, field: str) -> None:
    fault = skeletons.fault(text, spaces=field == "name")
    if fault is not None:
        raise BadRequest(f"{field} {fault}", field=field)
