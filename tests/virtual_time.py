"""A loop whose time passes at once: its clock moves to the next timer when nothing else is left to do before it.

For tests whose relay, clients and sockets all live on the loop of the test. A subprocess, or a thread that the loop
does not know of, would see no time pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import AsyncIterator, Callable
from typing import Any

# A segment on loopback arrives within this, also on a busy machine: until then it counts as under way.
_ARRIVAL_SECONDS = 0.002


class _Selector(selectors.DefaultSelector):
    """A selector that has the time up to the next timer pass, in place of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped = 0.0
        self.threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= _ARRIVAL_SECONDS:
            return super().select(timeout)
        ready = super().select(_ARRIVAL_SECONDS)
        if ready:
            return ready
        if self.threads:
            return super().select(timeout - _ARRIVAL_SECONDS)
        self.skipped += timeout - _ARRIVAL_SECONDS
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on which ``asyncio.sleep(28)`` takes some milliseconds."""

    def __init__(self) -> None:
        self._selector_of_mine = _Selector()
        super().__init__(self._selector_of_mine)

    @property
    def skipped(self) -> float:
        """How many seconds have passed at once so far."""
        return self._selector_of_mine.skipped

    def skip(self, seconds: float) -> None:
        """Put the clock forward."""
        self._selector_of_mine.skipped += seconds

    def time(self) -> float:
        """Return the real time plus what was skipped."""
        return super().time() + self._selector_of_mine.skipped

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """Have time pass as it does while a thread works for the loop."""
        running = super().run_in_executor(executor, func, *args)
        self._selector_of_mine.threads += 1
        running.add_done_callback(self._done)
        return running

    async def shutdown_default_executor(self, *_: Any) -> None:
        """Wait for the threads without a limit of time: here it would be over at once."""
        await super().shutdown_default_executor()

    def _done(self, _: object) -> None:
        self._selector_of_mine.threads -= 1


def skipped() -> float:
    """Return the seconds that the running loop has skipped: none, if it is not a virtual one."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return 0.0
    return loop.skipped if isinstance(loop, VirtualLoop) else 0.0


async def pass_time(seconds: float) -> None:
    """Let this much virtual time pass, and all that is due in it happen."""
    assert isinstance(asyncio.get_running_loop(), VirtualLoop), "mark the test virtual_time"
    await asyncio.sleep(seconds)


def stand_still(seconds: float) -> None:
    """Have the loop find that it has been away for this many seconds, as on a machine that was busy or asleep."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.skip(seconds)


@contextlib.asynccontextmanager
async def starved(seconds: float) -> AsyncIterator[list[float]]:
    """Have the loop get the processor only now and then, as on a loaded machine. Give the list of the standstills."""
    stood: list[float] = []

    async def starve() -> None:
        while True:
            await asyncio.sleep(0.05)
            stand_still(seconds)
            stood.append(seconds)

    starving = asyncio.create_task(starve())
    try:
        yield stood
    finally:
        starving.cancel()
        await asyncio.wait([starving])
