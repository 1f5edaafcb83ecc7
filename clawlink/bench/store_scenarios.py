"""Measure relays with ``--store`` beside one in memory, by turns: one on a server, and two that share it."""

from __future__ import annotations

import asyncio
import secrets
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from clawlink.bench import servers
from clawlink.bench.data_scenarios import life
from clawlink.bench.exchange import drive
from clawlink.bench.scenarios import CONNECTIONS, Relay, Row, names_for
from clawlink.bench.socket_scenarios import latency

_PACE = 500  # messages a second, from the one relay to the other where there are two


def lives(store: str, *, seconds: float, rounds: int, say: Callable[[str], None]) -> list[Row]:
    """Tasks a second from the delegation to the ack of the answer. Of two relays each has half of the connections."""
    rates: dict[str, list[float]] = {}
    used: dict[str, list[float]] = {}
    with ExitStack() as stack:

        def started(*flags: str) -> Relay:
            return Relay(stack.enter_context(servers.relay(*flags)), None)

        def shared() -> tuple[str, ...]:
            return ("--store", store, "--store-prefix", f"bench-{secrets.token_hex(4)}")

        one, two = shared(), shared()
        measured = {
            "in memory": [started()],
            "with --store, one relay": [started(*one)],
            "with --store, two relays": [started(*two), started(*two)],
        }
        stack.enter_context(servers.on_the_other_core())
        for turn in range(rounds):
            for name, relays in measured.items():
                say(f"{name}, round {turn + 1} of {rounds}")
                rate, processor = asyncio.run(_measured(relays, turn, seconds))
                rates.setdefault(name, []).append(rate)
                used.setdefault(name, []).append(processor)
        arrivals = []
        for name, (relay, *others) in list(measured.items())[1:]:
            for row in asyncio.run(latency(relay, seconds=seconds, say=say, pace=_PACE, to=(others or [relay])[0])):
                arrivals.append(row._replace(what=f"{row.what}, {name.removeprefix('with ')}"))
    alone, one_relay, two_relays = measured
    rows = [Row(f"tasks {name}", statistics.median(found), "a second", None) for name, found in rates.items()]
    for what, found, of in (
        ("tasks with --store, of memory", rates[one_relay], rates[alone]),
        ("relay's processor time of a task with --store, of memory", used[one_relay], used[alone]),
        ("relays' processor time of a task with two, of that with one", used[two_relays], used[one_relay]),
    ):
        ratio = statistics.median(mine / other for mine, other in zip(found, of, strict=True))
        rows.append(Row(what, ratio, "ratio"))
    return rows + arrivals


async def _measured(relays: Sequence[Relay], turn: int, seconds: float) -> tuple[float, float]:
    """Return tasks a second, and processor seconds of all relays a task. A task begins and ends at one relay each."""
    requesters, workers = (names_for(f"{role}-{turn}", CONNECTIONS) for role in ("asker", "doer"))
    await relays[0].register([*requesters, *workers])
    lives = [
        [life(relay, *pair) for pair in list(zip(requesters, workers, strict=True))[at :: len(relays)]]
        for at, relay in enumerate(relays)
    ]
    before = _processor_seconds(relays)
    found = await asyncio.gather(*(drive(relay, own, seconds) for relay, own in zip(relays, lives, strict=True)))
    spent = _processor_seconds(relays) - before
    await relays[0].leave([*requesters, *workers])
    return sum(found), max(spent, 1e-9) / max(sum(one.done for own in lives for one in own), 1)


def _processor_seconds(relays: Sequence[Relay]) -> float:
    return sum(relay.server.processor_seconds() or 0.0 for relay in relays)
