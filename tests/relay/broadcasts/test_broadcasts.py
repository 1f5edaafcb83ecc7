"""Broadcasts under a key: whatever the relay has forgotten meanwhile, a repeat is answered as the first was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from random import Random

import pytest

from clawlink.domain.broadcast import Broadcast, Knowledge
from clawlink.domain.delivery import Delivery, copy_id
from clawlink.domain.file_write import Write
from clawlink.domain.message import FileUpdated, KnowledgeBroadcast
from clawlink.errors import KeyReused, RateLimited
from clawlink.protocol.requests import Asker, KnowledgeQuery, MessageQuery
from clawlink.relay.limits.token_buckets import Buckets
from clawlink.store.base import Absent, Batch, Conflict, Drop, Failed, Put
from clawlink.store.memory import MemoryStore
from tests.relay.scene import Scene
from tests.relay.test_time_slices import Touched
from tests.store.asking import total
from tests.store.faulty import FaultyStore


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


async def test_the_history_ends_at_the_instant_that_a_ttl_says() -> None:
    scene = Scene()
    await scene.register("ann", "bob")
    await scene.broadcast("ann", "news", ttl=60)
    for passed, count in ((59.5, 1), (0.5, 0)):
        scene.now += passed  # without a look of the janitor
        assert (await scene.relay.broadcasts.knowledge(KnowledgeQuery())).count == count, scene.now


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


async def copies_of(scene: Scene, crowd: list[str]) -> list[int]:
    """Return how many copies each agent has, of whatever is told."""
    return [len(await scene.unread(id)) for id in crowd]


async def test_a_repeat_finishes_what_a_store_that_fails_left_and_no_copy_is_lost_or_doubled() -> None:
    crowd = [f"a{n}" for n in range(90)]
    for seed in range(6):
        store = FaultyStore(MemoryStore(), Random(seed))
        scene = Scene(store=store, max_mailbox_messages=4)
        await scene.register("ann", *crowd)
        for full in crowd[::9]:
            await scene.send("ann", full)
            await scene.send("ann", full)
        store.conflicts, store.failures, store.lost, store.delays = 0.05, 0.03, 0.03, 0.2
        failed = 0
        while True:
            try:
                sent = await scene.broadcast("ann", "news", idempotency_key="k")
                break
            except Failed:
                failed += 1
        store.conflicts = store.failures = store.lost = 0.0
        assert failed, seed
        assert (sent.recipients, sent.refused) == (80, 10), seed
        assert await copies_of(scene, crowd) == [2 if n % 9 == 0 else 1 for n in range(90)], seed


async def test_a_repeat_of_what_the_relay_forgot_makes_the_copies_that_are_gone() -> None:
    scene = Scene()
    crowd = [f"a{n}" for n in range(70)]
    await scene.register("ann", *crowd)
    first = await scene.broadcast("ann", "news", idempotency_key="k")
    for forgotten in (Broadcast, Knowledge):
        record = await scene.store.get(forgotten, first.message_id)
        assert record is not None
        await scene.store.commit(record.partition_key, Drop(record))
    copy = await scene.store.get(Delivery, copy_id(first.message_id, "a9"))
    assert copy is not None
    await scene.store.commit("a9", Drop(copy))
    again = await scene.broadcast("ann", "news", idempotency_key="k")
    assert (again.recipients, again.refused) == (70, 0)
    assert await copies_of(scene, crowd) == [1] * 70


async def test_a_copy_that_fails_keeps_none_of_the_others_of_its_slice_back() -> None:
    scene = Scene(store=FailsFor("a5"))
    crowd = [f"a{n}" for n in range(20)]
    await scene.register("ann", *crowd)
    with pytest.raises(Failed):
        await scene.broadcast("ann", "news", idempotency_key="k")
    assert await copies_of(scene, crowd) == [0 if id == "a5" else 1 for id in crowd]


class FailsFor(MemoryStore):
    """A store that fails to commit deliveries at one partition."""

    def __init__(self, partition_key: str) -> None:
        super().__init__()
        self.partition_key = partition_key

    async def commit_many(self, batches: Sequence[Batch]) -> Sequence[Conflict | Failed | None]:
        works = [batch for batch in batches if batch.partition_key != self.partition_key]
        results = iter(await super().commit_many(works))
        return [next(results) if batch in works else Failed("as told") for batch in batches]


async def test_a_slice_that_finds_no_room_as_a_whole_gives_out_the_room_there_is() -> None:
    crowd = [f"a{n}" for n in range(70)]
    scene = Scene()
    await scene.register("ann", *crowd)
    await scene.broadcast("ann", "x" * 10_000)
    body = (await total(scene.store)).bytes // len(crowd)
    for copies, fair_share, most in ((40, 100, 40), (40, 90, 31), (70, 100, 70), (90, 90, 70)):
        case = (copies, fair_share)
        scene = Scene(max_stored_bytes=copies * body + 9, fair_share=fair_share)
        await scene.register("ann", *crowd)
        sent = await scene.broadcast("ann", "x" * 10_000)
        assert (sent.recipients, sent.refused) == (most, len(crowd) - most), case
        assert sorted(await copies_of(scene, crowd)) == [0] * sent.refused + [1] * most, case


async def test_a_broadcast_without_room_anywhere_is_refused_and_not_stored() -> None:
    scene = Scene(max_mailbox_messages=2, message_ttl=60, retention=60, knowledge_ttl=24 * 3600)
    await scene.register("ann", "bob", "cy")
    await scene.send("ann", "bob")
    some = await scene.broadcast("ann", "some", idempotency_key="some")
    none = await scene.broadcast("ann", "none", idempotency_key="none")
    assert [(one.recipients, one.refused) for one in (some, none)] == [(1, 1), (0, 2)]
    messages, ann = scene.relay.messages, await scene.agent("ann")
    for sent, state, counts in ((some, "stored", {"stored": 1, "refused": 1}), (none, "refused", {"refused": 2})):
        told = await messages.status(ann, sent.message_id, MessageQuery(agent_id="ann"))
        assert (told.state, told.recipients, told.counts) == (state, 2, counts)
        (found,) = (await messages.find(ann, sent.message_id, Asker(agent_id="ann"))).ids
        assert found.state == state
    followed = MessageQuery(agent_id="ann", wait=60, until="acked")
    told = await asyncio.wait_for(messages.status(ann, none.message_id, followed), 30)
    assert told.counts == {"refused": 2}
    await scene.let_pass(3600)
    assert await scene.store.get(Broadcast, none.message_id) is None
    for sent, key in ((some, "some"), (none, "none")):
        assert await scene.broadcast("ann", key, idempotency_key=key) == sent


async def test_a_broadcast_counts_no_agent_that_left_before_its_copy_was_made() -> None:
    store = Interrupted()
    scene = Scene(store=store, message_ttl=60, retention=60, knowledge_ttl=24 * 3600)
    await scene.register("ann", "bob", "cy")
    bob = await scene.agent("bob")
    store.after_first = lambda: scene.relay.deregistration.leave(bob)
    sent = await scene.broadcast("ann", "news", idempotency_key="k")
    assert (sent.recipients, sent.refused) == (1, 0)
    ann = await scene.agent("ann")
    told = await scene.relay.messages.status(ann, sent.message_id, MessageQuery(agent_id="ann"))
    assert (told.recipients, told.counts) == (1, {"stored": 1})
    assert await scene.broadcast("ann", "news", idempotency_key="k") == sent
    await scene.let_pass(3600)
    assert await scene.broadcast("ann", "news", idempotency_key="k") == sent


async def test_a_repeat_counts_an_agent_that_left_after_its_copy_was_made() -> None:
    store = FailsFor("cy")
    scene = Scene(store=store)
    await scene.register("ann", "bob", "cy")
    with pytest.raises(Failed):
        await scene.broadcast("ann", "news", idempotency_key="k")
    await scene.leave("bob")
    store.partition_key = ""
    sent = await scene.broadcast("ann", "news", idempotency_key="k")
    assert (sent.recipients, sent.refused) == (2, 0)
    ann = await scene.agent("ann")
    told = await scene.relay.messages.status(ann, sent.message_id, MessageQuery(agent_id="ann"))
    assert (told.recipients, told.counts) == (2, {"expired": 1, "stored": 1})


class Interrupted(MemoryStore):
    """A store in which something happens after the first commit of a broadcast."""

    after_first: Callable[[], Awaitable[object]] | None = None

    async def commit(self, partition_key: str, *changes: Put | Drop | Absent) -> None:
        await super().commit(partition_key, *changes)
        then = self.after_first
        if then is not None and any(isinstance(change, Put) and type(change.record) is Broadcast for change in changes):
            self.after_first = None
            await then()


async def test_notices_replace_unread_ones_in_many_mailboxes_at_once() -> None:
    scene = Scene()
    crowd = [f"a{n}" for n in range(80)]
    await scene.register("ann", *crowd, notices=True)
    ann = await scene.agent("ann")
    for id in crowd:
        await scene.read(id)
    await scene.relay.files.put(ann, Write(key="f", content_type="text/plain"), once(b"x"), 1)
    first = {id: [d.sort_key for d in await scene.store.pending(id, 9)] for id in crowd}
    for id in crowd[::2]:
        await scene.read(id)
    await scene.relay.files.put(ann, Write(key="f", content_type="text/plain"), once(b"y"), 1)
    for n, id in enumerate(crowd):
        (notice,) = await scene.unread(id)
        (d,) = await scene.store.pending(id, 9)
        assert isinstance(notice, FileUpdated), id
        assert notice.version == 2, id
        assert (d.sort_key in first[id]) == bool(n % 2), id  # the news stands where the unread notice stood
    assert scene.relay.stats.merged == 40
