"""Stop all: relay time stands still, and with it every lease, deadline and age.

The steady time of a relay goes on. Relay time is the steady time less the seconds of all stops. So nothing is rewritten
when the relay is resumed: each lease has as long to go as it had when the relay was stopped.
"""

from __future__ import annotations

import math

import msgspec
from msgspec.structs import replace

STANDSTILL = " standstill"
"""The partition and the id of the record."""

# Of more stops than these the oldest count as one.
MAX_PAST = 100
# In a stop, the time of registers goes on at this pace, and by this many seconds at most.
_ARRIVAL_PACE = 1e-5
_MOST_ARRIVAL_SECONDS = 1.0
# The bytes that the record takes beside its stops.
_RECORD_BYTES = 120
_STOP_BYTES = 110


class Past(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A stop that is over: the relay time ``at`` which it was, and its length in seconds."""

    at: float
    seconds: float


class Standstill(msgspec.Struct, frozen=True):
    """The stops of a relay, or of all relays over one store. ``since`` is the steady time of a stop, None without."""

    id: str = STANDSTILL
    version: int = 0
    since: float | None = None
    past: tuple[Past, ...] = ()

    @property
    def partition_key(self) -> str:
        return self.id

    @property
    def index_keys(self) -> tuple[str, ...]:
        return ()

    @property
    def weight(self) -> int:
        return 0

    @property
    def footprint(self) -> int:
        return _RECORD_BYTES + _STOP_BYTES * len(self.past)

    @property
    def ends_at(self) -> float | None:
        return None

    @property
    def lag(self) -> float:
        """The seconds of all stops that are over."""
        return math.fsum(past.seconds for past in self.past)


def relay_time(s: Standstill, steady: float) -> float:
    """Return the relay time at a steady time."""
    return (steady if s.since is None else min(s.since, steady)) - s.lag


def arrival(s: Standstill, steady: float) -> float:
    """Return the relay time at which an agent registers at a steady time.

    In a stop it is a little later than all facts of that stop, and later for each agent that comes after: so it tells a
    new agent from an earlier one with its id.
    """
    now = relay_time(s, steady)
    if s.since is None:
        return now
    return max(math.nextafter(now, math.inf), now + min((steady - s.since) * _ARRIVAL_PACE, _MOST_ARRIVAL_SECONDS))


def shown(s: Standstill, at: float, steady: float) -> float:
    """Return the steady time of an instant of relay time, for people and peers.

    A fact of a stop is shown at its beginning. An instant to come moves on while the relay is stopped.
    """
    total = at + math.fsum(past.seconds for past in s.past if past.at < at)
    if s.since is not None and at > s.since - s.lag:
        total += max(steady - s.since, 0.0)
    return total


def stopped(s: Standstill, steady: float) -> Standstill:
    """Return the record with a stop that begins now; the same record if the relay is stopped already."""
    return s if s.since is not None else replace(s, version=s.version + 1, since=steady)


def resumed(s: Standstill, steady: float) -> Standstill:
    """Return the record with the stop over; the same record if there is none."""
    if s.since is None:
        return s
    past = (*s.past, Past(s.since - s.lag, max(steady - s.since, 0.0)))
    if len(past) > MAX_PAST:
        first, second, *rest = past
        past = (Past(second.at, first.seconds + second.seconds), *rest)
    return replace(s, version=s.version + 1, since=None, past=past)
