"""Waits for conditions. Everything else in tests that would sleep asks here (``test_habits`` holds it to that)."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from tests.virtual_time import VirtualLoop

T = TypeVar("T")

# A wait in vain fails after this. Nothing that is waited for takes as long, also on a busy machine.
PATIENCE = 120.0
_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.01
_LONGEST_VIRTUAL_PAUSE = 0.5
_LONGEST_REPR = 1000


def wait_until(true: Callable[[], object], *, seconds: float = PATIENCE, say: Callable[[], object] = str) -> None:
    """Block until this is true. ``say`` gives more words for a wait in vain."""
    began, asked = time.monotonic(), 1
    while not (answer := true()):
        waited = time.monotonic() - began
        assert waited < seconds, f"{_in_vain(true, answer, asked, waited)} {say()}"
        time.sleep(_LONGEST_PAUSE)
        asked += 1


async def until(true: Callable[[], object], *, seconds: float = PATIENCE) -> None:
    """Wait on the running loop until this is true."""

    async def ask() -> object:
        return true()

    await _answer(true, ask, seconds)


async def eventually(ask: Callable[[], Awaitable[Any]], *, seconds: float = PATIENCE) -> Any:
    """Ask on the running loop until the answer is truthy, and return it."""
    return await _answer(ask, ask, seconds)


async def _answer(condition: Callable[[], object], ask: Callable[[], Awaitable[Any]], seconds: float) -> Any:
    loop = asyncio.get_running_loop()
    longest = _LONGEST_VIRTUAL_PAUSE if isinstance(loop, VirtualLoop) else _LONGEST_PAUSE
    began, asked, pause = loop.time(), 1, _FIRST_PAUSE
    while not (answer := await ask()):
        waited = loop.time() - began
        assert waited < seconds, _in_vain(condition, answer, asked, waited)
        await asyncio.sleep(pause)
        pause = min(2 * pause, longest)
        asked += 1
    return answer


def _in_vain(condition: Callable[[], object], answer: object, asked: int, waited: float) -> str:
    """Tell how long a wait was, its last answer, and what the condition looks at."""
    known = inspect.getclosurevars(condition).nonlocals if inspect.isfunction(condition) else {}
    given = "".join(f", {name}={repr(value)[:_LONGEST_REPR]}" for name, value in known.items())
    return f"not true after {waited:.1f} s and {asked} tries: {answer!r}{given}"


async def soon(work: Awaitable[T], *, seconds: int = 30) -> T:
    """Return the result of what comes at once. It has this time, and no time passes while the machine stands still.

    A message that was lost comes again after a lease, or when a reader looks again. The limit is shorter than both.
    """
    task = asyncio.ensure_future(work)
    for _ in range(seconds):
        if (await asyncio.wait({task}, timeout=1.0))[0]:
            return task.result()
    task.cancel()
    await asyncio.wait({task})
    raise AssertionError(f"nothing came within {seconds} s")


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
