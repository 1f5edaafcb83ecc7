"""Websockets of aiohttp's client that are really closed when they are left."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from tests.waiting import soon, until


class Socket:
    """A connection. Frames are JSON objects."""

    def __init__(self, ws: Any) -> None:
        self._ws = ws

    async def send(self, **frame: Any) -> None:
        """Send a frame."""
        await self._ws.send_json(frame)

    async def frame(self) -> Any:
        """Return the next frame."""
        return await soon(self._ws.receive_json(), seconds=60)

    async def reply(self, **frame: Any) -> Any:
        """Send a frame, and return what answers it, which comes next."""
        await self.send(id=1, **frame)
        answer = await self.frame()
        assert answer["type"] == "reply", answer
        return answer["reply"]

    async def next(self) -> aiohttp.WSMessage:
        """Return what comes next, whatever that is."""
        message: aiohttp.WSMessage = await soon(self._ws.receive(), seconds=60)
        return message


@contextlib.asynccontextmanager
async def connected(session: aiohttp.ClientSession, address: str, **options: Any) -> AsyncIterator[Socket]:
    """Connect, and close in the end: also what TLS still has to say goodbye, which a loop that ends would leak."""
    async with session.ws_connect(address, **options) as ws:
        raw = ws.get_extra_info("socket")
        yield Socket(ws)
    await until(lambda: raw.fileno() == -1)
