"""Agents of a door that stand for others: people know those others, and the door takes on what comes for them."""

from __future__ import annotations

from typing import NamedTuple


class StandIn(NamedTuple):
    """The recipient that an agent stands for, by the name that agents give it, and the door that leads there."""

    name: str
    through: str


class StandIns:
    """The agents that stand for others, by their ids. Each door notes its own after a start."""

    def __init__(self) -> None:
        self._known: dict[str, StandIn] = {}

    def of(self, agent_id: str) -> StandIn | None:
        """Return the recipient that an agent stands for; None for an agent that stands for itself."""
        return self._known.get(agent_id)

    def note(self, agent_id: str, stand_in: StandIn | None) -> bool:
        """Note for which recipient an agent stands; None for none. Return True if that is new."""
        if self._known.get(agent_id) == stand_in:
            return False
        if stand_in is None:
            del self._known[agent_id]
        else:
            self._known[agent_id] = stand_in
        return True
