"""AgentRelay: events that the relay keeps while a short line says where they are."""

from __future__ import annotations

from clawlink.doors.registry import Door, OpenDoor, Opening


class AgentRelayDoor(Door):
    """The door of AgentRelay, which is always open."""

    name = "agentrelay"

    def open(self, opening: Opening) -> OpenDoor:
        from clawlink.doors.agentrelay.server.door import AgentRelayServer

        return AgentRelayServer()


DOOR = AgentRelayDoor()
