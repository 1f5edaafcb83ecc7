"""The open websockets of this relay: a faster way to an agent, and the only way for notices that are not stored."""

from __future__ import annotations

from typing import Protocol


class Socket(Protocol):
    """An open websocket of an agent."""

    @property
    def takes_more(self) -> bool:
        """Return True if a message would go out at once: it has credit, and its peer reads."""

    def tell(self, body: bytes) -> None:
        """Send a notice that is stored nowhere, if the peer is a client of 1.0.x that reads. Never waits."""


class Sockets:
    """All open websockets, by agent."""

    def __init__(self) -> None:
        self._open: dict[str, list[Socket]] = {}

    def add(self, agent_id: str, socket: Socket) -> None:
        """Note that a websocket of the agent is open."""
        self._open.setdefault(agent_id, []).append(socket)

    def remove(self, agent_id: str, socket: Socket) -> None:
        """Note that it is not any longer."""
        left = self._open[agent_id]
        left.remove(socket)
        if not left:
            del self._open[agent_id]

    def route(self, agent_id: str) -> str:
        """Return the way of a message to the agent: ``websocket``, or ``queued`` until a poll. It is no receipt."""
        for socket in self._open.get(agent_id, ()):
            if socket.takes_more:
                return "websocket"
        return "queued"

    def tell(self, agent_id: str, body: bytes) -> None:
        """Send a notice to the websockets of the agent, if it has any."""
        for socket in self._open.get(agent_id, ()):
            socket.tell(body)
