"""Notices of agents and files: each kind of agent gets those that are promised, whichever way it reads."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from clawlink.domain.limits import PRESENCE_AUDIENCE
from tests.conftest import Running, Serve
from tests.server.asks import Headers, claim, ok, poll, with_key
from tests.server.sockets import path_of, websocket
from tests.system.raw import Clock

Next = Callable[[], Awaitable[dict[str, Any]]]

JOINED, LEFT, FILE = "agent_joined", "agent_left", "file_updated"
# The fields at register, and the notices of an agent: by poll, events and websocket with a lease, and by a websocket
# without a lease.
AGENTS: dict[str, tuple[dict[str, Any], set[str], set[str]]] = {
    "asked": ({"notices": True}, {JOINED, LEFT, FILE}, {JOINED, LEFT, FILE}),
    "claimed-asked": ({"claim": True, "notices": True}, {JOINED, LEFT, FILE}, {JOINED, LEFT, FILE}),
    "claimed": ({"claim": True}, set(), set()),
    "declined": ({"notices": False}, set(), set()),
    "old": ({}, {FILE}, {FILE, JOINED}),
}


@asynccontextmanager
async def by_poll(relay: Running, agent_id: str, headers: Headers) -> AsyncIterator[Next]:
    waiting: list[dict[str, Any]] = []

    async def following() -> dict[str, Any]:
        while not waiting:
            waiting.extend((await poll(relay, agent_id, lease=60, wait=5, max=100, headers=headers))["messages"])
        return waiting.pop(0)

    yield following


@asynccontextmanager
async def by_events(relay: Running, agent_id: str, headers: Headers) -> AsyncIterator[Next]:
    async with relay.session.get(relay.url + path_of(agent_id, kind="events"), headers=headers) as response:
        assert response.status == 200

        async def following() -> dict[str, Any]:
            kind = ""
            while line := (await response.content.readline()).decode():
                name, _, value = line.rstrip("\n").partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    message: dict[str, Any] = json.loads(value)
                    assert message["type"] == kind
                    return message
            raise AssertionError("the stream has ended")

        yield following


def by_websocket(**query: Any) -> Callable[[Running, str, Headers], Any]:
    @asynccontextmanager
    async def connected(relay: Running, agent_id: str, headers: Headers) -> AsyncIterator[Next]:
        async with websocket(relay, agent_id, headers=headers, **query) as peer:
            await peer.ask("ping")
            yield peer.frame

    return connected


async def told(following: Next) -> list[dict[str, Any]]:
    """Return what comes before the last message, which has the lowest priority as notices have."""
    came: list[dict[str, Any]] = []
    while (message := await following())["type"] != "message":
        came.append(message)
    return came


async def test_each_agent_is_told_what_is_promised_whichever_way_it_reads(serve: Serve) -> None:
    for way, (connect, plain) in {
        "poll": (by_poll, False),
        "events": (by_events, False),
        "websocket with a lease": (by_websocket(lease=60), False),
        "websocket": (by_websocket(), True),
    }.items():
        for kind, (said, stored, pushed) in AGENTS.items():
            relay = await serve()
            await relay.register("Ann", agent_id="a")
            await relay.register("Eve", agent_id="e")
            made = await ok(relay.post("/register", {"agent_id": "r", "name": "Reader", **said}))
            headers = with_key(made["agent_key"]) if made["agent_key"] else {}
            async with connect(relay, "r", headers) as following:
                await relay.register("Dan", agent_id="d")
                await ok(relay.ask("DELETE", "/agents/e"))
                await ok(relay.post("/files", {"file_key": "k", "content": "c", "agent_id": "a"}))
                last = {"from_agent": "a", "to_agent": "r", "content": "last", "priority": "low"}
                await ok(relay.post("/send", last))
                came = await told(following)
            case = (way, kind, came)
            assert {message["type"] for message in came} == (pushed if plain else stored), case
            assert len(came) == len({message["type"] for message in came}), case
            for message in came:
                what = {JOINED: "d", LEFT: "e"}.get(message["type"])
                assert what is None or message["agent"]["agent_id"] == what, case
                held = message["type"] != JOINED or kind != "old"
                assert ("delivery" in message) is (held and way != "poll"), case


async def test_agents_are_told_of_each_other_while_they_are_online_and_few(serve: Serve, clock: Clock) -> None:
    clock.stop()
    relay = await serve(clock=clock, limits={"rate_register": 0})
    await relay.register("Stale", agent_id="s", notices=True)
    clock.skip(121)
    await relay.register("Ann", agent_id="a", notices=True)
    for n in range(PRESENCE_AUDIENCE - 2):  # the last one fills it
        await relay.register(f"n{n}", notices=False)
    await relay.register("one too many", notices=False)
    joined = await claim(relay, "a", PRESENCE_AUDIENCE - 2, news=True, max=1000)
    assert [got.message["agent"]["name"] for got in joined] == [f"n{n}" for n in range(PRESENCE_AUDIENCE - 2)]
    await claim(relay, "s", 0, news=True)
