"""Pools: mailboxes of work for any agent that can do it.

A pool is named by its conditions for an agent. An agent that meets them may claim from it, under the same rules as from
its own mailbox. Its record exists while work waits there, so that agents find it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import msgspec
from msgspec.structs import replace

from clawlink.domain.agent import Agent, by_capability, by_name, fold
from clawlink.domain.record import text_bytes
from clawlink.domain.shares import Origin

POOLS = "pools"
OF_CAPABILITIES = "pools of capabilities"
"""The index keys of all pools, and of those that ``--max-pools`` counts: others wait for an agent that has left."""

_PREFIX = " pool "
_KEY_HEX = 16  # this many characters of the hash of a member's key stand in the id
# The bytes that a pool takes beside its texts, measured.
_RECORD_BYTES = 110


class Pool(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The conditions for a claim: all of ``capabilities``, an id of ``any_of``, and the ``name`` together with its key.

    Empty tuples and None ask for nothing. Its partition is the mailbox of its id. Capabilities and name are folded.
    ``used_at`` is the time of the last new work. ``returns_at`` is the time when the work of an agent that has left
    goes back to its requesters. Times are seconds since the epoch. ``left`` is an agent that leaves: no agent may claim
    here until all its tasks are taken back. The id of a pool for claimed agents tells their keys. ``opened_by`` is the
    sender of its first work, and ``address`` its address.
    """

    id: str
    version: int
    capabilities: tuple[str, ...] = ()
    any_of: tuple[str, ...] = ()
    name: str | None = None
    used_at: float = 0.0
    key_hash: str | None = None
    returns_at: float | None = None
    left: Agent | None = None
    opened_by: str = ""
    address: str | None = None

    @property
    def partition_key(self) -> str:
        return self.id

    @property
    def origin(self) -> Origin:
        """The address and the agent that it counts for."""
        return Origin(self.address, self.opened_by)

    @property
    def index_keys(self) -> tuple[str, ...]:
        return (POOLS, OF_CAPABILITIES, *self.anchors) if self.name is None else (POOLS, *self.anchors)

    @property
    def weight(self) -> int:
        return 0

    @property
    def footprint(self) -> int:
        texts = (self.name, *self.capabilities, *self.any_of)
        left = 0 if self.left is None else self.left.footprint
        return _RECORD_BYTES + len(self.id.partition(":")[2]) + sum(map(text_bytes, texts)) + left

    @property
    def ends_at(self) -> float | None:
        return self.returns_at

    @property
    def anchors(self) -> tuple[str, ...]:
        """The keys under which agents look for it. Each agent that may claim here has one of them."""
        if self.any_of:
            return tuple(by_member(agent_id) for agent_id in self.any_of)
        return (by_name(self.name),) if self.name is not None else (by_capability(self.capabilities[0]),)

    def admits(self, agent: Agent) -> bool:
        """Return True if the work is for the agent, and not for an earlier bearer of its id."""
        if agent.id not in self.any_of:
            return False
        keys = self.id.partition(":")[2]
        key = keys.split(",")[self.any_of.index(agent.id)] if keys else ""
        return (agent.key_hash or "").startswith(key)

    def used(self, now: float) -> Pool:
        """Return the pool to store with each new piece of work, so that no other task drops it at that moment."""
        return replace(self, version=self.version + 1, used_at=now)


def pool_for(capabilities: Iterable[str], any_of: Iterable[str], keys: Mapping[str, str | None] | None = None) -> Pool:
    """Return a new pool that asks for all these capabilities and for one of these agents.

    ``keys`` are the hashes of the agents' keys, without agents that have none.
    """
    wanted = tuple(sorted({fold(capability) for capability in capabilities}))
    members = tuple(sorted(set(any_of)))
    digest = hashlib.blake2b(repr((wanted, members)).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
    shown = [(keys.get(member) or "")[:_KEY_HEX] for member in members] if keys else []
    suffix = ":" + ",".join(shown) if any(shown) else ""
    return Pool(id=_PREFIX + digest + suffix, version=0, capabilities=wanted, any_of=members)


def waiting_for(
    mailbox: str,
    name: str,
    *,
    key_hash: str | None = None,
    returns_at: float | None = None,
    left: Agent | None = None,
) -> Pool:
    """Return the pool from which an agent that has left claims the contents of its earlier mailbox.

    A claimed agent needs its key for that: no other agent gets its messages. An agent without a key and the next agent
    of its name count as the same, as in ClawLink 1.0.x. Unclaimed work goes back at ``returns_at``.
    """
    return Pool(id=mailbox, version=0, name=fold(name), key_hash=key_hash, returns_at=returns_at, left=left)


def is_heir(pool: Pool, name: str, key_hash: str | None) -> bool:
    """Return True if an agent of this name and key may claim the work of an agent that has left."""
    return pool.name == fold(name) if pool.key_hash is None else pool.key_hash == key_hash


def is_pool(mailbox: str) -> bool:
    """Return True if a mailbox belongs to a pool: its id begins with a space, as no agent's does."""
    return mailbox.startswith(_PREFIX)


def by_member(agent_id: str) -> str:
    """Return the key of the pools that name this agent."""
    return "member:" + agent_id


def keys_of(agent: Agent) -> tuple[str, ...]:
    """Return the keys under which the agent looks for pools."""
    return (by_member(agent.id), by_name(agent.name), *(by_capability(c) for c in agent.capabilities))


def skills_of(agent: Agent) -> frozenset[str]:
    """Return the agent's capabilities, folded."""
    return frozenset(map(fold, agent.capabilities))


def eligible(pool: Pool, agent: Agent, skills: frozenset[str] | None = None) -> bool:
    """Return True if the agent may claim from the pool. ``skills`` are its own, for callers that have them."""
    if pool.left is not None or (pool.any_of and not pool.admits(agent)):
        return False
    if pool.name is not None and (pool.name != fold(agent.name) or not is_heir(pool, agent.name, agent.key_hash)):
        return False
    return not pool.capabilities or (skills_of(agent) if skills is None else skills).issuperset(pool.capabilities)
