"""A proxy between a client and a relay: it passes bytes on, until it is told to get in the way."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from tests.waiting import PATIENCE, forever

REFUSAL = b"<html>no upgrades here</html>"


class Proxy:
    """A TCP proxy in a thread of its own.

    ``websockets`` says what becomes of them: ``pass``; ``refuse``, answered with a page; ``mute``, where the handshake
    gets through and nothing after it; ``hang``, where nothing does. ``limit``, if given, returns for each connection
    the bytes from the relay before a cut; ``limit_up`` those to the relay.
    """

    def __init__(self, relay: str) -> None:
        parts = urlsplit(relay)
        self._target = (parts.hostname, parts.port)
        self.websockets = "pass"
        self.limit: Callable[[], int | None] | None = None
        self.limit_up: Callable[[], int | None] | None = None
        self.sockets = 0  # how many websockets were tried
        self.cuts = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._stalled: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Cut all connections at once."""

        async def cut() -> None:
            self._abort()

        self._run(cut())

    def stall(self) -> None:
        """Pass nothing more on to the clients that are connected. Their connections stay open."""

        async def stall() -> None:
            self._stalled.update(self._open)

        self._run(stall())

    def close(self) -> None:
        """End for good."""

        async def close() -> None:
            self._server.close()
            await asyncio.sleep(0)  # a connection that was taken just now begins, and has a writer that closes it
            self._abort()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._run(close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _abort(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                head = await reader.readuntil(b"\r\n\r\n")
                upgrade = b"upgrade: websocket" in head.lower()
                self.sockets += upgrade
                way = self.websockets if upgrade else "pass"
                if way == "hang":
                    await forever()
                elif way == "refuse":
                    writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: %d\r\n\r\n" % len(REFUSAL) + REFUSAL)
                    await writer.drain()
                else:
                    await self._pass(head, reader, writer, mute=way == "mute")
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _pass(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, mute: bool
    ) -> None:
        from_relay, to_relay = await asyncio.open_connection(*self._target)
        self._open.add(to_relay)
        try:
            to_relay.write(head)
            both = [
                asyncio.create_task(self._pump(reader, to_relay, mute=mute, limit=self.limit_up and self.limit_up())),
                asyncio.create_task(self._pump(from_relay, writer, limit=self.limit and self.limit())),
            ]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)
        finally:
            self._open.discard(to_relay)
            to_relay.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        mute: bool = False,
        limit: int | None = None,
    ) -> None:
        passed = 0
        while data := await reader.read(65536):
            if mute or writer in self._stalled:
                continue
            if limit is not None and passed + len(data) >= limit:
                writer.write(data[: limit - passed])
                await writer.drain()
                self.cuts += 1
                return
            passed += len(data)
            writer.write(data)
            await writer.drain()
