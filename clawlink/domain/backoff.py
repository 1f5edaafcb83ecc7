"""How long a retry waits: twice as long after each failure, up to a limit, and at random moments."""

from __future__ import annotations

_MOST_DOUBLINGS = 60  # more would leave the range of a float in an outage of an hour or two


def backoff(failed: int, *, first: float, most: float) -> float:
    """Return the pause after failure number ``failed`` (from 1): ``first``, then twice as long each time, to ``most``.

    The unit is the caller's: seconds nearly everywhere.
    """
    return min(first * 2.0 ** min(failed - 1, _MOST_DOUBLINGS), most)


def spread(pause: float, random: float) -> float:
    """Return half to all of a pause for ``random`` from 0 to 1. Clients that failed together retry apart."""
    return pause * (0.5 + random / 2)
