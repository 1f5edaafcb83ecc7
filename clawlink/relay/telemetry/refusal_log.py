"""Log lines of events that peers can cause at will: the first at once, then one a minute with a count."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Generic, NamedTuple, TypeVar

_OTHERS = "others"
_log = logging.getLogger("clawlink.server")


class _Refused(NamedTuple):
    """The cause by which lines are counted together. ``address`` is None if it is not known."""

    address: str | None
    code: str
    logger: str

    @property
    def facts(self) -> dict[str, str]:
        """The fields of the log line."""
        return {} if self.address is None else {"address": self.address}


class _Connection(NamedTuple):
    """Why lines on connections are one line."""

    event: str
    facts: tuple[tuple[str, str], ...]


class RefusalLog:
    """Tells the log of refused peers and connections, and of a full disk. ``tell`` is called every second or so."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._refused = Tally(_Refused(_OTHERS, _OTHERS, _log.name))
        self._disk = Tally(_OTHERS)
        self._connections = Tally(_Connection("connections refused", (("address", _OTHERS),)))

    def refused(self, code: str, facts: Mapping[str, str], log: logging.Logger) -> None:
        """Note that a peer was refused for its token or key."""
        cause = self._refused.note(_Refused(facts.get("address"), code, log.name), self._clock())
        if cause is not None:
            log.warning("refused", extra={**facts, **cause.facts, "code": cause.code})

    def disk(self, reason: str) -> None:
        """Note that contents could not be written to the disk."""
        if self._disk.note(reason, self._clock()) is not None:
            _log.error("cannot write to the disk", extra={"reason": reason})

    def connection(self, event: str, facts: Mapping[str, str]) -> None:
        """Note that a connection was not taken."""
        cause = self._connections.note(_Connection(event, tuple(facts.items())), self._clock())
        if cause is not None:
            _log.warning(cause.event, extra=dict(cause.facts))

    def tell(self) -> None:
        """Write the lines that are due."""
        now = self._clock()
        for cause, count in self._refused.due(now):
            log = logging.getLogger(cause.logger)
            log.warning("refused", extra={**cause.facts, "code": cause.code, "count": count})
        for reason, count in self._disk.due(now):
            _log.error("cannot write to the disk", extra={"reason": reason, "count": count})
        for whom, count in self._connections.due(now):
            _log.warning(whom.event, extra={**dict(whom.facts), "count": count})


K = TypeVar("K", bound=Hashable)

TALLY_SECONDS = 60.0
_MOST_CAUSES = 1024


class Tally(Generic[K]):
    """Counts events by their cause. ``rest`` is the cause of all events that come while the table is full."""

    def __init__(self, rest: K, *, seconds: float = TALLY_SECONDS, most: int = _MOST_CAUSES) -> None:
        self._rest = rest
        self._seconds = seconds
        self._most = most
        # The causes in the order of their last lines: when the last line was, and how many events came after it.
        self._causes: OrderedDict[K, tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._causes)

    def note(self, cause: K, now: float) -> K | None:
        """Count an event. Return the cause that its log line names; None if ``due`` tells of it later."""
        if cause not in self._causes and len(self._causes) >= self._most:
            cause = self._rest
        if cause not in self._causes:
            self._causes[cause] = (now, 0)
            return cause
        at, count = self._causes[cause]
        self._causes[cause] = (at, count + 1)
        return None

    def due(self, now: float) -> list[tuple[K, int]]:
        """Return the causes whose minute is over, with their events since the last line. Forget the quiet ones."""
        told = []
        while self._causes:
            cause, (at, count) = next(iter(self._causes.items()))
            if now - at < self._seconds:
                break
            del self._causes[cause]
            if count:
                told.append((cause, count))
                self._causes[cause] = (now, 0)
        return told
