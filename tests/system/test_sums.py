"""Hundreds of agents, twenty senders at once, and pollers that die at random: the sums match."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from typing import Any

import aiohttp
import pytest

from tests.effort import size
from tests.server.asks import metrics, ok, poll
from tests.system.conftest import Live, Starting
from tests.system.raw import connect, request
from tests.waiting import eventually

pytestmark = pytest.mark.storm

AGENTS = size(100, 300, 1000)
SENDERS = 20
MESSAGES = size(20, 50, 100)  # of each sender
POLLERS = 40
MAX_ATTEMPTS = 3
LEASE = 5  # the shortest there is


async def register(relay: Live, agents: list[str]) -> None:
    for agent_id in agents:
        await ok(relay.post("/register", {"agent_id": agent_id}))


class Traffic:
    """Everything that was sent, and what the pollers know of it."""

    def __init__(self, relay: Live, chance: random.Random) -> None:
        self.relay = relay
        self.chance = chance
        self.agents = [f"agent-{n}" for n in range(AGENTS)]
        self.sent: dict[str, str] = {}
        self.acked: Counter[tuple[str, str]] = Counter()
        self.sending = SENDERS

    async def send(self, number: int) -> None:
        """Send messages and tasks to anyone, and one broadcast to all."""
        sender = self.agents[number]
        for turn in range(MESSAGES):
            to = self.chance.choice(self.agents)
            if turn % 2:
                ask = {"from_agent": sender, "to_agent": to, "content": turn}
                reply = await ok(self.relay.post("/send", ask))
            else:
                task = {
                    "from_agent": sender,
                    "to_agent": to,
                    "task": "t",
                    "priority": self.chance.choice(["low", "urgent"]),
                }
                reply = await ok(self.relay.post("/delegate", task))
            self.sent[reply["message_id"]] = sender
        if number < 2:
            await ok(self.relay.post("/broadcast", {"from_agent": sender, "content": "to all"}))
        self.sending -= 1

    async def work(self) -> None:
        """Poll anyone's mailbox, and come to a bad end as often as not."""
        ends = [
            self.settle,
            self.settle,
            self.settle,
            self.die_waiting,
            self.die_unacked,
            self.die_acking,
            self.give_back,
            self.reset,
        ]
        while self.sending:
            with suppress(asyncio.TimeoutError, aiohttp.ClientError):
                await self.chance.choice(ends)(self.chance.choice(self.agents))

    async def settle(self, agent_id: str) -> int:
        """Do what a good consumer does; return how many messages it was."""
        reply = await poll(self.relay, agent_id, lease=LEASE, max=100)
        return await self.ack(agent_id, reply) if reply["count"] else 0

    async def ack(self, agent_id: str, polled: Any) -> int:
        receipts = [held["receipt"] for held in polled["deliveries"]]
        reply = await ok(self.relay.post("/ack", {"agent_id": agent_id, "receipts": receipts}))
        for result in reply["results"]:
            if result["status"] == "acked":
                self.acked[agent_id, result["message_id"]] += 1
        return len(receipts)

    async def die_waiting(self, agent_id: str) -> None:
        """Hang up while waiting, or just as something comes."""
        await asyncio.wait_for(poll(self.relay, agent_id, lease=LEASE, wait=5), self.chance.random() * 0.02)

    async def die_unacked(self, agent_id: str) -> None:
        """Get the reply and go."""
        await poll(self.relay, agent_id, lease=LEASE, max=2)

    async def die_acking(self, agent_id: str) -> None:
        """Send the ack and go before its answer comes: it may have counted or not."""
        reply = await poll(self.relay, agent_id, lease=LEASE, max=2)
        if reply["count"]:
            await asyncio.wait_for(self.ack(agent_id, reply), self.chance.random() * 0.003)

    async def give_back(self, agent_id: str) -> None:
        """Nack."""
        reply = await poll(self.relay, agent_id, lease=LEASE, max=2)
        if reply["count"]:
            receipts = [held["receipt"] for held in reply["deliveries"]]
            await ok(self.relay.post("/nack", {"agent_id": agent_id, "receipts": receipts}))

    async def reset(self, agent_id: str) -> None:
        """Ask, and be gone."""
        connection = await connect(self.relay.url)
        connection.writer.write(request("GET", f"/poll/{agent_id}?lease={LEASE}"))
        await asyncio.sleep(self.chance.random() * 0.002)
        connection.reset()

    async def drain(self, agents: list[str]) -> None:
        for agent_id in agents:
            while await self.settle(agent_id):
                pass


def spread(items: list[str], over: int) -> list[list[str]]:
    return [items[n::over] for n in range(over)]


async def test_every_message_is_acked_exactly_once_or_accounted_for(start_live: Starting) -> None:
    relay = start_live("--max-attempts", str(MAX_ATTEMPTS))
    traffic = Traffic(relay, random.Random(20261121))
    await asyncio.gather(*(register(relay, part) for part in spread(traffic.agents, 20)))

    senders = [traffic.send(n) for n in range(SENDERS)]
    pollers = [traffic.work() for _ in range(POLLERS)]
    await asyncio.gather(*senders, *pollers)

    held = await metrics(relay)
    assert held["stored_total"] == held["acked_total"] + held["expired_total"] + held["messages_held"]

    # Every lease has lapsed five seconds from now; meanwhile and afterwards good consumers take what is left.
    async def drained() -> dict[str, float] | None:
        await asyncio.gather(*(traffic.drain(part) for part in spread(traffic.agents, 20)))
        after = await metrics(relay)
        return after if after["messages_held"] == after["dead_total"] else None

    after = await eventually(drained)
    assert after["stored_total"] == after["acked_total"] + after["expired_total"] + after["messages_held"]
    assert after["messages_held"] == after["dead_total"]
    assert after["expired_total"] == 0
    listed = (await ok(relay.get("/discover?status=all")))["agents"]
    assert len(listed) == AGENTS
    assert sum(a["load"]["mailbox"] for a in listed) == after["messages_held"]

    assert set(traffic.acked.values()) == {1}
    assert len(traffic.acked) <= after["acked_total"]
    known = {message_id for _, message_id in traffic.acked}
    assert len(traffic.sent) == SENDERS * MESSAGES

    async def state(message_id: str, sender: str) -> str:
        told = await ok(relay.get(f"/messages/{message_id}?agent_id={sender}"))
        assert told["state"] in ("acked", "dead"), told
        assert 1 <= told["attempts"] <= MAX_ATTEMPTS
        assert told["state"] == "acked" or message_id not in known
        return str(told["state"])

    states = Counter(await asyncio.gather(*(state(id, sender) for id, sender in traffic.sent.items())))
    assert states["acked"] + states["dead"] == SENDERS * MESSAGES
    assert states["acked"] > SENDERS * MESSAGES / 2
    assert states["dead"] <= after["dead_total"]
