"""Wake-ups within one process: a future a listener, made only while it sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager


class LocalSignal:
    """The wake-up of a consumer.

    The alarm outlives the sleep that set it, so a consumer that wakes for each message sets no alarm per message.
    An alarm that rings too early for the current sleep is set again. The signal keeps the time of its alarm itself:
    not every event loop tells when a timer rings.
    """

    __slots__ = ("_alarm", "_loop", "_rings_at", "_sleeper", "_until", "given")

    def __init__(self) -> None:
        self.given = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sleeper: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._rings_at = 0.0
        self._until = 0.0

    def give(self) -> None:
        """Wake the consumer, now or when it goes to sleep next."""
        self.given = True
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def clear(self) -> None:
        self.given = False

    def wait(self, seconds: float | None) -> Awaitable[None]:
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        sleeper = self._sleeper = loop.create_future()
        if self.given:
            sleeper.set_result(None)
        elif seconds is None:
            self.silence()
        else:
            self._until = loop.time() + seconds
            if self._alarm is None or self._rings_at > self._until:
                self._set(loop)
        return sleeper

    def _set(self, loop: asyncio.AbstractEventLoop) -> None:
        self.silence()
        self._rings_at = self._until
        self._alarm = loop.call_at(self._until, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        early = self._rings_at < self._until
        self._alarm = None
        if self._sleeper is None or self._sleeper.done():
            return
        if early:
            self._set(loop)
        else:
            self._sleeper.set_result(None)

    def silence(self) -> None:
        """Cancel the alarm of the last sleep."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


class LocalSignals:
    """The listeners of this process, by mailbox."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[LocalSignal]] = {}

    def publish(self, mailbox: str) -> None:
        for signal in self._listeners.get(mailbox, ()):
            signal.give()

    def publish_all(self) -> None:
        for mailbox in self._listeners:
            self.publish(mailbox)

    @contextmanager
    def listen(self, mailbox: str) -> Iterator[LocalSignal]:
        signal = LocalSignal()
        self._listeners.setdefault(mailbox, []).append(signal)
        try:
            yield signal
        finally:
            signal.silence()
            listeners = self._listeners[mailbox]
            listeners.remove(signal)
            if not listeners:
                del self._listeners[mailbox]

    def listeners(self) -> int:
        return sum(map(len, self._listeners.values()))
