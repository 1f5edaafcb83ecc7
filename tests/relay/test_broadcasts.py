"""Broadcasts under a key: whatever the relay has forgotten meanwhile, a repeat is answered as the first was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from clawlink.domain.message import KnowledgeBroadcast
from clawlink.errors import KeyReused, RateLimited
from clawlink.relay.buckets import Buckets
from clawlink.relay.files import Write
from tests.relay.scene import Scene
from tests.relay.test_turns import Touched


async def heard(scene: Scene, id: str) -> list[str]:
    """Return what an agent reads of what was told to everyone."""
    return [m.content for m in await scene.read(id) if isinstance(m, KnowledgeBroadcast)]


async def test_a_repeat_is_answered_as_the_first_was_for_as_long_as_late_ones_hear_of_it() -> None:
    scene = Scene(message_ttl=60, retention=60, knowledge_ttl=24 * 3600)
    await scene.register("ann", "bob", "cy")
    first = await scene.broadcast("ann", "news", idempotency_key="k")
    assert (first.recipients, first.refused) == (2, 0)
    assert await heard(scene, "bob") == ["news"]
    for hours in (0.1, 1, 10, 10):
        await scene.let_pass(hours * 3600)
        assert await scene.broadcast("ann", "news", idempotency_key="k") == first
        assert await heard(scene, "bob") == []
        with pytest.raises(KeyReused):
            await scene.broadcast("ann", "other news", idempotency_key="k")


async def test_a_broadcast_is_not_forgotten_while_it_is_on_its_way() -> None:
    """Settled records may be forgotten early if there are too many, and this is not settled yet."""
    scene = Scene(retention_records=1)
    crowd = [f"a{n}" for n in range(100)]
    for id in crowd:
        await scene.register(id)
    ann, bob = crowd[:2]

    async def sweep() -> None:
        for _ in range(6):
            await scene.relay.janitor.sweep()

    one, other, _ = await asyncio.gather(
        scene.broadcast(ann, "news", idempotency_key="k"), scene.broadcast(bob, "more", idempotency_key="k"), sweep()
    )
    assert (one.recipients, other.recipients) == (len(crowd) - 1, len(crowd) - 1)
    assert sorted(await heard(scene, crowd[-1])) == ["more", "news"]


async def test_a_broadcast_and_a_notice_look_at_nobody_but_those_who_hear_of_them() -> None:
    store = Touched()
    scene = Scene(store=store)
    await scene.register("ann")
    await scene.register(*(f"a{n}" for n in range(300)), subscriptions=["rain", "snow.*"], notices=False)
    ann = await scene.agent("ann")
    for topic, told in (("sun", 0), ("snow", 0), ("rain", 300), ("Snow.fresh", 300)):
        before = store.touched
        assert (await scene.broadcast("ann", "x", topic=topic)).recipients == told
        if not told:
            assert store.touched - before < 50, topic
    before = store.touched
    await scene.relay.files.put(ann, Write(key="f", content_type="text/plain"), once(b"x"), 1)
    assert store.touched - before < 50
    await scene.relay.agents.subscribe("a7", ["sun"])
    assert (await scene.broadcast("ann", "x", topic="sun")).recipients == 1
    assert (await scene.broadcast("ann", "x", topic="rain")).recipients == 299


async def test_copies_are_made_on_credit_and_then_waited_for() -> None:
    """A broadcast reaches all agents, however many; then its sender waits until the copies are paid."""
    scene = Scene(rate_copies=10, burst_copies=20)
    await scene.register("ann", *(f"a{n}" for n in range(50)))
    assert (await scene.broadcast("ann", "x", idempotency_key="k")).recipients == 50
    assert (await scene.broadcast("ann", "x", idempotency_key="k")).recipients == 50  # a repeat makes no copies
    ann = await scene.agent("ann")
    write = Write(key="f", content_type="text/plain")
    for again in (lambda: scene.broadcast("ann", "y"), lambda: scene.relay.files.put(ann, write, once(b"x"), 1)):
        with pytest.raises(RateLimited) as refused:
            await again()
        assert (refused.value.limit, refused.value.retry_after, refused.value.current) == (10, 3.1, ["ann"])
    assert (await scene.broadcast("a1", "x")).recipients == 50  # others have their own
    scene.now += 3.2
    await scene.relay.files.put(ann, write, once(b"x"), 1)
    with pytest.raises(RateLimited):
        await scene.relay.files.delete(ann, "f", None)
    scene.now += 1000
    assert (await scene.broadcast("ann", "y")).recipients == 50


async def test_broadcasts_at_the_same_moment_do_not_share_one_credit() -> None:
    scene = Scene(rate_copies=10, burst_copies=20)
    await scene.register("ann", *(f"a{n}" for n in range(100)))
    done = await asyncio.gather(*(scene.broadcast("ann", f"{n}") for n in range(5)), return_exceptions=True)
    assert sum(isinstance(one, RateLimited) for one in done) == 4, done


async def test_a_debt_is_not_forgotten_before_it_is_paid() -> None:
    buckets = Buckets(1, 10)
    buckets.take("ann", 0, 100)
    for now in (20, 40, 60):
        buckets.take("bob", now)
        assert buckets.wait("ann", now) == 91 - now
    assert buckets.wait("ann", 91) == 0


async def once(content: bytes) -> AsyncIterator[bytes]:
    yield content
