"""The agents of a relay as a command knows them: looked up when first asked for, and once."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from typing import TYPE_CHECKING

from clawlink.cli.ids import MAX_AGENTS_SEARCHED
from clawlink.cli.render import named, quoted
from clawlink.domain.terminal import cell

if TYPE_CHECKING:
    from clawlink.client.sync import Client
    from clawlink.protocol.replies import ListedAgent

# An agent that is not known may have come since the last look.
_AGAIN_SECONDS = 5.0


class Agents:
    """All agents, online or not."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._listed: list[ListedAgent] | None = None
        self._complete = True
        self._looked_at = float("-inf")
        self._names: dict[str, str] = {}  # by id
        self._holders: Counter[str] = Counter()  # how many have a name

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

        if agent_id not in self._names and time.monotonic() - self._looked_at >= _AGAIN_SECONDS:
            self._look()
        name = self._names.get(agent_id)
        if name is None:
            return cell(agent_id)
        alone = self._complete and self._holders[fold(name)] == 1
        return quoted(name, len(name)) if alone and cell(name) == name else named(name, agent_id)

    def alike(self, name: str) -> str | None:
        """Return the name that looks most like this one, as one types it; None if there is none."""
        from difflib import get_close_matches

        from clawlink.domain.agent import fold
        from clawlink.errors import ClawLinkError

        try:
            listed, _ = self.listed()
        except ClawLinkError:
            return None
        names = {fold(one.name): one.name for one in listed if cell(one.name) == one.name}
        close = get_close_matches(fold(name), names, 1)
        return shlex.quote(names[close[0]]) if close else None

    def skill_alike(self, capability: str) -> str | None:
        """Return the capability that looks most like one that no agent here has; None if an agent has it, or none."""
        from difflib import get_close_matches

        from clawlink.domain.agent import fold
        from clawlink.errors import ClawLinkError

        try:
            listed, complete = self.listed()
        except ClawLinkError:
            return None
        known = {fold(one): one for agent in listed for one in agent.capabilities if cell(one) == one}
        wanted = fold(capability)
        if wanted in known or not complete:
            return None
        close = get_close_matches(wanted, known, 1)
        return known[close[0]] if close else None

    def _look(self) -> None:
        """Index the names. Some of those that came since the last look may be missing."""
        from clawlink.domain.agent import fold
        from clawlink.errors import ClawLinkError

        if self._looked_at != float("-inf"):
            self._listed = None
        try:
            listed, _ = self.listed()
        except ClawLinkError:
            listed, self._complete = [], False
        self._looked_at = time.monotonic()
        self._names = {one.agent_id: one.name for one in listed}
        self._holders = Counter(fold(one.name) for one in listed)
