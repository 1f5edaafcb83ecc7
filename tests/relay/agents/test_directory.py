"""The listing of agents: what it keeps does not outlast them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from clawlink.domain.agent import Agent
from clawlink.protocol import requests
from tests.relay.scene import Scene


async def test_agents_that_came_and_left_leave_nothing_behind_though_nobody_lists_agents() -> None:
    scene = Scene()
    core = scene.relay.core
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


async def test_an_agent_that_goes_or_comes_again_while_it_is_read_is_listed_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another task runs between the reading of a record and what is done about it."""
    scene = Scene()
    store, agents = scene.relay.core.store, scene.relay.agents
    get = store.get
    meanwhile: list[Callable[[], Awaitable[object]]] = []

    async def slow_get(kind: Any, id: str) -> Any:
        found = await get(kind, id)
        if meanwhile and (kind, id) == (Agent, "a"):
            await meanwhile.pop()()
        return found

    monkeypatch.setattr(store, "get", slow_get)

    async def listed() -> list[str]:
        found, _ = await agents.discover(requests.DiscoverQuery(status="all"))
        return [msgspec.json.decode(one)["agent_id"] for one in found]

    await scene.register("a")
    await scene.register("b")
    meanwhile.append(lambda: scene.leave("a"))
    await listed()
    assert await listed() == ["b"]

    scene.relay.core.listed.add("a")
    scene.relay.core.changed["a"] = None
    meanwhile.append(lambda: scene.register("a"))
    await listed()
    assert sorted(await listed()) == ["a", "b"]
