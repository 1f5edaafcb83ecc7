"""The value of ``AgentLink.connect``. Awaited, it ends once the link is connected; as a task, once it is disconnected.

``asyncio.run``, ``create_task`` and a task group take coroutines, so it is one, and that coroutine stays. ``await``,
``wait_for`` and ``gather`` take what can be awaited. Before Python 3.12 ``wait_for`` makes a task of every coroutine
that is no future, so on an event loop it is a future too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from clawlink.doors.agentlink.client.sent import Pending

Stay = Callable[[], Coroutine[Any, Any, None]]


class _Staying(Coroutine[Any, Any, None]):
    """A coroutine that is made when its first step is asked for: most are never run as a task."""

    _stay: Stay
    _made: Coroutine[Any, Any, None] | None = None

    def send(self, value: Any) -> Any:
        """Run to the next pause."""
        return self._coroutine().send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an error where it pauses."""
        return self._coroutine().throw(*error)

    def close(self) -> None:
        """Run no further."""
        if self._made is not None:
            self._made.close()

    def _coroutine(self) -> Coroutine[Any, Any, None]:
        if self._made is None:
            self._made = self._stay()
        return self._made


class Connected(Pending[None], _Staying):
    """Made in a thread, where ``connect`` has waited already."""

    def __init__(self, future: Future[None], stay: Stay) -> None:
        super().__init__(future)
        self._stay = stay


class Connecting(asyncio.Future[None], _Staying):
    """Made on an event loop, and a future of that loop."""

    def __init__(self, future: Future[None], stay: Stay) -> None:
        super().__init__()
        self._stay = stay
        asyncio.wrap_future(future).add_done_callback(self._settle)

    def _settle(self, attempt: asyncio.Future[None]) -> None:
        if attempt.cancelled() or self.done():
            return
        error = attempt.exception()
        if error is None:
            self.set_result(None)
        else:
            self.set_exception(error)
            self.exception()  # a task raises it itself, and nobody may look here
