"""AgentRelay: events that a local folder or the relay keeps, while a short line says where they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clawlink.doors.agentrelay.settings import Settings
from clawlink.doors.registry import Door, OpenDoor, Opening

if TYPE_CHECKING:
    from clawlink.bench.scenarios import Row
    from clawlink.bench.upkeep_scenarios import Step
    from clawlink.cli.verb import Verb

PREFIX = "AgentRelay: "
"""The beginning of a message that brings a line."""


class AgentRelayDoor(Door):
    """The door of AgentRelay, which is always open."""

    name = "agentrelay"
    settings = Settings
    scenarios = ("events",)

    def open(self, opening: Opening) -> OpenDoor:
        from clawlink.doors.agentrelay.server.door import AgentRelayServer
        from clawlink.doors.agentrelay.server.events import Events

        return AgentRelayServer(Events(opening.relay, opening.settings))

    def verbs(self) -> Sequence[Verb]:
        from clawlink.cli.verb import Verb

        return (
            Verb(
                "agentrelay",
                "Hand over large contents by a short line, as AgentRelay does.",
                "clawlink.doors.agentrelay.cli.agentrelay",
                ("agentrelay send bob report r1 '{\"pages\": 120}'",),
            ),
        )

    def next_step(self, content: Any) -> tuple[str, ...] | None:
        if not isinstance(content, str) or not content.startswith(PREFIX) or "\n" in content:
            return None
        from clawlink.doors.agentrelay.rules import COMPLETION
        from clawlink.doors.agentrelay.wire.line import parse
        from clawlink.errors import BadRequest

        try:
            line = parse(content)
        except BadRequest:
            return None
        leads_to_contents = line.type != COMPLETION and content == f"{PREFIX}{line}"
        return ("agentrelay", "receive", str(line)) if leads_to_contents else None

    def measure(self, name: str, folder: str, *, say: Callable[[str], None]) -> list[Row]:
        from clawlink.doors.agentrelay.bench.scenarios import events

        return events(folder, say=say)

    def upkeep_steps(self) -> Mapping[str, Step]:
        from clawlink.doors.agentrelay.bench.scenarios import STEPS

        return STEPS


DOOR = AgentRelayDoor()
