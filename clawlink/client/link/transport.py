"""The connection of a link: a websocket, or long polls where there can be none. Both carry calls and messages."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from clawlink.client.aio import AsyncClient
from clawlink.client.calls import Call, Claimed
from clawlink.client.link.outbox import Way
from clawlink.client.stream import NoWebsocket, Stream
from clawlink.domain.limits import KIB, MAX_RECEIPTS
from clawlink.errors import ClawLinkError, RateLimited, RelayUnreachable, UnknownAgent

# Larger calls are requests of their own: a frame that is too large ends the connection, a request is only refused.
_LARGE_BYTES = 64 * KIB
_FRAMES = frozenset({"delegate", "respond", "send", "broadcast", "ack", "nack", "extend"})
_POLL_SECONDS = 25.0
# An ack waits this long for a poll that carries it. Then it is sent by itself.
_NEXT_POLL_SECONDS = 0.02
# A polling link looks this often whether a websocket is possible by now.
_TRY_AGAIN_SECONDS = 600.0


class _CallWay(Way[Call[Any]]):
    """The meaning of a failed call, the same for both transports."""

    def holds_all(self, call: Call[Any], error: ClawLinkError) -> bool:
        """Return True if a failure says nothing of the recipient, but of the relay or of this agent."""
        if not isinstance(error, RateLimited):
            return super().holds_all(call, error)
        # It names the agents of its limit: the sender and the recipient, or the sender alone. Broadcasts have a limit
        # of their own.
        agents = error.current
        return call.endpoint.name != "broadcast" and isinstance(agents, list) and len(agents) == 1


class WebsocketTransport(_CallWay):
    """A websocket. Calls on it are answered in order, and many may be under way."""

    name = "websocket"

    def __init__(self, client: AsyncClient, stream: Stream) -> None:
        self._client = client
        self._stream = stream

    async def perform(self, call: Call[Any], *, by_request: bool = False) -> Any:
        """Send a call once."""
        if by_request or self.alone(call):
            return await self._client.perform(call)
        return await self._stream.perform(call)

    def alone(self, call: Call[Any]) -> bool:
        """Return True if a call goes as a request of its own, beside the frames."""
        return call.endpoint.name not in _FRAMES or len(call.body or b"") > _LARGE_BYTES

    async def beat(self) -> None:
        """Show a sign of life. A heartbeat would also hold tasks that an earlier connection lost on their way."""
        await self._stream.ping()

    async def ack(self, receipts: Sequence[str]) -> None:
        """Settle messages."""
        await self._stream.ack(receipts)

    def __aiter__(self) -> AsyncIterator[Claimed]:
        return self._stream

    async def close(self) -> None:
        """End the connection: unacked messages are due again at once."""
        await self._stream.close()


class PollTransport(_CallWay):
    """Long polls. ``free`` tells how many messages there is room for; ``freed`` is set when there is more."""

    name = "poll"
    window = at_once = 1

    def __init__(self, client: AsyncClient, *, lease: float, free: Callable[[], int], freed: asyncio.Event) -> None:
        self._client = client
        self._lease = lease
        self._free = free
        self._freed = freed
        self._unacked: list[str] = []  # receipts that no request carries yet
        self._carried: list[str] = []  # receipts of the poll under way, or of the last if that failed
        self._alarm: asyncio.TimerHandle | None = None
        self._acking: set[asyncio.Task[None]] = set()

    async def perform(self, call: Call[Any], *, by_request: bool = False) -> Any:
        """Send a call once."""
        return await self._client.perform(call)

    async def ack(self, receipts: Sequence[str]) -> None:
        """Settle messages by the next poll, or by a request of their own if none begins within 20 ms."""
        self._unacked += receipts
        if self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(_NEXT_POLL_SECONDS, self._ack_now)

    def _ack_now(self) -> None:
        """Send the acks that no poll has carried in time."""
        self._alarm = None
        task = asyncio.create_task(self._ack_alone(self._take()))
        self._acking.add(task)
        task.add_done_callback(self._acking.discard)

    def _take(self) -> list[str]:
        """Return the receipts for the next request."""
        taken, self._unacked = self._unacked[:MAX_RECEIPTS], self._unacked[MAX_RECEIPTS:]
        if self._alarm is not None and not self._unacked:
            self._alarm.cancel()
            self._alarm = None
        return taken

    async def _ack_alone(self, receipts: Sequence[str]) -> None:
        """Ack. If that fails, the messages come again and are known."""
        with contextlib.suppress(ClawLinkError):
            if receipts:
                await self._client.ack(receipts)

    async def __aiter__(self) -> AsyncIterator[Claimed]:
        until = time.monotonic() + _TRY_AGAIN_SECONDS
        while time.monotonic() < until:
            room = self._free()
            if room <= 0:
                self._freed.clear()
                await self._freed.wait()
                continue
            self._carried = self._take()
            batch = await self._client.poll(wait=_POLL_SECONDS, max=room, lease=self._lease, ack=self._carried)
            self._carried = []
            for claimed in batch:
                yield claimed

    async def close(self) -> None:
        """Send the acks that the relay may not have. To repeat one is harmless."""
        self._unacked = self._carried + self._unacked
        self._carried = []
        while receipts := self._take():
            await self._ack_alone(receipts)
        await asyncio.gather(*self._acking)


Transport = WebsocketTransport | PollTransport


async def connect(
    client: AsyncClient, *, lease: float, credit: int, free: Callable[[], int], freed: asyncio.Event
) -> Transport:
    """Open a websocket, or poll if that is blocked. Raises an error that ends both, such as UnknownAgent."""
    stream = client.stream(lease=lease, credit=credit)
    try:
        await stream.open()
        await stream.ping()  # some let the handshake through, and nothing after it
    except (NoWebsocket, RelayUnreachable):
        await stream.close()
        # Whether it is the websocket that is in trouble, or the relay.
        if (await client.heartbeat()).status == "unknown_agent":
            raise UnknownAgent(f"the relay does not know agent {client.agent_id!r} any more") from None
        return PollTransport(client, lease=lease, free=free, freed=freed)
    except BaseException:
        await stream.close()
        raise
    return WebsocketTransport(client, stream)
