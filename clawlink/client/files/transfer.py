"""Uploads and downloads of large files, over broken connections too.

Nothing here sends, sleeps or blocks: as in ``wait_steps``, a generator yields the next step, and a client does it. One
piece is in memory. Pieces grow while all goes well, and shrink when a connection breaks: small ones still arrive over a
line that is cut after every few hundred kilobytes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeVar

from clawlink.client.calls import Call, number_of_seconds
from clawlink.client.retry import passes, pause_of_wait
from clawlink.client.wait_steps import ConnectionState, Event, Send, Sleep, Step
from clawlink.domain.limits import KIB, MIB
from clawlink.errors import ClawLinkError, NotARelay

T = TypeVar("T")
Steps = Generator[Step, Any, T]

PATIENCE_SECONDS = 60.0
# A file of up to this many bytes is sent in one request.
SMALL_BYTES = MIB
LEAST_BYTES = 64 * KIB
MOST_BYTES = 4 * MIB
# A piece should take this many seconds at most: this limits the loss at a cut, and the time between two reports of
# progress.
_PIECE_SECONDS = 2.0
# After this many pieces a larger one is tried again.
_TRUSTED_AFTER = 8
# Telling the relay has this long; it would notice by itself.
LAST_WORDS_SECONDS = 3.0
ENDLESS = float("inf")
RAISE_LIMIT = "let it take larger bodies (nginx: client_max_body_size)"
# After this many new starts because of other writers, the transfer gives up.
MOST_RESTARTS = 5


class Moved(NamedTuple):
    """The number of bytes that are over, of ``total`` in all if that is known."""

    done: int
    total: int | None


class Pieces:
    """The size of the next piece: for a while smaller than a piece that did not arrive.

    A proxy before the relay may have refused it for its size, and would refuse the next of that size as well.
    """

    def __init__(self, size: int = SMALL_BYTES) -> None:
        self.size = size
        self._most = MOST_BYTES
        self._well = 0

    def arrived(self, seconds: float) -> None:
        """Note the time that a piece took."""
        self._well += 1
        if self._well % _TRUSTED_AFTER == 0:
            self._most = min(self._most * 2, MOST_BYTES)
        if seconds < _PIECE_SECONDS / 2:
            self.size = min(self.size * 2, self._most)
        elif seconds > _PIECE_SECONDS:
            self.size = max(self.size // 2, LEAST_BYTES)

    def failed(self) -> None:
        """Learn that a piece did not arrive."""
        self._most = self.size = max(self.size // 2, LEAST_BYTES)
        self._well = 0


def is_too_large(error: ClawLinkError) -> bool:
    """Return True if a proxy found a body too large. The relay has its own words for that."""
    return isinstance(error, NotARelay) and error.field == "body"


def proxy_limit(size: int) -> NotARelay:
    """Return the error for a proxy that takes no body of this size."""
    return NotARelay(
        f"a proxy before the relay takes no body of {size} bytes (HTTP 413), and a file needs that; {RAISE_LIMIT}",
        field="body",
        actual=size,
    )


class Patience:
    """How long failures are borne, counted from the first since something has moved."""

    def __init__(self, file_key: str, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._file_key = file_key
        self._seconds = number_of_seconds(seconds, "patience")
        self._clock = clock
        self._failed = 0
        self._until = 0.0
        self._reached = False

    def reached(self) -> None:
        """Note that the relay answered, which is not yet that anything has moved."""
        self._reached = True

    def renew(self) -> Steps[None]:
        """Note that something has moved, and say so if nothing did."""
        self._reached = True
        failed, self._failed = self._failed, 0
        if failed > 1:
            yield Event(self._file_key, ConnectionState(None))

    def bear(self, error: ClawLinkError, *others: type[ClawLinkError]) -> Steps[None]:
        """Rest until the next try. Raises the error if waiting cannot mend it, or the patience is over.

        A single failure is not reported.
        """
        passing = passes(error, answered=self._reached and not is_too_large(error)) or isinstance(error, others)
        now = self._clock()
        if not self._failed:
            self._until = now + self._seconds
        if not passing or now >= self._until:
            raise error
        self._failed += 1
        if self._failed == 2:
            yield Event(self._file_key, ConnectionState(error))
        pause = pause_of_wait(error, attempt=self._failed, random=random.random())
        yield Sleep(min(pause, self._until - now))


def ask(call: Call[T], patience: Patience, *others: type[ClawLinkError]) -> Steps[T]:
    """Send a call that may be repeated, again and again if need be, and return its answer."""
    while True:
        try:
            answer: T = yield Send(call, ENDLESS)
        except ClawLinkError as error:
            yield from patience.bear(error, *others)
        else:
            patience.reached()
            return answer
