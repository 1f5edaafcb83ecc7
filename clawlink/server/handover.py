"""Whether the peer has read a reply, as far as its connection tells.

A graceful end of the connection, with nothing left that the peer's system has not acknowledged, means read; so does the
next request, unless it was on its way before the reply. A reset means not read, and so do bytes that the peer's system
does not acknowledge.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import ssl
import struct
import sys
from collections.abc import Callable
from typing import Any, Protocol

from clawlink.server.flow import has_gone, on_its_way

if sys.platform != "win32":
    import fcntl
    import termios

# A connection that is kept, on which nothing comes after the reply, and which is not reset: the reply counts as read.
QUIET_SECONDS = 5.0
# The same for the last reply of a TLS connection.
_TLS_QUIET_SECONDS = 0.05
# A peer that takes nothing of a reply for this many seconds does not read.
STUCK_SECONDS = 28.0
_LOOK_SECONDS = 1.0
# After the peer has closed its side nothing more comes that the event loop would tell.
_FIRST_LOOK_SECONDS = 0.001
_MOST_LOOK_SECONDS = 0.05
_RESET_ON_CLOSE = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class Handover(Protocol):
    """The messages that a reply hands over to its reader."""

    @property
    def until_read(self) -> bool:
        """Return True if it matters that the reply was read, and not only that it was written."""

    def over(self, *, read: bool) -> None:
        """Take note, once, whether the reply was read."""

    def hold(self) -> None:
        """Keep the messages leased a while longer. Called once a second until ``over`` is called."""


class Handovers:
    """The replies on one connection of which it is not known yet whether the peer has read them."""

    def __init__(self, transport: Any, close: Callable[[], None], *, ended: bool) -> None:
        self._transport = transport
        # Below TLS the socket is closed before anybody is told, and then it tells nothing any more.
        tls = transport.get_extra_info("sslcontext") is not None
        self._socket: Any = transport.get_extra_info("socket").dup() if tls else transport.get_extra_info("socket")
        self._own = tls
        self._close = close
        self._loop = asyncio.get_running_loop()
        self._under_way: list[Handover] = []
        self._writing = False  # the last reply is not written in full
        self._provable = False
        self._ended = ended  # the peer has closed its side
        self._left: float = math.inf
        self._moved_at = 0.0  # when the peer's system took something last
        self._written_at = 0.0
        self._pause = _FIRST_LOOK_SECONDS
        self._quiet: float | None = None  # in place of QUIET_SECONDS
        self._timer: asyncio.TimerHandle | None = None
        self._known: asyncio.Future[None] | None = None

    def __bool__(self) -> bool:
        return bool(self._under_way)

    def add(self, handover: Handover) -> None:
        """Watch a reply that is written from now on."""
        self._writing = True
        self._provable = False
        if not self._under_way:
            self._moved_at = self._loop.time()
        self._left = math.inf
        self._under_way.append(handover)
        if self._timer is None:
            self._timer = self._loop.call_later(self._next_pause(), self._look)

    def written(self, *, provable: bool) -> None:
        """Note that all of the reply is written. ``provable`` if the next bytes are an answer to it."""
        self._writing = False
        self._provable = provable
        self._written_at = self._moved_at = self._loop.time()
        self._left = math.inf

    def forget(self, handover: Handover, *, read: bool) -> bool:
        """Stop watching a reply. Return True if it was watched."""
        if handover not in self._under_way:
            return False
        self._under_way.remove(handover)
        self._writing = False
        handover.over(read=read)
        if not self._under_way:
            self._rest()
        return True

    def heard(self) -> None:
        """Note that bytes came."""
        if self._provable and not on_its_way(self._transport, self._socket):
            self._conclude(read=True)

    def end(self) -> bool:
        """Note that the peer has closed its side. Return True if the other side must stay open for now."""
        self._ended = True
        left = on_its_way(self._transport, self._socket)  # first: a reset throws these bytes away
        if _failed(self._socket):  # a reset came behind the end
            self._conclude(read=False)
            return False
        if not (self._writing or left):
            self._conclude(read=True)
            return False
        # The peer either reads on, and acknowledges the rest, or is gone, and its system resets the connection.
        self._look_soon()
        return True

    def lost(self, exc: BaseException | None) -> None:
        """Note that the connection is lost, before its socket is closed."""
        if self._under_way:
            self._judge(exc)
        self._close = _nothing  # it leads back to the connection, a circle that only a sweep would find
        if self._own:
            self._socket.close()

    def _judge(self, exc: BaseException | None) -> None:
        left = on_its_way(self._transport, self._socket)
        read = not self._writing and was_read(exc, left=left, failed=_failed(self._socket))
        if not read:
            _reset_on_close(self._socket)
        self._conclude(read=read)

    def settle(self) -> None:
        """Decide by the facts so far, because the relay closes the connection."""
        left = on_its_way(self._transport, self._socket)
        if _failed(self._socket):
            self._conclude(read=False)
        elif not (self._writing or left or has_gone(self._transport)):
            self._conclude(read=True)

    async def known(self) -> None:
        """Return once it is known of all replies whether they were read. Nothing more is written."""
        if not self._under_way:
            return
        if self._transport.can_write_eof():
            with contextlib.suppress(OSError, RuntimeError):
                self._transport.write_eof()  # a peer that reads until the end has it at once
        else:  # TLS ends both ways at once, and such a peer is not to wait for long
            self._quiet = _TLS_QUIET_SECONDS
            self._look_soon()
        if self._known is None:
            self._known = self._loop.create_future()
        await asyncio.shield(self._known)

    def _look_soon(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._next_pause(), self._look)

    def _next_pause(self) -> float:
        if not (self._ended or self._quiet):
            return _LOOK_SECONDS
        pause = self._pause
        self._pause = min(2 * pause, _MOST_LOOK_SECONDS)
        return pause

    def _look(self) -> None:
        self._timer = None
        left = on_its_way(self._transport, self._socket)
        now = self._loop.time()
        if left < self._left:
            self._left, self._moved_at = left, now
        # After a standstill of the relay this timer comes before the loop tells of a reset, which it may know already.
        failed = _failed(self._socket)
        quiet = self._ended or now - self._written_at >= (self._quiet or QUIET_SECONDS)
        stuck = not self._writing and left and now - self._moved_at >= STUCK_SECONDS
        if quiet and not (left or failed or self._writing or has_gone(self._transport)):
            self._conclude(read=True)
        elif failed or stuck:
            _reset_on_close(self._socket)
            self._conclude(read=False)
            self._transport.abort()
        else:
            for handover in self._under_way:
                handover.hold()
            self._timer = self._loop.call_later(self._next_pause(), self._look)

    def _conclude(self, *, read: bool) -> None:
        under_way, self._under_way = self._under_way, []
        self._rest()
        for handover in under_way:
            handover.over(read=read)
        if self._ended:
            self._close()

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._known is not None and not self._known.done():
            self._known.set_result(None)


def was_read(exc: BaseException | None, *, left: int, failed: bool) -> bool:
    """Return True if the end of a connection shows that its peer has read all that was written.

    ``left`` are the bytes that the peer's system has not acknowledged. Where this system does not tell, as on Windows,
    it is 0, and a proxy acknowledges in place of the peer: there every end but a reset means read.
    """
    # A peer that ends TLS without saying so is no reset.
    return (exc is None or isinstance(exc, ssl.SSLError)) and not left and not failed


def _nothing() -> None:
    pass


def has_come(transport: Any) -> int:
    """Return how many bytes have come that the event loop has not read yet, as far as this system tells."""
    return 0 if sys.platform == "win32" else _told(transport.get_extra_info("socket"), termios.FIONREAD)


def _told(sock: Any, question: int) -> int:
    if sys.platform == "win32":
        return 0
    try:
        told = fcntl.ioctl(sock.fileno(), question, bytes(4))
    except (AttributeError, OSError, ValueError):  # it is closed already
        return 0
    return int.from_bytes(told, sys.byteorder)


def _reset_on_close(sock: Any) -> None:
    """Make the system throw unacknowledged bytes away once the socket is closed."""
    with _borrowed(sock) as real:
        if real is not None:
            real.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def _failed(sock: Any) -> bool:
    """Return True if the peer has reset the connection, as far as the system tells."""
    with _borrowed(sock) as real:
        return real is not None and real.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
    return False


class _borrowed(contextlib.AbstractContextManager["socket.socket | None"]):
    """A socket with all its options, of which event loops give a part; None if it is closed. It raises no OSError."""

    def __init__(self, sock: Any) -> None:
        self._lent = sock
        self._socket: socket.socket | None = None

    def __enter__(self) -> socket.socket | None:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            self._socket = socket.socket(fileno=self._lent.fileno())
        return self._socket

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool:
        if self._socket is not None:
            self._socket.detach()
        return isinstance(error, OSError)
