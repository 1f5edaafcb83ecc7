"""Topics, and the patterns by which agents subscribe to them, both without regard to case.

``research`` is that topic alone, ``build.*`` all that begin with ``build.``, and ``*`` every topic.
"""

from __future__ import annotations

from clawlink.domain.agent import by_pattern, fold

EVERYTHING = "*"
_BELOW = ".*"


def matches(pattern: str, topic: str) -> bool:
    """Return True if a topic falls under a pattern."""
    wanted, given = fold(pattern), fold(topic)
    if wanted == EVERYTHING:
        return True
    return given.startswith(wanted[:-1]) if wanted.endswith(_BELOW) else given == wanted


def audience(topic: str) -> list[str]:
    """Return the index keys of all patterns that a topic falls under: under them its subscribers are found."""
    given = fold(topic)
    wider = [given[: at + 1] + "*" for at, letter in enumerate(given) if letter == "."]
    return [by_pattern(pattern) for pattern in dict.fromkeys((EVERYTHING, given, *wider))]
