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
    metrics,
    nothing_due,
    ok,
    poll,
    refused,
    respond,
    send,
    status_of,
)
from tests.server.blobs import put, saved, versions
from tests.server.test_uploads import begun, create, part, patch
from tests.system.raw import Clock, connect, request
from tests.waiting import eventually


@pytest.fixture
def store_kind() -> str:
    """Counts are exact on this store."""
    return "memory"


def config(*flags: str) -> ServerConfig:
    """Return what these flags say."""
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    return options.read(parser.parse_args(flags), {})


def limits_of(*flags: str) -> dict[str, Any]:
    """Return the limits that these flags set, and the default of all others."""
    limits = config(*flags).limits
    return {field.name: getattr(limits, field.name) for field in LIMIT_FIELDS}


async def limited(serve: Serve, clock: Clock, *flags: str) -> Running:
    """Start a relay with these flags, with agents a and b whose mailboxes are empty."""
    relay = await serve(clock=clock, limits=limits_of(*flags))
    for agent_id, name in (("a", "ann"), ("b", "bea")):
        await relay.register(name, agent_id=agent_id)
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
    assert (body["limit"], body["actual"]) == (3, 4)
    assert body["error"] == (
        "the mailbox of 'bea' holds 3 of 3 messages, 3 of them from your address, and the fair share of your address "
        "is 3 at this moment; try again when its owner has read some, or start the relay with a higher "
        "--max-mailbox-messages"
    )
    assert body["retry_after"] > 0
    await refused(relay.post("/delegate", task()), 429, "mailbox_full")
    (got, *_) = await claim(relay, "b", 3)
    await ack(relay, "b", got.receipt)
    await send(relay, "a", "b")


async def test_max_mailbox_bytes(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--max-mailbox-bytes", "2000", "--fair-share", "100")
    await send(relay, "a", "b", "x" * 700)
    body = await refused(relay.post("/send", message("x" * 1000)), 429, "mailbox_full")
    assert body["limit"] == 2000
    assert body["actual"] > 2000
    assert body["error"].endswith("or start the relay with a higher --max-mailbox-bytes")
    await send(relay, "a", "b", "small")


async def test_max_open_tasks(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--max-open-tasks", "2")
    first = await delegate(relay, "a", "b")
    await delegate(relay, "a", "b")
    for got in await claim(relay, "b", 2):
        await ack(relay, "b", got.receipt)
    body = await refused(relay.post("/delegate", task()), 429, "mailbox_full")
    assert (body["limit"], body["actual"]) == (2, 3)
    assert body["error"].startswith("the mailbox of 'bea' has 2 of 2 tasks")
    assert body["error"].endswith("when some are answered, or start the relay with a higher --max-open-tasks")
    await respond(relay, "b", first)
    await delegate(relay, "a", "b")


async def test_max_stored_bytes(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--max-stored-bytes", "3000", "--fair-share", "100")
    await send(relay, "a", "b", "x" * 1000)
    await send(relay, "b", "a", "x" * 1000)
    body = await refused(relay.post("/send", message("x" * 1000)), 429, "relay_full")
    assert body["limit"] == 3000
    assert body["error"].endswith("when some have been read, or start the relay with a higher --max-stored-bytes")
    assert body["retry_after"] > 0
    got = await claim_one(relay, "a")
    await ack(relay, "a", got.receipt)
    await send(relay, "b", "a", "x" * 1000)


async def test_fair_share(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--max-mailbox-messages", "20")
    for _ in range(15):
        await send(relay, "a", "b")
    body = await refused(relay.post("/send", message()), 429, "mailbox_full")
    assert (body["limit"], body["actual"]) == (15, 16)
    assert body["current"] == {"share_of": "agent", "used": 15}
    assert body["retry_after"] > 0
    await send(relay, "b", "b")
    relay = await limited(serve, clock, "--max-mailbox-messages", "20", "--fair-share", "100")
    for _ in range(20):
        await send(relay, "a", "b")
    with pytest.raises(ValueError, match="--fair-share is 1 to 100 percent, not 101"):
        config("--fair-share", "101")


async def test_max_memory(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--max-memory", "100000", "--fair-share", "100")
    for _ in range(4):
        await send(relay, "a", "b", "x" * 20_000)
    body = await refused(relay.post("/send", message("x" * 20_000)), 507, "storage_full")
    assert (body["field"], body["limit"]) == ("max_memory", 93_750)
    assert body["actual"] > body["limit"]
    assert body["current"]["free"] < 20_000
    for got in await claim(relay, "b", 4):
        await ack(relay, "b", got.receipt)
    await send(relay, "a", "b", "x" * 20_000)  # what was acked makes room


@pytest.mark.parametrize("store_kind", ["sqlite"])
async def test_max_data(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--max-data", "100000", "--fair-share", "100")
    for _ in range(4):
        await send(relay, "a", "b", "x" * 20_000)
    body = await refused(relay.post("/send", message("x" * 20_000)), 507, "storage_full")
    assert (body["field"], body["limit"]) == ("max_data", 93_750)
    async with relay.session.get(relay.url + "/metrics") as reply:
        assert "clawlink_memory_limit_bytes 100000\n" in await reply.text()
    assert "--max-data" in body["error"]
    for got in await claim(relay, "b", 4):
        await ack(relay, "b", got.receipt)
    await send(relay, "a", "b", "x" * 20_000)  # what was acked makes room


async def test_max_agents(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--max-agents", "2")
    body = await refused(relay.post("/register", {"name": "third"}), 429, "relay_full")
    assert (body["limit"], body["actual"]) == (2, 3)
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


async def test_file_versions(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--file-versions", "2")
    for n in range(4):
        await saved(relay, "k", b"%d" % n)
    assert await versions(relay, "k") == [4, 3]


async def test_max_uploads(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--max-uploads", "1")
    address = await begun(relay)
    body = (await create(relay)).json
    assert (body["code"], body["limit"], body["actual"]) == ("storage_full", 1, 2)
    await part(relay, address, 0, b"0123456789")
    await begun(relay)  # one that is finished makes room


async def test_max_agent_uploads(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--max-agent-uploads", "1")
    address = await begun(relay)
    body = (await create(relay)).json
    assert (body["code"], body["limit"], body["actual"]) == ("storage_full", 1, 2)
    await begun(relay, ClawLink_Agent="b")
    await part(relay, address, 0, b"0123456789")
    await begun(relay)


async def test_max_files(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--max-files", "3")
    await saved(relay, "one")
    assert (await put(relay, "two", ClawLink_Readers="b")).status == 201
    await ok(relay.post("/locks", {"agent_id": "a", "file_key": "three", "seconds": 60}))
    body = (await put(relay, "four")).json
    assert (body["code"], body["limit"], body["actual"]) == ("storage_full", 3, 4)
    await refused(relay.post("/locks", {"agent_id": "a", "file_key": "four", "seconds": 60}), 507, "storage_full")
    await saved(relay, "one")  # what is there can be written, and what is locked
    await saved(relay, "three")


async def test_max_readers(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--max-readers", "1")
    await relay.register("c", agent_id="c")
    body = (await put(relay, "k", ClawLink_Readers="b,c")).json
    assert (body["code"], body["field"], body["limit"], body["actual"]) == ("bad_request", "ClawLink-Readers", 1, 2)
    assert (await put(relay, "one", ClawLink_Readers="b")).json["readers"] == ["b"]
    told = (await put(relay, "k", ClawLink_Readers="")).json
    named = {name: told[name] for name in ("file_key", "version", "size", "sha256")} | {"name": "k"}
    await ok(relay.post("/send", {**message(), "attachments": [named]}))
    body = await refused(
        relay.post("/send", {**message(), "to_agent": "c", "attachments": [named]}), 400, "bad_request"
    )
    assert (body["field"], body["limit"], body["actual"]) == ("attachments", 1, 2)
    await nothing_due(relay, "c")


async def test_upload_ttl(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--upload-ttl", "10")
    address = await begun(relay)
    clock.skip(9)
    await part(relay, address, 0, b"0123")
    clock.skip(9)
    await part(relay, address, 4, b"45")
    clock.skip(10.1)
    assert (await patch(relay, address, 6, b"67")).json["code"] == "unknown_upload"


async def settle(relay: Running, count: int, content: Any = 1) -> list[str]:
    """Send, claim and ack this many messages, and return their ids."""
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
        return await known(relay, ids) <= 4

    await eventually(evicted)
    assert await known(relay, ids[-3:]) == 3  # the oldest go first


async def test_retention_bytes(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--retention-bytes", "5000")
    ids = await settle(relay, 10, "x" * 800)

    async def evicted() -> bool:
        return (await metrics(relay))["evicted_total"] > 0

    await eventually(evicted)
    assert await known(relay, ids) < 10


async def at_once(relay: Running, count: int, **fields: Any) -> list[int]:
    """Send this many messages as fast as the clock of the test allows: no time passes. Return the statuses."""
    return [(await relay.post("/send", {**message(), **fields}))[0] for _ in range(count)]


async def test_rate_agent(serve: Serve, clock: Clock) -> None:
    """A number a second, to any recipient; the clock stands still but for the skips of the test."""
    clock.stop()
    relay = await limited(serve, clock, "--rate-agent", "2.5", "--burst-agent", "1", "--rate-pair", "0")
    await relay.register("c", agent_id="c")
    assert await at_once(relay, 1) == [200]
    body = await refused(relay.post("/send", {**message(), "to_agent": "c"}), 429, "rate_limited")
    assert (body["limit"], body["retry_after"], body["current"]) == (2.5, 0.4, ["a"])
    clock.skip(0.398)
    body = await refused(relay.post("/send", {**message(), "to_agent": "c"}), 429, "rate_limited")
    assert body["error"].endswith("try again in 0.01 s"), "a time that is rounded down is too short"
    clock.skip(0.01)
    assert await at_once(relay, 1, to_agent="c") == [200]
    assert await at_once(relay, 1, from_agent="b", to_agent="a") == [200]  # others have their own


async def test_burst_agent(serve: Serve, clock: Clock) -> None:
    """An agent that was silent for any time may send this many at once, and no more."""
    clock.stop()
    relay = await limited(serve, clock, "--rate-agent", "1", "--burst-agent", "5", "--rate-pair", "0")
    clock.skip(1000)
    assert await at_once(relay, 7) == [200] * 5 + [429] * 2
    clock.skip(3)
    assert await at_once(relay, 5) == [200] * 3 + [429] * 2


async def test_rate_pair(serve: Serve, clock: Clock) -> None:
    clock.stop()
    relay = await limited(serve, clock, "--rate-pair", "2", "--burst-pair", "1")
    await relay.register("c", agent_id="c")
    assert await at_once(relay, 1) == [200]
    body = await refused(relay.post("/delegate", task()), 429, "rate_limited")
    assert (body["limit"], body["retry_after"], body["current"]) == (2, 0.5, ["a", "b"])
    assert await at_once(relay, 2, to_agent="c") == [200, 429]
    assert await at_once(relay, 1, from_agent="b", to_agent="a") == [200]  # the other way is another pair
    clock.skip(0.5)
    assert await at_once(relay, 2) == [200, 429]


async def test_burst_pair(serve: Serve, clock: Clock) -> None:
    clock.stop()
    relay = await limited(serve, clock, "--rate-pair", "1", "--burst-pair", "4")
    clock.skip(1000)
    assert await at_once(relay, 6) == [200] * 4 + [429] * 2
    clock.skip(2)
    assert await at_once(relay, 4) == [200] * 2 + [429] * 2


async def shout(relay: Running, count: int) -> list[int]:
    """Broadcast this many times. Return the statuses."""
    return [(await relay.post("/broadcast", {"from_agent": "a", "content": "x"}))[0] for _ in range(count)]


async def test_rate_copies(serve: Serve, clock: Clock) -> None:
    clock.stop()
    relay = await limited(serve, clock, "--rate-copies", "0.5", "--burst-copies", "1")
    await relay.register("c", agent_id="c")
    assert await shout(relay, 1) == [200]  # two copies: one is owed
    body = await refused(relay.post("/broadcast", {"from_agent": "a", "content": "x"}), 429, "rate_limited")
    assert (body["limit"], body["retry_after"], body["current"]) == (0.5, 4, ["a"])
    ask = {"agent_id": "a", "file_key": "f", "content": "x"}
    await refused(relay.post("/files", ask), 429, "rate_limited")
    clock.skip(4)
    assert (await relay.post("/files", ask))[0] == 200
    await refused(relay.post("/files", ask), 429, "rate_limited")


async def test_burst_copies(serve: Serve, clock: Clock) -> None:
    clock.stop()
    relay = await limited(serve, clock, "--rate-copies", "1", "--burst-copies", "3")
    clock.skip(1000)
    assert await shout(relay, 5) == [200] * 3 + [429] * 2


def again(relay: Running, agent_id: str = "a", **options: Any) -> Any:
    """Register an agent once more."""
    return relay.post("/register", {"agent_id": agent_id}, **options)


async def test_rate_register(serve: Serve, clock: Clock) -> None:
    """Of one agent. So it is with an agent of 1.0.x that is registered by the way."""
    clock.stop()
    relay = await limited(serve, clock, "--rate-register", "0.5", "--burst-register", "1", "--rate-address", "0")
    body = await refused(again(relay), 429, "rate_limited")
    assert (body["limit"], body["retry_after"], body["current"]) == (0.5, 2, ["a"])
    assert (await again(relay, "c"))[0] == 200  # others have their own
    clock.skip(2)
    assert [(await again(relay))[0] for _ in range(2)] == [200, 429]


async def test_a_stranger_does_not_use_up_the_registrations_of_a_claimed_agent(serve: Serve, clock: Clock) -> None:
    """A request without the agent's key counts for its address alone."""
    clock.stop()
    flags = ("--rate-register", "1", "--burst-register", "3", "--rate-address", "2")
    limits = limits_of(*flags)
    relay = await serve(clock=clock, limits=limits, trust_proxies=("127.0.0.1",))
    here, there = ({"X-Forwarded-For": address} for address in ("198.51.100.7", "198.51.100.8"))
    claim = {"agent_id": "ann", "claim": True}
    _, made = await relay.post("/register", claim, headers=here)
    strange = [
        {"agent_id": "ann"},
        claim,
        {**claim, "idempotency_key": "g" * 20},
        {"agent_id": "ann", "name": "bob"},
    ]
    for ask in strange:
        assert (await relay.post("/register", ask, headers=there))[0] == 403, ask
    wrong = {**there, "ClawLink-Agent-Key": "w" * 40}
    statuses = [(await again(relay, "ann", headers=wrong))[0] for _ in range(4)]
    assert statuses == [403, 403, 429, 429]  # six of its address at once
    body = await refused(again(relay, "ann", headers=wrong), 429, "rate_limited")
    assert (body["limit"], body["current"]) == (2, [])
    own = {**here, "ClawLink-Agent-Key": made["agent_key"]}
    assert [(await again(relay, "ann", headers=own))[0] for _ in range(3)] == [200, 200, 429]


async def test_burst_register(serve: Serve, clock: Clock) -> None:
    clock.stop()
    relay = await limited(serve, clock, "--rate-register", "1", "--burst-register", "3")
    clock.skip(1000)
    assert [(await again(relay))[0] for _ in range(5)] == [200] * 3 + [429] * 2


def changes(relay: Running, agent_id: str = "a") -> list[Any]:
    """Return a write, a lock and a deletion of a file, ready to be sent."""
    return [
        lambda: relay.post("/files", {"agent_id": agent_id, "file_key": "f", "content": "x"}),
        lambda: relay.post("/locks", {"agent_id": agent_id, "file_key": "f", "seconds": 60}),
        lambda: relay.ask("DELETE", f"/files/f?agent_id={agent_id}"),
    ]


async def test_rate_files(serve: Serve, clock: Clock) -> None:
    clock.stop()
    relay = await limited(serve, clock, "--rate-files", "0.5", "--burst-files", "1")
    for change in changes(relay):
        assert (await change())[0] == 200
        for other in changes(relay):
            body = await refused(other(), 429, "rate_limited")
            assert (body["limit"], body["retry_after"], body["current"]) == (0.5, 2, ["a"])
        clock.skip(2)
    metadata = {"Tus-Resumable": "1.0.0", "ClawLink-Agent": "a", "Upload-Length": "1", "Upload-Metadata": "key Zg=="}
    statuses = []
    for _ in range(2):
        async with relay.session.post(relay.url + "/uploads", headers=metadata) as response:
            statuses.append(response.status)
    assert statuses == [201, 429]


async def test_burst_files(serve: Serve, clock: Clock) -> None:
    clock.stop()
    relay = await limited(serve, clock, "--rate-files", "1", "--burst-files", "3")
    assert [(await changes(relay)[0]())[0] for _ in range(5)] == [200] * 3 + [429] * 2


async def test_rate_address(serve: Serve, clock: Clock) -> None:
    """All agents of one address together; where the address is not known, the limits of each agent hold alone."""
    clock.stop()
    flags = (
        "--rate-address",
        "3",
        "--burst-register",
        "2",
        "--burst-files",
        "2",
        "--rate-copies",
        "1",
        "--burst-copies",
        "1",
    )
    limits = limits_of(*flags)
    relay = await serve(clock=clock, limits=limits, trust_proxies=("127.0.0.1",))
    here, there = ({"X-Forwarded-For": address} for address in ("198.51.100.7", "198.51.100.8"))
    made = [(await again(relay, f"a{n}", headers=here))[0] for n in range(8)]
    assert made == [200] * 6 + [429] * 2
    by_the_way = {"from_agent": "a9", "to_agent": "a1", "task": "x"}
    await refused(relay.post("/delegate", by_the_way, headers=here), 429, "rate_limited")
    assert [(await again(relay, f"b{n}", headers=there))[0] for n in range(2)] == [200, 200]
    assert [(await again(relay, f"c{n}", headers={"X-Forwarded-For": "?"}))[0] for n in range(9)] == [200] * 9
    locks = [{"agent_id": f"a{n}", "file_key": f"{n}", "seconds": 60} for n in (0, 0, 1, 1, 2, 2, 3)]
    assert [(await relay.post("/locks", ask))[0] for ask in locks] == [200] * 6 + [429]
    assert (await relay.post("/locks", {**locks[0], "agent_id": "b0", "file_key": "b"}))[0] == 200
    told = [(await relay.post("/broadcast", {"from_agent": f"a{n}", "content": "x"}))[0] for n in (0, 1)]
    assert told == [200, 429]  # one made more copies than all of the address may at once
    assert (await relay.post("/broadcast", {"from_agent": "b0", "content": "x"}))[0] == 200


async def test_who_is_honest_meets_no_pace(serve: Serve, clock: Clock) -> None:
    """Ten agents of one address start 200 sessions in a minute. A client of 1.0.x registers before each call."""
    clock.stop()
    relay = await limited(serve, clock)
    for session in range(200):
        assert (await again(relay, f"agent-{session % 10}"))[0] == 200
        clock.skip(0.3)
    for call in range(100):
        assert (await again(relay))[0] == 200, call
        assert (await relay.post("/send", message()))[0] == 200, call
        clock.skip(0.1)


@pytest.mark.parametrize("flag", ["--rate-agent", "--rate-pair"])
async def test_a_rate_of_nothing_turns_it_off(serve: Serve, clock: Clock, flag: str) -> None:
    clock.stop()
    relay = await limited(serve, clock, "--rate-agent", "0", "--rate-pair", "0")
    assert set(await at_once(relay, 300)) == {200}


def replying(cause: str, sender: str, to: str) -> dict[str, Any]:
    return {"from_agent": sender, "to_agent": to, "content": 1, "in_reply_to": cause}


async def test_max_hops(serve: Serve, clock: Clock) -> None:
    """A line of agents, each answering the one before: the first message is no hop yet."""
    relay = await limited(serve, clock, "--max-hops", "3", "--max-cycles", "100")
    line = [f"n{n}" for n in range(7)]
    for agent_id in line:
        await relay.register(agent_id, agent_id=agent_id)
    cause = await send(relay, line[0], line[1])
    for hop in (1, 2, 3):
        cause = await send(relay, line[hop], line[hop + 1], in_reply_to=cause)
    body = await refused(relay.post("/send", replying(cause, line[4], line[5])), 429, "loop_stopped")
    assert (body["limit"], body["actual"], body["current"]) == (3, 4, line[:6])


async def test_max_cycles(serve: Serve, clock: Clock) -> None:
    """Two that answer each other may go there and back so often, and then no more."""
    relay = await limited(serve, clock, "--max-cycles", "2", "--max-hops", "100")
    cause = await send(relay, "a", "b")
    for sender, to in ("ba", "ab", "ba"):
        cause = await send(relay, sender, to, in_reply_to=cause)
    body = await refused(relay.post("/send", replying(cause, "a", "b")), 429, "loop_stopped")
    assert (body["limit"], body["actual"], body["current"]) == (2, 3, list("ababab"))


def pooled(capability: str) -> dict[str, Any]:
    return {"from_agent": "a", "capability": capability, "task": "t"}


async def test_max_pools(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--max-pools", "2")
    await relay.register("b", agent_id="b", capabilities=["one"])
    for capability in ("one", "two", "ONE"):
        await ok(relay.post("/delegate", pooled(capability)))
    body = await refused(relay.post("/delegate", pooled("three")), 429, "relay_full")
    assert (body["limit"], body["actual"]) == (2, 3)
    assert body["retry_after"] > 0
    for _ in range(2):
        got = await claim_one(relay, "b")
        await respond(relay, "b", got.message["message_id"])

    clock.skip(61)  # a pool is kept for a while after its last work

    async def taken() -> bool:
        return (await relay.post("/delegate", pooled("three")))[0] == 200

    await eventually(taken)
    await refused(relay.post("/delegate", pooled("four")), 429, "relay_full")


async def told(relay: Running, *contents: str, **fields: Any) -> None:
    for content in contents:
        await ok(relay.post("/broadcast", {"from_agent": "a", "content": content, **fields}))


async def held(relay: Running) -> list[str]:
    """Return what the relay tells those who come late, the newest first."""
    return [b["content"] for b in (await ok(relay.get("/broadcasts")))["broadcasts"]]


async def test_max_knowledge(serve: Serve, clock: Clock) -> None:
    """The oldest go first."""
    relay = await limited(serve, clock, "--max-knowledge", "3")
    await told(relay, "1", "2", "3", "4", "5")

    async def evicted() -> bool:
        return await held(relay) == ["5", "4", "3"]

    await eventually(evicted)


async def test_max_knowledge_bytes(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--max-knowledge-bytes", "5000")
    contents = [f"{n}" + "x" * 1000 for n in range(8)]
    await told(relay, *contents)

    async def evicted() -> bool:
        left = await held(relay)
        size = sum(map(len, left))
        return 2000 < size < 5000 and left == contents[: -len(left) - 1 : -1]

    await eventually(evicted)


async def test_knowledge_ttl(serve: Serve, clock: Clock) -> None:
    """It says for how long late ones hear of it; what is in a mailbox stays there as any message does."""
    relay = await limited(serve, clock, "--knowledge-ttl", "60")
    await told(relay, "old")
    clock.skip(59)
    await told(relay, "new")
    assert await held(relay) == ["new", "old"]
    clock.skip(2)
    assert await held(relay) == ["new"]
    assert [got.message["content"] for got in await claim(relay, "b", 2)] == ["old", "new"]


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
    await relay.app.relay.janitor.sweep()
    assert (await ok(relay.get("/discover?status=all")))["count"] == 2
    clock.skip(10)

    async def forgotten() -> bool:
        return bool((await ok(relay.get("/discover?status=all")))["count"] == 0)

    await eventually(forgotten)


async def test_forget_claimed_after(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--forget-claimed-after", "2000", "--forget-after", "1000")
    await relay.register("c", agent_id="c", claim=True)
    await poll(relay, "a")
    await poll(relay, "b")

    async def there(names: list[str]) -> bool:
        found = (await ok(relay.get("/discover?status=all")))["agents"]
        return [agent["agent_id"] for agent in found] == names

    clock.skip(1999)
    await eventually(lambda: there(["c"]))
    clock.skip(1)
    await eventually(lambda: there([]))


async def unread(serve: Serve, clock: Clock, flag: str) -> None:
    """Meet a limit on replies that wait for their readers: a small file passes, a large one is refused."""
    relay = await limited(serve, clock, flag, "90000")
    for key, size in (("small", 80_000), ("large", 100_000)):
        await saved(relay, key, b"x" * size)
    assert len((await ok(relay.get("/files/small")))["content"]) == 80_000
    body = await refused(relay.get("/files/large"), 429, "relay_full")
    assert (body["limit"], body["actual"] > 100_000) == (90_000, True)
    assert flag in body["error"]
    await ok(relay.get("/files/small"))


async def test_max_unread_reply(serve: Serve, clock: Clock) -> None:
    await unread(serve, clock, "--max-unread-reply")


async def test_max_unread_address(serve: Serve, clock: Clock) -> None:
    await unread(serve, clock, "--max-unread-address")


async def test_max_unread_total(serve: Serve, clock: Clock) -> None:
    await unread(serve, clock, "--max-unread-total")


async def crowded(serve: Serve, clock: Clock, flag: str) -> None:
    """Meet a limit on connections: with it all others busy, one more is refused."""
    relay = await limited(serve, clock, flag, "2")
    shown = (await ok(relay.get("/")))["limits"]
    assert shown[flag.removeprefix("--").replace("-", "_")] == 2
    polls = [asyncio.create_task(relay.get("/poll/a?wait=20&lease=30")) for _ in range(2)]

    async def both_wait() -> bool:
        return relay.app.relay.waiting == 2

    await eventually(both_wait)
    body = await refused(relay.get("/"), 503, "unavailable")
    assert (body["limit"], flag in body["error"]) == (2, True)
    for task in polls:
        task.cancel()
    await asyncio.gather(*polls, return_exceptions=True)


async def test_max_connections(serve: Serve, clock: Clock) -> None:
    await crowded(serve, clock, "--max-connections")


async def test_max_connections_address(serve: Serve, clock: Clock) -> None:
    await crowded(serve, clock, "--max-connections-address")


async def test_return_after(serve: Serve, clock: Clock) -> None:
    relay = await limited(serve, clock, "--return-after", "50")
    id = (await ok(relay.post("/delegate", {"from_agent": "a", "to_agent": "b", "task": "t"})))["message_id"]
    await ok(relay.ask("DELETE", "/agents/b"))

    async def status() -> str:
        return str((await ok(relay.get(f"/tasks/{id}?agent_id=a")))["status"])

    clock.skip(40)
    await relay.app.relay.janitor.sweep()
    assert await status() == "queued"
    clock.skip(10)

    async def returned() -> bool:
        return await status() == "returned"

    await eventually(returned)


def test_every_limit_has_a_test_here() -> None:
    assert {f"test_{field.name}" for field in LIMIT_FIELDS} <= set(globals())
