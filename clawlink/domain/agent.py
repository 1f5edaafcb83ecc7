"""Agents: their registration, presence and capabilities.

Each query derives presence from the last sign of life. Presence is never stored, so it is never out of date.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from enum import Enum

import msgspec
from msgspec.structs import replace

from clawlink.domain import skeletons
from clawlink.domain.limits import Limits
from clawlink.domain.record import text_bytes
from clawlink.domain.shares import Origin, holder

# The bytes that an agent takes beside its texts, with its listing, and those of a held name, measured.
_RECORD_BYTES = 520
_HOLD_BYTES = 70
# A registration writes the agent this many seconds after its name at most.
TAKING_SECONDS = 5.0


class Presence(str, Enum):
    """The presence of an agent: it has shown a sign of life lately, or it has not."""

    ONLINE = "online"
    STALE = "stale"


# Looking a member up in its class costs more than the comparison that asks for it.
ONLINE, STALE = Presence.ONLINE, Presence.STALE


class Agent(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A registered party. Its partition is its own mailbox.

    ``key_hash`` is the SHA-256 of its agent key in hex, or None for an agent that was never claimed. The
    ``subscriptions`` are patterns of topics, and the ``topic_keys`` their index keys. ``resumed_at`` is its last
    registration, ``beat_at`` its last heartbeat since. A heartbeat, unlike other signs of life, says that the agent
    works on its tasks. ``notices`` is True if it asked for notices of agents and files, and None if it gave no choice.
    ``address`` is the address of its last registration, None if that is not known. ``person`` is True for the relay's
    operator. ``asleep`` is the time at which it went to sleep, and the time from which it may be forgotten. A later
    sign of life ends the sleep. Times are seconds since the epoch.
    """

    id: str
    version: int
    name: str
    capabilities: tuple[str, ...]
    machine: str
    description: str
    registered_at: float
    last_heartbeat: float
    key_hash: str | None = None
    subscriptions: tuple[str, ...] = ("*",)
    topic_keys: tuple[str, ...] = ("topic:*",)
    resumed_at: float = 0.0
    beat_at: float = 0.0
    notices: bool | None = None
    address: str | None = None
    person: bool = False
    asleep: tuple[float, float] | None = None

    @property
    def partition_key(self) -> str:
        return self.id

    @property
    def origin(self) -> Origin:
        """The address and the agent that it counts for."""
        return Origin(self.address, holder(self.id, self.key_hash))

    @property
    def index_keys(self) -> tuple[str, ...]:
        """Folded name, id and capabilities, by which others find this agent.

        A claimed agent has keys of its skeletons, too, and one of its agent key.

        Broadcasts and notices find their readers by the other keys.
        """
        shown: tuple[str, ...] = ()
        if self.key_hash is not None:
            shown = by_key(self.key_hash), *sorted({*by_looks(self.name), *by_looks(self.id)})
        skills = (by_capability(c) for c in self.capabilities)
        files = (HEARS_OF_FILES,) if hears_of_files(self) else ()
        return (REGISTERED, by_name(self.name), by_id(self.id), *shown, *skills, *self.topic_keys, *files)

    @property
    def weight(self) -> int:
        return 0

    @property
    def footprint(self) -> int:
        """Its texts count twice: they are kept once more as ``discover`` sends them."""
        shown = (self.name, self.machine, self.description, *self.capabilities)
        size = _RECORD_BYTES + len(self.id) + sum(text_bytes(text) + _encoded_bytes(text) for text in shown)
        return size + text_bytes(self.address) + sum(map(text_bytes, (*self.subscriptions, *self.topic_keys)))

    @property
    def ends_at(self) -> float | None:
        """Silence ends an agent, and only the janitor knows the limits; so it looks at every agent in turn."""
        return None


def _encoded_bytes(text: str | None) -> int:
    """Return about how many bytes a text takes in JSON."""
    if text is None:
        return 4
    return 2 + (len(text) if text.isascii() else len(text.encode()))


class NameHold(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The holder of a name. A name has one record, so that two agents that ask at once cannot both have it.

    Its partition is the name. It is written at ``taken_at``, before the agent that takes the name, and ``claimed``
    tells whether with a key. While that agent does not exist, or has another name, it counts for ``TAKING_SECONDS``
    only.
    """

    id: str
    version: int
    agent_id: str
    taken_at: float = 0.0
    claimed: bool = False

    @property
    def partition_key(self) -> str:
        return "name:" + self.id

    @property
    def index_keys(self) -> tuple[str, ...]:
        return ()

    @property
    def weight(self) -> int:
        return 0

    @property
    def footprint(self) -> int:
        return _HOLD_BYTES

    @property
    def ends_at(self) -> float | None:
        return None


OPERATOR = "operator"
"""The id and the name of the agent under which the operator of a relay acts. Others cannot register it."""

REGISTERED = "registered"
HEARS_OF_FILES = "hears of files"
"""The index keys of all agents, and of those that are told of files."""


def fold(text: str) -> str:
    """Bring an id, a name, a capability or a topic into the form in which two of them are compared.

    Letter case, width, composition (NFKC) and characters that show nothing make no difference, nor does white space at
    the ends.
    """
    if text.isascii():
        return text.strip().casefold()
    normal = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFKC", skeletons.seen(normal)).strip()


def is_being_taken(hold: NameHold, now: float, *, from_claimed: bool) -> bool:
    """Return True if another agent may be registering this name at this moment, and would not share it."""
    return (hold.claimed or from_claimed) and now - hold.taken_at < TAKING_SECONDS


def by_id(agent_id: str) -> str:
    """Return the index key of agents with this id when folded."""
    return "id:" + fold(agent_id)


def by_key(key_hash: str) -> str:
    """Return the index key of the agent whose agent key has this hash."""
    return "key:" + key_hash


def by_looks(name: str) -> list[str]:
    """Return the index keys of claimed agents whose name or id may look like this one."""
    return sorted("looks:" + form for form in forms(name))


def forms(name: str) -> frozenset[str]:
    """Return the forms of a name or id for comparison. Two texts that look alike have a form in common."""
    return skeletons.skeletons(name, fold(name)).all


def look_alike(one: str, other: str) -> bool:
    """Return True if two names or ids, which are not equal when folded, look like each other."""
    return skeletons.alike(skeletons.skeletons(one, fold(one)), skeletons.skeletons(other, fold(other)))


def by_pattern(pattern: str) -> str:
    """Return the index key under which the subscribers of a pattern of topics are found."""
    return "topic:" + fold(pattern)


def topic_keys(patterns: Iterable[str]) -> tuple[str, ...]:
    """Return the index keys of an agent that has subscribed to these patterns, each once."""
    return tuple(dict.fromkeys(map(by_pattern, patterns)))


def by_name(name: str) -> str:
    """Return the index key under which agents of this name are found."""
    return "name:" + fold(name)


def by_capability(capability: str) -> str:
    """Return the index key under which agents of this capability are found."""
    return "capability:" + fold(capability)


def is_same(agent: Agent, agent_id: str, key_hash: str | None, at: float) -> bool:
    """Return True if the agent had this id, and this key or none, at a time.

    An agent that took the id later is the same only if it has the same key. An agent without a key and the next agent
    of its id count as the same, as in ClawLink 1.0.x. An agent without a key may have claimed one since.
    """
    return agent.id == agent_id and (key_hash is None or agent.registered_at <= at or agent.key_hash == key_hash)


def presence(agent: Agent, now: float, limits: Limits) -> Presence:
    """Tell whether the agent has shown a sign of life within ``stale_after`` seconds, and none of its end."""
    if agent.asleep is not None and is_asleep(agent):
        return STALE
    return ONLINE if now - agent.last_heartbeat < limits.stale_after else STALE


def is_asleep(agent: Agent) -> bool:
    """Return True if the agent said that it goes to sleep, and gave no sign of life since."""
    return agent.asleep is not None and agent.last_heartbeat <= agent.asleep[0]


def put_to_sleep(agent: Agent, now: float, forget_at: float) -> Agent:
    """Record that the agent has ended for now: it is stale at once, and may come back."""
    return replace(agent, version=agent.version + 1, asleep=(max(now, agent.last_heartbeat), forget_at))


def seen(agent: Agent, now: float) -> Agent:
    """Record a sign of life."""
    return replace(agent, version=agent.version + 1, last_heartbeat=max(now, agent.last_heartbeat))


def beaten(agent: Agent, now: float) -> Agent:
    """Record a heartbeat."""
    return replace(agent, version=agent.version + 1, last_heartbeat=max(now, agent.last_heartbeat), beat_at=now)


def unheard(agent: Agent, seconds: float, now: float) -> Agent:
    """Leave out of the agent's silence the seconds in which no relay was there to hear it."""
    heard = agent.last_heartbeat if is_asleep(agent) else min(agent.last_heartbeat + seconds, now)
    return replace(agent, version=agent.version + 1, last_heartbeat=max(heard, agent.last_heartbeat))


def subscribe(agent: Agent, patterns: Iterable[str]) -> Agent:
    """Return the agent with other topics of broadcasts."""
    chosen = tuple(dict.fromkeys(patterns))
    return replace(agent, version=agent.version + 1, subscriptions=chosen, topic_keys=topic_keys(chosen))


def claimable(agent: Agent, address: str | None, now: float, limits: Limits) -> bool:
    """Return True if a request from an address may claim the agent.

    An online agent without a key can be claimed from its own address alone. An agent without a known address can be
    claimed from everywhere. A claimed agent shows its key instead.
    """
    elsewhere = agent.key_hash is None and agent.address is not None and agent.address != address
    return not elsewhere or presence(agent, now, limits) is STALE


def counted_at(agent: Agent, address: str | None, now: float, limits: Limits) -> str | None:
    """Return the address of an agent that registers again from an address.

    An agent that could not be claimed from there keeps its address: else a register without a claim would prepare one.
    """
    return address if claimable(agent, address, now, limits) else agent.address


def hears_of_agents(agent: Agent) -> bool:
    """Return True if notices of joining and leaving agents go to the agent's mailbox, because it asked for them."""
    return agent.notices is True


def hears_of_files(agent: Agent) -> bool:
    """Return True if the agent is told of files: if it asked for that, or knows no better, as a client of 1.0.x."""
    return agent.key_hash is None if agent.notices is None else agent.notices


def hears_on_sockets(agent: Agent) -> bool:
    """Return True if the agent hears of joining agents on its websockets alone, as in 1.0.x."""
    return agent.notices is None and agent.key_hash is None


def forgettable(agent: Agent, now: float, limits: Limits, *, mail: int) -> bool:
    """Return True if the relay may forget the agent: it has been silent long enough, and no mail waits.

    A claimed agent keeps its name longer. After that a stranger may take it. An agent that went to sleep has named the
    time itself.
    """
    if agent.asleep is not None and is_asleep(agent):
        return mail == 0 and now >= agent.asleep[1]
    after = limits.forget_after if agent.key_hash is None else limits.forget_claimed_after
    return mail == 0 and now - agent.last_heartbeat >= after


def holds_name(holder: Agent | None, name: str, now: float, limits: Limits, *, from_claimed: bool) -> bool:
    """Return True if ``holder`` keeps another agent from taking ``name``; ``from_claimed`` if that agent has a key.

    A claimed agent keeps its name until it leaves or is forgotten. An agent without a key keeps it from claimed agents
    while it is online. Two agents without a key may have one name, as in ClawLink 1.0.x.
    """
    if holder is None or fold(holder.name) != fold(name):
        return False
    return holds_id(holder, now, limits, from_claimed=from_claimed)


def holds_id(holder: Agent, now: float, limits: Limits, *, from_claimed: bool) -> bool:
    """Return True if ``holder`` keeps another agent from an id that is its own when folded; as for names."""
    return holder.key_hash is not None or (from_claimed and presence(holder, now, limits) is Presence.ONLINE)
