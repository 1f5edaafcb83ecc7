"""A limit of time: a result, a timeout, or a cancellation, and none of them is lost."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest

from clawlink.timeouts import wait_for

PACKAGE = Path(__file__).parent.parent / "clawlink"


async def test_a_cancellation_that_comes_with_the_result_is_not_lost() -> None:
    for turns in range(4):
        there = asyncio.Event()
        task = asyncio.create_task(wait_for(there.wait(), 30))
        for _ in range(3):
            await asyncio.sleep(0)
        there.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        finished = task.done()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() is not finished, f"{turns} turns after the result"


async def test_what_takes_too_long_is_cancelled() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(asyncio.TimeoutError):
        await wait_for(work(), 0.001)
    assert ended.is_set()


async def test_what_ends_in_time_ends_as_it_does() -> None:
    async def give() -> str:
        await asyncio.sleep(0)
        return "result"

    async def fail() -> None:
        raise LookupError

    assert await wait_for(give(), 30) == "result"
    with pytest.raises(LookupError):
        await wait_for(fail(), 30)


async def test_a_failure_is_freed_at_once() -> None:
    class Failure(Exception):
        pass

    async def fail() -> None:
        raise Failure

    gc.collect()
    gc.disable()
    try:
        with pytest.raises(Failure):
            await wait_for(fail(), 30)
        assert not [one for one in gc.get_objects() if isinstance(one, Failure)]
    finally:
        gc.enable()


def test_nothing_in_the_package_uses_the_one_that_loses_cancellations() -> None:
    paths = [path for path in PACKAGE.rglob("*.py") if "asyncio.wait_for" in path.read_text(encoding="utf-8")]
    assert paths == [PACKAGE / "timeouts.py"]
