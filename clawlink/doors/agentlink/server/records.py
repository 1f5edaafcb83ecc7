"""The records of Agent Link in the relay's store: its agents, instances that registered themselves, used frames."""

from __future__ import annotations

from clawlink.domain.record import BareRecord, text_bytes
from clawlink.store.records import register

INSTANCES = "agentlink"
"""The partition and the index key of instances that registered themselves, and the beginning of their ids."""

_RECORD_BYTES = 150


def of_instance(instance_id: str) -> str:
    """Return the index key of an instance's agents, with which their ids begin, before a colon."""
    return f"agentlink {instance_id}"


class Member(BareRecord, frozen=True, gc=False):
    """An agent of an instance: ``named`` and ``heard`` tell how its connections made it known.

    A ``named`` agent has had a connection of the new form. A ``heard`` agent has sent over a connection of the old
    form. The relay forgets it at ``ends_at``, in seconds since the epoch, which signs of life put off.
    """

    instance: str
    agent: str
    ends_at: float
    named: bool = False
    heard: bool = False

    @property
    def address(self) -> str:
        """The agent at the relay."""
        return f"{self.instance}/{self.agent}"

    @property
    def partition_key(self) -> str:
        return self.id

    @property
    def index_keys(self) -> tuple[str, ...]:
        return (of_instance(self.instance),)

    @property
    def footprint(self) -> int:
        return _RECORD_BYTES + text_bytes(self.instance) + text_bytes(self.agent)


def member_id(instance_id: str, agent_id: str) -> str:
    """Return the id of an agent's record."""
    return f"{of_instance(instance_id)}:{agent_id}"


class OwnInstance(BareRecord, frozen=True, gc=False):
    """An instance that registered itself. The relay forgets it at ``ends_at``, which its registers put off."""

    instance: str
    name: str
    secret: str
    public_key: str | None
    ends_at: float

    @property
    def partition_key(self) -> str:
        return INSTANCES

    @property
    def index_keys(self) -> tuple[str, ...]:
        return (INSTANCES,)

    @property
    def footprint(self) -> int:
        texts = (self.instance, self.name, self.secret, self.public_key)
        return _RECORD_BYTES + sum(map(text_bytes, texts))


def instance_record(instance_id: str) -> str:
    """Return the id of the record of an instance that registered itself."""
    return f"{INSTANCES}:{instance_id}"


class Roll(BareRecord, frozen=True, gc=False):
    """Changes with each instance that registers itself, so that two of them come one after the other."""

    ends_at: float | None = None

    @property
    def partition_key(self) -> str:
        return INSTANCES

    @property
    def footprint(self) -> int:
        return _RECORD_BYTES


class UsedFrame(BareRecord, frozen=True, gc=False):
    """A signed frame that a relay of a mesh has taken. From ``ends_at`` on, its time alone refuses it."""

    ends_at: float

    @property
    def partition_key(self) -> str:
        return self.id

    @property
    def footprint(self) -> int:
        return _RECORD_BYTES


register(Member, "agentlink_member")
register(OwnInstance, "agentlink_instance")
register(Roll, "agentlink_roll")
register(UsedFrame, "agentlink_used_frame")
