"""Every row of the table of limits is met here, each through its flag, and says what it is when it is met."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import pytest

from clawlink.config import ServerConfig
from clawlink.domain.limits import LIMIT_FIELDS
from clawlink.server import options
from tests.conftest import Running, Serve
from tests.server.asks import (
    ack,
    claim,
    claim_one,
    delegate,
    eventually,
    metrics,
    nothing_due,
    ok,
    poll,
    refused,
    respond,
    send,
    status_of,
)
from tests.system.raw import Clock, connect, request


@pytest.fixture
def store_kind() -> str:
    """Counts are exact on this store."""
    return "memory"


def config(*flags: str) -> ServerConfig:
    """Return what these flags say."""
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    return options.read(parser.parse_args(flags), {})


async def limited(serve: Serve, clock: Clock, *flags: str) -> Running:
    """Start a relay with these flags, with agents a and b whose mailboxes are empty."""
    relay = await serve(clock=clock, limits={f.name: getattr(config(*flags).limits, f.name) for f in LIMIT_FIELDS})
    for agent_id in ("a", "b"):
        await relay.register(agent_id, agent_id=agent_id)
    await poll(relay, "a")
    return relay


def message(content: Any = 1) -> dict[str, Any]:
    return {"from_agent": "a", "to_agent": "b", "content": content}


def task() -> dict[str, Any]:
    return {"from_agent": "a", "to_agent": "b", "task": "t"}


async def test_max_body_bytes(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--max-body-bytes", "1000")
    await ok(relay.post("/send", message("x" * 900)))
    body = await refused(relay.post("/send", message("x" * 1000)), 413, "too_large")
    assert body["limit"] == 1000
    assert body["actual"] > 1000


async def test_max_mailbox_messages(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--max-mailbox-messages", "3")
    for _ in range(3):
        await send(relay, "a", "b")
    body = await refused(relay.post("/send", message()), 429, "mailbox_full")
    assert (body["limit"], body["actual"]) == (3, 3)
    assert body["retry_after"] > 0
    await refused(relay.post("/delegate", task()), 429, "mailbox_full")
    (got, *_) = await claim(relay, "b", 3)
    await ack(relay, "b", got.receipt)
    await send(relay, "a", "b")


async def test_max_mailbox_bytes(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--max-mailbox-bytes", "2000")
    await send(relay, "a", "b", "x" * 1000)
    body = await refused(relay.post("/send", message("x" * 1000)), 429, "mailbox_full")
    assert body["limit"] == 2000
    assert body["actual"] > 2000
    await send(relay, "a", "b", "small")


async def test_max_open_tasks(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--max-open-tasks", "2")
    first = await delegate(relay, "a", "b")
    await delegate(relay, "a", "b")
    for got in await claim(relay, "b", 2):
        await ack(relay, "b", got.receipt)
    body = await refused(relay.post("/delegate", task()), 429, "mailbox_full")
    assert (body["limit"], body["actual"]) == (2, 2)
    await respond(relay, "b", first)
    await delegate(relay, "a", "b")


async def test_max_stored_bytes(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--max-stored-bytes", "3000")
    await send(relay, "a", "b", "x" * 1000)
    await send(relay, "b", "a", "x" * 1000)
    body = await refused(relay.post("/send", message("x" * 1000)), 429, "relay_full")
    assert body["limit"] == 3000
    assert body["retry_after"] > 0
    got = await claim_one(relay, "a")
    await ack(relay, "a", got.receipt)
    await send(relay, "a", "b", "x" * 1000)


async def test_max_agents(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--max-agents", "2")
    body = await refused(relay.post("/register", {"name": "third"}), 429, "relay_full")
    assert (body["limit"], body["actual"]) == (2, 2)
    await relay.register("a", agent_id="a")
    await ok(relay.ask("DELETE", "/agents/b"))
    await relay.register("third")


async def test_lease(serve: Serve, clock: Clock) -> None:
    """An old poll cannot say how long its lease is: while its reply is being written, the relay's own holds."""
    relay = await limited(serve, clock, "--lease", "30")
    for _ in range(5):
        await send(relay, "a", "b", "x" * 700_000)
    connection = await connect(relay.url, receive_buffer=4096)
    await connection.send(request("GET", "/poll/b"))
    await connection.reader.readexactly(1000)
    clock.skip(29)
    await nothing_due(relay, "b")
    clock.skip(1)
    assert {got.attempt for got in await claim(relay, "b", 5)} == {2}
    connection.reset()


async def test_max_attempts(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--max-attempts", "2")
    id = await send(relay, "a", "b")
    for attempt in (1, 2):
        assert (await claim_one(relay, "b")).attempt == attempt
        clock.skip(60)
    await nothing_due(relay, "b")
    assert (await status_of(relay, "a", id))["state"] == "dead"


async def test_message_ttl(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--message-ttl", "60")
    id = await send(relay, "a", "b")
    clock.skip(59)
    assert (await status_of(relay, "a", id))["state"] == "stored"
    clock.skip(2)
    await nothing_due(relay, "b")
    assert (await status_of(relay, "a", id))["state"] == "expired"


async def test_max_file_bytes(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--max-file-bytes", "5")
    ask = {"file_key": "k", "content": "123456", "agent_id": "a"}
    assert (await refused(relay.post("/files", ask), 413, "too_large"))["limit"] == 5


async def test_max_files_bytes(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--max-files-bytes", "5")
    ask = {"file_key": "k", "content": "123456", "agent_id": "a"}
    assert (await refused(relay.post("/files", ask), 507, "storage_full"))["limit"] == 5


async def settle(relay: Running, count: int, content: Any = 1) -> list[str]:
    """Send, claim and ack so many messages, and return their ids."""
    ids = [await send(relay, "a", "b", content) for _ in range(count)]
    for got in await claim(relay, "b", count):
        await ack(relay, "b", got.receipt)
    return ids


async def known(relay: Running, ids: list[str]) -> int:
    """Count the messages that the relay still tells of."""
    return sum([(await relay.get(f"/messages/{id}?agent_id=a"))[0] == 200 for id in ids])


async def test_retention(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--retention", "100")
    ids = await settle(relay, 2)
    clock.skip(98)
    assert await known(relay, ids) == 2
    clock.skip(4)
    await eventually(lambda: _none(relay, ids))


async def _none(relay: Running, ids: list[str]) -> bool:
    return await known(relay, ids) == 0


async def test_retention_records(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--retention-records", "4")
    ids = await settle(relay, 10)

    async def evicted() -> bool:
        return (await metrics(relay))["evicted_total"] > 0

    await eventually(evicted)
    assert await known(relay, ids) <= 4
    assert await known(relay, ids[-3:]) == 3  # the oldest go first


async def test_retention_bytes(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--retention-bytes", "5000")
    ids = await settle(relay, 10, "x" * 800)

    async def evicted() -> bool:
        return (await metrics(relay))["evicted_total"] > 0

    await eventually(evicted)
    assert await known(relay, ids) < 10


@pytest.mark.parametrize("flag", ["--rate-agent", "--rate-pair"])
def test_the_rates_have_their_flags_already(flag: str) -> None:
    """They are enforced from the next issue on; 0 turns them off."""
    name = flag.removeprefix("--").replace("-", "_")
    assert getattr(config(flag, "0").limits, name) == 0
    assert getattr(config(flag, "2.5").limits, name) == 2.5


async def test_stale_after(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--stale-after", "10")
    clock.skip(9)
    assert (await ok(relay.get("/discover")))["count"] == 2
    clock.skip(2)
    assert (await ok(relay.get("/discover")))["count"] == 0


async def test_forget_after(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--forget-after", "1000")
    await poll(relay, "b")
    clock.skip(990)
    await asyncio.sleep(1.1)  # the janitor sweeps once a second
    assert (await ok(relay.get("/discover?status=all")))["count"] == 2
    clock.skip(10)

    async def forgotten() -> bool:
        return bool((await ok(relay.get("/discover?status=all")))["count"] == 0)

    await eventually(forgotten)


@pytest.mark.parametrize("field", LIMIT_FIELDS, ids=lambda f: f.name)
def test_every_limit_has_a_test_here(field: Any) -> None:
    rates = {"rate_agent", "rate_pair"}
    assert field.name in rates or f"test_{field.name}" in globals()
