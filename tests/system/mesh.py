"""Senders and workers at a relay that is killed again and again, and an account of every message.

All wait only for the relay. A request that gets no answer is sent again, the same word for word, until it has one.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from tests.waiting import PATIENCE, eventually, forever

_MOST_SECONDS = 120.0
LEASE_SECONDS = 5.0  # the shortest there is


class Mesh:
    """Some senders and workers. ``restart`` kills the relay and starts it again at the same address."""

    def __init__(self, url: str, seed: int, *, senders: int = 4, workers: int = 4, each: int = 60) -> None:
        self.url = url
        self.dice = random.Random(seed)
        self.senders = [f"sender{n}" for n in range(senders)]
        self.workers = [f"worker{n}" for n in range(workers)]
        self.each = each
        self.done = 0  # requests that were answered
        self.accepted: dict[str, str] = {}  # by idempotency key, the task
        self.worked: Counter[str] = Counter()
        self.answers: defaultdict[str, set[str]] = defaultdict(set)  # by task, the ids of final answers
        self.wrong: list[str] = []
        self._keys: dict[str, str] = {}
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=PATIENCE), connector=aiohttp.TCPConnector(limit=0)
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def ask(self, agent: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request until it is answered by a relay that is there."""
        headers = {"ClawLink-Agent-Key": self._keys[agent]} if agent in self._keys else {}

        async def answer() -> tuple[int, Any] | None:
            with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError, OSError):
                async with self._session.request(method, self.url + path, json=body, headers=headers) as response:
                    status, reply = response.status, await response.json(content_type=None)
                    return None if status == 503 else (status, reply)
            return None

        found: tuple[int, Any] = await eventually(answer, seconds=_MOST_SECONDS)
        self.done += 1
        return found

    async def register(self) -> None:
        """Register all, once: no agent does so again after a restart. Every second agent has a key."""
        for n, agent in enumerate((*self.senders, *self.workers)):
            body = {"agent_id": agent, "name": agent, "claim": n % 2 == 0}
            status, reply = await self.ask(agent, "POST", "/register", body)
            assert status == 200, reply
            if reply.get("agent_key"):
                self._keys[agent] = reply["agent_key"]

    async def run(self, restart: Callable[[], Awaitable[None]], kills: int) -> None:
        """Delegate, work and answer while the relay is killed so often, and until every task is answered."""
        reading = [asyncio.create_task(self._work(worker)) for worker in self.workers]
        reading += [asyncio.create_task(self._read(sender)) for sender in self.senders]
        killing = asyncio.create_task(self._kill(restart, kills))
        try:
            await asyncio.gather(*(self._delegate(sender, killing) for sender in self.senders))
            await killing
            await self._until(lambda: all(self.answers[task] for task in self.accepted.values()))
        finally:
            for task in (killing, *reading):
                task.cancel()
            await asyncio.gather(killing, *reading, return_exceptions=True)

    async def _kill(self, restart: Callable[[], Awaitable[None]], kills: int) -> None:
        for _ in range(kills):
            until = self.done + self.dice.randint(1, 80)
            await self._until(lambda until=until: self.done >= until)  # type: ignore[misc]
            await restart()

    async def _until(self, condition: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + _MOST_SECONDS
        while not condition() and not self.wrong:
            assert time.monotonic() < give_up_at, "nothing goes on"
            await asyncio.sleep(0)

    async def _delegate(self, sender: str, killing: asyncio.Task[None]) -> None:
        """Delegate tasks, one after the other, for as long as the relay is killed, and some at least."""
        n = 0
        while n < self.each or not killing.done():
            key = f"{sender}-{n}"
            ask = {
                "from_agent": sender,
                "to_agent": self.dice.choice(self.workers),
                "task": f"task {key}",
                "idempotency_key": key,
            }
            status, reply = await self.ask(sender, "POST", "/delegate", ask)
            if status != 200:
                self.wrong.append(f"delegate {key}: {status} {reply}")
                return
            self.accepted[key] = reply["message_id"]
            n += 1

    async def _work(self, worker: str) -> None:
        receipts: list[str] = []
        while True:
            for message, lease in await self._poll(worker, receipts):
                task = message["message_id"]
                self.worked[task] += 1
                answer = {"from_agent": worker, "message_id": task, "result": {"done": message["task"]}}
                status, reply = await self.ask(worker, "POST", "/respond", {**answer, "receipt": lease["receipt"]})
                if status not in (200, 409):  # 409: its lease ended meanwhile, and the task is due again
                    self.wrong.append(f"respond {task}: {status} {reply}")
                receipts.append(lease["receipt"])

    async def _read(self, sender: str) -> None:
        receipts: list[str] = []
        while True:
            for message, lease in await self._poll(sender, receipts):
                receipts.append(lease["receipt"])
                if message["type"] != "task_response" or message["status"] != "completed":
                    self.wrong.append(f"{sender} got {message}")
                    continue
                self.answers[message["message_id"]].add(message["response_id"])

    async def _poll(self, agent: str, receipts: list[str]) -> list[tuple[Any, Any]]:
        """Ack what was done, and claim what comes next."""
        body = {"ack": list(receipts), "wait": 1, "max": 5, "lease": LEASE_SECONDS}
        status, reply = await self.ask(agent, "POST", f"/poll/{agent}", body)
        if status != 200:
            self.wrong.append(f"poll {agent}: {status} {reply}")
            await forever()
        receipts.clear()
        return list(zip(reply["messages"], reply["deliveries"], strict=True))

    async def account(self) -> None:
        """See that every accepted task was answered once, and that the relay says the same."""
        assert not self.wrong, self.wrong[:5]
        assert len(set(self.accepted.values())) == len(self.accepted)
        assert set(self.answers) == set(self.accepted.values()), "an answer to a task that nobody was told of"
        doubled = {task: ids for task, ids in self.answers.items() if len(ids) != 1}
        assert not doubled, doubled
        for sender in self.senders:
            mine = {task for key, task in self.accepted.items() if key.startswith(f"{sender}-")}
            told: set[str] = set()
            after = ""
            while True:
                path = f"/tasks?agent_id={sender}&requester={sender}&limit=1000{after}"
                status, reply = await self.ask(sender, "GET", path)
                assert status == 200, reply
                told |= {task["task_id"] for task in reply["tasks"] if task["status"] == "completed"}
                assert len(told) == len(mine) or reply.get("next"), "the relay knows of fewer tasks"
                if not reply.get("next"):
                    break
                after = f"&after={reply['next']}"
            assert told == mine
