"""The local port of the program: hooks and commands of this account ask it here, and idle sessions wait here."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from clawlink import private
from clawlink.client.hooks import port
from clawlink.client.hooks.port import FILE, MAX_LINE_BYTES, NoPort
from clawlink.timeouts import wait_for

_HEAD_SECONDS = 5.0
_ANSWER_SECONDS = 5.0
_MOST_CONNECTIONS = 500

Handler = Callable[["Asker", dict[str, Any]], Awaitable[None]]
"""Answers a question. The connection ends when it returns."""


class Asker:
    """A connection of this account, with its question read and checked."""

    def __init__(self, secret: str, nonce: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._secret = secret
        self._nonce = nonce
        self._reader = reader
        self._writer = writer

    async def say(self, said: dict[str, Any]) -> None:
        """Send an answer. Raises OSError."""
        self._writer.write(port.signed(self._secret, self._nonce, said))
        await self._writer.drain()

    async def next(self) -> Any:
        """Return the next line. Raises NoPort at the end of the connection, and for a line of another account."""
        try:
            return port.checked(self._secret, self._nonce, await self._reader.readuntil(b"\n"))
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            raise NoPort(f"the connection has ended: {error}") from None


class LocalPort:
    """Listens on loopback, and writes number and secret to a file that only the owner may read."""

    def __init__(self, home: Path, handler: Handler) -> None:
        self._file = home / FILE
        self._handler = handler
        self._secret = secrets.token_hex(32)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> int:
        """Begin to listen. Returns the number of the port. Raises OSError."""
        self._server = await asyncio.start_server(self._begin, "127.0.0.1", 0, limit=MAX_LINE_BYTES)
        number: int = self._server.sockets[0].getsockname()[1]
        said = {"port": number, "secret": self._secret, "pid": os.getpid()}
        await asyncio.to_thread(private.write, self._file, json.dumps(said).encode())
        return number

    async def close(self) -> None:
        """End all conversations, and remove the file if it is still this port's."""
        if self._server is None:
            return
        self._server.close()
        with contextlib.suppress(OSError):
            if port.find(str(self._file.parent)).secret == self._secret:
                self._file.unlink()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= _MOST_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._talk(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await wait_for(reader.readuntil(b"\n"), _HEAD_SECONDS)
            question = port.checked(self._secret, "", line)
            asker = Asker(self._secret, str(question["nonce"]), reader, writer)
            await self._handler(asker, question)
        except (OSError, EOFError, asyncio.LimitOverrunError, asyncio.TimeoutError, ValueError, LookupError, TypeError):
            pass  # another account, another program, or a peer that has gone
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                await wait_for(writer.wait_closed(), _ANSWER_SECONDS)
