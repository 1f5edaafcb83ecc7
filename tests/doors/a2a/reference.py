"""The door beside the official SDK's own server: ``python -m tests.doors.a2a.reference``, with --seconds and --rounds.

The server has one core, the client and the relay's workers another. The SDK's agent is in its server's process, and
completes each task at once. The client is the same for both, and sends the next message on its connection once it has
the answer.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from clawlink.bench import servers
from clawlink.bench.load import request_bytes
from clawlink.bench.scenarios import BenchFailed, Relay, names_for
from clawlink.doors.a2a.bench.scenarios import BODY, PAIRS, VERSION, work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clawlink.bench.servers import Server


@contextmanager
def reference() -> Iterator[Server]:
    """Run the SDK's server in a process of its own."""
    command = [sys.executable, "-m", "tests.doors.a2a.reference", "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            servers.pin(process.pid)
            yield servers.Server(url, process.pid)
        finally:
            process.kill()


async def serve() -> None:
    """Run the SDK's server until the process ends."""
    from tests.doors.a2a.sdk_server import remote_agent

    async with remote_agent("HTTP+JSON") as agent:
        print(agent.url, flush=True)
        await asyncio.Event().wait()


async def rate(server: Server, paths: list[str], seconds: float) -> tuple[float, float]:
    """Return the messages a second, and the milliseconds of the server's processor for each."""
    done = 0

    async def ask(path: str) -> None:
        nonlocal done
        request = request_bytes("POST", path + "/message:send", BODY, headers=VERSION)
        async with await Relay(server, None).open() as asker:
            while time.perf_counter() < until:
                status, answer = await asker.ask(request)
                if status != 200 or b"TASK_STATE_COMPLETED" not in answer:
                    raise BenchFailed(f"{status} {answer!r}")
                done += 1

    started, before = time.perf_counter(), server.processor_seconds() or 0.0
    until = started + seconds
    await asyncio.gather(*map(ask, paths))
    cost = (server.processor_seconds() or 0.0) - before
    return done / (time.perf_counter() - started), 1000 * cost / done


def once(seconds: float) -> dict[str, tuple[float, float]]:
    """Measure both once."""
    made: dict[str, tuple[float, float]] = {}
    starts: dict[str, Callable[[], AbstractContextManager[Server]]]
    starts = {"sdk": reference, "relay": lambda: servers.relay("--a2a")}
    for name, start in starts.items():
        with start() as server, servers.on_the_other_core():
            made[name] = asyncio.run(_measure(name, server, seconds))
    return made


async def _measure(name: str, server: Server, seconds: float) -> tuple[float, float]:
    if name == "sdk":
        return await rate(server, ["/rpc"] * PAIRS, seconds)
    relay = Relay(server, None)
    workers = names_for("worker", PAIRS)
    await relay.register(workers)
    at_work = [asyncio.create_task(work(relay, worker)) for worker in workers]
    try:
        return await rate(server, [f"/a2a/{worker}" for worker in workers], seconds)
    finally:
        for one in at_work:
            one.cancel()
        await asyncio.gather(*at_work, return_exceptions=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help="run the SDK's server alone")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.serve:
        asyncio.run(serve())
    rounds = [once(args.seconds) for _ in range(args.rounds)]
    for name in ("sdk", "relay"):
        rates, costs = zip(*(one[name] for one in rounds), strict=True)
        print(
            f"{name}: {statistics.median(rates):.0f} a second, {statistics.median(costs):.2f} ms of processor time each"
        )
    times = statistics.median(one["sdk"][1] / one["relay"][1] for one in rounds)
    print(f"relay, of the SDK, by processor time: {times:.2f}")
    print(f"relay, of the SDK: {statistics.median(one['relay'][0] / one['sdk'][0] for one in rounds):.2f}")


if __name__ == "__main__":
    main()
