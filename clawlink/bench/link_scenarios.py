"""Measure links: the time until they are back after the relay was killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from clawlink.bench import servers
from clawlink.bench.scenarios import BenchFailed, Row, names_for, p99
from clawlink.client.aio import AsyncClient
from clawlink.client.link import Link
from clawlink.domain.iso_time import read_iso
from clawlink.errors import ClawLinkError

LINKS = 50
RESTARTS = 10
_START_SECONDS = 20.0
_BACK_SECONDS = 60.0


async def restarts(*, say: Callable[[str], None]) -> list[Row]:
    """Kill the relay under 50 links, ten times, and start it again with nothing in memory.

    Timed from when it listens: until each link is registered, and until each has done a task.
    """
    back: list[float] = []
    spreads: list[float] = []
    worked: list[float] = []
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_silence(logging.getLogger("clawlink.link")))
        relay = stack.enter_context(contextlib.ExitStack())
        server = relay.enter_context(servers.relay())
        port = str(urlsplit(server.url).port)
        names = names_for("link", LINKS)
        for name in names:
            await stack.enter_async_context(_worker(name, server.url))
        boss = await stack.enter_async_context(Link("bench-boss", relay=server.url, identities=None))
        client = await stack.enter_async_context(AsyncClient(server.url))
        for turn in range(RESTARTS):
            say(f"{LINKS} links, restart {turn + 1} of {RESTARTS}")
            relay.close()
            await _start(relay, port)
            listening = time.time()
            times = sorted(at - listening for at in await _registered(client, names))
            back += times
            spreads.append(times[-1] - times[0])
            await asyncio.gather(*(boss.delegate(name, "greet") for name in names))
            worked.append(time.time() - listening)
    return [
        Row(f"until a link of {LINKS} is registered again, p50", statistics.median(back), "s"),
        Row(f"until a link of {LINKS} is registered again, p99", p99(back), "s"),
        Row("between the first and the last of them, median", statistics.median(spreads), "s"),
        Row("until all have been given a task and answered, slowest", max(worked), "s"),
    ]


@contextlib.contextmanager
def _silence(log: logging.Logger) -> Iterator[None]:
    """Keep quiet about a relay that is gone: it is known here."""
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def _worker(name: str, url: str) -> Link:
    link = Link(name, relay=url, identities=None)

    @link.on_task
    async def greet(task: Any) -> str:
        return f"{name} is back"

    return link


async def _start(relay: contextlib.ExitStack, port: str) -> None:
    until = time.monotonic() + _START_SECONDS
    while True:
        try:
            relay.enter_context(servers.relay("--port", port))
        except RuntimeError:  # the system has not let go of the port yet
            if time.monotonic() > until:
                raise BenchFailed(f"no relay could be started again at port {port}") from None
            await asyncio.sleep(0.1)
        else:
            return


async def _registered(client: AsyncClient, names: list[str]) -> list[float]:
    """Return when each was registered, in seconds since the epoch, once all are."""
    wanted, until = set(names), time.monotonic() + _BACK_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(ClawLinkError):
            found = [agent for agent in (await client.discover()).agents if agent.name in wanted]
            if len(found) == len(wanted):
                # With a relay that knew nothing, the first sign of life is that of registering.
                return [read_iso(agent.registered_at).timestamp() for agent in found]
        await asyncio.sleep(0.02)
    raise BenchFailed(f"not all of {len(names)} links came back within {_BACK_SECONDS:.0f} s")
