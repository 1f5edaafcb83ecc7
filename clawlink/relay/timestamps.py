"""The relay's time, and times as the wire shows them."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

from clawlink.domain.standstill import Standstill, arrival, relay_time, shown

# Recently written times, by millisecond: a relay writes the present, and the ends of new leases, again and again.
_written: dict[int, str] = {}
_MOST_WRITTEN = 64
# The system's clock may leave relay time this far before the log says so. No clock that is only corrected gets there.
_TOLD_SECONDS = 10.0
# While messages came, the time of a stop was noted this long before it at most.
_UNNOTED_SECONDS = 2.0


class RelayTime:
    """The relay's time, in seconds since the epoch: a steady clock plus an offset that is taken once, at start.

    All leases, deadlines and ages count in it. The system's clock may be set while the relay runs: relay time goes on
    as before. The steady clock also counts while the machine sleeps, if the system has such a clock.

    Relay time does not begin before ``not_before``: a relay that comes back after the system's clock was set back goes
    on from the time at which it stopped.
    """

    def __init__(
        self,
        *,
        wall: Callable[[], float] | None = None,
        steady: Callable[[], float] | None = None,
        not_before: float = 0.0,
        boot: str | None = None,
    ) -> None:
        """``boot`` names this start of the machine; ``boot_id`` if it is left out."""
        self._wall = wall or time.time
        self._steady = steady or steady_clock()
        self._offset = max(self._wall(), not_before) - self._steady()
        self._told = 0.0
        self._boot = boot or boot_id()

    @classmethod
    def after_stop(
        cls,
        stopped_at: float,
        uptime: tuple[str, float] | None,
        *,
        wall: Callable[[], float] | None = None,
        steady: Callable[[], float] | None = None,
        boot: str | None = None,
    ) -> RelayTime:
        """Return the time of a relay that comes back. The last one noted ``stopped_at`` at this ``uptime``.

        It went on for a moment behind its note. If the machine has not started since, that was no longer than what the
        steady clock tells: a margin at each start would lead relay time away from the system's clock.
        """
        steady, boot, passed = steady or steady_clock(), boot or boot_id(), _UNNOTED_SECONDS
        if uptime is not None and uptime[0] == boot:
            passed = min(max(steady() - uptime[1], 0.0), passed)
        return cls(wall=wall, steady=steady, not_before=stopped_at + passed, boot=boot)

    def now(self) -> float:
        """Return the present. It is for callers that ask often: to call the object costs twice as much."""
        return self._steady() + self._offset

    __call__ = now

    def step(self) -> float | None:
        """Return how far the system's clock is ahead of relay time, if that has changed by much; None if it has not.

        Each change is returned once.
        """
        ahead = self._wall() - self()
        if abs(ahead - self._told) < _TOLD_SECONDS:
            return None
        self._told = ahead
        return ahead

    def uptime(self) -> tuple[str, float] | None:
        """Return the name of this start of the machine, and the steady clock; None if the system has no such name."""
        return None if self._boot is None else (self._boot, self._steady())

    def step_since(self, stopped_at: float, uptime: tuple[str, float] | None) -> float | None:
        """Return how far the system's clock was set while no relay ran; None if nothing shows that it was set.

        A relay stopped at ``stopped_at``, in its time, and at this ``uptime``. If the machine has not started since,
        the steady clock tells how long the stop was. Otherwise only a clock that is behind the stop shows a step.
        """
        since = self._wall() - stopped_at
        if uptime is not None and uptime[0] == self._boot:
            step = since - (self._steady() - uptime[1])
        else:
            step = min(since, 0.0)
        self._told = self._wall() - self()
        return None if abs(step) < _TOLD_SECONDS else step


class StoppableTime:
    """Relay time as all rules count it: it stands still while the relay is stopped.

    ``steady`` is the time that never stands still. Paces, logs and the audit count in it.
    """

    def __init__(self, steady: Callable[[], float]) -> None:
        self.steady = steady
        self._standstill = Standstill()
        self._lag = 0.0
        self._still: float | None = None
        self.stopped = False
        """True while it stands still."""
        self.iso: Callable[[float], str] = iso
        """Writes an instant of relay time; see ``iso``."""

    @property
    def standstill(self) -> Standstill:
        """The stops that it knows."""
        return self._standstill

    @standstill.setter
    def standstill(self, known: Standstill) -> None:
        self._standstill = known
        self._lag = known.lag
        self._still = None if known.since is None else relay_time(known, known.since)
        self.stopped = self._still is not None
        self.iso = partial(_iso_shown, known, self.steady) if known.version else iso

    def __call__(self) -> float:
        return self.at(self.steady())

    def at(self, steady: float) -> float:
        """Return relay time at a moment of the steady clock since the last stop or its end."""
        return steady - self._lag if self._still is None else self._still

    def arrival(self) -> float:
        """Return the time of a register: in a stop later than the facts of that stop."""
        return arrival(self._standstill, self.steady())

    def shown(self, at: float) -> float:
        """Return an instant of relay time as people and peers know it, in seconds since the epoch."""
        return shown(self._standstill, at, self.steady()) if self._standstill.version else at

    def iso_or_none(self, at: float | None) -> str | None:
        """Write an instant that may not have come yet, or never comes."""
        return None if at is None or at == math.inf else self.iso(at)

    def stamp(self) -> str:
        """Write the present, also while the relay is stopped."""
        return iso(self.steady())


def boot_id() -> str | None:
    """Return a name of this start of the machine, which a set clock does not change; None if the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None


def steady_clock() -> Callable[[], float]:
    """Return a clock that cannot be set and that goes on while the machine sleeps, or the nearest to it.

    Linux has CLOCK_BOOTTIME for that and macOS has CLOCK_MONOTONIC_RAW. On Windows ``time.monotonic`` goes on too.
    Elsewhere it may stop while the machine sleeps: relay time is then behind by as much.
    """
    if sys.platform == "win32":
        return time.monotonic
    clock: int | None = getattr(time, "CLOCK_MONOTONIC_RAW" if sys.platform == "darwin" else "CLOCK_BOOTTIME", None)
    if clock is None:
        return time.monotonic
    try:
        time.clock_gettime(clock)
    except OSError:  # a sandbox that lacks it
        return time.monotonic
    return partial(time.clock_gettime, clock)


def iso(at: float) -> str:
    """Write seconds since the epoch as ISO-8601 in UTC, to the millisecond: ``2026-05-13T06:51:00.250+00:00``."""
    millisecond = int(at * 1000)
    text = _written.get(millisecond)
    if text is None:
        if len(_written) >= _MOST_WRITTEN:
            _written.clear()
        second = millisecond // 1000
        text = _written[millisecond] = f"{_to_the_second(second)}.{millisecond - second * 1000:03d}+00:00"
    return text


def _iso_shown(known: Standstill, steady: Callable[[], float], at: float) -> str:
    """Write an instant of relay time as people know it, after the stops that are known."""
    return iso(shown(known, at, steady()))


@lru_cache(maxsize=64)
def _to_the_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def iso_or_none(at: float | None) -> str | None:
    """Write a time that may not have come yet, or never comes."""
    return None if at is None or at == math.inf else iso(at)
