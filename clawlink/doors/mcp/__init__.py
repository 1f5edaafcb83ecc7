"""MCP: the relay's verbs as tools of a model, at ``/mcp`` and over standard input and output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from clawlink.doors.registry import Door, OpenDoor, Opening

if TYPE_CHECKING:
    from clawlink.bench.scenarios import Row
    from clawlink.cli.verb import Verb


class McpDoor(Door):
    """The door of the Model Context Protocol, which is always open."""

    name = "mcp"
    scenarios = ("mcp",)

    def open(self, opening: Opening) -> OpenDoor:
        from clawlink.doors.mcp.server.door import McpServer

        return McpServer()

    def verbs(self) -> Sequence[Verb]:
        from clawlink.cli.verb import Verb

        return (
            Verb(
                "mcp",
                "Offer the relay to a model as MCP tools, over standard input and output.",
                "clawlink.doors.mcp.cli.mcp",
                ("mcp --as bob",),
            ),
        )

    def measure(self, name: str, folder: str, *, say: Callable[[str], None]) -> list[Row]:
        from clawlink.doors.mcp.bench.scenarios import tools

        return tools(say=say)


DOOR = McpDoor()
