"""Full mailboxes refuse with 429; the relay stays fast, and its memory under a stated bound."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.server.asks import ack, claim, claim_one, delegate, metrics, ok, refused, send
from tests.system.conftest import Dial, Live, Starting
from tests.system.raw import request

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
    return "/files", {"agent_id": "s", "file_key": f"{n}", "content": f"{n}".ljust(900_000, "x")}


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


LIMITS = {
    "max-memory": 24 * 2**20,
    "max-agents": 80,
    "max-mailbox-messages": 150,
    "max-mailbox-bytes": 400_000,
    "max-open-tasks": 30,
    "max-stored-bytes": 4 * 2**20,
    "max-pools": 30,
    "max-files": 150,
    "max-files-bytes": 6 * 2**20,
    "max-uploads": 12,
    "max-knowledge": 40,
    "max-knowledge-bytes": 1_000_000,
    "retention-records": 200,
    "retention-bytes": 1_000_000,
    "max-events": 20,
    "max-events-bytes": 500_000,
    "max-unread-total": 4 * 2**20,
    "max-connections": 200,
}
AT_EVERY_LIMIT = {  # the limit, what fills it, and the refusal
    "max-open-tasks": ("open tasks", "mailbox_full"),
    "max-mailbox-messages": ("a mailbox of many", "mailbox_full"),
    "max-mailbox-bytes": ("a mailbox of large ones", "mailbox_full"),
    "max-pools": ("pools", "relay_full"),
    "max-events": ("events", "relay_full"),
    "max-stored-bytes": ("stored", "relay_full"),
    "max-agents": ("agents", "relay_full"),
    "max-uploads": ("uploads", "storage_full"),
    "max-files-bytes": ("large files", "storage_full"),
    "max-files": ("tiny files", "storage_full"),
}


def request_of(filler: str, n: int) -> tuple[str, dict[str, object]]:
    """Return one more request that brings a relay nearer to a limit."""
    if filler == "open tasks":
        return "/delegate", {"from_agent": "s", "to_agent": "a0", "task": f"{n}"}
    if filler == "a mailbox of many":
        return "/send", {"from_agent": "s", "to_agent": "a1", "content": f"{n}"}
    if filler == "a mailbox of large ones":
        return "/send", {"from_agent": "s", "to_agent": "a2", "content": f"{n}" + "x" * 30_000}
    if filler == "stored":
        return "/send", {"from_agent": "s", "to_agent": f"a{3 + n % 15}", "content": f"{n}" + "x" * 20_000}
    if filler == "events":
        content = {"text": "x" * 20_000}
        return "/agentrelay/send", {"from_agent": "s", "to_agent": "a18", "event_id": f"E{n}", "content": content}
    return worst(filler, n)


async def begin_upload(relay: Live, n: int) -> tuple[int, dict[str, Any]]:
    """Begin an upload with a part of 100 kB."""
    headers = {
        "Tus-Resumable": "1.0.0",
        "ClawLink-Agent": "s",
        "Upload-Length": "200000",
        "Upload-Metadata": f"key {b64encode(b'up%d' % n).decode()}",
        "Content-Type": "application/offset+octet-stream",
    }
    async with relay.session.post(relay.url + "/uploads", data=b"%d" % n + b"u" * 100_000, headers=headers) as reply:
        return (200, {}) if reply.status == 201 else (reply.status, await reply.json())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
async def test_memory_stays_under_its_bound_with_every_limit_met_at_once(start_live: Starting, dial: Dial) -> None:
    """Meet all limits of one relay, beside idle connections and replies that their peers do not read."""
    unpaced = [part for pace in ("register", "files", "copies", "address") for part in (f"--rate-{pace}", "0")]
    given = [part for name, most in LIMITS.items() for part in (f"--{name}", str(most))]
    relay = start_live(*unpaced, "--fair-share", "100", "--max-hops", "1000", *given)
    pid = relay.relay.process.pid
    await relay.register("s", agent_id="s")
    for n in range(20):
        await relay.register(f"a{n}", agent_id=f"a{n}", subscriptions=["*"] if n == 19 else [])
    base = resident(pid)
    for n in range(120):  # broadcasts beyond what is kept, and messages that are settled beyond what is kept
        path, body = worst("broadcasts", n)
        await ok(relay.post(path, {**body, "content": "x" * 30_000}))
        await ok(relay.get("/poll/a19"))
    for limit, (filler, code) in AT_EVERY_LIMIT.items():
        for n in range(2000):
            asked = begin_upload(relay, n) if filler == "uploads" else relay.post(*request_of(filler, n))
            status, body = await asked
            if status != 200:
                break
        assert body.get("code") == code, (limit, n, body)
        assert body["limit"] == LIMITS[limit], (limit, n, body)
    info = await ok(relay.get("/"))
    assert info["memory_bytes"] > 0.6 * LIMITS["max-memory"], info
    unread = [await dial(relay.url, receive_buffer=4096) for _ in range(16)]
    for one in unread:
        await one.send(request("GET", "/blobs/0"))
    for _ in range(LIMITS["max-connections"] - 30):
        await dial(relay.url)
    await ok(relay.get("/discover"))
    used = resident(pid) - base
    bound = 1.15 * info["memory_bytes"] + LIMITS["max-unread-total"]
    assert used < bound, (used, info["memory_bytes"])


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
        got = await claim_one(relay, "y", max=1, wait=20)
        await ack(relay, "y", got.receipt)
        took.append(time.perf_counter() - started)
        assert got.message["message_id"] == task
    over = True
    await asyncio.gather(*floods)
    assert median(took) < 10, f"delegate, claim and ack took {median(took):.3f} s"
