"""Every wait lasts as long as was asked for, whatever becomes of the clock, and ends with the news it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal, NamedTuple

import pytest

from clawlink.domain.file_write import Write
from clawlink.protocol import requests
from tests.relay.scene import Scene, receipt_of
from tests.virtual_time import pass_time

pytestmark = pytest.mark.virtual_time

STEPS = (7200.0, -3600.0)
SHORT, LONG, HELD = 15.0, 30.0, 80_000.0


async def parts() -> AsyncIterator[bytes]:
    yield b"text"


class Wait(NamedTuple):
    """A wait: the time it is asked to last, the news it waits for, and whether the outcome has the news."""

    ask: Callable[[float], Awaitable[Any]]
    news: Callable[[], Awaitable[Any]]
    has: Callable[[Any], bool]


async def waits(scene: Scene) -> dict[str, Wait]:
    """Return every wait of the relay, for agents of their own."""
    relay = scene.relay
    await scene.register("req", "bob", "poller", "reader")
    await scene.register("maker", capabilities=["make"])
    req, maker, poller = await scene.agent("req"), await scene.agent("maker"), await scene.agent("poller")
    for agent in ("bob", "poller", "reader", "maker", "req"):
        await scene.read(agent)
    task = await scene.delegate(to_agent="bob")
    assert len(await scene.take("bob", lease=HELD)) == 1
    message = await scene.send("req", "reader")
    told = (await scene.broadcast("req", "hear")).message_id
    copies = {id: await scene.take(id, lease=HELD) for id in ("reader", "bob", "poller", "maker")}

    async def write() -> None:
        await relay.files.put(req, Write(key="k", content_type="text/plain"), parts(), 4)

    async def settle() -> None:
        for id, deliveries in copies.items():
            await relay.acks.ack(id, [receipt_of(d) for d in deliveries])

    def claim(agent: Any) -> Callable[[float], Awaitable[Any]]:
        return lambda wait: relay.claims.claim(agent, limit=1, wait=wait, lease=20)

    def status(id: str, until: Literal["acked"]) -> Callable[[float], Awaitable[Any]]:
        return lambda wait: relay.messages.status(
            req, id, requests.MessageQuery(agent_id="req", wait=wait, until=until)
        )

    return {
        "poll": Wait(claim(poller), lambda: scene.send("req", "poller"), lambda got: bool(got.deliveries)),
        "poll of a pool": Wait(
            claim(maker), lambda: scene.delegate(capability="make"), lambda got: bool(got.deliveries)
        ),
        "task": Wait(
            lambda wait: relay.task_views.get(req, task, requests.TaskQuery(wait=wait)),
            lambda: scene.respond("bob", task),
            lambda view: view.status == "completed",
        ),
        "message": Wait(status(message, "acked"), settle, lambda status: status.acked_at is not None),
        "broadcast": Wait(status(told, "acked"), settle, lambda status: status.counts == {"acked": 4}),
        "file": Wait(
            lambda wait: relay.file_reads.history("k", None, wait), write, lambda history: history.version == 1
        ),
    }


async def test_a_step_of_the_clock_makes_no_wait_longer() -> None:
    for step in STEPS:
        scene = Scene()
        for name, wait in (await waits(scene)).items():
            waiting = asyncio.ensure_future(wait.ask(SHORT))
            await pass_time(SHORT / 3)
            scene.now += step
            found = await asyncio.wait_for(waiting, LONG)
            assert not wait.has(found), (name, step)
            scene.now -= step


async def test_a_step_of_the_clock_makes_no_wait_shorter() -> None:
    for step in STEPS:
        for name in await waits(Scene()):
            scene = Scene()
            wait = (await waits(scene))[name]
            waiting = asyncio.ensure_future(wait.ask(LONG))
            await pass_time(LONG / 3)
            scene.now += step
            scene.relay.look_again()
            await pass_time(LONG / 3)
            assert not waiting.done(), (name, step)
            await wait.news()
            assert wait.has(await asyncio.wait_for(waiting, LONG)), (name, step)
