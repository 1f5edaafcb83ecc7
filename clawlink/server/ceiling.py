"""The limits of connections: their number, in all and from one address, and their time to send a request."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice, takewhile
from typing import NamedTuple, Protocol

# A whole request head arrives within this, counted from its first byte; the first one from the start of the connection.
HEAD_SECONDS = 30.0
# A connection without a request is kept for this.
IDLE_SECONDS = 75.0
_LEAST_ADDRESS = 256
_LEAST_SPARE_FILES = 64
# At most this many connections are asked to make room for a new connection: half a millisecond.
_MOST_LOOKS = 512
# An address at its limit has many seats, so the idle seats that are searched for its own are few.
_MOST_SEARCHED = 1000
# A seat that has its place in the order of time keeps the place for this long: a request does not move it.
_PLACED_SECONDS = 1.0
# At most this many connections end in one turn of the event loop.
_MOST_ENDED = 64


class Full(NamedTuple):
    """A ceiling that a new connection does not fit under."""

    limit: int
    flag: str
    what: str


class Holder(Protocol):
    """The connection that has a place."""

    def leave_if_idle(self) -> bool:
        """End the connection unless a request or a reply is under way. Return True if it has ended."""

    def give_up_idle(self) -> None:
        """End a connection that has been idle for too long."""

    def give_up_head(self) -> None:
        """End a connection whose request head is overdue."""


class Seat:
    """The place of one connection. It is busy at first: neither idle nor waited for.

    The seat of a short request stands among the idle seats meanwhile. Its connection says that it is busy once it is
    asked to end.
    """

    __slots__ = ("_among", "_ceiling", "block", "holder", "placed_until", "waited_for")

    def __init__(self, ceiling: Ceiling, block: str | None) -> None:
        self._ceiling: Ceiling | None = ceiling
        self._among: dict[Seat, float] | None = None  # the table that it stands in
        self.block = block
        self.holder: Holder | None = None
        self.waited_for = False
        """True while a request head is due."""
        self.placed_until = -math.inf
        """The time from which the end of a request moves it to the last place of the idle seats."""

    def awaits_head(self, now: float) -> None:
        """Note that a request head is due. The first call counts."""
        ceiling = self._ceiling
        if ceiling is not None and self._among is not ceiling.heads:
            self.busy()
            ceiling.heads[self] = now
            self._among = ceiling.heads
            self.waited_for = True

    def idle(self, now: float) -> None:
        """Note that the last request is answered."""
        ceiling = self._ceiling
        if ceiling is not None:
            self.busy()
            ceiling.idle[self] = now  # in the last place
            self._among = ceiling.idle
            self.placed_until = now + _PLACED_SECONDS

    def busy(self) -> None:
        """Note that a head has come, or that a request takes its time."""
        if self._among is not None:
            del self._among[self]
            self._among = None
            self.waited_for = False
            self.placed_until = -math.inf

    def leave(self) -> None:
        """Give the place up. A second call does nothing."""
        self.busy()
        ceiling, self._ceiling = self._ceiling, None
        if ceiling is not None:
            ceiling.left(self)


class Ceiling:
    """The places for connections. A full ceiling ends the connection that has been idle longest, if there is one.

    ``heads`` are the seats with a request head due, and ``idle`` the idle seats and those with a short request, each
    with its start. Both are in the order of time; the start of an idle seat is early by up to ``_PLACED_SECONDS``.
    """

    def __init__(self, most: int, most_address: int) -> None:
        self.most = most
        self.most_address = most_address
        self.count = 0
        self.heads: dict[Seat, float] = {}
        self.idle: dict[Seat, float] = {}
        self._of: dict[str, int] = {}

    def take(self, block: str | None, now: float) -> Seat | Full:
        """Return a place for a connection; ``block`` None is that of a peer without a limit by address."""
        has = 0 if block is None else self._of.get(block, 0)
        if has >= self.most_address < self.most:
            own = (seat for seat in islice(self.idle, _MOST_SEARCHED) if seat.block == block)
            if not _make_room(own, now):
                return Full(self.most_address, "--max-connections-address", "this address has")
        if self.count >= self.most and not _make_room(self.idle, now):
            return Full(self.most, "--max-connections", "this relay has")
        self.count += 1
        if block is not None:
            self._of[block] = self._of.get(block, 0) + 1
        return Seat(self, block)

    def tend(self, now: float) -> bool:
        """End connections whose request head is overdue, and those that have been idle for too long.

        Return True if there may be more. The caller then repeats it after other tasks have had their turn.
        """
        heads = _older(self.heads, now - HEAD_SECONDS)
        idle = _older(self.idle, now - IDLE_SECONDS - _PLACED_SECONDS)
        for seat in heads:
            seat.busy()
            if seat.holder is not None:
                seat.holder.give_up_head()
        for seat in idle:
            seat.busy()
            if seat.holder is not None:
                seat.holder.give_up_idle()
        return len(heads) == _MOST_ENDED or len(idle) == _MOST_ENDED

    def left(self, seat: Seat) -> None:
        """Count a place that a seat gives up."""
        self.count -= 1
        if seat.block is not None:
            self._of[seat.block] -= 1
            if not self._of[seat.block]:
                del self._of[seat.block]


def _make_room(idle: Iterable[Seat], now: float) -> bool:
    """End the connection that has been idle longest. Return True if there was one."""
    for seat in list(islice(idle, _MOST_LOOKS)):
        if seat.holder is not None and seat.holder.leave_if_idle():
            seat.leave()
            return True
        seat.idle(now)  # it is busy: others are looked at before it the next time
    return False


def _older(since: dict[Seat, float], moment: float) -> list[Seat]:
    """Return the seats that have been there since ``moment``, the first few: the rest has its turn later."""
    return list(islice(takewhile(lambda seat: since[seat] <= moment, since), _MOST_ENDED))


def ceiling_of(connections: int, of_address: int, open_files: int | None) -> Ceiling:
    """Return the ceiling by the two limits. It stays below ``open_files``, and an address gets at most 3/4 of it."""
    most = connections
    if open_files is not None:
        most = min(most, max(1, open_files - max(_LEAST_SPARE_FILES, open_files // 16)))
    return Ceiling(most, min(of_address, most, max(_LEAST_ADDRESS, most - most // 4)))


def open_files() -> int | None:
    """Return how many files this process may have open; None where there is no such limit, as on Windows."""
    try:
        import resource
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
