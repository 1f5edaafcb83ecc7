"""Which connection serves which agent. A new one never takes an agent from an old one of the signed form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Line(Protocol):
    """A connection, as far as it matters here."""

    @property
    def agent(self) -> str | None:
        """The address that it named when it registered, in the new form."""

    @property
    def spoken_for(self) -> set[str]:
        """The addresses that it has sent from."""

    def serve(self, addresses: set[str]) -> None:
        """Consume the mailboxes of these agents from now on, and no others."""


class Lines:
    """The connections of all instances.

    One of the new form serves the agent that it named. One of the old form does not say whom it serves, so it serves
    every agent of its instance, but for those that another connection is known to be: by its name, or because it has
    sent from there.
    """

    def __init__(self) -> None:
        self._of: dict[str, list[Line]] = {}

    def of(self, instance_id: str) -> list[Line]:
        """Return the connections of an instance, the oldest first."""
        return self._of.get(instance_id, [])

    def add(self, instance_id: str, line: Line) -> None:
        """Note a new connection."""
        self._of.setdefault(instance_id, []).append(line)

    def remove(self, instance_id: str, line: Line) -> None:
        """Note that a connection has ended. No other is touched."""
        lines = self._of.get(instance_id, [])
        if line in lines:
            lines.remove(line)
        if not lines:
            self._of.pop(instance_id, None)

    def refresh(self, instance_id: str, addresses: Iterable[str]) -> None:
        """Tell each connection of the instance, which has agents of these ``addresses``, which of them it serves."""
        known = list(addresses)
        for line in self.of(instance_id):
            line.serve(self.wanted(instance_id, line, known))

    def wanted(self, instance_id: str, line: Line, addresses: Iterable[str]) -> set[str]:
        """Return which of the instance's agents this connection is to serve."""
        lines = self.of(instance_id)
        return {address for address in addresses if line in lines and _serves(line, address, lines)}

    def connected(self, address: str) -> bool:
        """Tell whether somebody is there to read what comes for the agent."""
        lines = self.of(address.partition("/")[0])
        return any(_serves(line, address, lines) for line in lines)


def _serves(line: Line, address: str, lines: list[Line]) -> bool:
    if line.agent is not None:
        return line.agent == address
    if address in line.spoken_for:
        return True
    return not any(address == other.agent or address in other.spoken_for for other in lines if other is not line)
