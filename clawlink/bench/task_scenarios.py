"""Measure tasks: whole lives a second, the time until a dead worker's task goes on, and lists of many."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable

import msgspec

from clawlink.bench.exchange import Exchange, Round, drive, receipts_in
from clawlink.bench.load import Asker, saturate
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


_read_delegated = msgspec.json.Decoder(_Delegated).decode


def _life(relay: Relay, requester: str, worker: str) -> Exchange:
    """Two agents that take task after task from delegation to the answer's arrival."""
    delegate = relay.request("POST", "/delegate", {**delegation(worker), "from_agent": requester})
    claim = relay.request("GET", f"/poll/{worker}?lease=60")
    collect = relay.request("GET", f"/poll/{requester}?lease=60")

    def task() -> Round:
        ask = {"from_agent": worker, "message_id": _read_delegated((yield delegate)).message_id}
        [ask["receipt"]] = receipts_in((yield claim), count=1)
        yield relay.request("POST", "/respond", {**ask, "status": "in_progress", "progress": 50, "note": "half way"})
        yield relay.request("POST", "/respond", {**ask, "status": "completed", "result": "done"})
        receipts_in((yield collect), count=2)

    return Exchange(task)


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
    return await drive(relay, [_life(relay, *pair) for pair in zip(requesters, workers, strict=True)], seconds)


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
