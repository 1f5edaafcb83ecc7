"""Measure a relay with ``--data`` beside one in memory, by turns, and what the disk takes for one fsync."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from clawlink.bench import servers
from clawlink.bench.load import Connection
from clawlink.bench.scenarios import CONNECTIONS, Relay, Row, delegation, names_for
from clawlink.bench.task_scenarios import drive, read_polled

_SYNCED = 200
_SYNCED_BYTES = 4096
_STORES = {"memory": (), "full": ("--sync", "full"), "normal": ("--sync", "normal")}


class _Life:
    """A pair of agents on a connection: delegate, claim, ack, respond, claim the answer, ack it."""

    def __init__(self, relay: Relay, requester: str, worker: str) -> None:
        self._relay = relay
        self._worker, self._requester = worker, requester
        self._delegate = relay.request("POST", "/delegate", {**delegation(worker), "from_agent": requester})
        self._steps = (self._claim, self._ack, self._respond, self._collect, self._settle, self._again)
        self._at = 0
        self._task = ""
        self.running = True
        self.done = 0
        self.failed: bytes | None = None

    def start(self, connection: Connection) -> None:
        """Send the first request."""
        connection.send(self._delegate)

    def answered(self, connection: Connection, status: int, body: bytes) -> None:
        """Take an answer and send what comes next."""
        if status != 200:
            self.failed, self.running = body, False
        if self.running:
            step = self._steps[self._at]
            self._at = (self._at + 1) % len(self._steps)
            try:
                connection.send(step(body))
            except IndexError:
                self.failed, self.running = b"a message did not arrive", False

    def _claim(self, body: bytes) -> bytes:
        return self._relay.request("GET", f"/poll/{self._worker}?lease=60")

    def _ack(self, body: bytes) -> bytes:
        (self._receipt,) = [lease.receipt for lease in read_polled(body).deliveries][:1]
        ask = {"agent_id": self._worker, "receipts": [self._receipt]}
        return self._relay.request("POST", "/ack", ask)

    def _respond(self, body: bytes) -> bytes:
        task = self._receipt.partition("-")[2]
        ask = {"from_agent": self._worker, "message_id": task, "receipt": self._receipt, "result": "done"}
        return self._relay.request("POST", "/respond", ask)

    def _collect(self, body: bytes) -> bytes:
        return self._relay.request("GET", f"/poll/{self._requester}?lease=60")

    def _settle(self, body: bytes) -> bytes:
        ask = {"agent_id": self._requester, "receipts": [read_polled(body).deliveries[0].receipt]}
        return self._relay.request("POST", "/ack", ask)

    def _again(self, body: bytes) -> bytes:
        self.done += 1
        return self._delegate


def lives(folder: str, *, seconds: float, rounds: int, say: Callable[[str], None]) -> list[Row]:
    """Tasks a second from the delegation to the ack of the answer, six requests each, over each store by turns."""
    rates: dict[str, list[float]] = {name: [] for name in _STORES}
    used: dict[str, list[float]] = {name: [] for name in _STORES}
    with ExitStack() as stack:
        relays = {}
        for name, flags in _STORES.items():
            data = ("--data", os.path.join(folder, name)) if flags else ()
            relays[name] = Relay(stack.enter_context(servers.relay(*data, *flags)), None)
        stack.enter_context(servers.on_the_other_core())
        for turn in range(rounds):
            for name, relay in relays.items():
                say(f"{name}, round {turn + 1} of {rounds}")
                rate, processor = asyncio.run(_measured(relay, turn, seconds))
                rates[name].append(rate)
                used[name].append(processor)
    rows = [Row(f"one fsync of {_SYNCED_BYTES} bytes, median", _fsync_seconds(Path(folder)) * 1000, "ms")]
    for name, found in rates.items():
        what = "tasks in memory" if name == "memory" else f"tasks with --data, --sync {name}"
        ratio = statistics.median(mine / memory for mine, memory in zip(found, rates["memory"], strict=True))
        rows.append(Row(what, statistics.median(found), "a second", None))
        if name != "memory":
            rows.append(Row("the same, of memory", ratio, "ratio"))
            more = statistics.median(mine / memory for mine, memory in zip(used[name], used["memory"], strict=True))
            rows.append(Row("processor time of a task, of memory", more, "ratio"))
    return rows


async def _measured(relay: Relay, turn: int, seconds: float) -> tuple[float, float]:
    """Return tasks a second, and processor seconds of the relay a task."""
    requesters, workers = (names_for(f"{role}-{turn}", CONNECTIONS) for role in ("asker", "doer"))
    await relay.register([*requesters, *workers])
    lives = [_Life(relay, *pair) for pair in zip(requesters, workers, strict=True)]
    before = relay.server.processor_seconds() or 0.0
    rate = await drive(relay, lives, seconds)
    spent = (relay.server.processor_seconds() or 0.0) - before
    await relay.leave([*requesters, *workers])
    return rate, max(spent, 1e-9) / max(sum(one.done for one in lives), 1)


def _fsync_seconds(folder: Path) -> float:
    """Return what the disk of a folder takes to have some bytes for good."""
    took = []
    with open(folder / "fsync", "wb", buffering=0) as file:
        for _ in range(_SYNCED):
            file.write(bytes(_SYNCED_BYTES))
            started = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - started)
    return statistics.median(took)
