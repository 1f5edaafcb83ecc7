"""The threads for work that would hold the event loop. Refused work never runs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from clawlink.relay.error_mapping import is_no_thread

T = TypeVar("T")


class _Work:
    """A call for a thread, and the future of its result. A cancelled future means that it is never called."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.answer: Future[Any] = Future()

    def __call__(self) -> None:
        if self.answer.set_running_or_notify_cancel():
            try:
                result = self.call()
            except BaseException as error:
                self.answer.set_exception(error)
                del self  # the traceback has this frame: together with the future it would be a circle
            else:
                self.answer.set_result(result)


class Threads(ThreadPoolExecutor):
    """The default executor of a relay's event loop.

    If the system gives no thread, the class of the library raises RuntimeError and keeps the work. It runs later,
    though its caller has told the peer of a failure. Here such work waits for a thread that there is. Without any
    thread it is refused for good.
    """

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="clawlink-work")
        self._has_a_thread = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Have a function called in a thread. Raises RuntimeError."""
        work = _Work(partial(fn, *args, **kwargs))
        try:
            super().submit(work)
        except RuntimeError as error:
            if not (self._has_a_thread and is_no_thread(error)):
                work.answer.cancel()
                raise
        self._has_a_thread = True
        return work.answer
