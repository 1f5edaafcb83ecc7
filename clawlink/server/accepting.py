"""Accepting connections: each has a place under the ceiling, or is refused; no lack of files makes the relay spin.

The event loops' own servers log a traceback for each connection that the system refuses, and know no ceiling.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import sys
from collections.abc import Callable, Mapping

from clawlink.errors import Unavailable
from clawlink.server.address import Addresses, block_of, parse
from clawlink.server.ceiling import HEAD_SECONDS, Ceiling, Full, Seat
from clawlink.server.response import as_bytes, reply_failure

_BACKLOG = 1024
_PAUSE_SECONDS = 1.0
_RETRY_SECONDS = 5.0
# A peer that is refused has this long to read why, before the rest of its request resets the connection.
_LINGER_SECONDS = 0.2
_MOST_LINGERING = 16
_AT_ONCE = 16
# As the relay stops to listen, the last connections have this long to open: a TLS handshake may take longer.
_OPEN_SECONDS = 0.2
_NO_SUCH_FAMILY = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}
_log = logging.getLogger("clawlink.server")

Complain = Callable[[str, Mapping[str, str]], None]


class Acceptor:
    """Accepts connections and gives each a protocol. ``complain`` gets the events that the log shows once a minute."""

    def __init__(
        self,
        protocol: Callable[[Seat], asyncio.Protocol],
        ceiling: Ceiling,
        addresses: Addresses,
        *,
        tls: ssl.SSLContext | None,
        complain: Complain,
    ) -> None:
        self._protocol = protocol
        self._ceiling = ceiling
        self._addresses = addresses
        self._tls = tls
        self._complain = complain
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._lingering: set[socket.socket] = set()

    async def listen(self, host: str, port: int) -> int:
        """Listen at all addresses of the host, and return the port. ``::`` is IPv4, too. Raises OSError."""
        self._sockets = await _bound_to(host, port)
        try:
            for sock in self._sockets:
                sock.listen(_BACKLOG)
        except OSError:
            await self.close()
            raise
        self._accepting = [self._loop.create_task(self._accept(sock)) for sock in self._sockets]
        return self._port

    @property
    def _port(self) -> int:
        return _port_of(self._sockets)

    async def finish(self) -> None:
        """Stop listening, and open the connections that have come until then."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        for sock in self._sockets:
            with contextlib.suppress(OSError):  # there are no more
                for accepted in range(_BACKLOG):
                    conn, peer = sock.accept()
                    conn.setblocking(False)
                    if peer:
                        self._admit(conn, str(peer[0]))
                    else:
                        conn.close()
                    if accepted % _AT_ONCE == 0:
                        await asyncio.sleep(0)
            sock.close()
        self._sockets.clear()
        if self._opening:
            await asyncio.wait(self._opening, timeout=_OPEN_SECONDS)

    async def close(self) -> None:
        """Stop listening."""
        for task in (*self._accepting, *self._opening):
            task.cancel()
        try:
            await asyncio.gather(*self._accepting, *self._opening, return_exceptions=True)
        finally:
            for sock in (*self._sockets, *self._lingering):
                sock.close()
            self._sockets.clear()
            self._lingering.clear()

    async def _accept(self, listening: socket.socket) -> None:
        accepted = 0
        while True:
            refused = False
            try:
                conn, peer = await self._loop.sock_accept(listening)
            except ConnectionError:  # the peer has gone already
                pass
            except OSError as error:
                self._complain("accepting pauses", {"reason": error.strerror or str(error)})
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                if peer:
                    refused = not self._admit(conn, str(peer[0]))
                else:  # macOS has no address of a peer that has gone already
                    conn.close()
            accepted += 1
            # Open connections have their turn. A refusal has looked at many of them.
            if refused or accepted % _AT_ONCE == 0:
                await asyncio.sleep(0)

    def _admit(self, conn: socket.socket, peer: str) -> bool:
        """Open a connection, or refuse it. Return True if it has a place."""
        block = self._block(peer)
        seat = self._ceiling.take(block, self._loop.time())
        if isinstance(seat, Full):
            self._complain("connections refused", {"address": block or "none", "limit": seat.flag})
            self._refuse(conn, seat)
            return False
        task = self._loop.create_task(self._open(conn, seat))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return True

    def _block(self, peer: str) -> str | None:
        """Return the key of the limit by address; None for a proxy, which carries many clients."""
        address = parse(peer)
        if address is None or self._addresses.trusts(peer) or (address.is_loopback and self._addresses.undeclared):
            return None
        return block_of(str(address))

    async def _open(self, conn: socket.socket, seat: Seat) -> None:
        handshake = None if self._tls is None else HEAD_SECONDS
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._protocol(seat), conn, ssl=self._tls, ssl_handshake_timeout=handshake
            )
        except BaseException as error:
            seat.leave()
            conn.close()
            if not isinstance(error, (OSError, asyncio.CancelledError)):  # a TLS handshake that fails is an OSError
                _log.error("a connection could not be opened", exc_info=error)

    def _refuse(self, conn: socket.socket, full: Full) -> None:
        conn.setblocking(False)
        if self._tls is None:
            with contextlib.suppress(OSError):
                conn.send(_refusal(full))
                if len(self._lingering) < _MOST_LINGERING:
                    conn.shutdown(socket.SHUT_WR)
                    self._lingering.add(conn)
                    self._loop.call_later(_LINGER_SECONDS, self._part, conn)
                    return
        conn.close()

    def _part(self, conn: socket.socket) -> None:
        self._lingering.discard(conn)
        conn.close()


async def require_free(host: str, port: int) -> None:
    """See that a relay could listen there. No peer notices it. Raises OSError."""
    for sock in await _bound_to(host, port):
        sock.close()


async def _bound_to(host: str, port: int) -> list[socket.socket]:
    """Return a socket for each address of the host. None of them listens yet. Raises OSError."""
    name = None if host in ("", "::") else host
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except UnicodeError:  # DNS can have no such name, as with an empty label
        raise OSError(f"{host!r} is no name of a host") from None
    missing: OSError | None = None
    sockets: list[socket.socket] = []
    try:
        for family, place in dict.fromkeys((family, place) for family, *_, place in found):
            try:
                sockets.append(_bound(family, place, port or _port_of(sockets)))
            except OSError as error:
                if error.errno not in _NO_SUCH_FAMILY:
                    raise
                missing = error
        if missing is not None and not sockets:
            raise missing
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _port_of(sockets: list[socket.socket]) -> int:
    return int(sockets[0].getsockname()[1]) if sockets else 0


def _bound(family: int, place: tuple[object, ...], port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if sys.platform != "win32":  # there it would let two servers have one port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((place[0], port, *place[2:]))
    except BaseException:
        sock.close()
        raise
    return sock


def _refusal(full: Full) -> bytes:
    """Return the reply to a connection that has no place."""
    error = Unavailable(
        f"{full.what} {full.limit} connections, and that is all it may have; "
        f"close those that are not needed and try again, or raise {full.flag}",
        limit=full.limit,
        retry_after=_RETRY_SECONDS,
    )
    return as_bytes(reply_failure(error))
