"""The records of Agent Link in the relay's store: its agents, instances that registered themselves, used frames.

``Following`` tells of those that change, at this relay or at another one of its mesh.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from clawlink.domain.record import BareRecord, text_bytes
from clawlink.relay.core import Core
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


_log = logging.getLogger("clawlink.agentlink")

_RETRY_SECONDS = 1.0

Load = Callable[["set[str] | None"], Awaitable[None]]


class Following:
    """Calls ``load`` once with None, for all records, and then with the ids of those that changed.

    The ids of the records begin with ``key``, before a colon. After a break ``load`` is called with None again.
    """

    def __init__(self, core: Core, key: str, load: Load) -> None:
        self._core = core
        self._key = key
        self._load = load
        self._loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run())

    async def loaded(self) -> None:
        """Return once all records were loaded. Raises the error of the first attempt."""
        await asyncio.shield(self._loaded)

    async def _run(self) -> None:
        with self._core.watch(self._key) as watch:
            try:
                await self._load(None)
            except Exception as error:
                self._loaded.set_exception(error)
                self._loaded.exception()  # nobody may wait for it
                return
            self._loaded.set_result(None)
            while True:
                await watch.signal.wait(None)
                watch.signal.clear()
                changed, watch.changed = watch.changed, set()
                try:
                    await self._load(None if self._key in changed else changed)
                except Exception:
                    _log.exception("following records failed; it goes on")
                    await asyncio.sleep(_RETRY_SECONDS)
                    watch.changed |= changed
                    watch.signal.give()

    def close(self) -> None:
        """Follow nothing any more."""
        self._task.cancel()
        self._loaded.cancel()
