"""Topics, and the patterns by which agents subscribe to them, both without regard to case.

``research`` is that topic alone, ``build.*`` all that begin with ``build.``, and ``*`` every topic.
"""

from __future__ import annotations

from collections.abc import Iterable

from clawlink.domain.agent import fold

EVERYTHING = "*"
_BELOW = ".*"


def matches(pattern: str, topic: str) -> bool:
    """Tell whether a topic falls under a pattern."""
    wanted, given = fold(pattern), fold(topic)
    if wanted == EVERYTHING:
        return True
    return given.startswith(wanted[:-1]) if wanted.endswith(_BELOW) else given == wanted


def subscribed(patterns: Iterable[str], topic: str) -> bool:
    """Tell whether a topic falls under any of the patterns."""
    return any(pattern == EVERYTHING or matches(pattern, topic) for pattern in patterns)
