"""Compare the processor time of two checkouts: ``python -m tests.bench.by_turns OLD NEW``, Linux alone.

A relay of each runs on one core, and the load on the other. They take turns in rounds of some hundred requests, so both
meet the same other work of the machine. Relays are started several times, because each start lays its memory out in
another way. An older relay gets the flags that it knows. ``--what`` names the request. A ``delegation`` has 32
connections and 64 recipients, and nobody drains. A ``websocket`` message is sent, delivered and acked, one from each of
32 senders under way. A ``broadcast`` goes to 3,000 agents; take some ten requests a round.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import itertools
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from clawlink.bench.load import Asker, connect, request_bytes
from clawlink.bench.servers import RELAY_FLAGS, can_pin, on_the_other_core, pin
from clawlink.bench.sockets import Socket, open_socket

# The limits on pace hold, so that their price counts, and are far.
_FLAGS = (*RELAY_FLAGS, "--rate-agent", str(10**6), "--rate-pair", str(10**6))
_CONNECTIONS, _RECIPIENTS = 32, 64
_AUDIENCE = 3000
_RECEIPT = re.compile(rb'"receipt":"([^"]+)"')


class Load:
    """Requests to one relay. ``start`` begins the next one; ``ended`` is called at the end of each."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._left = self._under_way = 0
        self._done: asyncio.Future[None] | None = None
        self.lanes: list[Any] = []

    async def run(self, requests: int) -> None:
        """Make this many requests, one after the other on each lane."""
        self._done = asyncio.get_running_loop().create_future()
        self._left = requests
        for lane in self.lanes:
            self._begin(lane)
        await self._done

    def _begin(self, lane: Any) -> None:
        if self._left > 0:
            self._left -= 1
            self._under_way += 1
            self.start(lane)

    def ended(self, lane: Any) -> None:
        """Note that a request has ended, and begin the next."""
        self._under_way -= 1
        self._begin(lane)
        if not self._under_way and self._done is not None and not self._done.done():
            self._done.set_result(None)

    def start(self, lane: Any) -> None:
        """Begin a request."""
        raise NotImplementedError

    async def register(self, *names: str) -> None:
        """Register agents."""
        async with await Asker.open(self.url) as asker:
            for name in names:
                body = json.dumps({"agent_id": name, "name": name}).encode()
                status, answer = await asker.ask(request_bytes("POST", "/register", body))
                assert status == 200, answer


class Delegations(Load):
    """Delegations of some 500 bytes."""

    async def open(self) -> None:
        """Connect."""
        names = [f"worker{number}" for number in range(_RECIPIENTS)]
        await self.register("boss", *names)
        ask = {"from_agent": "boss", "task": "x" * 400, "context": {"a": 1}}
        bodies = [json.dumps({**ask, "to_agent": name}).encode() for name in names]
        self._asks = itertools.cycle([request_bytes("POST", "/delegate", body) for body in bodies])
        self.lanes = [await connect(self.url, self._answered) for _ in range(_CONNECTIONS)]

    def start(self, lane: Any) -> None:
        lane.send(next(self._asks))

    def _answered(self, lane: Any, status: int, body: bytes) -> None:
        assert status == 200, body
        self.ended(lane)


class Broadcasts(Load):
    """Broadcasts that nobody reads, one after the other."""

    async def open(self) -> None:
        """Connect."""
        await self.register("boss", *(f"agent{number}" for number in range(_AUDIENCE)))
        self._numbers = itertools.count()
        self.lanes = [await connect(self.url, self._answered)]

    def start(self, lane: Any) -> None:
        body = json.dumps({"from_agent": "boss", "content": f"news {next(self._numbers)}"}).encode()
        lane.send(request_bytes("POST", "/broadcast", body))

    def _answered(self, lane: Any, status: int, body: bytes) -> None:
        assert status == 200, body
        assert json.loads(body)["recipients"] == _AUDIENCE, body
        self.ended(lane)


class Messages(Load):
    """Messages over websockets."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._of: dict[Socket, tuple[Socket, bytes]] = {}

    async def open(self) -> None:
        """Connect."""
        for number in range(_CONNECTIONS):
            await self.register(f"ann{number}", f"bob{number}")
            sender = await open_socket(self.url, f"/ws/ann{number}?lease=60", _require_replies)
            reader = await open_socket(self.url, f"/ws/bob{number}?lease=60", self._heard)
            message = {"type": "send", "id": 1, "to_agent": f"bob{number}", "content": "x" * 400}
            self._of[reader] = sender, json.dumps(message).encode()
        self.lanes = list(self._of)

    def start(self, lane: Any) -> None:
        sender, message = self._of[lane]
        sender.send(message)

    def _heard(self, reader: Socket, frames: list[bytes]) -> None:
        for frame in frames:
            if frame.startswith(b'{"type":"reply","id":1'):
                self.ended(reader)
            elif not frame.startswith(b'{"type":"reply"'):
                _ack(reader, frame, 2 if _is_notice(frame) else 1)


def _require_replies(sender: Socket, frames: list[bytes]) -> None:
    for frame in frames:
        if _is_notice(frame):  # an older relay stores notices, and sends them to every connection
            _ack(sender, frame, 2)
        else:
            assert frame.startswith(b'{"type":"reply"'), frame


def _is_notice(frame: bytes) -> bool:
    return frame.startswith(b'{"type":"agent_')


def _ack(socket: Socket, frame: bytes, id: int) -> None:
    receipt = _RECEIPT.search(frame)
    assert receipt is not None, frame
    socket.send(b'{"type":"ack","id":%d,"receipts":["%b"]}' % (id, receipt[1]))


LOADS: dict[str, Callable[[str], Any]] = {"delegation": Delegations, "websocket": Messages, "broadcast": Broadcasts}


@functools.cache
def _flags(checkout: str) -> tuple[str, ...]:
    """Return the flags of the measurement that the relay of a checkout knows. Each has a value."""
    shown = subprocess.run(
        [sys.executable, "-m", "clawlink.server", "--help"], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout
    known = set(re.findall(r"--[a-z-]+", shown))
    pairs = zip(_FLAGS[::2], _FLAGS[1::2], strict=True)
    return tuple(itertools.chain.from_iterable(pair for pair in pairs if pair[0] in known))


@contextlib.contextmanager
def relay_of(checkout: str) -> Iterator[tuple[str, int]]:
    """Run the relay of a checkout; give its address and process id."""
    process = subprocess.Popen(
        [sys.executable, "-m", "clawlink.server", "--port", "0", *_flags(checkout)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=checkout,  # comes first among the places of modules
    )
    try:
        found = re.search(r"listening on (\S+)", process.stdout.readline() if process.stdout else "")
        assert found is not None, f"the relay of {checkout} did not start"
        pin(process.pid)
        yield found[1], process.pid
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def processor_microseconds(pid: int) -> float:
    """Return the processor time of a process's main thread, exact to the nanosecond."""
    return int(Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[0]) / 1000


async def compare(checkouts: list[str], what: str, rounds: int, requests: int) -> list[list[float]]:
    """Return the microseconds a request took, of each round and each checkout."""
    with contextlib.ExitStack() as stack:
        relays = [stack.enter_context(relay_of(checkout)) for checkout in checkouts]
        loads = [LOADS[what](url) for url, _ in relays]
        for load in loads:
            await load.open()
            await load.run(requests)  # not counted: caches are filled
        took: list[list[float]] = [[] for _ in checkouts]
        for number in range(rounds):
            order = range(len(checkouts))
            for at in reversed(order) if number % 2 else order:
                before = processor_microseconds(relays[at][1])
                await loads[at].run(requests)
                took[at].append((processor_microseconds(relays[at][1]) - before) / requests)
        return took


def main() -> None:
    """Compare two checkouts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkouts", nargs=2, metavar="CHECKOUT")
    parser.add_argument("--what", choices=LOADS, default="delegation")
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--requests", type=int, default=1000)
    given = parser.parse_args()
    old: list[float] = []
    new: list[float] = []
    with on_the_other_core():
        for _ in range(given.starts):
            took = asyncio.run(compare(given.checkouts, given.what, given.rounds, given.requests))
            old += took[0]
            new += took[1]
    pairs = statistics.median(b / a for a, b in zip(old, new, strict=True))
    print(
        f"{given.what}: {statistics.median(old):.1f} and {statistics.median(new):.1f} microseconds of processor time, "
        f"median of pairs {pairs:.3f}; at best {min(old):.1f} and {min(new):.1f}; pinned: {can_pin()}"
    )


if __name__ == "__main__":
    main()
