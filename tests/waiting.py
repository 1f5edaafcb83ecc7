"""Waits for conditions. Everything else in tests that would sleep asks here (``test_habits`` holds it to that)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from tests.virtual_time import VirtualLoop

# A wait in vain fails after this. Nothing that is waited for takes as long, also on a busy machine.
PATIENCE = 120.0
_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.01
_LONGEST_VIRTUAL_PAUSE = 0.5


def wait_until(true: Callable[[], object], *, seconds: float = PATIENCE, say: Callable[[], object] = str) -> None:
    """Block until this is true. ``say`` gives the words for a wait in vain."""
    give_up_at = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up_at, f"it did not come true within {seconds:g} s: {say()}"
        time.sleep(_LONGEST_PAUSE)


async def until(true: Callable[[], object], *, seconds: float = PATIENCE) -> None:
    """Wait on the running loop until this is true."""

    async def ask() -> object:
        return true()

    await eventually(ask, seconds=seconds)


async def eventually(ask: Callable[[], Awaitable[Any]], *, seconds: float = PATIENCE) -> Any:
    """Ask on the running loop until the answer is truthy, and return it."""
    loop = asyncio.get_running_loop()
    longest = _LONGEST_VIRTUAL_PAUSE if isinstance(loop, VirtualLoop) else _LONGEST_PAUSE
    give_up_at = loop.time() + seconds
    pause = _FIRST_PAUSE
    while not (answer := await ask()):
        assert loop.time() < give_up_at, f"it did not come true within {seconds:g} s: {answer!r}"
        await asyncio.sleep(pause)
        pause = min(2 * pause, longest)
    return answer


async def forever() -> None:
    """Wait until cancelled."""
    await asyncio.Event().wait()


async def cancelled_after(turns: int, work: Coroutine[Any, Any, object] | asyncio.Task[Any]) -> bool:
    """Cancel ``work`` after some turns of the loop. Return True if it had already ended by itself."""
    task = asyncio.ensure_future(work)
    for _ in range(turns):
        await asyncio.sleep(0)
    over = task.done()
    task.cancel()
    await asyncio.wait([task])
    return over
