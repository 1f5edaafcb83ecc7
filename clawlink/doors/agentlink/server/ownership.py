"""The relay of a mesh to which all connections of the old form of an instance come.

A message may go to all old connections of an instance, and counts as delivered when all of them have read it. Only a
relay that has all of them knows that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from clawlink.doors.agentlink.server.members import Members
from clawlink.doors.agentlink.server.records import Following, of_instance
from clawlink.errors import WrongState
from clawlink.relay.core import Core

HELD_SECONDS = 30
"""An instance goes to another relay this long after its relay was killed: see ``Peers.hold``."""

_RENEW_SECONDS = 5.0


class _Owned:
    """An instance that is here: the number of its connections that join, and what follows its agents."""

    def __init__(self, following: Following) -> None:
        self.joining = 0
        self.following = following


class Ownership:
    """The instances whose old connections come to this relay. A relay alone has all of them.

    ``used`` tells whether an instance has such connections; ``lost`` is called with an instance that another relay has
    taken, because this one could not reach the store.
    """

    def __init__(
        self, core: Core, members: Members, *, used: Callable[[str], bool], lost: Callable[[str], None]
    ) -> None:
        self._core = core
        self._members = members
        self._used = used
        self._lost = lost
        self._owned: dict[str, _Owned] = {}
        self._lock = asyncio.Lock()
        self._renewed = -_RENEW_SECONDS

    async def take(self, instance_id: str) -> None:
        """Have an instance here for a connection that joins, and know its agents. Raises WrongState, Failed.

        ``stop_joining`` has to follow, also if the connection fails.
        """
        async with self._lock:
            if not await self._hold(instance_id):
                raise WrongState(
                    f"clients of the old form of instance {instance_id!r} are connected to another relay here; connect "
                    f"there, or {HELD_SECONDS} s after its end",
                    field="instance_id",
                    current="elsewhere",
                )
            owned = self._owned.get(instance_id)
            if owned is None:
                owned = self._owned[instance_id] = _Owned(self._follow(instance_id))
            owned.joining += 1
        try:
            await owned.following.loaded()
        except BaseException:
            self.stop_joining(instance_id)
            if not owned.joining and self._owned.get(instance_id) is owned:
                del self._owned[instance_id]
                owned.following.close()
            raise

    def stop_joining(self, instance_id: str) -> None:
        """Note that a connection joins no more: it is there, or it has failed."""
        owned = self._owned.get(instance_id)
        if owned is not None:
            owned.joining -= 1

    async def leave(self, instance_id: str) -> None:
        """Let another relay have an instance that has no old connections here any more."""
        async with self._lock:
            owned = self._owned.get(instance_id)
            if owned is None or owned.joining or self._used(instance_id):
                return
            del self._owned[instance_id]
            owned.following.close()
            if self._core.peers is not None:
                await self._core.peers.let_go(place(instance_id))

    async def holds(self, instance_id: str) -> bool:
        """Return True if the instance is still here; ``lost`` is called if another relay has it. Raises Failed."""
        if await self._hold(instance_id):
            return True
        self._lost(instance_id)
        return False

    async def upkeep(self) -> None:
        """Hold all instances for some more time."""
        now = asyncio.get_running_loop().time()
        if now - self._renewed < _RENEW_SECONDS:
            return
        self._renewed = now
        for instance_id in list(self._owned):
            await self.leave(instance_id)
            if instance_id in self._owned:
                await self.holds(instance_id)

    def close(self) -> None:
        """Follow no agents any more; what is held lapses."""
        for owned in self._owned.values():
            owned.following.close()

    async def _hold(self, instance_id: str) -> bool:
        peers = self._core.peers
        return peers is None or await peers.hold(place(instance_id))

    def _follow(self, instance_id: str) -> Following:
        async def load(changed: set[str] | None) -> None:
            await self._members.load(instance_id, changed)

        return Following(self._core, of_instance(instance_id), load)


def place(instance_id: str) -> str:
    """Return the name under which a relay holds an instance. It has a line break, as no file's key has."""
    return of_instance(instance_id) + "\n"
