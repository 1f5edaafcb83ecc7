"""Agents that take one name at the same moment, on a store that gives no more than it must."""

from __future__ import annotations

import asyncio
import random

from clawlink.domain.agent import TAKING_SECONDS, Agent, NameHold
from clawlink.errors import NameTaken
from clawlink.protocol import requests
from clawlink.store.base import Put
from clawlink.store.memory import MemoryStore
from tests.relay.scene import Scene
from tests.store.faulty import FaultyStore


def faulty(seed: int) -> Scene:
    return Scene(store=FaultyStore(MemoryStore(), random.Random(seed), conflicts=0.1, delays=0.3, stale=0.2))


async def register(scene: Scene, agent_id: str, *, claim: bool) -> Agent | None:
    """Register an agent named Solo; return None if the name is taken."""
    ask = requests.Register(agent_id=agent_id, name="Solo", claim=claim)
    try:
        return (await scene.relay.agents.register(ask, machine="m", agent_key=None)).agent
    except NameTaken:
        return None


async def test_of_many_claims_at_once_one_has_the_name() -> None:
    for seed in range(60):
        scene = faulty(seed)
        had = await asyncio.gather(*(register(scene, f"a{n}", claim=True) for n in range(10)))
        there = [agent for n in range(10) if (agent := await scene.store.get(Agent, f"a{n}")) is not None]
        assert [agent for agent in had if agent is not None] == there, seed
        assert len(there) == 1, seed


async def test_no_agent_without_a_key_shares_the_name_of_a_claim_at_the_same_moment() -> None:
    for seed in range(60):
        scene = faulty(seed)
        had = await asyncio.gather(*(register(scene, f"a{n}", claim=n % 3 == 0) for n in range(9)))
        there = [agent for n in range(9) if (agent := await scene.store.get(Agent, f"a{n}")) is not None]
        assert {agent.id for agent in had if agent is not None} == {agent.id for agent in there}, seed
        assert len(there) == 1 or not any(agent.key_hash for agent in there), seed
        assert there, seed


async def test_a_name_whose_agent_never_came_is_free_after_a_moment() -> None:
    scene = Scene()
    hold = NameHold(id="solo", version=1, agent_id="lost", taken_at=scene.now, claimed=True)
    await scene.store.commit(hold.partition_key, Put(hold))
    assert await register(scene, "a", claim=False) is None
    scene.now += TAKING_SECONDS
    assert await register(scene, "a", claim=False) is not None
