"""Failures of upkeep: each is logged once, all are counted, and failed steps are tried again later."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from heapq import heappop, heappush

from clawlink.domain.backoff import backoff
from clawlink.errors import StorageFull, StoreUnavailable
from clawlink.relay.telemetry.stats import Stats
from clawlink.store.base import Failed

_log = logging.getLogger("clawlink.relay")
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 300.0
# A store may tell a new reason each time. Beyond this number of them the log has enough.
_REASONS = 8
_OF_THE_STORE = (Failed, StorageFull, StoreUnavailable)


class UpkeepFailures:
    """The failures that are known. A step of upkeep that fails each round is one failure, not one a round.

    A store that does not answer is one failure for all steps.
    """

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._known: dict[str, set[type[Exception] | str]] = {}

    def note(self, step: str, failure: Exception, *, id: str | None = None) -> None:
        """Count a failure of a step, and log it unless the step has failed in this way before.

        Failures of the store differ by their reasons, the first ``_REASONS`` of a step. Others differ by their class.
        """
        self._stats.upkeep_failures += 1
        known = self._known.setdefault(step, set())
        # The reason of the store says all: the trace leads through this process, and not to the store.
        way = str(failure) if isinstance(failure, _OF_THE_STORE) else type(failure)
        if way in known or (isinstance(way, str) and len(known) >= _REASONS):
            return
        new = not isinstance(way, str) or not any(way in others for others in self._known.values())
        known.add(way)
        facts = {"step": step} if id is None else {"step": step, "id": id}
        words = "upkeep failed; it goes on, and tries this again"
        if not isinstance(way, str):
            _log.error(words, extra=facts, exc_info=failure)
        elif new:
            _log.error(words, extra={**facts, "reason": way})

    def over(self, step: str) -> None:
        """Note that a step works again: its next failure is news."""
        self._known.pop(step, None)


class RetryLater:
    """Records of a kind that the janitor steps over, so that they hide none of those behind them.

    A record whose settling failed is tried again after 1 s, then after twice as long each time, up to 300 s. The
    index may also list a record that is not at its end. The janitor steps over it for the rest of the round. Times are
    those of the relay's clock.
    """

    def __init__(self) -> None:
        self._failures: dict[str, int] = {}
        self._retries: list[tuple[float, str]] = []
        self._passed: set[str] = set()

    def __len__(self) -> int:
        """Return how many records could not be settled."""
        return len(self._failures)

    def __contains__(self, id: object) -> bool:
        return id in self._failures or id in self._passed

    def begin(self, now: float) -> Iterator[str]:
        """Begin a round: give the ids that are to be tried again."""
        self._passed.clear()
        while self._retries and self._retries[0][0] <= now:
            id = heappop(self._retries)[1]
            if id in self._failures:
                yield id

    def pass_over(self, id: str) -> None:
        """Step over a record for the rest of this round."""
        self._passed.add(id)

    def failed(self, id: str, now: float) -> None:
        """Step over a record until it is tried again."""
        failures = self._failures[id] = self._failures.get(id, 0) + 1
        pause = backoff(failures, first=_FIRST_PAUSE_SECONDS, most=_LONGEST_PAUSE_SECONDS)
        heappush(self._retries, (now + pause, id))

    def settled(self, id: str) -> None:
        """Forget a record that could be settled after all, or is gone."""
        self._failures.pop(id, None)
