"""Whether and when to send a request again: decided here from facts alone, acted on by the shells."""

from __future__ import annotations

from dataclasses import dataclass

from clawlink.domain.backoff import backoff, spread
from clawlink.errors import ClawLinkError, RateLimited


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
