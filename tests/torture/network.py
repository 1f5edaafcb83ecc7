"""A network between two programs that can be cut and slow, and that can lose what comes back."""

from __future__ import annotations

import asyncio
import contextlib

_PIECE_BYTES = 65536
_SLOW_SECONDS = 0.05

OPEN, CUT, SLOW, DEAF = "open", "cut", "slow", "deaf"


class Network:
    """Passes connections on to a port of this machine. ``DEAF`` passes requests on, and no answer comes back."""

    def __init__(self) -> None:
        self.state = OPEN
        self.port = 0
        self.target = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, target: int) -> None:
        """Listen at a free port."""
        self.target = target
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def change(self, state: str) -> None:
        """Change the state. A network that is cut, or that was deaf, ends its connections."""
        was, self.state = self.state, state
        if state == CUT or was == DEAF:
            for task in self._tasks:
                task.cancel()

    async def stop(self) -> None:
        """End all connections."""
        self.change(CUT)
        if self._server is not None:
            self._server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        back: asyncio.StreamWriter | None = None
        try:
            if self.state != CUT:
                there, back = await asyncio.open_connection("127.0.0.1", self.target)
                ways = [
                    asyncio.ensure_future(self._copy(reader, back, answers=False)),
                    asyncio.ensure_future(self._copy(there, writer, answers=True)),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for each in (writer, back):
                if each is not None:
                    with contextlib.suppress(OSError):
                        each.transport.abort()

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, answers: bool) -> None:
        while piece := await source.read(_PIECE_BYTES):
            if self.state == SLOW:
                await asyncio.sleep(_SLOW_SECONDS)
            if not (answers and self.state == DEAF):
                target.write(piece)
                await target.drain()
