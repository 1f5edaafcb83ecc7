"""Flow control: the speed at which a peer takes its bytes, and the bytes that may wait for it in memory."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from clawlink.domain.limits import IDLE_BODY_SECONDS, Limits
from clawlink.errors import RelayFull

if sys.platform == "linux":
    import fcntl
    import termios

_TLS_TELLS_LATE = sys.version_info[:2] == (3, 10)
_SO_NWRITE = 0x1024
_RETRY_SECONDS = 5.0


def has_gone(transport: Any) -> bool:
    """Return True if a connection is over or about to be, so that nothing can be written to it."""
    if transport is None or transport.is_closing():
        return True
    # asyncio's TLS on Python 3.10 tells of a lost connection a turn late, and drops what is written until then.
    return _TLS_TELLS_LATE and getattr(getattr(transport, "_ssl_protocol", transport), "_transport", transport) is None


def gone_test(transport: Any) -> Callable[[], bool]:
    """Return a function that returns ``has_gone`` of this transport; mostly the transport has one itself."""
    if transport is None or _TLS_TELLS_LATE:
        return partial(has_gone, transport)
    told: Callable[[], bool] = transport.is_closing
    return told


def unwritten(transport: Any) -> int:
    """Return how many bytes the event loop has not given to the system yet. A connection that is lost has none."""
    try:
        return int(transport.get_write_buffer_size())
    except AttributeError:  # Python 3.10, where asyncio has dropped the transport below TLS
        return 0


def on_its_way(transport: Any, sock: Any = None) -> int:
    """Return how many bytes were written that the peer's system has not got yet, as far as this system tells."""
    left = unwritten(transport)
    inner = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)  # asyncio's, below TLS
    if inner is not None:
        left += inner.get_write_buffer_size()
    sock = sock or transport.get_extra_info("socket")
    try:
        if sys.platform == "linux":
            told = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
            left += int.from_bytes(told, sys.byteorder)
        elif sys.platform == "darwin":
            left += sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
    except (AttributeError, OSError, TypeError, ValueError):  # it is closed already, or tells nothing
        pass
    return left


class Watch:
    """Calls ``give_up`` once ``progress`` has stood still for 60 s, or grown by less than ``rate`` a second.

    A body has one timer, not one for each part.
    """

    def __init__(self, progress: Callable[[], int], give_up: Callable[[], object], *, rate: int = 0) -> None:
        self._progress = progress
        self._give_up = give_up
        self._rate = rate
        self._last = progress()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(IDLE_BODY_SECONDS, self._look)

    def stop(self) -> None:
        """Stop giving up."""
        self._timer.cancel()

    def _look(self) -> None:
        now = self._progress()
        if now == self._last or now - self._last < self._rate * IDLE_BODY_SECONDS:
            self._give_up()
            return
        self._last = now
        self._timer = self._loop.call_later(IDLE_BODY_SECONDS, self._look)


class UnreadReplies:
    """Counts the bytes of replies that wait in memory until their peers read them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._total = 0
        self._of: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """How many bytes wait at this moment."""
        return self._total

    @contextmanager
    def hold(self, block: str | None, size: int) -> Iterator[None]:
        """Count ``size`` bytes for a peer until the context ends. Raises RelayFull before a limit is passed.

        A peer whose ``block`` of addresses is None has no limit by address.
        """
        limits = self._limits
        mine = 0 if block is None else self._of[block]
        for kept, limit, flag, what in (
            (0, limits.max_unread_reply, "--max-unread-reply", "this reply"),
            (mine, limits.max_unread_address, "--max-unread-address", "the replies that this address does not read"),
            (self._total, limits.max_unread_total, "--max-unread-total", "the replies that peers do not read"),
        ):
            if kept + size > limit:
                way_on = "ask for less at a time, with limit or max" if kept == 0 else "read them, then ask again"
                raise RelayFull(
                    f"{what} would take {kept + size} bytes of memory, and {limit} are kept; {way_on}, or raise {flag}",
                    limit=limit,
                    actual=kept + size,
                    retry_after=_RETRY_SECONDS,
                )
        self._total += size
        if block is not None:
            self._of[block] += size
        try:
            yield
        finally:
            self._total -= size
            if block is not None:
                self._of[block] -= size
                if not self._of[block]:
                    del self._of[block]
