"""A proxy between a client and a relay that passes on what it gets, until it drops the connection at a given byte."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit


class Proxy:
    """``budget`` says for each connection how many bytes it passes on, of both ways together; None for all."""

    def __init__(self, target: str, budget: Callable[[], int | None]) -> None:
        parts = urlsplit(target)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self.budget = budget
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server
        self.url = ""
        self.cuts = 0
        self.passed = 0  # bytes of the connection that ended last

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._pass_on(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = self.budget()
        writers = [writer]
        self.passed = 0
        try:
            relay_reader, relay_writer = await asyncio.open_connection(self._host, self._port)
            writers.append(relay_writer)
            over = asyncio.Event()

            async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
                nonlocal left
                with contextlib.suppress(ConnectionError):
                    while data := await source.read(65536):
                        if left is not None:
                            data = data[:left]
                            left -= len(data)
                        self.passed += len(data)
                        sink.write(data)
                        if left == 0:
                            self.cuts += 1
                            break
                        await sink.drain()
                over.set()

            ways = [
                asyncio.ensure_future(pass_on(reader, relay_writer)),
                asyncio.ensure_future(pass_on(relay_reader, writer)),
            ]
            await over.wait()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        finally:
            for end in writers:
                end.close()


@contextlib.asynccontextmanager
async def proxy(target: str, budget: Callable[[], int | None]) -> AsyncIterator[Proxy]:
    """Run a proxy for as long as the context lasts."""
    running = Proxy(target, budget)
    await running.start()
    try:
        yield running
    finally:
        await running.stop()
