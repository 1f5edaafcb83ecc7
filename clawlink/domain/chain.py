"""Chains: the messages that led to a message, and the rule that stops circles.

Work that follows from other work names that work. The message then carries the chain of both. A response or an
acknowledgement never counts: it is no new work.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import msgspec

from clawlink.errors import LoopStopped


class Chain(msgspec.Struct, frozen=True, gc=False):
    """The chain that led to a message. ``agents`` are the authors of its messages in order, the last author last.

    ``parent_task`` is the task, and ``hops`` the number of messages, that it follows from; a first one has 0.
    """

    parent_task: str | None
    hops: int
    agents: tuple[str, ...]


def first(sender: str) -> Chain:
    """Return the chain of a message that follows from none."""
    return Chain(None, 0, (sender,))


def follow(cause: Chain, *, task: str | None, sender: str, to: str | None, max_hops: int, max_cycles: int) -> Chain:
    """Return the chain of a message from ``sender`` to ``to`` that follows from one with the chain ``cause``.

    Raises LoopStopped beyond ``max_hops``. Also raises it if the chain has taken this step from one agent to another
    ``max_cycles`` times: agents in a circle of any size repeat their steps.
    """
    agents = (*cause.agents, sender)
    hops = cause.hops + 1
    path = agents if to is None else (*agents, to)
    named = " -> ".join(path)
    if hops > max_hops:
        raise LoopStopped(
            f"this would be hop {hops} of one chain of work, and a chain has at most {max_hops}: {named}; "
            "finish the work at hand, or let a person decide",
            limit=max_hops,
            actual=hops,
            current=list(path),
        )
    step, times = Counter(pairwise(path)).most_common(1)[0]
    if times > max_cycles:
        raise LoopStopped(
            f"these agents go in circles: {step[0]} -> {step[1]} would come {times} times in one chain of work, "
            f"and may at most {max_cycles} times: {named}; finish the work at hand, or let a person decide",
            limit=max_cycles,
            actual=times,
            current=list(path),
        )
    return Chain(task, hops, agents)
