"""Broadcasts under a key: whatever the relay has forgotten meanwhile, a repeat is answered as the first was."""

from __future__ import annotations

import asyncio

import pytest

from clawlink.domain.message import KnowledgeBroadcast
from clawlink.errors import KeyReused
from tests.relay.scene import Scene


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
