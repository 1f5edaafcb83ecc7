"""The order in which messages leave: to one recipient one after the other, each once the relay answered the last."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable

from clawlink.doors.agentlink.client.outbox import Sent
from clawlink.errors import RelayUnreachable

# A relay that leaves a message unanswered holds up the messages behind it for this many seconds at most.
ANSWER_SECONDS = 3.0


class RecipientQueues:
    """The messages that are to leave over a connection, a lane for each recipient.

    The relay refuses what comes too fast. Were others on their way behind what it refuses, it could take one of those
    first; so the next leaves only when the one before was taken, or failed. ``put`` writes a message to the
    connection, and raises RelayUnreachable once that has ended.
    """

    def __init__(self, put: Callable[[Sent], Awaitable[None]]) -> None:
        self._put = put
        self._waiting: dict[str, deque[Sent]] = {}
        self._answers: dict[str, asyncio.Future[float | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, sent: Sent) -> None:
        """Send a message after those to the same recipient that wait already."""
        if sent.to in self._waiting:
            self._waiting[sent.to].append(sent)
            return
        self._waiting[sent.to] = deque([sent])
        task = asyncio.create_task(self._empty(sent.to))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def answered(self, id: str) -> None:
        """Note that the relay has a message, or that it failed for good: the next may leave."""
        self._settle(id, None)

    def refused(self, sent: Sent, seconds: float) -> None:
        """Send a message again after a pause, and before all that wait behind it."""
        if not self._settle(sent.id, seconds):  # its answer came so late that others have left since
            self.add(sent)

    def close(self) -> None:
        """Send nothing more: the connection has ended."""
        for task in self._tasks:
            task.cancel()

    def _settle(self, id: str, again_after: float | None) -> bool:
        answer = self._answers.pop(id, None)
        if answer is None or answer.done():
            return False
        answer.set_result(again_after)
        return True

    async def _empty(self, to: str) -> None:
        waiting = self._waiting[to]
        with contextlib.suppress(RelayUnreachable):  # what is not answered leaves over the next connection
            while waiting:
                await self._send(waiting.popleft())
            del self._waiting[to]

    async def _send(self, sent: Sent) -> None:
        pause: float | None = 0.0
        while pause is not None:
            await asyncio.sleep(pause)
            answer = self._answers[sent.id] = asyncio.get_running_loop().create_future()
            await self._put(sent)
            try:
                pause = await asyncio.wait_for(answer, ANSWER_SECONDS)
            except asyncio.TimeoutError:
                self._answers.pop(sent.id, None)
                return
