"""The measurements: functions that each return the rows of a table."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from clawlink.bench.load import Asker, request_bytes, saturate
from clawlink.bench.servers import Server, allow_connections
from clawlink.errors import ClawLinkError

CONNECTIONS = 32
RECIPIENTS = 64
CONSUMERS = 4
AGENTS = 3000
BODY_BYTES = 500
MESSAGE_BYTES = 600
WAITING = 5000
MESSAGES = 60_000
_SENDER = "bench-sender"


class Row(NamedTuple):
    """A measured figure. ``ratio`` is to the floor of the same run."""

    what: str
    value: float
    unit: str
    ratio: float | None = None


class BenchFailed(ClawLinkError):
    """The relay refused what the bench asked of it."""

    code = "bench_failed"


class Relay:
    """Asks a relay for the bench."""

    def __init__(self, server: Server, token: str | None) -> None:
        self.server = server
        self.token = token

    def request(self, method: str, path: str, body: Any = None) -> bytes:
        """Write a request."""
        return request_bytes(method, path, b"" if body is None else msgspec.json.encode(body), token=self.token)

    async def open(self) -> Asker:
        """Open a connection to ask on."""
        return await Asker.open(self.server.url)

    async def ask(self, asker: Asker, method: str, path: str, body: Any = None) -> Any:
        """Ask and return the answer. Raises BenchFailed with what the relay said."""
        status, answer = await asker.ask(self.request(method, path, body))
        if status != 200:
            raise BenchFailed(f"{method} {path}: {answer.decode(errors='replace')}")
        return msgspec.json.decode(answer)

    async def register(self, names: Sequence[str]) -> None:
        """Register agents whose ids are their names, and throw away what they were told about each other."""
        async with await self.open() as asker:
            for name in names:
                await self.ask(asker, "POST", "/register", {"agent_id": name, "name": name})
            for name in names:
                await _claim_and_ack(self, asker, name)

    async def leave(self, names: Sequence[str]) -> None:
        """Take the agents away again."""
        async with await self.open() as asker:
            for name in names:
                await self.ask(asker, "DELETE", f"/agents/{name}")


def names_for(prefix: str, number: int) -> list[str]:
    """Name agents of one role."""
    return [f"bench-{prefix}-{i:04}" for i in range(number)]


def delegation(to: str, size: int = BODY_BYTES) -> dict[str, Any]:
    """Return the body of a delegation that is ``size`` bytes long as JSON."""
    body = {"from_agent": _SENDER, "to_agent": to, "task": "", "context": {"depth": 2, "tags": ["a", "b"]}}
    body["task"] = "x" * (size - len(msgspec.json.encode(body)))
    return body


async def delegate(
    relay: Relay, floor: Server | None, *, seconds: float, rounds: int, say: Callable[[str], None]
) -> list[Row]:
    """Delegations a second, on 32 connections to 64 recipients: while consumers drain, and while nobody does."""
    names = names_for("recipient", RECIPIENTS)
    await relay.register([_SENDER, *names])
    requests = [relay.request("POST", "/delegate", delegation(name)) for name in names]
    rows = []
    for drained in (True, False):
        rates, ratios = [], []
        for turn in range(rounds):
            say(f"delegate, {'drained' if drained else 'not drained'}, round {turn + 1} of {rounds}")
            base = None
            if floor is not None:
                base, _, _ = await saturate(floor.url, lambda: requests[0], connections=CONNECTIONS, seconds=seconds)
            consumers = [
                asyncio.create_task(_consume(relay, names[i::CONSUMERS])) for i in range(CONSUMERS if drained else 0)
            ]
            rate, _, refused = await saturate(
                relay.server.url, itertools.cycle(requests).__next__, connections=CONNECTIONS, seconds=seconds
            )
            for consumer in consumers:
                consumer.cancel()
            await asyncio.gather(*consumers, return_exceptions=True)
            if refused:
                raise BenchFailed(f"the relay refused {refused} delegations; see its limits")
            rates.append(rate)
            if base is not None:
                ratios.append(rate / base)
            await _drain(relay, names)
        what = "delegate, consumers drain" if drained else "delegate, nobody drains"
        rows.append(Row(what, statistics.median(rates), "a second", statistics.median(ratios) if ratios else None))
    await relay.leave([_SENDER, *names])
    return rows


async def _consume(relay: Relay, names: Sequence[str]) -> None:
    """Poll each mailbox in turn, about once a second, and ack what came."""
    asker = await relay.open()
    try:
        while True:
            for name in names:
                await _claim_and_ack(relay, asker, name)
                await asyncio.sleep(1 / len(names))
    finally:
        await asker.close()


async def _claim_and_ack(relay: Relay, asker: Asker, name: str) -> int:
    claimed = await relay.ask(asker, "GET", f"/poll/{name}?lease=60&max=1000")
    receipts = [lease["receipt"] for lease in claimed["deliveries"]]
    if receipts:
        await relay.ask(asker, "POST", "/ack", {"agent_id": name, "receipts": receipts})
    return len(receipts)


async def _drain(relay: Relay, names: Sequence[str]) -> None:
    asker = await relay.open()
    for name in names:
        while await _claim_and_ack(relay, asker, name):
            pass
    await asker.close()


async def work(relay: Relay, *, seconds: float, say: Callable[[str], None]) -> list[Row]:
    """Whole rounds a second (delegate, claim, ack, respond, claim, ack), and how fast a waiting poll is reached."""
    pairs = 16
    askers, workers = names_for("asker", pairs), names_for("worker", pairs)
    await relay.register([*askers, *workers])
    say("whole rounds")
    done = 0

    async def go_round(asker_name: str, worker_name: str) -> None:
        nonlocal done
        asker = await relay.open()
        while time.perf_counter() < until:
            task = {**delegation(worker_name), "from_agent": asker_name}
            id = (await relay.ask(asker, "POST", "/delegate", task))["message_id"]
            await _claim_and_ack(relay, asker, worker_name)
            answer = {"from_agent": worker_name, "message_id": id, "result": "done"}
            await relay.ask(asker, "POST", "/respond", answer)
            await _claim_and_ack(relay, asker, asker_name)
            done += 1
        await asker.close()

    started = time.perf_counter()
    until = started + seconds
    await asyncio.gather(*map(go_round, askers, workers))
    rate = done / (time.perf_counter() - started)
    say("arrival at a waiting poll")
    delays = await _arrivals(relay, askers[0], workers[0], seconds)
    await relay.leave([*askers, *workers])
    return [
        Row("delegate, claim, ack, respond, claim, ack", rate, "rounds a second"),
        Row("from delegate's reply to a waiting poll, p50", statistics.median(delays) * 1000, "ms"),
        Row("from delegate's reply to a waiting poll, p99", p99(delays) * 1000, "ms"),
    ]


async def _arrivals(relay: Relay, sender: str, worker: str, seconds: float) -> list[float]:
    """Delegate now and then to a worker that waits in a long poll; return the seconds from reply to arrival."""
    asker, poller = await relay.open(), await relay.open()
    delays = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        polling = asyncio.create_task(_timed(relay.ask(poller, "GET", f"/poll/{worker}?wait=30&lease=60")))
        await asyncio.sleep(0.005)
        _, replied = await _timed(relay.ask(asker, "POST", "/delegate", {**delegation(worker), "from_agent": sender}))
        claimed, arrived = await polling
        delays.append(max(arrived - replied, 0.0))
        receipts = [lease["receipt"] for lease in claimed["deliveries"]]
        await relay.ask(asker, "POST", "/ack", {"agent_id": worker, "receipts": receipts})
    await asker.close()
    await poller.close()
    return delays


async def _timed(waiting: Any) -> tuple[Any, float]:
    return await waiting, time.perf_counter()


async def many_agents(relay: Relay, *, seconds: float, say: Callable[[str], None]) -> list[Row]:
    """Discover among 3,000 agents, and what a broadcast to all of them does to others."""
    names = names_for("agent", AGENTS)
    say(f"registering {AGENTS} agents")
    await relay.register([_SENDER, *names])
    asker = await relay.open()
    request = relay.request("GET", "/discover")
    await asker.ask(request)
    say("discover")
    times = []
    until = time.perf_counter() + seconds / 2
    while time.perf_counter() < until:
        started = time.perf_counter()
        await asker.ask(request)
        times.append(time.perf_counter() - started)
    say("broadcast")
    alone = await pings(relay, asyncio.sleep(seconds / 2))

    async def broadcast() -> None:
        for turn in range(10):
            await relay.ask(asker, "POST", "/broadcast", {"from_agent": _SENDER, "content": f"news {turn}"})

    started = time.perf_counter()
    beside = await pings(relay, broadcast())
    each = (time.perf_counter() - started) / 10
    await relay.leave([_SENDER, *names])
    await asker.close()
    return [
        Row(f"discover, {AGENTS} agents, p50", statistics.median(times) * 1000, "ms"),
        Row(f"discover, {AGENTS} agents, p99", p99(times) * 1000, "ms"),
        Row(f"broadcast to {AGENTS} agents", each * 1000, "ms"),
        Row("another request, nothing going on, p50", statistics.median(alone) * 1000, "ms"),
        Row("another request, nothing going on, slowest", max(alone) * 1000, "ms"),
        Row("another request beside broadcasts, p50", statistics.median(beside) * 1000, "ms"),
        Row("another request beside broadcasts, slowest", max(beside) * 1000, "ms"),
    ]


async def pings(relay: Relay, meanwhile: Any) -> list[float]:
    """Ask something small again and again while something else goes on; return how long each took."""
    asker = await relay.open()
    request = relay.request("GET", "/healthz")
    going_on = asyncio.ensure_future(meanwhile)
    took = []
    while not going_on.done():
        started = time.perf_counter()
        await asker.ask(request)
        took.append(time.perf_counter() - started)
        await asyncio.sleep(0.0005)
    await going_on
    await asker.close()
    return took


async def memory(relay: Relay, *, say: Callable[[str], None]) -> list[Row]:
    """Bytes that a queued message of 600 bytes takes, and a waiting poll; only for a relay that was started here."""
    rows = []
    names = names_for("box", RECIPIENTS)
    await relay.register([_SENDER, *names])
    asker = await relay.open()
    before = await _size_of_message(relay, asker, names[0])
    bodies = [delegation(name, BODY_BYTES + MESSAGE_BYTES - before) for name in names]
    requests = itertools.cycle([relay.request("POST", "/delegate", body) for body in bodies])
    for _ in range(MESSAGES // 10):  # what the relay needs once, it has by now
        await asker.ask(next(requests))
    first = relay.server.memory()
    say(f"{MESSAGES} queued messages")
    for _ in range(MESSAGES):
        await asker.ask(next(requests))
    last = relay.server.memory()
    if first is not None and last is not None:
        rows.append(Row(f"memory of a queued {MESSAGE_BYTES}-byte message", (last - first) / MESSAGES, "bytes"))
    await relay.leave([_SENDER, *names])
    await asker.close()
    return rows


async def _size_of_message(relay: Relay, asker: Asker, name: str) -> int:
    await relay.ask(asker, "POST", "/delegate", delegation(name))
    polled = await relay.ask(asker, "GET", f"/poll/{name}")
    return len(msgspec.json.encode(polled["messages"][0]))


async def waiting_polls(relay: Relay, *, seconds: float, say: Callable[[str], None]) -> list[Row]:
    """5,000 polls held open at once: what each costs, and what they do to others."""
    number = allow_connections(WAITING)
    names = names_for("waiting", 100)
    await relay.register(names)
    askers: list[Asker] = []
    polls: list[asyncio.Future[Any]] = []

    async def open_them() -> None:
        say(f"{number} waiting polls")
        for i in range(number):
            askers.append(await relay.open())
            request = relay.request("GET", f"/poll/{names[i % len(names)]}?wait=60&lease=60")
            polls.append(asyncio.ensure_future(askers[-1].ask(request)))
            if i % 100 == 99:
                await asyncio.sleep(0.01)

    rows = await others_wait(relay, open_them, "waiting poll", number, seconds)
    for poll in polls:
        poll.cancel()
    await asyncio.gather(*polls, return_exceptions=True)
    for asker in askers:
        await asker.close()
    await relay.leave(names)
    return rows


async def others_wait(
    relay: Relay, open_them: Callable[[], Awaitable[None]], what: str, number: int, seconds: float
) -> list[Row]:
    """Measure the cost of each of many open connections, and the delay that they cause for others."""
    alone = await pings(relay, asyncio.sleep(seconds / 2))
    first = relay.server.memory()
    await open_them()
    await asyncio.sleep(0.5)
    last = relay.server.memory()
    beside = await pings(relay, asyncio.sleep(seconds / 2))
    rows = []
    if first is not None and last is not None:
        rows.append(Row(f"memory of each {what}, {number} at once", (last - first) / number, "bytes"))
    added = statistics.median(beside) - statistics.median(alone)
    rows.append(Row(f"delay that {number} {what}s add to others, p50", added * 1000, "ms"))
    rows.append(Row(f"delay that {number} {what}s add to others, p99", (p99(beside) - p99(alone)) * 1000, "ms"))
    return rows


def p99(values: Sequence[float]) -> float:
    """Return the value that 99 of 100 do not pass."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
