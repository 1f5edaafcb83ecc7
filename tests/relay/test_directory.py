"""The listing of agents: what it keeps does not outlast them."""

from __future__ import annotations

from clawlink.protocol import requests
from tests.relay.scene import Scene


async def test_agents_that_came_and_left_leave_nothing_behind_though_nobody_lists_agents() -> None:
    scene = Scene()
    core = scene.relay._core
    for n in range(50):
        await scene.register(f"a{n}")
        await scene.leave(f"a{n}")
    await scene.register("old")
    scene.now += scene.relay.limits.forget_after
    await scene.relay.janitor.sweep()
    assert (core.listed, core.changed) == (set(), {})
    await scene.register("there")
    listed, after = await scene.relay.agents.discover(requests.DiscoverQuery())
    assert (len(listed), after) == (1, None)
