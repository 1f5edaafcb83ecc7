"""A store that does not answer: 503 in JSON, worth another try, and the other try puts it right."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any

import aiohttp
import pytest

from clawlink.store.memory import MemoryStore
from tests.conftest import Running, Serve
from tests.server.asks import ack, claim, nothing_due, ok, refused, send, status_of, task_of
from tests.store.asking import load
from tests.store.faulty import FaultyStore
from tests.system.raw import Clock
from tests.waiting import eventually

WRITES: list[tuple[str, dict[str, Any]]] = [
    ("/delegate", {"from_agent": "a", "to_agent": "b", "task": "t"}),
    ("/delegate", {"from_agent": "a", "capability": "go", "task": "t"}),
    ("/send", {"from_agent": "a", "to_agent": "b", "content": 1}),
    ("/broadcast", {"from_agent": "a", "content": "c"}),
    ("/files", {"file_key": "k", "content": "c", "agent_id": "a"}),
    ("/register", {"name": "New"}),
]
IDS = ["delegate", "delegate by capability", "send", "broadcast", "files", "register"]


@pytest.fixture
def store_kind() -> str:
    """These tests bring stores of their own."""
    return "memory"


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(MemoryStore(), Random(1))


@pytest.fixture
async def relay(serve: Serve, store: FaultyStore, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Running:
    monkeypatch.setattr("clawlink.server.app._SWEEP_SECONDS", 0.02)
    relay = await serve(store=store, clock=clock, limits={"max_attempts": 1000, "message_ttl": 1000})
    await relay.register("Ann", agent_id="a")
    await relay.register("Bob", agent_id="b", capabilities=["go"])
    await claim(relay, "a", 0)
    return relay


@pytest.mark.parametrize(("path", "ask"), WRITES, ids=IDS)
async def test_a_write_that_the_store_does_not_take_is_503_and_worth_another_try(
    relay: Running, store: FaultyStore, path: str, ask: dict[str, Any]
) -> None:
    store.failures = 1.0
    async with relay.session.post(relay.url + path, json=ask) as response:
        body = await response.json()
        assert (response.status, body["code"], response.headers["Retry-After"]) == (503, "store_unavailable", "1")
    store.failures = 0.0
    await ok(relay.post(path, ask))


@pytest.mark.parametrize("fault", ["failures", "lost"])
@pytest.mark.parametrize(("path", "ask"), WRITES, ids=IDS)
async def test_trying_until_it_is_taken_stores_it_once(
    relay: Running, store: FaultyStore, path: str, ask: dict[str, Any], fault: str
) -> None:
    """Whether the write that failed had taken effect or not: under one key the repeats make one."""
    setattr(store, fault, 0.6)

    async def taken() -> Any:
        status, body = await relay.post(path, {**ask, "idempotency_key": "k" * 16})
        assert status in (200, 503)
        return body if status == 200 else None

    await eventually(taken)
    setattr(store, fault, 0.0)
    if path == "/register":
        assert (await ok(relay.get("/discover?name=new")))["count"] == 1
        return
    if path == "/files":
        assert (await ok(relay.get("/files/k")))["version"] == 1
        return
    (got,) = await claim(relay, "b", 1)
    await ack(relay, "b", got.receipt)
    await nothing_due(relay, "b")


async def test_claims_and_acks_that_fail_lose_nothing(relay: Running, store: FaultyStore, clock: Clock) -> None:
    ids = {
        (await ok(relay.post("/send", {"from_agent": "a", "to_agent": "b", "content": n})))["message_id"]
        for n in range(20)
    }
    store.failures = store.lost = 0.2
    acked: set[str] = set()

    async def all_acked() -> bool:
        clock.skip(5)
        status, polled = await relay.get("/poll/b?lease=5&max=3")
        if status == 200:
            for message, held in zip(polled["messages"], polled["deliveries"], strict=True):
                status, done = await relay.post("/ack", {"agent_id": "b", "receipts": [held["receipt"]]})
                if status == 200 and done["count"]:
                    acked.add(message["message_id"])
        return (await load(store.inner, "b")).count == 0

    await eventually(all_acked)
    store.failures = store.lost = 0.0
    assert acked <= ids
    for id in ids:
        assert (await ok(relay.get(f"/messages/{id}?agent_id=a")))["state"] == "acked"


@pytest.mark.parametrize("to", [{"to_agent": "b"}, {"capability": "go"}], ids=["name", "capability"])
async def test_a_task_whose_every_step_may_fail_ends_once_and_loses_nothing(
    relay: Running, store: FaultyStore, clock: Clock, to: dict[str, Any]
) -> None:
    """Each step is repeated until it is taken: the question, what answers it, the result, and the cancels between."""

    async def taken(path: str, ask: dict[str, Any], *refusals: str) -> Any:
        async def tried() -> Any:
            status, body = await relay.post(path, ask)
            assert status in (200, 503) or body["code"] in refusals, body
            return body if status != 503 else None

        return await eventually(tried)

    async def fetched(agent_id: str) -> list[dict[str, Any]]:
        """Read what is due once, and acknowledge it."""
        status, polled = await relay.get(f"/poll/{agent_id}?lease=5&max=100")
        if status == 503 or not polled["deliveries"]:
            return []
        receipts = [held["receipt"] for held in polled["deliveries"]]
        done = await taken("/ack", {"agent_id": agent_id, "receipts": receipts})
        return [m for m, r in zip(polled["messages"], done["results"], strict=True) if r["status"] == "acked"]

    store.failures = store.lost = 0.15
    tasks = [
        (await taken("/delegate", {"from_agent": "a", "task": str(n), "idempotency_key": f"key {n:>12}", **to}))[
            "message_id"
        ]
        for n in range(12)
    ]
    told: list[dict[str, Any]] = []
    ended: dict[str, str] = {}

    async def all_ended() -> bool:
        clock.skip(6)
        for message in await fetched("b"):
            if message["type"] == "task_delegation":
                asked = {"from_agent": "b", "message_id": message["message_id"], "status": "input_required"}
                await taken("/respond", {**asked, "result": "go on?"}, "wrong_state")
            elif message["type"] == "task_answer":
                id = message["task_id"]
                answer = {"from_agent": "b", "message_id": id, "result": message["content"]}
                done = await taken("/respond", answer, "wrong_state")
                ended[id] = done.get("task_status") or done["current"]
        for message in await fetched("a"):
            told.append(message)
            if message.get("status") == "input_required":
                id = message["message_id"]
                if tasks.index(id) % 3 == 0:
                    ended[id] = (await taken(f"/tasks/{id}/cancel", {"from_agent": "a"}))["status"]
                else:
                    await taken(f"/tasks/{id}/answer", {"from_agent": "a", "content": "yes"})
        return len(ended) == len(tasks)

    await eventually(all_ended)
    store.failures = store.lost = 0.0
    told += [got.message for got in await claim(relay, "a", await due(store, "a"), lease=5)]
    for n, id in enumerate(tasks):
        state = (await task_of(relay, "a", id))["status"]
        assert state == ended[id] == ("cancelled" if n % 3 == 0 else "completed")
        answers = [m["result"] for m in told if m.get("message_id") == id and m.get("status") == "completed"]
        assert answers == ([] if n % 3 == 0 else ["yes"])


async def due(store: FaultyStore, mailbox: str) -> int:
    return (await load(store.inner, mailbox)).count


async def test_a_store_that_conflicts_for_ever_is_503_and_not_a_loop(
    relay: Running, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawlink.relay.core._MOST_PAUSE_SECONDS", 0.002)
    store.conflicts = 1.0
    for path, ask in WRITES:
        await refused(relay.post(path, ask), 503, "store_unavailable")
    store.conflicts = 0.0
    for path, ask in WRITES:
        await ok(relay.post(path, ask))


class Standing(FaultyStore):
    """A store that answers nothing while it stands."""

    standing: asyncio.Event | None = None

    async def _pause(self) -> None:
        if self.standing is not None:
            await self.standing.wait()


async def test_readyz_is_503_while_the_store_fails_or_stands_still(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Standing(MemoryStore(), Random(1))
    relay = await serve(store=store, token="t")

    async def require_unready(why: str) -> None:
        async with relay.session.get(relay.url + "/readyz") as reply:
            body = await reply.json()
            assert (reply.status, body["code"]) == (503, "store_unavailable")
            assert why in body["error"]
            assert int(reply.headers["Retry-After"]) == 1
        assert (await relay.get("/healthz"))[0] == 200

    ready = {"status": "ok", "relay_id": relay.app.relay.id, "stopped": False}
    assert await ok(relay.get("/readyz")) == ready
    store.failures = 1.0
    await require_unready("reads or writes nothing at this moment")
    store.failures, store.standing = 0.0, asyncio.Event()
    monkeypatch.setattr("clawlink.relay.core._HEALTH_SECONDS", 0.05)
    await asyncio.gather(*(require_unready("has not answered within") for _ in range(3)))
    store.standing.set()
    store.standing = None
    monkeypatch.undo()

    async def is_ready() -> bool:
        return (await relay.get("/readyz"))[0] == 200

    await eventually(is_ready)
    await relay.app.relay.drain()
    await refused(relay.get("/readyz"), 503, "draining")


async def test_the_janitor_goes_on_after_a_failure(
    relay: Running, store: FaultyStore, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    id = await send(relay, "a", "b")
    store.failures = 1.0
    clock.skip(1001)

    async def complained() -> bool:
        return "upkeep failed; it goes on, and tries this again" in [r.getMessage() for r in caplog.records]

    await eventually(complained)
    store.failures = 0.0

    async def expired() -> bool:
        return bool((await status_of(relay, "a", id))["state"] == "expired")

    await eventually(expired)


class Unplugged(FaultyStore):
    """A store behind a connection of its own, which may be broken."""

    unplugged = False

    async def _pause(self) -> None:
        if self.unplugged:
            raise ConnectionResetError("the store's connection was reset")


async def test_a_broken_connection_of_the_store_is_not_taken_for_a_client_that_hung_up(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module in ("websocket", "sse"):
        name = {"websocket": "_RETRY_SECONDS", "sse": "_RETRY_MILLISECONDS"}[module]
        monkeypatch.setattr(f"clawlink.server.{module}.{name}", 0.01)
    store = Unplugged(MemoryStore(), Random(1))
    relay = await serve(store=store)
    for id in ("a", "b", "c"):
        await relay.register(id, agent_id=id)
    async with (
        relay.session.ws_connect(relay.url + "/ws/b?lease=60") as ws,
        relay.session.get(relay.url + "/events/c?lease=60") as events,
    ):
        for id in ("b", "c"):
            await send(relay, "a", id, "before")
        assert "before" in await read_until(lambda: text(ws), "before")
        assert "before" in await read_until(lambda: line(events), "before")
        store.unplugged = True
        await refused(relay.post("/send", {"from_agent": "a", "to_agent": "b", "content": 1}), 500, "internal_error")
        relay.app.relay.look_again()
        for route in ("/send", "/ws/{agent_id}", "/events/{agent_id}"):
            await eventually(partial(logged, caplog, route))
        store.unplugged = False
        for id in ("b", "c"):
            await send(relay, "a", id, "after")
        assert "after" in await read_until(lambda: text(ws), "after")
        assert "after" in await read_until(lambda: line(events), "after")


async def text(ws: aiohttp.ClientWebSocketResponse[Any]) -> str:
    return str(await ws.receive_str())


async def line(response: aiohttp.ClientResponse) -> str:
    return (await response.content.readline()).decode()


async def read_until(read: Callable[[], Awaitable[str]], text: str) -> str:
    """Read until a piece has the text, and return that piece."""
    while True:
        piece = await asyncio.wait_for(read(), 30)
        assert piece, "the response has ended"
        if text in piece:
            return piece


async def logged(caplog: pytest.LogCaptureFixture, route: str) -> bool:
    return any(getattr(record, "route", None) == route for record in caplog.records)
