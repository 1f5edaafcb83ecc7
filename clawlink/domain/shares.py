"""Fair shares of a limit: among addresses first, then among the agents of an address.

Nothing that is stored is taken back, so a share ends before the limit is reached. The rule is that of dynamic
thresholds, by which switches share their buffers (Choudhury and Hahne, 1998). With 90 percent:

    an address may hold 90 % of what the other addresses leave of the limit
    an agent may hold 90 % of what the other agents of its address leave of the address's share

So no agent and no address alone uses up a limit, and no rule has to know how many there are. A lone address reaches
90 % of a limit, and a lone agent 81 %. Each further address takes 90 % of the rest, so a few together can fill a limit.
Agents of no known address have the whole limit together, and a lone
agent of them reaches 90 % of it. Shares are rounded up, so a lone agent has all of a small limit. A piece of any size
may always come from an address that holds nothing, and from an agent that holds nothing. With 100 percent the limit
alone holds.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Level(str, Enum):
    """The holder of a share: an address, or an agent of it."""

    ADDRESS = "address"
    AGENT = "agent"


class Origin(NamedTuple):
    """The address, None if that is not known, and the agent that a record counts for."""

    address: str | None
    agent: str


class Used(NamedTuple):
    """How much of a limit is used: by all, by the asker's address, and by the asker. ``by_address`` None: not known."""

    by_all: int
    by_address: int | None
    by_agent: int


class Share(NamedTuple):
    """A share that is used up: whose it is, how much it is at this moment, and how much of it is used."""

    level: Level
    most: int
    used: int


def used_up(limit: int, used: Used, size: int, percent: int) -> Share | None:
    """Return the share that a piece of this size would pass; None if it may come, as far as shares go."""
    have, others = limit, used.by_all - used.by_agent
    if used.by_address is not None:
        have, others = _part(limit - used.by_all + used.by_address, percent), used.by_address - used.by_agent
        if used.by_address and used.by_address + size > have:
            return Share(Level.ADDRESS, have, used.by_address)
    most = _part(have - others, percent)
    return Share(Level.AGENT, most, used.by_agent) if used.by_agent and used.by_agent + size > most else None


def _part(of: int, percent: int) -> int:
    """Return so much percent of a number, rounded up; 0 if that is less than nothing."""
    return max(-(-percent * of // 100), 0)
