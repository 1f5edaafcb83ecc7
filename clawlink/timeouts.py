"""A limit on the time that something may take."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")

if sys.version_info >= (3, 12):
    wait_for = asyncio.wait_for
else:

    async def wait_for(awaited: Awaitable[T], timeout: float) -> T:
        """Do as ``asyncio.wait_for``, which loses a cancellation before Python 3.12 if the result comes with it."""
        task = asyncio.ensure_future(awaited)
        task.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may ask for it
        try:
            await asyncio.wait([task], timeout=timeout)
        except asyncio.CancelledError:
            await _end(task)
            if not task.cancelled() and (failure := task.exception()) is not None:
                failure.__traceback__ = None  # nobody hears of it, and its frames would keep it in a circle
            raise
        if not task.done():
            await _end(task)
            if task.cancelled():
                raise asyncio.TimeoutError
        try:
            return task.result()
        finally:
            del task  # a failure keeps this frame, which would keep the failure in a circle

    async def _end(task: asyncio.Future[T]) -> None:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
