"""Full mailboxes refuse with 429; the relay stays fast, and its memory under a stated bound."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from statistics import median

import pytest

from tests.server.asks import ack, claim, claim_one, delegate, metrics, ok, refused, send
from tests.system.conftest import Live, Starting

MESSAGES = 200
BYTES = 1_000_000
AGENTS = 40

# The cost of a full mailbox: its bytes once, with an allowance for how the allocator rounds them up, and for each
# message the records and index entries that lead to it: a delivery, a task, and one entry each in four tables.
BYTES_FACTOR = 1.15
RECORD_BYTES = 1500
# Memory for the work itself, whatever the mailboxes hold: buffers of connections, caches of parsers.
WORKING_BYTES = 8 * 2**20


def resident(pid: int) -> int:
    """Return how many bytes of memory a process has."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


async def fill(relay: Live, to: str, content: str) -> int:
    """Delegate to an agent until its mailbox is full; return how many messages it took."""
    for taken in range(10_000):
        status, body = await relay.post("/delegate", {"from_agent": "s", "to_agent": to, "task": content})
        if status == 429:
            assert body["code"] == "mailbox_full"
            return taken
        assert status == 200
    raise AssertionError("it never became full")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
async def test_memory_stays_under_its_bound_with_every_mailbox_full(start_live: Starting) -> None:
    """The messages are of a size at which a mailbox meets both of its limits at once."""
    relay = start_live("--max-mailbox-messages", str(MESSAGES), "--max-mailbox-bytes", str(BYTES))
    await relay.register("s", agent_id="s")
    agents = [await relay.register(f"a{n}") for n in range(AGENTS)]
    await asyncio.gather(*(send(relay, "s", agent, "warm") for agent in agents))
    base = resident(relay.relay.process.pid)

    taken = await asyncio.gather(*(fill(relay, agent, "x" * (BYTES // MESSAGES - 300)) for agent in agents))
    assert min(taken) > MESSAGES * 0.6
    used = resident(relay.relay.process.pid) - base
    assert (await metrics(relay))["message_bytes_held"] > AGENTS * BYTES * 0.66
    assert used < WORKING_BYTES + AGENTS * (BYTES * BYTES_FACTOR + MESSAGES * RECORD_BYTES)


# The tables of records are resized as a whole, and what was read last still waits to be freed.
ALLOCATOR_BYTES = 8 * 2**20


def worst(kind: str, n: int) -> tuple[str, dict[str, object]]:
    """Return the request that leaves most in memory for what other limits count of it."""
    long, script = f"{n}" + "x" * 1000, f"{n}" + "\u4e2d" * 1000
    if kind == "agents":
        skills = [f"{n}.{i}." + "c" * 100 for i in range(64)]
        return "/register", {"name": f"{n}" + "\u4e2d" * 100, "description": '"' * 4000, "capabilities": skills}
    if kind == "locks":
        return "/locks", {"agent_id": "s", "file_key": script, "note": "\u4e2d" * 1000, "seconds": 3600 + n}
    if kind == "tiny files":
        return "/files", {"agent_id": "s", "file_key": long, "content": "x", "file_type": f"{n % 3000}" + "t" * 110}
    if kind == "messages":
        return "/send", {"from_agent": "s", "to_agent": f"a{n % 50}", "content": "x"}
    if kind == "broadcasts":
        return "/broadcast", {
            "from_agent": "s",
            "content": "x" * 200_000,
            "topic": "x",
            "tags": [f"{n}.{i}" for i in range(32)],
        }
    if kind == "pools":
        return "/delegate", {"from_agent": "s", "task": "t", "capability": [f"{n}.{i}." + "c" * 100 for i in range(16)]}
    return "/files", {"agent_id": "s", "file_key": f"{n}", "content": "x" * 900_000}


async def fill_by(relay: Live, kind: str, *, most: int) -> list[dict[str, object]]:
    """Send the worst requests of a kind, four at a time, until they are refused; return the refusals."""
    numbers = iter(range(most))
    refusals: list[dict[str, object]] = []

    async def go_on() -> None:
        for n in numbers:
            status, body = await relay.post(*worst(kind, n))
            if status != 200:
                refusals.append(body)
                return

    await asyncio.gather(*(go_on() for _ in range(4)))
    return refusals


async def require_bounded(start_live: Starting, kind: str, limit: int) -> None:
    """Fill a relay with one kind of records until it is refused, or history makes room; look at its memory."""
    unpaced = [part for pace in ("register", "files", "copies", "address") for part in (f"--rate-{pace}", "0")]
    many = (*unpaced, "--fair-share", "100", "--max-pools", "100000", "--max-mailbox-messages", "1000000")
    relay = start_live("--max-memory", str(limit), *many)
    await relay.register("s", agent_id="s")
    for n in range(50):
        await relay.register(f"a{n}", agent_id=f"a{n}", subscriptions=[])
    base = resident(relay.relay.process.pid)
    refusals = await fill_by(relay, kind, most=10 * limit // 2**20 if kind == "broadcasts" else 1_000_000)
    if kind != "broadcasts":  # of these the oldest are forgotten
        assert {(body["code"], body.get("field")) for body in refusals} == {("storage_full", "max_memory")}, refusals
        assert (await metrics(relay))["memory_bytes"] > limit * 0.85, kind
    await ok(relay.ask("GET", "/discover"))
    used = resident(relay.relay.process.pid) - base
    assert used < limit * 1.15 + ALLOCATOR_BYTES, (kind, used)
    relay.relay.process.kill()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
async def test_memory_stays_under_max_memory_whatever_fills_it(start_live: Starting) -> None:
    """Each kind fills a relay of its own by its worst records."""
    for kind in ("agents", "locks", "broadcasts", "large files"):
        await require_bounded(start_live, kind, 16 * 2**20)


@pytest.mark.torture
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
async def test_memory_stays_under_a_larger_max_memory_whatever_fills_it(start_live: Starting) -> None:
    for kind in ("agents", "locks", "tiny files", "messages", "broadcasts", "pools", "large files"):
        await require_bounded(start_live, kind, 64 * 2**20)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
async def test_a_refused_flood_leaves_nothing_behind(start_live: Starting) -> None:
    """Ten thousand refusals of a full mailbox cost no memory, whoever sends them."""
    relay = start_live("--max-mailbox-messages", "10")
    await relay.register("s", agent_id="s")
    await relay.register("r", agent_id="r")
    assert await fill(relay, "r", "x") == 8  # a lone agent's share

    async def flood(count: int) -> None:
        for _ in range(count):
            body = {"from_agent": "s", "to_agent": "r", "task": "x" * 500}
            async with relay.session.post(relay.url + "/delegate", json=body) as response:
                assert response.status == 429
                await response.read()

    await asyncio.gather(*(flood(50) for _ in range(20)))
    before = resident(relay.relay.process.pid)
    await asyncio.gather(*(flood(300) for _ in range(20)))
    assert resident(relay.relay.process.pid) - before < 4 * 2**20


async def test_a_full_mailbox_refuses_and_says_when_to_come_back(start_live: Starting) -> None:
    relay = start_live("--max-mailbox-messages", "10")
    for agent in ("s", "r", "other"):
        await relay.register(agent, agent_id=agent)
    await claim(relay, "r", 0)
    for n in range(8):
        await send(relay, "s", "r", n)
    ask = {"from_agent": "s", "to_agent": "r", "content": "one too many"}
    async with relay.session.post(relay.url + "/send", json=ask) as response:
        body = await response.json()
        assert (response.status, body["code"], body["limit"], body["actual"]) == (429, "mailbox_full", 8, 9)
        assert int(response.headers["Retry-After"]) >= 1
        assert body["retry_after"] > 0
    await refused(relay.post("/delegate", {"from_agent": "s", "to_agent": "r", "task": "t"}), 429, "mailbox_full")
    await send(relay, "s", "other")
    got = await claim(relay, "r", 1, max=1)
    await refused(relay.post("/send", ask), 429, "mailbox_full")  # what is leased still takes its place
    await ack(relay, "r", got[0].receipt)
    await ok(relay.post("/send", ask))


async def test_a_flood_on_a_full_mailbox_does_not_slow_the_others(start_live: Starting) -> None:
    relay = start_live("--max-mailbox-messages", "10")
    for agent in ("s", "r", "x", "y"):
        await relay.register(agent, agent_id=agent)
    await fill(relay, "r", "x")
    over = False

    async def flood() -> None:
        while not over:
            status, _ = await relay.post("/send", {"from_agent": "s", "to_agent": "r", "content": "x" * 500})
            assert status == 429

    floods = [asyncio.create_task(flood()) for _ in range(16)]
    took = []
    await claim(relay, "y", 0)
    for _ in range(50):
        started = time.perf_counter()
        task = await delegate(relay, "x", "y")
        got = await claim_one(relay, "y", max=1, wait=5)
        await ack(relay, "y", got.receipt)
        took.append(time.perf_counter() - started)
        assert got.message["message_id"] == task
    over = True
    await asyncio.gather(*floods)
    assert median(took) < 2, f"delegate, claim and ack took {median(took):.3f} s"
