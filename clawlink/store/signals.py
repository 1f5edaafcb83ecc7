"""Wake-ups within one process: a future a listener, made only while it sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class LocalSignal:
    """One consumer's wake-up."""

    __slots__ = ("_sleeper", "given")

    def __init__(self) -> None:
        self.given = False
        self._sleeper: asyncio.Future[None] | None = None

    def give(self) -> None:
        """Wake the consumer, now or when it goes to sleep next."""
        self.given = True
        self._wake()

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def clear(self) -> None:
        self.given = False

    async def wait(self, seconds: float | None) -> None:
        if self.given:
            return
        loop = asyncio.get_running_loop()
        self._sleeper = loop.create_future()
        timer = None if seconds is None else loop.call_later(max(seconds, 0.0), self._wake)
        try:
            await self._sleeper
        finally:
            self._sleeper = None
            if timer is not None:
                timer.cancel()


class LocalSignals:
    """Who listens to which mailbox of this process."""

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
            listeners = self._listeners[mailbox]
            listeners.remove(signal)
            if not listeners:
                del self._listeners[mailbox]

    def listeners(self) -> int:
        return sum(map(len, self._listeners.values()))
