"""Rounds of requests that follow from each other, on many connections side by side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Sequence

import msgspec

from clawlink.bench.load import Connection, connect, measure
from clawlink.bench.scenarios import BenchFailed, Relay

Round = Generator[bytes, bytes, None]
"""The requests of a round. Each ``yield`` sends a request and returns the body of its answer."""


class _Lease(msgspec.Struct):
    receipt: str


class _Polled(msgspec.Struct):
    deliveries: list[_Lease]


_read_polled = msgspec.json.Decoder(_Polled).decode


def receipts_in(polled: bytes, *, count: int) -> list[str]:
    """Return the receipts of a poll's messages. Raises BenchFailed if it brought another number of messages."""
    receipts = [lease.receipt for lease in _read_polled(polled).deliveries]
    if len(receipts) != count:
        raise BenchFailed(f"a poll brought {len(receipts)} messages instead of {count}")
    return receipts


class Exchange:
    """Round after round of requests on one connection, until a request fails, or one ends that is the ``last``."""

    def __init__(self, begin: Callable[[], Round]) -> None:
        self._begin = begin
        self._round = begin()
        self.running = True
        self.last = False
        self.done = 0
        self.failed: str | None = None

    def start(self, connection: Connection) -> None:
        """Send the first request."""
        connection.send(next(self._round))

    def answered(self, connection: Connection, status: int, body: bytes) -> None:
        """Take an answer and send the next request."""
        if status != 200:
            self._fail(body.decode(errors="replace"))
        if self.running:
            try:
                connection.send(self._round.send(body))
            except StopIteration:
                self.done += 1
                if self.last:
                    self.running = False
                    return
                self._round = self._begin()
                self.start(connection)
            except BenchFailed as error:
                self._fail(str(error))

    def _fail(self, why: str) -> None:
        self.failed, self.running = why, False


async def drive(relay: Relay, exchanges: Sequence[Exchange], seconds: float, *, spins: bool = True) -> float:
    """Run exchanges side by side, and return their rounds a second. Raises BenchFailed if one fails.

    Each ends its round at the end: an agent that leaves with an open task leaves a pool, at which each poll then looks.
    The load ``spins`` where it has a core to itself.
    """
    running = True

    def spin() -> None:
        # Never sleep, as for delegations: the server would pay for waking us.
        if running:
            loop.call_soon(spin)

    loop = asyncio.get_running_loop()
    opened = [(await connect(relay.server.url, one.answered), one) for one in exchanges]
    if spins:
        loop.call_soon(spin)
    started = time.perf_counter()
    for connection, one in opened:
        one.start(connection)
    await measure(seconds, lambda: sum(one.done or one.failed is not None for one in exchanges))
    rate = sum(one.done for one in exchanges) / (time.perf_counter() - started)
    for _, one in opened:
        one.last = True
    await measure(0, lambda: not any(one.running for one in exchanges))
    running = False
    for connection, one in opened:
        connection.transport.abort()
        await connection.closed
        if one.failed is not None:
            raise BenchFailed(one.failed)
    return rate
