"""Whether and when to send a request again: decided here from facts alone, acted on by the shells."""

from __future__ import annotations

from dataclasses import dataclass

from clawlink.domain.backoff import backoff, spread
from clawlink.errors import ClawLinkError, NotARelay, RateLimited, RelayUnreachable


@dataclass(frozen=True)
class Backoff:
    """How patient a client is: up to ``tries`` attempts, waiting ``first`` seconds, then twice that, up to ``most``."""

    tries: int = 4
    first: float = 0.1
    most: float = 5.0

    def pause(self, error: ClawLinkError, *, attempt: int, repeatable: bool, random: float) -> float | None:
        """Return the seconds to wait after failed attempt number ``attempt`` (from 1), or None to give up.

        Only safe requests are repeated, and only after ``retryable`` failures. ``random``, 0 to 1, spreads clients that
        failed together over half to all of the pause. A client that was too fast waits all of it.
        """
        if not repeatable or attempt >= self.tries or not error.retryable:
            return None
        pause = backoff(attempt, first=self.first, most=self.most)
        if error.retry_after is not None:
            pause = max(pause, min(error.retry_after, self.most))
        return pause if isinstance(error, RateLimited) else spread(pause, random)


_AWAY = Backoff(tries=1_000_000, first=0.2, most=5.0)


def passes(error: ClawLinkError, *, answered: bool) -> bool:
    """Return True if a failure may pass while a wait goes on. ``answered`` is True once the relay has answered.

    A proxy may answer in place of a relay that is away, but only after the relay has answered.
    """
    return error.retryable or (answered and isinstance(error, NotARelay))


def pause_of_wait(error: ClawLinkError, *, attempt: int, random: float) -> float:
    """Return the seconds to rest before a wait asks again, after failed attempt number ``attempt`` (from 1)."""
    as_away = error if error.retryable else RelayUnreachable("", retry_after=error.retry_after)
    return _AWAY.pause(as_away, attempt=attempt, repeatable=True, random=random) or 0.0
