"""Agents that are set to answer each other for ever are stopped by the relay, and nobody else is the worse for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

import pytest

from tests.server.asks import claim_one, delegate, metrics, ok, poll, respond
from tests.system.conftest import Live, Starting
from tests.waiting import PATIENCE

CIRCLE = {"a": "b", "b": "c", "c": "a"}
MAX_CYCLES = 3
# Each of the three steps may come three times; the next one, whoever's it is, is refused.
MESSAGES = len(CIRCLE) * MAX_CYCLES

BURST = 10
WAIT = 20  # seconds

Next = Callable[[str, dict[str, Any]], tuple[str, dict[str, Any]]]


def by_send(agent_id: str, message: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    body = {"from_agent": agent_id, "to_agent": CIRCLE[agent_id], "content": 1, "in_reply_to": message["message_id"]}
    return "/send", body


def by_delegate(agent_id: str, message: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    body = {"from_agent": agent_id, "to_agent": CIRCLE[agent_id], "task": "t", "parent_task": message["message_id"]}
    return "/delegate", body


def in_turns(agent_id: str, message: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Delegate because of a message, and send because of a task."""
    if message["type"] == "task_delegation":
        path, body = by_send(agent_id, message)
        return path, {**body, "in_reply_to": None, "parent_task": message["message_id"]}
    return by_send(agent_id, message)


class Circle:
    """Three agents that pass on whatever they get, for as long as they are let."""

    def __init__(self, relay: Live, following: Next) -> None:
        self.relay = relay
        self.following = following
        self.sent = 0
        self.stopped: dict[str, Any] | None = None
        self.over = asyncio.Event()

    async def run(self) -> None:
        agents = [asyncio.create_task(self.answer(agent_id)) for agent_id in CIRCLE]
        await self.pass_on("a", {"type": "message", "message_id": "none"}, first=True)
        await asyncio.wait_for(self.over.wait(), PATIENCE)
        for agent in agents:
            agent.cancel()
        await asyncio.gather(*agents, return_exceptions=True)

    async def answer(self, agent_id: str) -> None:
        while True:
            reply = await poll(self.relay, agent_id, wait=10, lease=60)
            for message in reply["messages"]:
                if message["type"] in ("message", "task_delegation"):
                    await self.pass_on(agent_id, message)

    async def pass_on(self, agent_id: str, message: dict[str, Any], *, first: bool = False) -> None:
        path, body = self.following(agent_id, message)
        if first:
            body = {k: v for k, v in body.items() if k not in ("in_reply_to", "parent_task")}
        status, told = await self.relay.post(path, body)
        if status == 200:
            self.sent += 1
        else:
            self.stopped = {"status": status, **told}
            self.over.set()


async def at_work(relay: Live) -> float:
    """Have two others delegate and answer, as often as a pair may at once; return the median seconds of a round."""
    took: list[float] = []
    for _ in range(BURST):
        started = time.perf_counter()
        task_id = await delegate(relay, "x", "y")
        await claim_one(relay, "y", wait=WAIT)
        await respond(relay, "y", task_id)
        got = await claim_one(relay, "x", wait=WAIT)
        await ok(relay.post("/ack", {"agent_id": "x", "receipts": [got.receipt]}))
        took.append(time.perf_counter() - started)
    return median(took)


async def with_others(start_live: Starting, *flags: str) -> Live:
    relay = start_live(*flags)
    for agent_id in (*CIRCLE, "x", "y"):
        await relay.register(agent_id.upper() + "-agent", agent_id=agent_id)
    for agent_id in (*CIRCLE, "x", "y"):
        await ok(relay.get(f"/poll/{agent_id}"))
    return relay


@pytest.mark.parametrize("following", [by_send, by_delegate, in_turns])
async def test_three_that_answer_each_other_for_ever_are_stopped_and_nobody_else(
    start_live: Starting, following: Next
) -> None:
    relay = await with_others(start_live, "--max-cycles", str(MAX_CYCLES))
    circle = Circle(relay, following)
    working: Awaitable[float] = asyncio.create_task(at_work(relay))
    await circle.run()
    assert circle.sent == MESSAGES
    assert circle.stopped is not None
    assert (circle.stopped["status"], circle.stopped["code"], circle.stopped["limit"]) == (429, "loop_stopped", 3)
    assert circle.stopped["current"] == [*"abc" * MAX_CYCLES, "a", "b"]
    assert "a -> b" in circle.stopped["error"]
    assert await working < WAIT / 2, "claims have waited to their end"
    info = await ok(relay.get("/"))
    assert (info["loops_stopped"], info["rate_limited"]) == (1, 0)
    assert (await metrics(relay))["loops_stopped_total"] == 1
    assert [(stop["code"], stop["agents"]) for stop in info["recent_stops"]] == [
        ("loop_stopped", circle.stopped["current"])
    ]


async def test_three_that_hide_what_they_answer_are_held_to_their_rate(start_live: Starting) -> None:
    """Naming no cause they go on, but no faster than the rates allow."""
    relay = await with_others(start_live, "--rate-agent", "100", "--rate-pair", "1", "--burst-pair", str(BURST))

    def hiding(agent_id: str, message: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        path, body = by_send(agent_id, message)
        return path, {**body, "in_reply_to": None}

    circle = Circle(relay, hiding)
    working: Awaitable[float] = asyncio.create_task(at_work(relay))
    await circle.run()
    assert circle.stopped is not None
    assert (circle.stopped["status"], circle.stopped["code"], circle.stopped["limit"]) == (429, "rate_limited", 1)
    assert circle.stopped["retry_after"] > 0
    assert circle.sent >= 3 * BURST
    assert circle.stopped["current"] in (["a", "b"], ["b", "c"], ["c", "a"])
    assert await working < WAIT / 2, "claims have waited to their end"
