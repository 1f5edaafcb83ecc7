"""Storms of refused requests leave no memory behind: a relay in a process of its own, by its resident memory."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.effort import size
from tests.system.conftest import Live, Starting
from tests.system.raw import connect, request

MIB = 1 << 20
TIMES = size(80, 300, 20_000)
LINES = 8

pytestmark = [
    pytest.mark.storm,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc"),
]


def resident(relay: Live) -> int:
    """Return the resident memory of a relay in bytes."""
    status = Path(f"/proc/{relay.relay.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


async def storm(relay: Live, data: bytes) -> None:
    """Have the same request refused many times, on some connections at once."""

    async def line() -> None:
        connection = await connect(relay.url)
        for _ in range(TIMES // LINES):
            answer = await connection.ask(data)
            assert 400 <= answer.status < 500, answer
        connection.close()

    await asyncio.gather(*(line() for _ in range(LINES)))


LARGE = "x" * 1_000_000


async def test_the_third_storm_ends_hardly_above_the_first(start_live: Starting) -> None:
    relay = start_live()
    await relay.register("Ann", agent_id="a")
    asks = {
        "/respond": {"from_agent": "a", "message_id": "no", "result": LARGE},
        "/send": {"from_agent": "a", "to_agent": "no", "content": LARGE},
    }
    await require_no_growth(relay, asks)


async def require_no_growth(relay: Live, asks: dict[str, dict[str, str]]) -> None:
    """Have three storms of each request refused, and see that the third leaves hardly more memory than the first."""
    for path, body in asks.items():
        data = request("POST", path, json.dumps(body).encode())
        after = []
        for _ in range(3):
            await storm(relay, data)
            after.append(resident(relay))
        assert after[2] - after[0] < 20 * MIB, (path, [one // MIB for one in after])
