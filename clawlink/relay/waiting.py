"""How to wait for a record: listen first, then read, then sleep until there may be something to read.

Never the other way round: what arrives between reading and listening would be slept through. Who waits for a mailbox
has pools to think of, too: ``reader``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from clawlink.store.base import Signal

T = TypeVar("T")


async def first(
    signal: Signal,
    *,
    read: Callable[[], Awaitable[T]],
    next_at: Callable[[], Awaitable[float | None]],
    clock: Callable[[], float],
    until: float,
    over: Callable[[], bool],
    tick: float,
) -> T:
    """Return what ``read`` gives as soon as it gives something, or whatever it gives at ``until``.

    The caller listens already: ``signal`` is given when there may be something to read.

    Sleeps until the earliest of ``until``, what ``next_at`` returns, a signal, and ``tick`` seconds; ``over`` ends the
    wait early. ``clock`` and all times are in seconds since the epoch.
    """
    while True:
        signal.clear()
        found = await read()
        now = clock()
        if found or now >= until or over():
            return found
        due_at = await next_at()
        wake_at = until if due_at is None else min(until, due_at)
        await signal.wait(min(wake_at - now, tick))
