"""Measure tasks: whole lives a second, the time until a dead worker's task goes on, and lists of many."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from clawlink.bench.load import Asker, Connection, connect, measure, saturate
from clawlink.bench.scenarios import CONNECTIONS, BenchFailed, Relay, Row, delegation, names_for, p99
from clawlink.bench.servers import Server

LISTED = 50_000
TAKEOVERS = 20
LEASE_SECONDS = 5.0
STALE_SECONDS = 3.0
_REQUESTS_A_TASK = 5
_STATES = ("queued", "delivered", "in_progress", "completed")


class _Delegated(msgspec.Struct):
    message_id: str


class _Lease(msgspec.Struct):
    receipt: str


class _Polled(msgspec.Struct):
    deliveries: list[_Lease]


_read_delegated = msgspec.json.Decoder(_Delegated).decode
read_polled = msgspec.json.Decoder(_Polled).decode


class _Lives:
    """A pair of agents on a connection that takes task after task from delegation to the answer's arrival."""

    def __init__(self, relay: Relay, requester: str, worker: str) -> None:
        self._relay = relay
        self._worker = worker
        self._delegate = relay.request("POST", "/delegate", {**delegation(worker), "from_agent": requester})
        self._claim = relay.request("GET", f"/poll/{worker}?lease=60")
        self._collect = relay.request("GET", f"/poll/{requester}?lease=60")
        self._task = self._receipt = ""
        self._next = self._delegated
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
            connection.send(self._next(body))

    def _delegated(self, body: bytes) -> bytes:
        self._task = _read_delegated(body).message_id
        self._next = self._claimed
        return self._claim

    def _claimed(self, body: bytes) -> bytes:
        self._receipt = read_polled(body).deliveries[0].receipt
        self._next = self._reported
        return self._respond(status="in_progress", progress=50, note="half way")

    def _reported(self, body: bytes) -> bytes:
        self._next = self._finished
        return self._respond(status="completed", result="done")

    def _finished(self, body: bytes) -> bytes:
        self._next = self._collected
        return self._collect

    def _collected(self, body: bytes) -> bytes:
        if not read_polled(body).deliveries:
            self.failed, self.running = b"an answer did not arrive", False
        self.done += 1
        self._next = self._delegated
        return self._delegate

    def _respond(self, **said: object) -> bytes:
        ask = {"from_agent": self._worker, "message_id": self._task, "receipt": self._receipt, **said}
        return self._relay.request("POST", "/respond", ask)


async def lives(
    relay: Relay, floor: Server | None, *, seconds: float, rounds: int, say: Callable[[str], None]
) -> list[Row]:
    """Tasks a second through delegate, claim, in_progress, completed and the answer's claim; five requests each."""
    requesters, workers = names_for("requester", CONNECTIONS), names_for("doer", CONNECTIONS)
    await relay.register([*requesters, *workers])
    bare = relay.request("POST", "/delegate", delegation(workers[0]))
    rates, ratios = [], []
    for turn in range(rounds):
        say(f"tasks, round {turn + 1} of {rounds}")
        base = None
        if floor is not None:
            base, _, _ = await saturate(floor.url, lambda: bare, connections=CONNECTIONS, seconds=seconds)
        rate = await _live(relay, requesters, workers, seconds)
        rates.append(rate)
        if base is not None:
            ratios.append(rate * _REQUESTS_A_TASK / base)
    await relay.leave([*requesters, *workers])
    what = "tasks: delegate, claim, in_progress, completed, answer claimed"
    return [Row(what, statistics.median(rates), "a second", statistics.median(ratios) if ratios else None)]


async def _live(relay: Relay, requesters: list[str], workers: list[str], seconds: float) -> float:
    return await drive(relay, [_Lives(relay, *pair) for pair in zip(requesters, workers, strict=True)], seconds)


class Exchange(Protocol):
    """Requests that follow from each other on one connection, round after round."""

    running: bool
    done: int
    failed: bytes | None

    def start(self, connection: Connection) -> None:
        """Send the first request."""

    def answered(self, connection: Connection, status: int, body: bytes) -> None:
        """Take an answer and send what comes next."""


async def drive(relay: Relay, exchanges: Sequence[Exchange], seconds: float) -> float:
    """Run exchanges side by side, and return their rounds a second. Raises BenchFailed if one fails."""
    running = True

    def spin() -> None:
        # Never sleep, as for delegations: the server would pay for waking us.
        if running:
            loop.call_soon(spin)

    loop = asyncio.get_running_loop()
    opened = [(await connect(relay.server.url, one.answered), one) for one in exchanges]
    loop.call_soon(spin)
    started = time.perf_counter()
    for connection, one in opened:
        one.start(connection)
    await measure(seconds, lambda: sum(one.done or one.failed is not None for one in exchanges))
    rate = sum(one.done for one in exchanges) / (time.perf_counter() - started)
    running = False
    for _, one in opened:
        one.running = False
    for connection, one in opened:
        connection.transport.abort()
        await connection.closed
        if one.failed is not None:
            raise BenchFailed(one.failed.decode(errors="replace"))
    return rate


async def takeovers(relay: Relay, *, say: Callable[[str], None]) -> list[Row]:
    """How long after its lease, or after its worker went stale, a task of a dead worker is in another's hands.

    Expects a relay with ``--stale-after`` of ``STALE_SECONDS``.
    """
    rows = []
    for acked in (False, True):
        dead, heirs = names_for("dead", TAKEOVERS), names_for("heir", TAKEOVERS)
        await relay.register(["bench-owner"])
        await _register_able(relay, dead)
        for _ in dead:
            await _ask(relay, "POST", "/delegate", {"from_agent": "bench-owner", "task": "x", "capability": "bench"})
        died = {}
        for name in dead:
            polled = await _ask(relay, "GET", f"/poll/{name}?lease={LEASE_SECONDS:g}")
            if acked:
                receipts = [lease["receipt"] for lease in polled["deliveries"]]
                await _ask(relay, "POST", "/ack", {"agent_id": name, "receipts": receipts})
            died[polled["messages"][0]["message_id"]] = time.perf_counter()
        say(f"takeover of {TAKEOVERS} tasks, {'acknowledged' if acked else 'not acknowledged'}")
        await _register_able(relay, heirs)
        held = max(LEASE_SECONDS, STALE_SECONDS) if acked else LEASE_SECONDS
        late = [at - died[task] - held for task, at in await asyncio.gather(*(_inherit(relay, name) for name in heirs))]
        await relay.leave(["bench-owner", *dead, *heirs])
        what = "after the ack, once the worker is silent" if acked else "once the lease is over"
        rows += [
            Row(f"a dead worker's task in other hands, {what}, p50", statistics.median(late) * 1000, "ms"),
            Row(f"a dead worker's task in other hands, {what}, slowest", max(late) * 1000, "ms"),
        ]
    return rows


async def _register_able(relay: Relay, names: list[str]) -> None:
    for name in names:
        await _ask(relay, "POST", "/register", {"agent_id": name, "name": name, "capabilities": ["bench"]})


async def _ask(relay: Relay, method: str, path: str, body: object = None) -> dict[str, list[dict[str, str]]]:
    async with await relay.open() as asker:
        answer: dict[str, list[dict[str, str]]] = await relay.ask(asker, method, path, body)
        return answer


async def _inherit(relay: Relay, name: str) -> tuple[str, float]:
    """Wait for a task that was another's, and finish it; return which it was, and when it came."""
    async with await relay.open() as asker:
        while True:
            polled = await relay.ask(asker, "GET", f"/poll/{name}?wait=30&lease=60")
            at = time.perf_counter()
            tasks = [message["message_id"] for message in polled["messages"] if message["type"] == "task_delegation"]
            if tasks:  # finished, so that it does not go on to the next ones
                await relay.ask(asker, "POST", "/respond", {"from_agent": name, "message_id": tasks[0]})
                return tasks[0], at


async def lists(relay: Relay, *, seconds: float, say: Callable[[str], None]) -> list[Row]:
    """``GET /tasks`` by requester and state, a hundred of 50,000 tasks at a time."""
    workers = names_for("listed", CONNECTIONS)
    await relay.register(["bench-sender", *workers])
    say(f"{LISTED} tasks")
    requests = itertools.cycle([relay.request("POST", "/delegate", delegation(name)) for name in workers])
    async with await relay.open() as asker:
        for _ in range(LISTED):
            await asker.ask(next(requests))
        for name in workers:
            await _advance(relay, asker, name)
        rows = []
        for state in _STATES:
            request = relay.request("GET", f"/tasks?requester=bench-sender&status={state}")
            answer = await relay.ask(asker, "GET", f"/tasks?requester=bench-sender&status={state}")
            if answer["count"] != 100:
                raise BenchFailed(f"of {LISTED} tasks only {answer['count']} were listed as {state}")
            took = []
            until = time.perf_counter() + seconds / len(_STATES)
            while time.perf_counter() < until:
                started = time.perf_counter()
                await asker.ask(request)
                took.append(time.perf_counter() - started)
            rows += [
                Row(f"100 of {LISTED} tasks, by requester and {state}, p50", statistics.median(took) * 1000, "ms"),
                Row(f"100 of {LISTED} tasks, by requester and {state}, p99", p99(took) * 1000, "ms"),
            ]
    await relay.leave(["bench-sender", *workers])
    return rows


async def _advance(relay: Relay, asker: Asker, worker: str) -> None:
    """Bring some of a worker's tasks into every state."""
    polled = await relay.ask(asker, "GET", f"/poll/{worker}?lease=3600&max={LISTED // CONNECTIONS // 2}")
    ids = [message["message_id"] for message in polled["messages"]]
    for number, id in enumerate(ids[: len(ids) // 3 * 2]):
        state = "in_progress" if number % 2 else "completed"
        await relay.ask(asker, "POST", "/respond", {"from_agent": worker, "message_id": id, "status": state})
