"""Decide which connections read for which agent of an instance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, NamedTuple, Protocol, TypeVar


class Line(Protocol):
    """A connection, as far as it matters here."""

    @property
    def agent(self) -> str | None:
        """The address that it named when it registered, in the new form."""

    @property
    def spoken_for(self) -> set[str]:
        """The addresses that it has sent from."""


L = TypeVar("L", bound=Line)


class Readers(NamedTuple, Generic[L]):
    """The old connections that a message for an agent is written to.

    ``certain``: they are known to be the agent's. ``settles``: once all of them have read it, the agent has it.
    """

    lines: list[L]
    settles: bool
    certain: bool = False


class Lines(Generic[L]):
    """The connections of all instances.

    A connection of the new form names its agent. An old connection is known by the messages that it sends. Until then
    it may be any agent of its instance, so it reads for each agent that no other connection is known to be. Messages
    for an agent that was known before wait for it: reading by a connection that may be another proves nothing.
    """

    def __init__(self) -> None:
        self._of: dict[str, list[L]] = {}
        self._named: set[str] = set()  # ever
        self._heard: set[str] = set()  # ever

    def of(self, instance_id: str) -> list[L]:
        """Return the connections of an instance, the oldest first."""
        return self._of.get(instance_id, [])

    def add(self, instance_id: str, line: L) -> None:
        """Note a new connection."""
        self._of.setdefault(instance_id, []).append(line)
        if line.agent is not None:
            self._named.add(line.agent)

    def spoke(self, line: L, address: str) -> bool:
        """Note that a connection has sent from an address; return True the first time."""
        new = address not in line.spoken_for
        line.spoken_for.add(address)
        if line.agent is None:
            self._heard.add(address)
        return new

    def remove(self, instance_id: str, line: L) -> None:
        """Note that a connection has ended. No other is touched."""
        lines = self._of.get(instance_id, [])
        if line in lines:
            lines.remove(line)
        if not lines:
            self._of.pop(instance_id, None)

    def readers(self, instance_id: str, addresses: Iterable[str]) -> Iterator[tuple[str, Readers[L]]]:
        """Give who reads for each of these agents of the instance, over old connections.

        Of several that have sent from one address it is the newest, as with the old relay.
        """
        old = [line for line in self.of(instance_id) if line.agent is None]
        speakers = {address: line for line in old for address in line.spoken_for}
        strangers = [line for line in old if not line.spoken_for]
        for address in addresses:
            if address in speakers:
                yield address, Readers([speakers[address]], settles=True, certain=True)
            elif address in self._named:
                yield address, Readers([], settles=False)
            else:
                yield address, Readers(strangers, settles=address not in self._heard)

    def connected(self, address: str) -> bool:
        """Return True if a connection is there that reads what comes for the agent."""
        instance_id = address.partition("/")[0]
        if any(line.agent == address for line in self.of(instance_id)):
            return True
        ((_, readers),) = self.readers(instance_id, [address])
        return bool(readers.lines) and readers.settles
