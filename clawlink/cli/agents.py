"""The agents of a relay as a command knows them: looked up when first asked for, and once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clawlink.cli.ids import MAX_AGENTS_SEARCHED

if TYPE_CHECKING:
    from clawlink.client.sync import Client
    from clawlink.protocol.replies import ListedAgent


class Agents:
    """All agents, online or not."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._listed: list[ListedAgent] | None = None
        self._complete = True

    def listed(self) -> tuple[list[ListedAgent], bool]:
        """Return the agents, and whether these are all. Raises ClawLinkError."""
        if self._listed is None:
            from clawlink.domain.limits import MAX_LIST_LENGTH

            found: list[ListedAgent] = []
            after: str | None = None
            while True:
                page = self._client.discover(status="all", limit=MAX_LIST_LENGTH, after=after)
                found += page.agents
                after = page.next
                if after is None or len(found) >= MAX_AGENTS_SEARCHED:
                    break
            self._listed, self._complete = found, after is None
        return self._listed, self._complete
