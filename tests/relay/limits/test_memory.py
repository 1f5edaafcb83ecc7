"""A limit over all memory: history goes first, then new work is refused, and answers to work go on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from clawlink.domain.delivery import Delivery
from clawlink.domain.file import SharedFile
from clawlink.domain.file_write import Write
from clawlink.domain.record import SETTLED
from clawlink.errors import StorageFull
from clawlink.protocol import file_requests
from tests.relay.scene import Scene
from tests.tables import each

LIMIT = 2_000_000
NEW_WORK = LIMIT * 15 // 16


async def memory(scene: Scene) -> int:
    return (await scene.relay.info(endpoints={})).memory_bytes


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def write(scene: Scene, key: str, content: bytes) -> None:
    ask = Write(key=key, content_type="text/plain")
    await scene.relay.files.put(await scene.agent("req"), ask, once(content), len(content))


async def lock(scene: Scene, key: str, note: str) -> None:
    ask = file_requests.LockFile(agent_id="req", file_key=key, seconds=3600, note=note)
    await scene.relay.files.lock(await scene.agent("req"), ask)


async def upload(scene: Scene, n: int) -> None:
    ask = Write(key=f"u{n}", content_type="text/plain")
    await scene.relay.uploads.create(await scene.agent("req"), ask, 10, "m" * 4000)


async def subscribe(scene: Scene, n: int) -> None:
    await scene.register(f"s{n}")
    await scene.relay.agents.subscribe(f"s{n}", [f"{n}.{i}." + "x" * 100 for i in range(64)])


async def full(step: Callable[[int], Awaitable[Any]]) -> tuple[int, StorageFull]:
    """Do a step until it is refused; return how often it was done, and the refusal."""
    for n in range(100_000):
        try:
            await step(n)
        except StorageFull as refusal:
            return n, refusal
    raise AssertionError("it was never refused")


LONG = "x" * 4000

# Each fills the relay with one kind of record, by records that are hardly counted by any other limit.
FILLING: dict[str, Callable[[Scene, int], Awaitable[Any]]] = {
    "tasks": lambda scene, n: scene.delegate(to_agent="work", task=f"{n}" + LONG),
    "tasks of pools": lambda scene, n: scene.delegate(to_agent=None, capability=[f"{n}" + "c" * 100]),
    "messages": lambda scene, n: scene.send("req", "work", LONG),
    "broadcasts": lambda scene, n: scene.broadcast(
        "req", f"{n}" + LONG, topic="x", tags=[f"{n}.{i}" for i in range(32)]
    ),
    "agents": lambda scene, n: scene.register(
        f"a{n}", description=LONG[:2000], capabilities=[f"{n}.{i}" + "c" * 100 for i in range(64)]
    ),
    "subscriptions": subscribe,
    "files": lambda scene, n: write(scene, f"f{n}", b"x" * 4000),
    "tiny files": lambda scene, n: write(scene, f"{n}" + "k" * 1000, b""),
    "locks": lambda scene, n: lock(scene, f"{n}" + "k" * 1000, "n" * 1000),
    "uploads": upload,
}
OTHERS: dict[str, Any] = {
    "fair_share": 100,
    "rate_agent": 0.0,
    "rate_pair": 0.0,
    "max_pools": 100_000,
    "max_agent_uploads": 100_000,
    "max_uploads": 10**6,
}


@each("kind", FILLING)
async def test_each_kind_of_new_work_is_refused_at_the_limit_and_answers_go_on(kind: str) -> None:
    await require_refusal(Scene(max_memory=LIMIT, **OTHERS), FILLING[kind])


async def require_refusal(scene: Scene, fill: Callable[[Scene, int], Awaitable[Any]]) -> None:
    """Fill a relay, and see that it refuses more of the same, and takes answers."""
    await scene.register("req", "work", "busy")
    open = await scene.delegate(to_agent="busy", task="sum")
    [receipt] = await scene.claim("busy")
    n, error = await full(lambda n: fill(scene, n))
    assert (error.status, error.field, error.limit) == (507, "max_memory", NEW_WORK)
    assert error.actual is not None
    assert error.actual > NEW_WORK
    assert 0 <= error.current["free"] < LIMIT // 8
    assert "--max-memory" in error.message
    assert n > 3
    assert NEW_WORK * 0.85 < await memory(scene) <= NEW_WORK * 1.01
    # Present work goes on: acks, heartbeats, reads, and the answer.
    await scene.relay.agents.beat("busy")
    assert [outcome.error for outcome in await scene.relay.acks.ack("busy", [receipt])] == [None]
    await scene.respond("busy", open, "in_progress", "r" * 1000)
    await scene.respond("busy", open, "completed", "r" * 1000)
    assert await scene.status(open) == "completed"
    assert await memory(scene) <= LIMIT


async def test_settled_records_make_room_before_anything_is_refused() -> None:
    scene = Scene(max_memory=LIMIT, **OTHERS)
    await scene.register("req", "work")
    for n in range(3 * LIMIT // 5000):
        await scene.send("req", "work", f"{n}" + LONG)
        assert len(await scene.read("work")) == 1
    assert scene.relay.stats.evicted > LIMIT // 5000
    assert NEW_WORK - 400_000 < await memory(scene) <= NEW_WORK * 1.01
    assert (await scene.store.usage(Delivery, SETTLED)).count > 100


async def test_the_last_sixteenth_is_for_answers_and_has_an_end() -> None:
    scene = Scene(max_memory=LIMIT, **OTHERS)
    await scene.register("req", "work")
    ids = [await scene.delegate(to_agent="work", task="sum") for _ in range(200)]
    await scene.claim("work")
    await full(lambda n: scene.send("req", "work", f"{n}" + LONG))
    _, error = await full(lambda n: scene.respond("work", ids[n], "in_progress", "r" * 2000))
    assert error.limit == LIMIT
    assert NEW_WORK < await memory(scene) <= LIMIT * 1.01


async def test_memory_is_back_once_all_is_gone() -> None:
    scene = Scene(max_memory=LIMIT, **OTHERS)
    await scene.register("req")
    before = await memory(scene)
    for n in range(20):
        await write(scene, f"f{n}", b"x" * 4000)
        await upload(scene, n)
    for n in range(20):
        await scene.relay.files.delete(await scene.agent("req"), f"f{n}", None)
    for known in scene.relay.uploads.known():
        await scene.relay.uploads.end(known)
    await scene.let_pass(4000)
    assert (await scene.store.usage(SharedFile, "absent")).count == 0
    assert abs(await memory(scene) - before) < 1000
