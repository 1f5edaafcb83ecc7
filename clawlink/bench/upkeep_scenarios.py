"""Measure for how long a step of the relay's upkeep holds the event loop, at the documented limits."""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import msgspec

from clawlink.bench.scenarios import AGENTS, Row
from clawlink.domain import delivery_steps
from clawlink.domain.agent import Agent
from clawlink.domain.broadcast import Knowledge
from clawlink.domain.delivery import Delivery, State
from clawlink.domain.file import Content, SharedFile, Version
from clawlink.domain.file_write import Write
from clawlink.domain.limits import Limits
from clawlink.domain.pool import pool_for
from clawlink.domain.record import Record
from clawlink.domain.shares import Origin
from clawlink.protocol import requests
from clawlink.relay.ids import receipt
from clawlink.relay.mailbox.long_poll import Taken
from clawlink.relay.relay import Relay
from clawlink.store.base import Put
from clawlink.store.memory import MemoryStore
from clawlink.store.signals import LocalSignals

# Each step is measured with as many records as the documented limits allow.
SHARE = 1.0
_BROADCASTS = 15
START = 1_000_000_000.0
_BODY = msgspec.json.encode({"type": "task_delegation", "message_id": "m", "from_agent": "asker", "task": "x" * 100})


class Scene:
    """A relay without sockets, on a clock of its own."""

    def __init__(self) -> None:
        self.now = START
        self.limits = Limits()
        self.store = MemoryStore()
        self.relay = Relay(self.store, LocalSignals(), self.limits, clock=lambda: self.now)
        self.waiting: Sequence[asyncio.Future[Taken]] = ()

    async def close(self) -> None:
        for one in self.waiting:
            one.cancel()
        await asyncio.gather(*self.waiting, return_exceptions=True)
        self.relay.close()

    def many(self, limit: int) -> int:
        """Return how many records of a limit there are to be."""
        return max(3, int(limit * SHARE))

    async def put(self, records: Iterable[Record]) -> None:
        for record in records:
            await self.store.commit(record.partition_key, Put(record))

    async def register(self, *ids: str, capabilities: list[str] | None = None) -> None:
        for id in ids:
            ask = requests.Register(agent_id=id, name=id, capabilities=capabilities)
            await self.relay.agents.register(ask, machine="bench", agent_key=None)

    async def agent(self, id: str) -> Agent:
        return await self.relay.agents.acting(id, None, field="agent_id")

    async def sweep(self) -> None:
        await self.relay.janitor.sweep()


Work = Callable[[], Awaitable[object]]
Step = Callable[[Scene], Awaitable[Work]]


async def upkeep(*, say: Callable[[str], None], of_doors: Mapping[str, Step] | None = None) -> list[Row]:
    """Milliseconds of processor time that one piece of upkeep takes at most, without a turn for anybody else."""
    rows = []
    for what, prepare in {**_STEPS, **(of_doors or {})}.items():
        say(f"upkeep: {what}")
        scene = Scene()
        work = await prepare(scene)
        rows.append(Row(f"upkeep, longest piece: {what}", await _longest_piece(work) * 1000, "ms"))
        await scene.close()
    say("upkeep: broadcasts")
    rows.append(Row(f"a broadcast to {AGENTS} agents, processor time", await _broadcast_seconds() * 1000, "ms"))
    return rows


async def _broadcast_seconds() -> float:
    """Return the processor time of a broadcast, the median of several."""
    scene = Scene()
    work = await _broadcast(scene)
    times = []
    for _ in range(_BROADCASTS):
        scene.now += 100  # at the pace that the relay allows
        gc.collect()
        began = time.thread_time()
        await work()
        times.append(time.thread_time() - began)
    await scene.close()
    return statistics.median(times)


async def _longest_piece(work: Callable[[], Awaitable[object]]) -> float:
    """Return the longest time between two moments at which others had their turn, by the thread's own clock."""
    going_on = asyncio.ensure_future(work())
    longest = 0.0
    gc.collect()
    gc.disable()  # when the collector comes says nothing about the step that it interrupts
    try:
        began = time.thread_time()
        while not going_on.done():
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, began = max(longest, now - began), now
    finally:
        gc.enable()
    await going_on
    return longest


async def _settled_messages(scene: Scene) -> Work:
    await scene.put(
        Delivery(f"d{n}", 1, f"box{n % 500}", "s", n, b"x" * 100, START, START, START + 60, State.ACKED)
        for n in range(scene.many(scene.limits.retention_records))
    )
    scene.now += 61
    return scene.sweep


async def _too_many_settled(scene: Scene) -> Work:
    await scene.put(
        Delivery(f"d{n}", 1, f"box{n % 500}", "s", n, b"x" * 100, START, START, START + 9000, State.ACKED)
        for n in range(scene.many(2 * scene.limits.retention_records))
    )
    return scene.sweep


async def _lapsed_tasks(scene: Scene) -> Work:
    await scene.register("asker", "worker")
    for n in range(scene.many(scene.limits.max_open_tasks)):
        ask = requests.Delegate(from_agent="asker", to_agent="worker", task=f"task {n}")
        scene.now += 0.06  # at the pace that the relay allows
        await scene.relay.submission.delegate(await scene.agent("asker"), ask)
    worker = await scene.agent("worker")
    while (taken := await scene.relay.claims.claim(worker, limit=1000, wait=0, lease=60)).deliveries:
        await scene.relay.acks.ack("worker", [receipt(str(d.receipt), d.id) for d in taken.deliveries])
    scene.now += scene.limits.stale_after + 61
    return scene.sweep


async def _leaving(scene: Scene) -> Work:
    await _lapsed_tasks(scene)
    return lambda: _leave(scene)


async def _leave(scene: Scene) -> None:
    await scene.relay.deregistration.leave(await scene.agent("worker"))


async def _pools_and_waiters(scene: Scene) -> Work:
    """Each pool asks for two capabilities, and each waiter has one of them and others."""
    many = scene.many(scene.limits.max_pools)
    for n in range(many):
        await scene.register(f"w{n}", capabilities=["shared", f"own{n}"])
        scene.now += scene.limits.stale_after  # nobody is told who joins where nobody is online
    waiting = [
        asyncio.ensure_future(
            scene.relay.claims.claim(await scene.agent(f"w{n}"), limit=1, wait=3600.0, lease=60, tick=None)
        )
        for n in range(many)
    ]
    for n in range(many):
        pool = pool_for(["shared", f"own{(n + 1) % many}", f"own{n}"], ())
        d = Delivery(f"t{n}", 1, pool.id, "asker", n, _BODY, scene.now, scene.now, scene.now + 9000, is_task=True)
        await scene.store.commit(pool.id, Put(pool.used(scene.now)), Put(d))
    await asyncio.sleep(0)

    scene.waiting = waiting
    return scene.sweep


async def _deep_pool(scene: Scene) -> Work:
    pool = pool_for(["go"], ())
    await scene.store.commit(pool.id, Put(pool.used(scene.now)))
    await scene.put(
        Delivery(f"t{n}", 1, pool.id, "asker", n, _BODY, scene.now, scene.now + 600, scene.now + 9000, is_task=True)
        for n in range(scene.many(scene.limits.max_mailbox_messages))
    )
    scene.now += 300
    return scene.sweep


async def _leases_that_lapse(scene: Scene) -> Work:
    """All messages of a mailbox were leased, and become due at one moment: what its next poll has to sort."""
    await scene.register("reader")
    for n in range(scene.many(scene.limits.max_mailbox_messages)):
        d = Delivery(f"m{n}", 1, "reader", "s", n, b"x", scene.now, scene.now, scene.now + 9000)
        leased = delivery_steps.lease(d, receipt="r", now=scene.now, seconds=60, max_attempts=5, keep=60)
        await scene.store.commit("reader", Put(d))
        await scene.store.commit("reader", Put(leased))
    scene.now += 61

    async def poll() -> None:
        await scene.relay.claims.claim(await scene.agent("reader"), limit=50, wait=0, lease=60)

    return poll


async def _silent_agents(scene: Scene) -> Work:
    def agent(n: int) -> Agent:
        return Agent(
            id=f"a{n}",
            version=1,
            name=f"a{n}",
            capabilities=("go",),
            machine="",
            description="",
            registered_at=scene.now,
            last_heartbeat=scene.now,
        )

    many = scene.many(scene.limits.max_agents)
    for n in range(many):
        await scene.put([agent(n)])
        if n % 1000 == 0:  # they come while the janitor is at work
            await scene.sweep()
    scene.now += scene.limits.forget_after

    async def forget_some() -> None:
        for _ in range(10):
            await scene.sweep()

    return forget_some


async def _files(scene: Scene) -> Work:
    draft = scene.relay.file_quota.buffer("f", "body", Origin(None, "s"))
    await draft.write(b"x")
    content: Content = await scene.relay.files.keep(draft, Write(key="f", content_type="text/plain"))
    many = scene.many(scene.limits.max_files)
    for n in range(many):
        scene.relay.file_quota.hold(content)
        version = Version(
            revision=1,
            content=content,
            file_type="text",
            content_type="text/plain",
            editor="e",
            written_at=scene.now,
        )
        await scene.put([SharedFile(id=f"f{n}", version=1, revision=1, versions=(version,), ends_at=scene.now + 60)])
    scene.now += 61
    return scene.sweep


async def _knowledge(scene: Scene) -> Work:
    await scene.put(
        Knowledge(f"k{n}", 1, f"a{n % 50}", b"x" * 100, f"topic{n % 99}", ("a", "b"), START, START + 9000)
        for n in range(scene.many(2 * scene.limits.max_knowledge))
    )
    return scene.sweep


async def _broadcast(scene: Scene) -> Work:
    await scene.register("sender")
    sender = await scene.agent("sender")
    crowd = [f"a{n}" for n in range(max(3, int(AGENTS * SHARE)))]
    await scene.put(msgspec.structs.replace(sender, id=id, name=id, version=1) for id in crowd)
    return lambda: scene.relay.broadcasts.broadcast(sender, requests.Broadcast(from_agent="sender", content="news"))


async def _uploads(scene: Scene) -> Work:
    for n in range(scene.many(scene.limits.max_uploads)):
        if n % scene.limits.max_agent_uploads == 0:
            await scene.register(f"u{n}")
            owner = await scene.agent(f"u{n}")
        ask = Write(key=f"f{n}", content_type="text/plain")
        await scene.relay.uploads.create(owner, ask, 10_000, f"m{n}")
    scene.now += scene.limits.upload_ttl
    return scene.sweep


_STEPS: dict[str, Step] = {
    "100,000 settled messages forgotten at once": _settled_messages,
    "100,000 settled messages too many": _too_many_settled,
    "10,000 tasks taken back from a silent worker": _lapsed_tasks,
    "an agent leaves with 10,000 tasks": _leaving,
    "1,000 pools with work, 1,000 waiters who may not have it": _pools_and_waiters,
    "a pool with 10,000 tasks": _deep_pool,
    "10,000 leases of a mailbox lapse at once": _leases_that_lapse,
    "100,000 silent agents": _silent_agents,
    "100,000 files end at once": _files,
    "10,000 broadcasts too many": _knowledge,
    "1,000 uploads lapse at once": _uploads,
    "a broadcast to 3,000 agents": _broadcast,
}
