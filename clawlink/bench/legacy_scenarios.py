"""Measure the round of four requests of a client of 1.0.x, beside a stand-in of the server of 1.0.x."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable

from clawlink.bench.scenarios import BenchFailed, Relay, Row, delegation, names_for, p99
from clawlink.bench.servers import Server

PAIRS = 8


async def rounds(
    relay: Relay, legacy: Server, least: Server, *, seconds: float, rounds: int, say: Callable[[str], None]
) -> list[Row]:
    """Delegate, poll, respond, poll, on kept connections: the relay, beside it a stand-in of the 1.0.2 server.

    ``least`` does the least that a server on aiohttp can do, so it tells which ratio can be had. Leases are measured,
    too.
    """
    pairs = list(zip(names_for("old-asker", PAIRS), names_for("old-worker", PAIRS), strict=True))
    old, bare = Relay(legacy, None), Relay(least, None)
    for server in (relay, old, bare):
        async with await server.open() as asker:
            for pair in pairs:
                for name in pair:
                    await server.ask(asker, "POST", "/register", {"agent_id": name, "name": name})
    rates: dict[str, list[float]] = {"relay": [], "legacy": [], "least": [], "leases": []}
    took: list[float] = []
    for turn in range(rounds):
        say(f"rounds of 1.0.x, round {turn + 1} of {rounds}")
        rates["legacy"].append((await _measure(old, pairs, seconds, leases=False))[0])
        rates["least"].append((await _measure(bare, pairs, seconds, leases=False))[0])
        rate, times = await _measure(relay, pairs, seconds, leases=False)
        rates["relay"].append(rate)
        took += times
        rates["leases"].append((await _measure(relay, pairs, seconds, leases=True))[0])
    await relay.leave([name for pair in pairs for name in pair])
    least_to_legacy = statistics.median(map(_ratio, rates["least"], rates["legacy"]))
    to_legacy = statistics.median(map(_ratio, rates["relay"], rates["legacy"]))
    to_leases = statistics.median(map(_ratio, rates["relay"], rates["leases"]))
    return [
        Row("1.0.x: delegate, poll, respond, poll", statistics.median(rates["relay"]), "rounds a second"),
        Row("the same, p50", statistics.median(took) * 1000, "ms"),
        Row("the same, p99", p99(took) * 1000, "ms"),
        Row("a stand-in of the 1.0.2 server", statistics.median(rates["legacy"]), "rounds a second"),
        Row("the same on the relay with leases and acks", statistics.median(rates["leases"]), "rounds a second"),
        Row("the relay, of the stand-in", to_legacy, "ratio"),
        Row("the least on aiohttp, of the stand-in", least_to_legacy, "ratio"),
        Row("without leases, of with leases", to_leases, "ratio"),
    ]


def _ratio(one: float, other: float) -> float:
    return one / other


async def _measure(
    relay: Relay, pairs: list[tuple[str, str]], seconds: float, *, leases: bool
) -> tuple[float, list[float]]:
    took: list[float] = []
    started = time.perf_counter()
    until = started + seconds

    async def go(sender: str, worker: str) -> None:
        async with await relay.open() as asking, await relay.open() as working:
            while not took or time.perf_counter() < until:  # a busy machine may take all the time to connect
                begun = time.perf_counter()
                task = {**delegation(worker), "from_agent": sender}
                id = (await relay.ask(asking, "POST", "/delegate", task))["message_id"]
                for agent, asker in ((worker, working), (sender, asking)):
                    polled = await relay.ask(asker, "GET", f"/poll/{agent}{'?lease=60' if leases else ''}")
                    if [message["message_id"] for message in polled["messages"]] != [id]:
                        raise BenchFailed(f"a poll of {agent} gave {polled['messages']} and not {id} alone")
                    if leases:
                        receipts = [lease["receipt"] for lease in polled["deliveries"]]
                        await relay.ask(asker, "POST", "/ack", {"agent_id": agent, "receipts": receipts})
                    if agent == worker:
                        answer = {"from_agent": worker, "to_agent": sender, "message_id": id, "result": "done"}
                        await relay.ask(working, "POST", "/respond", answer)
                took.append(time.perf_counter() - begun)

    await asyncio.gather(*(go(*pair) for pair in pairs))
    return len(took) / (time.perf_counter() - started), took
