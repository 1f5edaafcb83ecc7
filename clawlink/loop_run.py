"""``asyncio.run`` for programs that a signal ends: no signal raises anything inside the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

_Handler = Callable[[int, "FrameType | None"], Any]


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run as ``asyncio.run``. What a handler of a signal raises cancels ``main``, and is raised after the loop's end.

    Raised inside the loop, as KeyboardInterrupt is, it can lose the wake-up of a task. The end of the loop cancels all
    tasks, and would wait for that one for ever. A second one ends the process at once.
    """
    if threading.current_thread() is not threading.main_thread():
        return asyncio.run(main)
    with contextlib.closing(main):  # it does not begin, if a signal comes first
        numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {number: handler for number in numbers if callable(handler := signal.getsignal(number))}
        held = _Held(before)
        try:
            for number in before:
                signal.signal(number, held)
            result = asyncio.run(_cancelled_by(held, main))
        except BaseException:
            if held.raised is None:
                raise
        finally:
            held.over = True
            for number, handler in before.items():
                signal.signal(number, handler)
        if held.raised is not None:
            raise held.raised
        return result


class _Held:
    """A handler of signals in place of others. ``raised`` is what one of them raised first; ``told`` hears of it.

    Once it is ``over``, it raises what they raise.
    """

    def __init__(self, handlers: dict[int, _Handler]) -> None:
        self.handlers = handlers
        self.raised: BaseException | None = None
        self.told: Callable[[], object] | None = None
        self.over = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            self.handlers[number](number, frame)
        except BaseException as error:
            if self.over:
                raise
            if self.raised is not None:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            self.raised = error
            if self.told is not None:
                self.told()


async def _cancelled_by(held: _Held, main: Coroutine[Any, Any, T]) -> T:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(main)

    def told() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(task.cancel)

    with woken_by_signals(loop):
        held.told = told
        if held.raised is not None:
            task.cancel()
        return await task


@contextlib.contextmanager
def woken_by_signals(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Have each signal wake the loop: the interpreter runs a handler only once the main thread runs.

    ``loop.add_signal_handler`` sets other handlers, and the end of the loop takes them away: signals would be lost. A
    loop that runs later hears of the signals, too, if it waits for some.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        # On Windows each loop is woken by itself, and no signal wakes another thread.
        yield
        return
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def pass_on() -> None:
        with contextlib.suppress(OSError):
            numbers = reader.recv(4096)
            if before != -1:
                os.write(before, numbers)

    loop.add_reader(reader, pass_on)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        loop.remove_reader(reader)
        pass_on()
        reader.close()
        writer.close()
