"""Decide which connections read for which agent of an instance."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Peer(Protocol):
    """A connection, as far as it matters here."""

    number: int
    """Set when the connection is added: later ones have greater numbers."""

    @property
    def agent(self) -> str | None:
        """The address that it named when it registered, in the new form."""

    @property
    def spoken_for(self) -> set[str]:
        """The addresses that it has sent from."""


L = TypeVar("L", bound=Peer)
L_co = TypeVar("L_co", bound=Peer, covariant=True)


@dataclass(frozen=True)
class Readers(Generic[L_co]):
    """The old connections that a message for an agent is written to.

    ``certain``: they are known to be the agent's. ``settles``: once all of them have read it, the agent has it.
    Strangers are one list for all agents of an instance, which changes as they come and go.
    """

    connections: Sequence[L_co]
    settles: bool
    certain: bool = False


class Routing(Generic[L]):
    """The connections of all instances.

    A connection of the new form names its agent. An old connection is known by the messages that it sends. Until then
    it may be any agent of its instance, so it reads for each agent without a known connection. Messages for an agent
    that was known before wait for it, because a read by a connection that may be another proves nothing.
    """

    def __init__(self) -> None:
        self._of: dict[str, dict[L, None]] = {}
        self._strangers: dict[str, list[L]] = {}
        self._speakers: dict[str, list[L]] = {}  # by address, the old connections that have sent from it
        self._connected: Counter[str] = Counter()  # by address, the connections that named it
        self._named: set[str] = set()  # ever
        self._heard: set[str] = set()  # ever
        self._numbers = itertools.count(1)
        self.latest = 0
        """The number of the connection that came last."""

    def of(self, instance_id: str) -> Sequence[L]:
        """Return the connections of an instance, the oldest first."""
        return tuple(self._of.get(instance_id, ()))

    def count(self, instance_id: str) -> int:
        """Return how many connections an instance has."""
        return len(self._of.get(instance_id, ()))

    def strangers(self, instance_id: str) -> Sequence[L]:
        """Return the strangers of an instance: one list, which changes."""
        return self._strangers.setdefault(instance_id, [])

    def any_old(self, instance_id: str) -> bool:
        """Return True if an instance has connections of the old form."""
        return any(connection.agent is None for connection in self._of.get(instance_id, ()))

    def know(self, address: str, *, named: bool, heard: bool) -> None:
        """Note that an agent has named itself, or has sent over an old connection, here or at another relay."""
        if named:
            self._named.add(address)
        if heard:
            self._heard.add(address)

    def add(self, instance_id: str, connection: L) -> None:
        """Note a new connection."""
        connection.number = self.latest = next(self._numbers)
        self._of.setdefault(instance_id, {})[connection] = None
        if connection.agent is not None:
            self._named.add(connection.agent)
            self._connected[connection.agent] += 1
        else:
            self._strangers.setdefault(instance_id, []).append(connection)

    def spoke(self, instance_id: str, connection: L, address: str) -> bool:
        """Note that a connection has sent from an address; return True the first time."""
        if address in connection.spoken_for:
            return False
        if connection.agent is None:
            self._heard.add(address)
            self._speakers.setdefault(address, []).append(connection)
            if not connection.spoken_for:
                self._strangers[instance_id].remove(connection)
        connection.spoken_for.add(address)
        return True

    def remove(self, instance_id: str, connection: L) -> None:
        """Note that a connection has ended. No other is touched."""
        if self._of.get(instance_id, {}).pop(connection, False) is False:
            return
        if not self._of[instance_id]:
            del self._of[instance_id]
        if connection.agent is not None:
            self._connected[connection.agent] -= 1
            if not self._connected[connection.agent]:
                del self._connected[connection.agent]
            return
        if not connection.spoken_for:
            self._strangers[instance_id].remove(connection)
        for address in connection.spoken_for:
            self._speakers[address].remove(connection)
            if not self._speakers[address]:
                del self._speakers[address]

    def readers(self, address: str) -> Readers[L]:
        """Return the old connections that read for an agent.

        Of several that have sent from one address it is the latest, as with the old relay.
        """
        speakers = self._speakers.get(address)
        if speakers is not None:
            return Readers((max(speakers, key=lambda connection: connection.number),), settles=True, certain=True)
        if address in self._named:
            return Readers((), settles=False)
        return Readers(self.strangers(address.partition("/")[0]), settles=address not in self._heard)

    def connected(self, address: str) -> bool:
        """Return True if a connection reads the agent's messages."""
        readers = self.readers(address)
        return self._connected[address] > 0 or (bool(readers.connections) and readers.settles)
