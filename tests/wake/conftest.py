"""Shared by the tests of wakes: what is around a watcher, and an adapter that a test plays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clawlink.client.aio import AsyncClient
from clawlink.client.identity import Saved
from clawlink.wake.adapters import Notice, Result
from clawlink.wake.journal import Journal
from clawlink.wake.rules import QUEUED, Policy
from clawlink.wake.watcher import Target, Watcher
from tests.conftest import Running

EPOCH = 1_800_000_000.0


class Played:
    """An adapter that notes each notice, and answers what the test says. ``busy_for`` says how often it is busy."""

    once = False

    def __init__(self, name: str = "played", *answers: Result) -> None:
        self.name = name
        self.notices: list[Notice] = []
        self.answers = list(answers)
        self.is_closed: str | None = None
        self.busy_for = 0
        self.on_fire: Callable[[], object] = lambda: None

    def closed(self) -> str | None:
        return self.is_closed

    async def busy(self) -> bool:
        self.busy_for -= 1
        return self.busy_for >= 0

    async def fire(self, notice: Notice) -> Result:
        self.notices.append(notice)
        self.on_fire()
        return self.answers.pop(0) if self.answers else Result(QUEUED)


class Around:
    """The program around a watcher, with the time of the loop."""

    def __init__(self, home: Path) -> None:
        self.journal = Journal(home)
        self.journal.open(EPOCH)
        self.told: list[tuple[tuple[str, ...], str]] = []
        self.logged: list[str] = []
        self.wakes = 0
        self.budget: int | None = None
        self.minute_of_day = 720

    def now(self) -> float:
        return EPOCH + asyncio.get_running_loop().time()

    def minute(self) -> int:
        return self.minute_of_day

    def left(self) -> int | None:
        return None if self.budget is None else self.budget - self.wakes

    async def spent(self) -> None:
        self.wakes += 1

    async def unreachable(self, saved: Saved, ids: Sequence[str], why: str) -> None:
        self.told.append((tuple(ids), why))

    def log(self, text: str) -> None:
        self.logged.append(text)


class Scene:
    """An agent that is watched, and another that writes to it. ``start`` begins to watch, ``kill`` ends it at once."""

    def __init__(self, relay: Running, home: Path) -> None:
        self.relay = relay
        self.around = Around(home)
        self.adapters: list[Any] = [Played("first"), Played("second")]
        self.policy = Policy(claim=60.0, batch=0.03, per_hour=20)
        self._client: AsyncClient | None = None
        self._task: asyncio.Task[None] | None = None
        self.told: tuple[str, ...] = ()
        self.busy = False

    async def begin(self) -> None:
        self.sender = AsyncClient(self.relay.url)
        await self.sender.register("sender")
        self.agent = AsyncClient(self.relay.url)
        await self.agent.register("sleeper")

    def start(self) -> Watcher:
        key, id = self.agent.agent_key, str(self.agent.agent_id)
        saved = Saved("sleeper", id, self.relay.url, agent_key=key)
        self._client = AsyncClient(self.relay.url, agent_id=id, agent_key=key)
        target = Target(saved, self.policy, self.adapters, lambda: self.told, lambda: self.busy)
        self.watcher = Watcher(target, self._client, self.around)
        self._task = asyncio.get_running_loop().create_task(self.watcher.run())
        return self.watcher

    async def kill(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._client is not None:
            await self._client.close()

    async def end(self) -> None:
        await self.kill()
        await self.sender.close()
        await self.agent.close()

    async def send(self, text: str = "hello") -> str:
        sent = await self.sender.send(str(self.agent.agent_id), text)
        id: str = sent.message_id
        return id

    async def read_all(self) -> list[str]:
        """Poll and acknowledge as the agent, and return the ids."""
        read: list[str] = []
        while polled := await self.agent.poll(lease=60):
            await self.agent.ack([one.receipt for one in polled])
            read += [one.message_id for one in polled]
        return read

    async def wakes(self, id: str) -> list[tuple[str, str]]:
        """Return the wakes of a message, as its sender sees them."""
        return [(wake.adapter, wake.result) for wake in (await self.sender.message(id)).woken]
