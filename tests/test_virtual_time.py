"""A loop whose time passes at once keeps the order of what happens, and waits for sockets and threads as any loop."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.conftest import Running, Serve
from tests.virtual_time import pass_time, stand_still


@pytest.mark.virtual_time
async def test_timers_come_in_their_order_and_take_no_time() -> None:
    loop, began, real = asyncio.get_running_loop(), asyncio.get_running_loop().time(), time.monotonic()
    seen: list[float] = []

    async def sleeps(seconds: float) -> None:
        await pass_time(seconds)
        assert loop.time() - began >= seconds
        seen.append(seconds)

    await asyncio.gather(*(sleeps(seconds) for seconds in (3600.0, 1.0, 60.0, 61.0)))
    assert seen == [1.0, 60.0, 61.0, 3600.0]
    assert time.monotonic() - real < 60
    stand_still(600)
    assert loop.time() - began >= 4200


@pytest.mark.virtual_time
async def test_a_thread_takes_as_long_as_it_takes() -> None:
    began = asyncio.get_running_loop().time()
    release = asyncio.to_thread(time.sleep, 0.05)
    await asyncio.wait_for(release, 30)
    assert asyncio.get_running_loop().time() - began < 30


@pytest.mark.virtual_time
async def test_a_relay_and_its_leases_live_in_that_time(serve: Serve) -> None:
    relay: Running = await serve()
    for name in ("a", "b"):
        await relay.register(name, agent_id=name)
    sent = {"from_agent": "a", "to_agent": "b", "content": "x"}
    assert (await relay.post("/send", sent))[0] == 200
    (first,) = (await relay.get("/poll/b?lease=20&max=1"))[1]["deliveries"]
    (second,) = (await relay.get("/poll/b?lease=20&max=1&wait=25"))[1]["deliveries"]
    assert (first["attempt"], second["attempt"]) == (1, 2)


async def test_time_that_is_real_is_not_slept_away() -> None:
    with pytest.raises(AssertionError, match="virtual_time"):
        await pass_time(0)
