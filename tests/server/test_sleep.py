"""An agent that sleeps: its tasks go back at once, it is stale, and it is forgotten when it said so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.conftest import Running, Serve
from tests.server.asks import ack, claim_one, delegate, ok, pool_task, refused, task_of
from tests.virtual_time import pass_time
from tests.waiting import eventually

Until = Callable[[Callable[[], bool]], Awaitable[None]]


async def send_to_sleep(relay: Running, agent_id: str, **fields: Any) -> Any:
    return await ok(relay.post("/sleep", {"agent_id": agent_id, **fields}))


async def status_of_agent(relay: Running, agent_id: str) -> str:
    listed = (await ok(relay.get("/discover", params={"status": "all"})))["agents"]
    (found,) = [agent["status"] for agent in listed if agent["agent_id"] == agent_id]
    return str(found)


@pytest.mark.both_stores
@pytest.mark.durable
async def test_a_sleeping_agent_gives_back_what_it_holds_and_stays(pair: Running) -> None:
    own, pooled = await delegate(pair, "a", "b"), await pool_task(pair, "a")
    await ok(pair.post("/register", {"agent_id": "b", "name": "Bob", "capabilities": ["python"]}))
    for _ in range(2):
        got = await claim_one(pair, "b", max=1)
        await ack(pair, "b", got.receipt)
    slept = await send_to_sleep(pair, "b")
    assert (slept["status"], slept["agent_id"], sorted(slept["tasks"])) == ("asleep", "b", sorted([own, pooled]))
    assert await status_of_agent(pair, "b") == "stale"
    for id in (own, pooled):
        task = await task_of(pair, "a", id)
        assert task["status"] == "queued"
        assert "Bob has ended its session" in task["history"][-1]["note"]
    assert (await send_to_sleep(pair, "b"))["tasks"] == [], "a repeat is harmless"
    # Another agent may do that of the pool; its own waits for it.
    await ok(pair.post("/register", {"agent_id": "c", "name": "c", "capabilities": ["python"]}))
    assert (await claim_one(pair, "c")).message["message_id"] == pooled
    again = await ok(pair.post("/register", {"agent_id": "b", "name": "Bob"}))
    assert again["agent"]["status"] == "online"
    assert (await claim_one(pair, "b")).message["message_id"] == own


async def test_only_the_agent_itself_may_say_that_it_sleeps(pair: Running) -> None:
    key = (await ok(pair.post("/register", {"name": "Eve", "agent_id": "e", "claim": True})))["agent_key"]
    await refused(pair.post("/sleep", {"agent_id": "e"}), 403, "not_allowed")
    await refused(pair.post("/sleep", {"agent_id": "nobody"}), 404, "unknown_agent")
    await refused(pair.post("/sleep", {"agent_id": "a", "forget_after": 1}), 400, "bad_request")
    assert (await ok(pair.post("/sleep", {"agent_id": "e"}, headers={"ClawLink-Agent-Key": key})))["tasks"] == []


@pytest.mark.virtual_time
async def test_a_sleeper_is_forgotten_when_it_said_and_not_after_thirty_days(serve: Serve) -> None:
    relay = await serve(limits={"forget_claimed_after": 3600.0})
    keys = {}
    for name in ("sleeps", "wakes", "stays"):
        keys[name] = (await ok(relay.post("/register", {"agent_id": name, "name": name, "claim": True})))["agent_key"]
    for name in ("sleeps", "wakes"):
        headers = {"ClawLink-Agent-Key": keys[name]}
        await ok(relay.post("/sleep", {"agent_id": name, "forget_after": 100}, headers=headers))
    await pass_time(10)
    await ok(relay.post("/heartbeat", {"agent_id": "wakes"}, headers={"ClawLink-Agent-Key": keys["wakes"]}))
    assert await status_of_agent(relay, "wakes") == "online"

    async def forgotten() -> bool:
        listed = (await ok(relay.get("/discover", params={"status": "all"})))["agents"]
        return {agent["agent_id"] for agent in listed} == {"wakes", "stays"}

    assert not await forgotten()
    await pass_time(95)
    await eventually(forgotten, seconds=600)
