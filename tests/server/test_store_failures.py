"""A store that does not answer: 503 in JSON, worth another try, and the other try puts it right."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from clawlink.store.memory import MemoryStore
from tests.conftest import Running, Serve
from tests.server.asks import ack, claim, eventually, nothing_due, ok, refused, send, status_of
from tests.store.faulty import FaultyStore
from tests.system.raw import Clock

WRITES: list[tuple[str, dict[str, Any]]] = [
    ("/delegate", {"from_agent": "a", "to_agent": "b", "task": "t"}),
    ("/send", {"from_agent": "a", "to_agent": "b", "content": 1}),
    ("/broadcast", {"from_agent": "a", "content": "c"}),
    ("/files", {"file_key": "k", "content": "c", "agent_id": "a"}),
    ("/register", {"name": "New"}),
]


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
    await relay.register("Bob", agent_id="b")
    await claim(relay, "a", 0)
    return relay


@pytest.mark.parametrize(("path", "ask"), WRITES, ids=[path for path, _ in WRITES])
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
@pytest.mark.parametrize(("path", "ask"), WRITES, ids=[path for path, _ in WRITES])
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
        return (await store.inner.load("b")).count == 0

    await eventually(all_acked)
    store.failures = store.lost = 0.0
    assert acked <= ids
    for id in ids:
        assert (await ok(relay.get(f"/messages/{id}?agent_id=a")))["state"] == "acked"


async def test_a_store_that_conflicts_for_ever_is_503_and_not_a_loop(relay: Running, store: FaultyStore) -> None:
    store.conflicts = 1.0
    for path, ask in WRITES:
        await refused(relay.post(path, ask), 503, "store_unavailable")
    store.conflicts = 0.0
    for path, ask in WRITES:
        await ok(relay.post(path, ask))


async def test_the_janitor_goes_on_after_a_failure(
    relay: Running, store: FaultyStore, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    id = await send(relay, "a", "b")
    store.failures = 1.0
    clock.skip(1001)

    async def complained() -> bool:
        return "the janitor failed; it goes on" in [r.getMessage() for r in caplog.records]

    await eventually(complained)
    store.failures = 0.0

    async def expired() -> bool:
        return bool((await status_of(relay, "a", id))["state"] == "expired")

    await eventually(expired)
