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
from clawlink.bench.exchange import Exchange, Round, drive, receipts_in
from clawlink.bench.scenarios import CONNECTIONS, Relay, Row, delegation, names_for

_SYNCED = 200
_SYNCED_BYTES = 4096
_STORES = {"memory": (), "full": ("--sync", "full"), "normal": ("--sync", "normal")}


def life(relay: Relay, requester: str, worker: str) -> Exchange:
    """Two agents that take task after task through delegate, claim, ack, respond, claim and ack of the answer."""
    delegate = relay.request("POST", "/delegate", {**delegation(worker), "from_agent": requester})
    claim = relay.request("GET", f"/poll/{worker}?lease=60")
    collect = relay.request("GET", f"/poll/{requester}?lease=60")

    def task() -> Round:
        yield delegate
        [receipt] = receipts_in((yield claim), count=1)
        yield relay.request("POST", "/ack", {"agent_id": worker, "receipts": [receipt]})
        answer = {"from_agent": worker, "message_id": receipt.partition("-")[2], "receipt": receipt, "result": "done"}
        yield relay.request("POST", "/respond", answer)
        answers = receipts_in((yield collect), count=1)
        yield relay.request("POST", "/ack", {"agent_id": requester, "receipts": answers})

    return Exchange(task)


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
                rate, processor = asyncio.run(measured(relay, turn, seconds))
                rates[name].append(rate)
                used[name].append(processor)
    rows = [Row(f"one fsync of {_SYNCED_BYTES} bytes, median", fsync_seconds(Path(folder)) * 1000, "ms")]
    for name, found in rates.items():
        what = "tasks in memory" if name == "memory" else f"tasks with --data, --sync {name}"
        ratio = statistics.median(mine / memory for mine, memory in zip(found, rates["memory"], strict=True))
        rows.append(Row(what, statistics.median(found), "a second", None))
        if name != "memory":
            rows.append(Row("the same, of memory", ratio, "ratio"))
            more = statistics.median(mine / memory for mine, memory in zip(used[name], used["memory"], strict=True))
            rows.append(Row("processor time of a task, of memory", more, "ratio"))
    return rows


async def measured(relay: Relay, turn: int, seconds: float) -> tuple[float, float]:
    """Return tasks a second, and processor seconds of the relay a task."""
    requesters, workers = (names_for(f"{role}-{turn}", CONNECTIONS) for role in ("asker", "doer"))
    await relay.register([*requesters, *workers])
    lives = [life(relay, *pair) for pair in zip(requesters, workers, strict=True)]
    before = relay.server.processor_seconds() or 0.0
    rate = await drive(relay, lives, seconds)
    spent = (relay.server.processor_seconds() or 0.0) - before
    await relay.leave([*requesters, *workers])
    return rate, max(spent, 1e-9) / max(sum(one.done for one in lives), 1)


def fsync_seconds(folder: Path) -> float:
    """Return the seconds that the disk of a folder needs to put some bytes on it for good."""
    took = []
    with open(folder / "fsync", "wb", buffering=0) as file:
        for _ in range(_SYNCED):
            file.write(bytes(_SYNCED_BYTES))
            started = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - started)
    return statistics.median(took)
