"""Measure relays with ``--store`` beside one in memory, by turns: one on a server, and two that share it.

Relay, server and load are three processes that work at the same time. So no process has a core of its own, and the load
sleeps while it waits: on two cores it would take one from the others otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from clawlink.bench import servers
from clawlink.bench.data_scenarios import life
from clawlink.bench.exchange import drive
from clawlink.bench.scenarios import CONNECTIONS, Relay, Row, names_for
from clawlink.bench.socket_scenarios import latency

_PACE = 500  # messages a second, from the one relay to the other where there are two
_MEMORY, _ONE, _TWO, _HALVES = "in memory", "with --store", "with two relays", "with two relays, half of the load each"
_APART = {
    _TWO: "with a relay on each of two meshes",
    _HALVES: "with a relay on each of two meshes, half of the load each",
}


class _Turn:
    """The figures of a turn: tasks a second, and the processor seconds of a task, of the relays and of the server."""

    def __init__(self, rate: float, relays: float, server: float) -> None:
        self.rate = rate
        self.relays = relays
        self.server = server


def lives(store: str, *, seconds: float, rounds: int, say: Callable[[str], None]) -> list[Row]:
    """Tasks a second from the delegation to the ack of the answer, on 32 connections at each relay."""
    found: dict[str, list[_Turn]] = {}
    with ExitStack() as stack:
        stack.enter_context(servers.free_cores())

        def started(*flags: str) -> Relay:
            return Relay(stack.enter_context(servers.relay(*flags)), None)

        def shared() -> tuple[str, ...]:
            return ("--store", store, "--store-prefix", f"bench-{secrets.token_hex(4)}")

        one, two = shared(), shared()
        alone, single, pair = [started()], [started(*one)], [started(*two), started(*two)]
        apart = [started(*shared()), started(*shared())]
        measured = {
            _MEMORY: (alone, CONNECTIONS),
            _ONE: (single, CONNECTIONS),
            _TWO: (pair, CONNECTIONS),
            _APART[_TWO]: (apart, CONNECTIONS),
            _HALVES: (pair, CONNECTIONS // 2),
            _APART[_HALVES]: (apart, CONNECTIONS // 2),
        }
        for turn in range(rounds):
            for name, (relays, connections) in measured.items():
                say(f"{name}, round {turn + 1} of {rounds}")
                of = f"{turn}-{connections}"
                found.setdefault(name, []).append(asyncio.run(_measured(store, relays, of, connections, seconds)))
        arrivals = []
        for name, relays in (("in memory", alone), ("one relay", single), ("from one relay to the other", pair)):
            for row in asyncio.run(
                latency(relays[0], seconds=seconds, say=say, pace=_PACE, to=relays[-1], spins=False)
            ):
                arrivals.append(row._replace(what=f"{row.what}, {name}"))
    rows = [
        Row(f"tasks {name}", statistics.median(turn.rate for turn in turns), "a second")
        for name, turns in found.items()
        if name not in _APART.values()
    ]
    rows += [
        Row("tasks with --store, of memory", _ratio(found, _ONE, _MEMORY, lambda turn: turn.rate), "ratio"),
        Row("relay's processor time of a task, with --store", _median_ms(found[_ONE], lambda turn: turn.relays), "ms"),
        Row("server's processor time of a task", _median_ms(found[_ONE], lambda turn: turn.server), "ms"),
        Row(
            "relay's processor time of a task, of memory",
            _ratio(found, _ONE, _MEMORY, lambda turn: turn.relays),
            "ratio",
        ),
    ]
    for name in (_TWO, _HALVES):
        ratio = _ratio(found, name, _ONE, lambda turn: turn.relays)
        rows.append(Row(f"relays' processor time of a task {name}, of one relay", ratio, "ratio"))
        ratio = _ratio(found, name, _APART[name], lambda turn: turn.relays)
        rows.append(Row(f"relays' processor time of a task {name}, of a mesh each", ratio, "ratio"))
    rows.append(Row("tasks with two relays, of one relay", _ratio(found, _TWO, _ONE, lambda turn: turn.rate), "ratio"))
    return rows + arrivals


def _ratio(found: dict[str, list[_Turn]], mine: str, other: str, of: Callable[[_Turn], float]) -> float:
    return statistics.median(of(a) / of(b) for a, b in zip(found[mine], found[other], strict=True))


def _median_ms(turns: Sequence[_Turn], of: Callable[[_Turn], float]) -> float:
    return statistics.median(map(of, turns)) * 1000


async def _measured(store: str, relays: Sequence[Relay], turn: str, connections: int, seconds: float) -> _Turn:
    """Drive tasks that begin and end at one relay each."""
    count = connections * len(relays)
    requesters, workers = (names_for(f"{role}-{turn}", count) for role in ("asker", "doer"))
    pairs = list(zip(requesters, workers, strict=True))
    shares = [(relay, pairs[at :: len(relays)]) for at, relay in enumerate(relays)]
    for relay, own in shares:
        await relay.register([name for pair in own for name in pair])
    lives = [[life(relay, *pair) for pair in own] for relay, own in shares]
    before, served = _processor_seconds(relays), _server_seconds(store)
    found = await asyncio.gather(
        *(drive(relay, own, seconds, spins=False) for relay, own in zip(relays, lives, strict=True))
    )
    spent, serving = _processor_seconds(relays) - before, _server_seconds(store) - served
    for relay, own in shares:
        await relay.leave([name for pair in own for name in pair])
    done = max(sum(one.done for own in lives for one in own), 1)
    return _Turn(sum(found), max(spent, 1e-9) / done, serving / done)


def _processor_seconds(relays: Sequence[Relay]) -> float:
    return sum(relay.server.processor_seconds() or 0.0 for relay in relays)


def _server_seconds(store: str) -> float:
    """Return the processor time that the server of the store has used."""
    from redis import Redis

    with contextlib.closing(Redis.from_url(store)) as server:
        told: Any = server.info("cpu")
        return float(told["used_cpu_sys"]) + float(told["used_cpu_user"])
