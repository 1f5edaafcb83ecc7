"""A task a contact, which runs while something waits for it."""

from __future__ import annotations

import asyncio


class ContactWorkers:
    """The tasks of an outbox. A contact for which nothing waits has none."""

    def __init__(self) -> None:
        self._working: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        """The contacts for which something came that their task has not looked for yet."""
        self._hurry: dict[str, asyncio.Event] = {}
        self._closed = True  # until the start: of several relays, those that are not active do no work

    def is_working_on(self, contact: str) -> bool:
        """Return True while anything for a contact is under way, or waits for another try."""
        return contact in self._working

    @property
    def _ending(self) -> bool:
        """Return True if no work is to begin any more."""
        return self._closed

    async def _work(self, contact: str) -> None:
        """Do all that waits for a contact. It takes the contact out of ``_again`` before it looks."""
        raise NotImplementedError

    def wake(self, contact: str) -> None:
        """Do what waits for a contact, at once if it waits for another try."""
        if self._ending:
            return
        self._again.add(contact)
        if contact in self._working:
            self._hurry[contact].set()
            return
        self._hurry[contact] = asyncio.Event()
        task = self._working[contact] = asyncio.create_task(self._work(contact))
        task.add_done_callback(lambda _: self._ended(contact))

    def _ended(self, contact: str) -> None:
        del self._working[contact], self._hurry[contact]
        if contact in self._again:  # something came when it had just found nothing
            self.wake(contact)

    async def _wait(self, contact: str, seconds: float) -> None:
        """Wait for this time, or until the contact is woken."""
        await until_set(self._hurry[contact], seconds)

    async def _cancel(self) -> None:
        """End all tasks where they are."""
        tasks = list(self._working.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until_set(event: asyncio.Event, seconds: float) -> None:
    """Wait until an event is set, at most for some seconds."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([waiting], timeout=seconds)
    finally:
        waiting.cancel()
