"""The agents of a relay as a command knows them: looked up when first asked for, and once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clawlink.cli.ids import MAX_AGENTS_SEARCHED
from clawlink.cli.render import cell, named, quoted

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

    def named(self, agent_id: str) -> str:
        """Return the agent's name in quotes, with the id where the name may mean another; the id if it is not known."""
        from clawlink.domain.agent import fold
        from clawlink.errors import ClawLinkError

        try:
            listed, complete = self.listed()
        except ClawLinkError:
            self._listed = listed = []  # once is enough
            complete = False
        name = next((one.name for one in listed if one.agent_id == agent_id), None)
        if name is None:
            return cell(agent_id)
        alone = complete and sum(fold(one.name) == fold(name) for one in listed) == 1
        return quoted(name, len(name)) if alone and cell(name) == name else named(name, agent_id)
