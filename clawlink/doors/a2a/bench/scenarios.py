"""Measure A2A: messages that waiting workers answer, beside the same work over the relay's own routes, and streams."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import msgspec

from clawlink.bench import servers
from clawlink.bench.load import Asker, request_bytes
from clawlink.bench.scenarios import BenchFailed, Relay, Row, names_for, p99
from clawlink.loop_run import run

PAIRS = 16
SECONDS = 2.0
ROUNDS = 5
EVENTS = 300
PAUSE_SECONDS = 0.003
VERSION = {"A2A-Version": "1.0"}
Client = Callable[[], "contextlib.AbstractAsyncContextManager[Callable[[], Coroutine[Any, Any, None]]]"]
_TEXT = "Count the words: to be or not to be"
BODY = msgspec.json.encode({"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": _TEXT}]}})


def measure(*, say: Callable[[str], None]) -> list[Row]:
    """Measure a relay of its own."""
    with servers.relay("--a2a") as server, servers.on_the_other_core():
        return run(_measure(Relay(server, None), say))


async def _measure(relay: Relay, say: Callable[[str], None]) -> list[Row]:
    return [*await _answered(relay, say), *await _streamed(relay, say)]


# -- messages ----------------------------------------------------------------------------------------------------------


async def _answered(relay: Relay, say: Callable[[str], None]) -> list[Row]:
    """Tasks a second from client to worker and back: by SendMessage, and by delegate and a poll for the response."""
    workers, requesters = names_for("a2a-worker", PAIRS), names_for("a2a-requester", PAIRS)
    await relay.register([*workers, *requesters])
    rates: dict[str, list[float]] = {"a2a": [], "own": []}
    costs: dict[str, list[float]] = {"a2a": [], "own": []}
    for turn in range(ROUNDS):
        say(f"messages by A2A and by delegate, round {turn + 1} of {ROUNDS}")
        sends = [partial(_send, relay, worker) for worker in workers]
        await _note(relay, workers, sends, rates["a2a"], costs["a2a"])
        asks = [partial(_delegate, relay, *pair) for pair in zip(requesters, workers, strict=True)]
        await _note(relay, workers, asks, rates["own"], costs["own"])
    await relay.leave([*workers, *requesters])
    ratios = [a2a / own for a2a, own in zip(rates["a2a"], rates["own"], strict=True)]
    rows = [
        Row(f"SendMessage answered by a waiting worker, {PAIRS} pairs", statistics.median(rates["a2a"]), "a second"),
        Row("the same by delegate, respond and a waiting poll", statistics.median(rates["own"]), "a second"),
        Row("SendMessage, of these", statistics.median(ratios), "ratio"),
    ]
    if costs["a2a"]:
        cost = statistics.median(own / a2a for a2a, own in zip(costs["a2a"], costs["own"], strict=True))
        rows.append(Row("the same by the relay's processor time", cost, "ratio"))
    return rows


async def _note(
    relay: Relay, workers: list[str], clients: Sequence[Client], rates: list[float], costs: list[float]
) -> None:
    """Measure once: note the tasks a second, and the relay's processor time of a task where that can be told."""
    before = relay.server.processor_seconds()
    rate, done = await _rate(relay, workers, clients)
    after = relay.server.processor_seconds()
    rates.append(rate)
    if before is not None and after is not None and done:
        costs.append((after - before) / done)


async def _rate(relay: Relay, workers: list[str], clients: Sequence[Client]) -> tuple[float, int]:
    """Return the tasks a second, and how many there were, of clients that each have a worker of their own."""
    at_work = [asyncio.create_task(work(relay, worker)) for worker in workers]
    done = 0

    async def ask(client: Client) -> None:
        nonlocal done
        async with client() as once:
            while time.perf_counter() < until:
                await once()
                done += 1

    started = time.perf_counter()
    until = started + SECONDS
    try:
        await asyncio.gather(*map(ask, clients))
        return done / (time.perf_counter() - started), done
    finally:
        for one in at_work:
            one.cancel()
        await asyncio.gather(*at_work, return_exceptions=True)


async def work(relay: Relay, name: str) -> None:
    """Wait for tasks, and answer each with a word."""
    async with await relay.open() as asker:
        while True:
            polled = await relay.ask(asker, "GET", f"/poll/{name}?wait=30&lease=60")
            for message, held in zip(polled["messages"], polled["deliveries"], strict=True):
                answer = {"from_agent": name, "message_id": message["message_id"], "result": "10"}
                await relay.ask(asker, "POST", "/respond", {**answer, "receipt": held["receipt"]})


@contextlib.asynccontextmanager
async def _send(relay: Relay, worker: str) -> AsyncIterator[Callable[[], Coroutine[Any, Any, None]]]:
    request = request_bytes("POST", f"/a2a/{worker}/message:send", BODY, headers=VERSION)
    async with await relay.open() as asker:

        async def once() -> None:
            status, answer = await asker.ask(request)
            if status != 200 or b'"TASK_STATE_COMPLETED"' not in answer:
                raise BenchFailed(f"SendMessage: {answer.decode(errors='replace')}")

        yield once


@contextlib.asynccontextmanager
async def _delegate(
    relay: Relay, requester: str, worker: str
) -> AsyncIterator[Callable[[], Coroutine[Any, Any, None]]]:
    task = {"from_agent": requester, "to_agent": worker, "task": _TEXT}
    receipts: list[str] = []
    async with await relay.open() as asker:

        async def once() -> None:
            await relay.ask(asker, "POST", "/delegate", task)
            ask = {"lease": 60, "wait": 30, "ack": list(receipts)}
            polled = await relay.ask(asker, "POST", f"/poll/{requester}", ask)
            receipts[:] = [held["receipt"] for held in polled["deliveries"]]
            if not receipts:
                raise BenchFailed("a response did not come")

        yield once
        await relay.ask(asker, "POST", "/ack", {"agent_id": requester, "receipts": receipts})


# -- streams -----------------------------------------------------------------------------------------------------------


async def _streamed(relay: Relay, say: Callable[[str], None]) -> list[Row]:
    """The time from a worker's report to the event that the client reads."""
    name = "bench-a2a-streamer"
    await relay.register([name])
    say("events of a stream")
    url = urlsplit(relay.server.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(request_bytes("POST", f"/a2a/{name}/message:stream", BODY, headers=VERSION))
    took: list[float] = []
    async with await relay.open() as asker:
        polled = await relay.ask(asker, "GET", f"/poll/{name}?wait=30&lease=60")
        id = polled["messages"][0]["message_id"]
        for number in range(EVENTS):
            await asyncio.sleep(PAUSE_SECONDS)
            note = f"step {number}."
            took.append(await _until_told(asker, reader, relay, {"from_agent": name, "message_id": id, "note": note}))
        await relay.ask(asker, "POST", "/respond", {"from_agent": name, "message_id": id, "result": "10"})
    writer.close()
    await relay.leave([name])
    return [
        Row("from respond to the client's event, p50", statistics.median(took) * 1000, "ms"),
        Row("from respond to the client's event, p99", p99(took) * 1000, "ms"),
    ]


async def _until_told(asker: Asker, reader: asyncio.StreamReader, relay: Relay, report: dict[str, str]) -> float:
    """Report, and return the seconds until the stream has told it."""
    note = report["note"].encode()
    started = time.perf_counter()
    reporting = asyncio.create_task(relay.ask(asker, "POST", "/respond", {**report, "status": "in_progress"}))
    while note not in (line := await reader.readline()):
        if not line:
            raise BenchFailed("a stream broke off")
    took = time.perf_counter() - started
    await reporting
    return took
