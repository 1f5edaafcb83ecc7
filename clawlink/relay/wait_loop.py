"""How to wait for a record: listen first, then read, then sleep until there may be something to read.

In another order, the sleep would miss a message that arrives between reading and listening. ``long_poll`` waits for a
mailbox, because that wait looks at pools, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from clawlink.relay.core import Core
from clawlink.store.events import Signal

T = TypeVar("T")


async def first_of_relay(
    core: Core,
    signal: Signal,
    *,
    read: Callable[[], Awaitable[T]],
    next_at: Callable[[], Awaitable[float | None]] | None = None,
    wait: float,
    tick: float | None = None,
) -> T:
    """Return what ``first`` does, in relay time and until the relay drains.

    Without a ``tick`` the record is read again so often that an agent's change to stale is seen.
    """
    return await first(
        signal,
        read=read,
        next_at=next_at,
        clock=lambda: core.clock(),  # asked each time: the first stop of all work replaces it
        wait=wait,
        over=lambda: core.draining,
        tick=max(core.limits.stale_after / 2, 1.0) if tick is None else tick,
    )


async def first(
    signal: Signal,
    *,
    read: Callable[[], Awaitable[T]],
    next_at: Callable[[], Awaitable[float | None]] | None = None,
    clock: Callable[[], float],
    wait: float,
    over: Callable[[], bool],
    tick: float,
) -> T:
    """Return the result of ``read`` as soon as there is one, or its result after ``wait`` seconds.

    The caller listens already: ``signal`` comes when there may be something to read.

    Sleeps until the earliest of the end of ``wait``, what ``next_at`` returns, a signal, and ``tick`` seconds; ``over``
    ends the wait early. The event loop's time counts ``wait`` and ``tick``, so no change of a clock moves them.
    ``next_at`` returns a stored time, which ``clock`` counts, or None if nothing changes by time alone.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + wait
    while True:
        signal.clear()
        found = await read()
        if found or loop.time() >= until or over():
            return found
        due_at = None if next_at is None else await next_at()
        pause = min(until - loop.time(), tick)
        await signal.wait(pause if due_at is None else min(pause, due_at - clock()))
