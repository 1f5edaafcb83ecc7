"""A connection to the server whose replies are read as they come, without a task that waits for each.

The client of the package ``redis`` opens it, with its TLS, password and database. Then this module takes over its
transport: that client packs and reads one command at a time, which takes most of the time of a commit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from redis.exceptions import RedisError

ReplyError = hiredis.ReplyError
"""A reply that says why the server refused a command. Its text begins with a word in capitals."""

LinkError = (RedisError, OSError, asyncio.TimeoutError, hiredis.HiredisError, RuntimeError)
"""The errors of a connection that cannot be opened, or that ended.

uvloop raises RuntimeError for a word on a connection that the server has closed.
"""

_NOTHING = object()


class Link(asyncio.Protocol):
    """An open connection. ``take`` is told each reply in turn, and ``ended`` once that no more will come, and why."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._transport: Any = connection._writer.transport
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self.take: Callable[[Any], None] = lambda reply: None
        self.ended: Callable[[Exception], None] = lambda error: None
        self.timeout: float | None = connection.socket_timeout
        """The seconds that the server has for a reply."""
        self.over = False

    @classmethod
    async def open(cls, connection: Any) -> Link:
        """Open a connection of the package ``redis`` and take it over. Raises what ``LinkError`` names."""
        try:
            await connection.connect()
        except BaseException:
            with contextlib.suppress(*LinkError):
                await connection.disconnect(nowait=True)
            raise
        link = cls(connection)
        link._transport.set_protocol(link)
        return link

    def send(self, commands: Sequence[tuple[Any, ...]]) -> None:
        """Send commands together. Raises TypeError for a word that cannot be sent, and has sent nothing then."""
        packed = b"".join([hiredis.pack_command(words) for words in commands])
        try:
            self._transport.write(packed)
        except RuntimeError as error:
            self.end(error)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _NOTHING:
                self.take(reply)
        except hiredis.ProtocolError as error:
            self.end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(exc or ConnectionError("the server closed the connection"))

    def end(self, error: Exception) -> None:
        """Close the connection, and tell why no reply will come. A second call does nothing."""
        if not self.over:
            self.over = True
            self._transport.abort()
            self.ended(error)

    async def close(self) -> None:
        """Close the connection, whatever the package ``redis`` says to that. Nobody is told."""
        self.over = True
        try:
            await self._connection.disconnect(nowait=True)
        except Exception:
            self._transport.abort()
