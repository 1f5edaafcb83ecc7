"""What all parts of the relay share: store, signals, clock, ids, limits, counters, and work that must not break off."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

from clawlink.domain.limits import DRAIN_SECONDS, Limits
from clawlink.errors import Draining, StoreUnavailable
from clawlink.relay.ids import Ids
from clawlink.relay.stats import Stats
from clawlink.store.base import Conflict, Drop, Put, Signals, Store

T = TypeVar("T")
P = ParamSpec("P")

_TRIES = 16
_FIRST_PAUSE_SECONDS = 0.0005


class Core:
    """The relay's shared ground. Everything random or timed comes from here, so tests can say what it is."""

    def __init__(self, store: Store, signals: Signals, limits: Limits, clock: Callable[[], float]) -> None:
        self.store = store
        self.signals = signals
        self.limits = limits
        self.clock = clock
        self.ids = Ids()
        self.stats = Stats()
        self.secret = os.urandom(32)
        self.draining = False
        self.listed: set[str] = set()  # agents whose listing is cached
        self.changed: dict[str, None] = {}  # of those, the ones whose listing is out of date, in order
        self._background: set[asyncio.Task[Any]] = set()

    async def commit(self, home: str, *changes: Put | Drop) -> None:
        """Commit to the store. Whoever waits at this home looks again, and its listing in ``discover`` is out of date.

        That holds also when the store failed: nobody knows then whether the commit took effect.
        """
        try:
            await self.store.commit(home, *changes)
        finally:
            if home in self.listed:
                self.changed[home] = None
            self.signals.publish(home)

    def require_working(self) -> None:
        """Refuse new work while the relay shuts down."""
        if self.draining:
            raise Draining("the relay is shutting down; try again when it is back", retry_after=DRAIN_SECONDS)

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` to its end even if the caller is cancelled: a client that hangs up must not leave half of it."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return await asyncio.shield(task)

    async def finished(self) -> None:
        """Wait for all work that ``finish`` took on."""
        while self._background:
            await asyncio.wait(self._background)


class HasCore(Protocol):
    """A part of the relay."""

    _core: Core


S = TypeVar("S", bound=HasCore)


def retrying(
    step: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Run a method again when its commit met a Conflict; after many tries, give up. It reads anew what it changes."""

    @wraps(step)
    async def run(self: S, *args: P.args, **kwargs: P.kwargs) -> T:
        for turn in range(_TRIES):
            try:
                return await step(self, *args, **kwargs)
            except Conflict:
                self._core.stats.conflicts += 1
                await asyncio.sleep(_FIRST_PAUSE_SECONDS * turn)
        raise StoreUnavailable("the records of this request change too fast; try again", retry_after=1)

    return cast("Callable[Concatenate[S, P], Coroutine[Any, Any, T]]", run)
