"""Agents that could not be woken, since the relay started."""

from __future__ import annotations

from typing import NamedTuple

from clawlink.domain.wake import Wake

MOST = 1000
_WENT_WRONG = ("failed", "given_up")


class Failed(NamedTuple):
    """The last attempt to wake an agent, which failed, and the message that it was for."""

    agent_id: str
    message_id: str
    wake: Wake


class Unwoken:
    """Keeps the last failed wake of each agent until a later one works. Beyond ``MOST`` the oldest goes."""

    def __init__(self) -> None:
        self._failed: dict[str, Failed] = {}

    def note(self, agent_id: str, message_id: str, wake: Wake) -> None:
        """Take note of a wake."""
        self._failed.pop(agent_id, None)
        if wake.result in _WENT_WRONG:
            self._failed[agent_id] = Failed(agent_id, message_id, wake)
            if len(self._failed) > MOST:
                del self._failed[next(iter(self._failed))]

    def over(self, agent_id: str) -> None:
        """Forget the failure of an agent that came by itself, or left."""
        self._failed.pop(agent_id, None)

    def all(self) -> list[Failed]:
        """Return the failures, the newest first."""
        return list(reversed(self._failed.values()))
