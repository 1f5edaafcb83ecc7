"""A value that comes later: awaited in a coroutine, or waited for in a thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Generic, TypeVar

from clawlink.client.wait_steps import StillPending

T = TypeVar("T")

_log = logging.getLogger("clawlink.link")


class Pending(Generic[T]):
    """An answer that the relay or an agent still owes: ``await`` it, or call ``result()`` in a thread.

    It comes whether or not the program waits. A failure is logged if the program never asks for the result.
    """

    def __init__(self, future: Future[T], what: str) -> None:
        self._future = future
        self._what = what
        self._asked = False

    def result(self, timeout: float | None = None) -> T:
        """Wait for the answer, up to ``timeout`` seconds, and return it. Raises StillPending, or the failure.

        Not in a coroutine: it would hold up the event loop.
        """
        self._asked = True
        try:
            return self._future.result(timeout)
        except FutureTimeout:
            if self._future.done():
                raise
            raise StillPending(f"{self._what} is still to come after {timeout or 0.0:g} s, and goes on") from None

    def done(self) -> bool:
        """Return True if it is there, or has failed."""
        return self._future.done()

    def __await__(self) -> Generator[Any, None, T]:
        self._asked = True
        # A waiter that stops does not take the value from the others.
        return asyncio.shield(asyncio.wrap_future(self._future)).__await__()

    def __del__(self) -> None:
        if not self._asked:
            self._future.add_done_callback(_unheard(self._what))


def _unheard(what: str) -> Callable[[Future[Any]], None]:
    def tell(future: Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            _log.warning("%s failed, and the program never asked for its result: %s", what, error)

    return tell


def promise() -> Future[Any]:
    """Return a future that only the link fills in: a waiter may stop waiting, but cannot cancel it."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future
