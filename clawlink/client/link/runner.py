"""The place of handlers: coroutines run in the author's event loop, plain functions in threads.

Neither runs in the connection's loop, because a blocking handler would hold it up.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from clawlink.client.link.pending import promise

_IDLE_SECONDS = 30.0
_JOIN_SECONDS = 1.0

# The id of the task that the running handler was called for: new work follows from it.
parent_task: contextvars.ContextVar[str | None] = contextvars.ContextVar("clawlink_parent_task", default=None)


@dataclass(frozen=True)
class Outcome:
    """How a handler ended: with a result, with an error, or not at all (``stopped``), which is not its own doing."""

    result: Any = None
    error: BaseException | None = None
    stopped: bool = False


class Run:
    """A handler under way."""

    def __init__(self) -> None:
        self.outcome: Future[Outcome] = promise()
        self.cancel_asked = False
        self._cancel: Callable[[], object] = lambda: None

    def cancel(self) -> None:
        """Cancel a coroutine. A plain function goes on: nothing in Python can stop it."""
        self.cancel_asked = True
        self._cancel()

    def cancelled_by(self, cancel: Callable[[], object]) -> None:
        """Say how it is cancelled, and do it if that was asked meanwhile."""
        self._cancel = cancel
        if self.cancel_asked:
            cancel()


class Runner:
    """Runs handlers. ``home`` is the loop for coroutines; without one they get a thread with a loop of their own."""

    def __init__(self, home: asyncio.AbstractEventLoop | None) -> None:
        self._home = home
        self._own: threading.Thread | None = None
        self._making = threading.Lock()
        self._threads = _Threads()

    def start(self, function: Callable[..., Any], argument: Any, *, task_id: str | None = None) -> Run:
        """Call a handler, plain or async. If the system gives it no thread, the run ends with that error."""
        run = Run()
        try:
            if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
                self._await(run, lambda: function(argument), task_id)
            else:
                context = contextvars.copy_context()
                self._threads.start(lambda: context.run(self._call, run, lambda: function(argument), task_id))
        except RuntimeError as error:
            run.outcome.set_result(Outcome(error=error))
        return run

    def close(self) -> None:
        """End the loop that was made here, unless a handler blocks it: then it ends with the process."""
        if self._own is not None and self._home is not None:
            home = self._home
            home.call_soon_threadsafe(home.stop)
            self._own.join(_JOIN_SECONDS)
            if not self._own.is_alive():
                home.close()

    def _call(self, run: Run, call: Callable[[], Any], task_id: str | None) -> None:
        parent_task.set(task_id)
        try:
            result = call()
        except BaseException as error:  # SystemExit too: one bad task must not take the agent with it
            run.outcome.set_result(Outcome(error=error))
            return
        if not inspect.isawaitable(result):
            run.outcome.set_result(Outcome(result))
            return
        try:
            self._await(run, lambda: result, task_id)
        except RuntimeError as error:  # the system gives no thread for a loop
            if inspect.iscoroutine(result):
                result.close()
            run.outcome.set_result(Outcome(error=error))

    def _await(self, run: Run, call: Callable[[], Any], task_id: str | None) -> None:
        async def guarded() -> None:
            parent_task.set(task_id)
            try:
                outcome = Outcome(await call())
            except asyncio.CancelledError as error:
                run.outcome.set_result(Outcome(error=error, stopped=run.cancel_asked))
                raise
            except KeyboardInterrupt as error:  # a person at the terminal, not the task, wants an end
                run.outcome.set_result(Outcome(error=error, stopped=True))
                raise
            except BaseException as error:
                outcome = Outcome(error=error)
            run.outcome.set_result(outcome)

        def begin() -> None:
            task = home.create_task(guarded())
            task.add_done_callback(ended)
            run.cancelled_by(lambda: home.call_soon_threadsafe(task.cancel))

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled():
                task.exception()
            if not run.outcome.done():
                run.outcome.set_result(Outcome(stopped=True))

        home = self._loop()
        try:
            home.call_soon_threadsafe(begin)
        except RuntimeError:  # the author's loop is closed
            run.outcome.set_result(Outcome(stopped=True))

    def _loop(self) -> asyncio.AbstractEventLoop:
        with self._making:  # plain functions that return coroutines come here from threads of their own
            if self._home is None:
                home = asyncio.new_event_loop()
                own = threading.Thread(target=home.run_forever, name="clawlink-handlers", daemon=True)
                try:
                    own.start()
                except RuntimeError:
                    home.close()
                    raise
                self._home, self._own = home, own
            return self._home


class _Threads:
    """As many threads as there is work for at once. They do not keep the process alive, as a pool of the library's."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0

    def start(self, work: Callable[[], None]) -> None:
        """Have work done. Raises RuntimeError if the system gives no thread: it is never done then."""
        with self._lock:
            new = self._idle == 0
            self._idle -= not new
        if new:  # first: what is in the queue would be done later
            threading.Thread(target=self._run, name="clawlink-handler", daemon=True).start()
        self._work.put(work)

    def _run(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=_IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if self._idle == 0:  # a caller depends on this one
                        continue
                    self._idle -= 1
                    return
            work()
            del work  # it has the message, which may be large
            with self._lock:
                self._idle += 1
