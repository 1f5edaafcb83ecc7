"""Fair shares of a limit: among addresses first, then among the agents of an address.

No stored record is taken back. So a share ends before the limit is reached, and a part is kept for agents that come
after that. With 90 percent:

    an address may hold 90 % of what the other addresses leave of the limit, or 1/500 of the limit if that is more
    an agent may hold 90 % of what its fellows leave of 7/8 of its address's share, or 1/500 of the last eighth

The first part is that of dynamic thresholds, by which switches share their buffers (Choudhury and Hahne, 1998). It is
for holders that come while there is room. The second is for holders that come when others have filled the limit, or the
seven eighths. It does not depend on the others' usage. Its cost is bounded. The first part never leads beyond the
limit, and the second adds at most 1/500 for each address: 500 addresses make it twice the limit. More than that is
never held, and an address never holds more than its share.

A lone address reaches 90 % of a limit, and a lone agent 70.9 %. Agents of no known address have the share of an
address that may hold all of what the others leave: a lone agent reaches 78.8 %. Shares are rounded up, so a lone agent
has all of a limit below 8.

A share of bytes may be less than a piece. So an address that holds nothing may place a piece of any size that fits into
the limit. An agent that holds nothing may place one that fits into seven eighths of its address's share.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Level(str, Enum):
    """The holder of a share: an address, or an agent of it. All together have the bound."""

    ALL = "all"
    ADDRESS = "address"
    AGENT = "agent"


class Origin(NamedTuple):
    """The address, None if that is not known, and the agent that a record counts for, as ``holder`` names it."""

    address: str | None
    agent: str


def holder(agent_id: str, key_hash: str | None) -> str:
    """Return the name of an agent as a holder of shares: its key's hash, so that no later bearer of its id has it.

    Agents without a key are told apart by their ids alone.
    """
    return key_hash or agent_id


class Used(NamedTuple):
    """How much of a limit is used: by all, by the asker's address, and by the asker at that address.

    Without a ``known`` address, the address is all that have none.
    """

    by_all: int
    by_address: int
    by_agent: int
    known: bool = True


class Share(NamedTuple):
    """A used-up share: its owner, its size at this moment, and the used part."""

    level: Level
    most: int
    used: int


# Newcomers share what is kept for them: each may have this fraction of it.
_NEWCOMERS = 500
# The last of this many parts of an address's share is kept for agents that come late.
_PARTS = 8


def bound(limit: int) -> int:
    """Return the amount that all may hold together: the limit, and as much again for newcomers when it is full."""
    return 2 * limit


def unasked(percent: int) -> float:
    """Return the part of a limit that may be in use, all pieces counted, before any share can end."""
    return (percent / 100) ** 2 * (_PARTS - 1) / _PARTS


def part(limit: int, others: int, percent: int, kept: int) -> int:
    """Return how much of a limit one holder may have, given the usage of others and the part that is kept back."""
    return max(_ceil(percent * (limit - others), 100), _ceil(kept, _NEWCOMERS))


def used_up(limit: int, used: Used, size: int, percent: int, most_of_all: int | None = None) -> Share | None:
    """Return the share that a piece of this size would pass; None if it may come.

    ``most_of_all`` is what all may hold together, the bound of the limit if it is not given.
    """
    if size > limit:
        return Share(Level.ALL, limit, used.by_all)
    most_of_all = bound(limit) if most_of_all is None else most_of_all
    others = max(used.by_all - used.by_address, 0)
    fellows = max(used.by_address - used.by_agent, 0)
    together = used.by_address + size
    whole = part(limit, others, percent if used.known else 100, limit)
    kept = whole // _PARTS
    most = part(whole - kept, fellows, percent, kept)
    first = (not used.by_address and others + size <= limit) or (not used.by_agent and together <= whole - kept)
    if not first and together > whole and used.by_address and used.known:
        return Share(Level.ADDRESS, whole, used.by_address)
    if not first and (together > whole or used.by_agent + size > most):
        return Share(Level.AGENT, most, used.by_agent)
    return Share(Level.ALL, most_of_all, used.by_all) if used.by_all + size > most_of_all else None


def _ceil(number: int, divisor: int) -> int:
    """Divide and round up."""
    return -(-number // divisor)
