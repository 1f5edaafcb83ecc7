"""Work that runs to its end, also if its caller is cancelled: a client that hangs up must not leave half of it.

It begins as a part of the caller's task. Most work is done before it has to wait, and a task for each request costs a
tenth of the request. A caller that is cancelled while its work waits leaves the rest of it to another task.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine, Generator
from contextlib import suppress
from types import coroutine
from typing import Any, TypeVar

from clawlink.errors import ClawLinkError
from clawlink.store.base import Failed

_log = logging.getLogger(__name__)

T = TypeVar("T")
Steps = Generator[Any, Any, T]
"""Gives the future that each step of a coroutine waits for, None for a turn of the event loop."""


class Finishing:
    """The work of one event loop that runs to its end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._begun = 0  # works that run as a part of their callers
        self._ended: asyncio.Future[None] | None = None  # done once there are none of them

    def finish(self, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """Run ``work`` to its end when the result is awaited, even if the caller is cancelled.

        ``work`` may change its task at a wait. So it uses no ``asyncio.timeout`` and no current task, and resets no
        context variable that it set before a wait.
        """
        return self._run(work)

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run ``work`` in the background to its end."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def finished(self) -> None:
        """Wait for all work that has begun."""
        while self._tasks or self._begun:
            if self._tasks:
                await asyncio.wait(self._tasks)
            else:
                if self._ended is None:
                    self._ended = asyncio.get_running_loop().create_future()
                await asyncio.shield(self._ended)

    @coroutine
    def _run(self, work: Coroutine[Any, Any, T]) -> Steps[T]:
        self._begun += 1
        waited: asyncio.Future[Any] | None = None
        try:
            while True:
                waited = work.send(None)
                try:
                    if waited is None:
                        yield
                    else:
                        yield from _done(waited)
                except asyncio.CancelledError:
                    rest = self.begin(_rest(work, waited))
                    rest.add_done_callback(_log_failure)
                    raise
                waited = None  # a failure that it has would know this frame, and that would be a circle
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            self._begun -= 1
            if self._ended is not None and not self._begun:
                self._ended.set_result(None)
                self._ended = None


def _done(waited: asyncio.Future[Any]) -> Steps[None]:
    """Wait until a future is done. To cancel the waiting task does not cancel the future."""
    waited._asyncio_future_blocking = False  # taken, as a task takes it: else nobody else can wait for this future
    waiter = waited.get_loop().create_future()

    def wake(_: object) -> None:
        if not waiter.done():
            waiter.set_result(None)

    waited.add_done_callback(wake)
    try:
        yield from waiter
    except asyncio.CancelledError:
        waited.remove_done_callback(wake)
        raise


async def _rest(work: Coroutine[Any, Any, T], waited: asyncio.Future[Any] | None) -> T:
    """Go on with work that waits for a future, or for a turn of the event loop."""
    return await _go_on(work, waited)


@coroutine
def _go_on(work: Coroutine[Any, Any, T], waited: asyncio.Future[Any] | None) -> Steps[T]:
    if waited is not None:
        with suppress(Exception, asyncio.CancelledError):  # the work has the failure of the future itself
            yield from waited
    return (yield from work.__await__())


def _log_failure(rest: asyncio.Task[Any]) -> None:
    """Log the failure of work whose caller has gone, but no refusal: that was for the caller alone."""
    failure = None if rest.cancelled() else rest.exception()
    if isinstance(failure, Failed):
        _log.error("the store failed", extra={"reason": str(failure)})
    elif failure is not None and not isinstance(failure, ClawLinkError):
        _log.error("unexpected failure after the client hung up", exc_info=failure)
