"""The connection of a link: a websocket, or long polls where there can be none. Both carry calls and messages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from clawlink.client.aio import AsyncClient
from clawlink.client.calls import Call, Claimed
from clawlink.client.stream import NoWebsocket, Stream
from clawlink.domain.limits import KIB
from clawlink.errors import RelayUnreachable, UnknownAgent
from clawlink.protocol import replies

# Larger calls are requests of their own: a frame that is too large ends the connection, a request is only refused.
_LARGE_BYTES = 64 * KIB
_FRAMES = frozenset({"heartbeat", "delegate", "respond", "send", "broadcast", "ack", "nack", "extend"})
_POLL_SECONDS = 25.0
# A polling link looks this often whether a websocket is possible by now.
_TRY_AGAIN_SECONDS = 600.0


class SocketLine:
    """A websocket. Calls on it are answered in order, so many may be under way."""

    name = "websocket"
    window = 64

    def __init__(self, client: AsyncClient, stream: Stream) -> None:
        self._client = client
        self._stream = stream

    async def perform(self, call: Call[Any], *, by_request: bool = False) -> Any:
        """Send a call once."""
        if by_request or self.alone(call):
            return await self._client.perform(call)
        return await self._stream.perform(call)

    def alone(self, call: Call[Any]) -> bool:
        """Tell whether a call goes as a request of its own, beside the frames: so it must not go at the same time."""
        return call.endpoint.name not in _FRAMES or len(call.body or b"") > _LARGE_BYTES

    async def ack(self, receipts: Sequence[str]) -> replies.Receipted:
        """Settle messages."""
        return await self._stream.ack(receipts)

    def __aiter__(self) -> AsyncIterator[Claimed]:
        return self._stream

    async def close(self) -> None:
        """End the connection: what was not acked is due again at once."""
        await self._stream.close()


class PollLine:
    """Long polls. ``free`` tells how many messages there is room for; ``freed`` is set when there is more."""

    name = "poll"
    window = 1

    def __init__(self, client: AsyncClient, *, lease: float, free: Callable[[], int], freed: asyncio.Event) -> None:
        self._client = client
        self._lease = lease
        self._free = free
        self._freed = freed

    async def perform(self, call: Call[Any], *, by_request: bool = False) -> Any:
        """Send a call once."""
        return await self._client.perform(call)

    def alone(self, call: Call[Any]) -> bool:
        """Tell whether a call may not go beside others: none does here, there is one at a time."""
        return False

    async def ack(self, receipts: Sequence[str]) -> replies.Receipted:
        """Settle messages."""
        return await self._client.ack(receipts)

    async def __aiter__(self) -> AsyncIterator[Claimed]:
        until = time.monotonic() + _TRY_AGAIN_SECONDS
        while time.monotonic() < until:
            room = self._free()
            if room <= 0:
                self._freed.clear()
                await self._freed.wait()
                continue
            for claimed in await self._client.poll(wait=_POLL_SECONDS, max=room, lease=self._lease):
                yield claimed

    async def close(self) -> None:
        """There is nothing to close."""


Line = SocketLine | PollLine


async def connect(
    client: AsyncClient, *, lease: float, credit: int, free: Callable[[], int], freed: asyncio.Event
) -> Line:
    """Open a websocket, or poll where something stands in its way. Raises what ends either, as UnknownAgent."""
    stream = client.stream(lease=lease, credit=credit)
    try:
        await stream.open()
        await stream.heartbeat()  # some let the handshake through, and nothing after it
    except (NoWebsocket, RelayUnreachable):
        await stream.close()
        # Whether it is the websocket that is in trouble, or the relay.
        if (await client.heartbeat()).status == "unknown_agent":
            raise UnknownAgent(f"the relay does not know agent {client.agent_id!r} any more") from None
        return PollLine(client, lease=lease, free=free, freed=freed)
    except BaseException:
        await stream.close()
        raise
    return SocketLine(client, stream)
