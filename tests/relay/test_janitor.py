"""The janitor: what is settled is kept for as long as there is room for it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from msgspec.structs import replace

from clawlink.domain.delivery import Delivery
from clawlink.domain.record import SETTLED
from clawlink.errors import UnknownMessage
from clawlink.protocol import requests
from clawlink.relay.ids import end_id
from clawlink.store.base import Absent, Drop, Failed, Full, Put
from clawlink.store.memory import MemoryStore
from tests.relay.scene import Scene, receipt_of

ROOM = 20_000


async def test_another_reason_of_the_store_is_another_line_and_endless_reasons_are_few(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene()

    async def fail(reason: str) -> None:
        raise Failed(reason)

    for reason in ("away", "the disk is full", "away", "the disk is full"):
        for name in ("evict", "pools"):
            await scene.relay.janitor.step(name, fail, reason)
    assert [record.__dict__["reason"] for record in caplog.records] == ["away", "the disk is full"]
    for number in range(1000):
        await scene.relay.janitor.step("evict", fail, f"connection {number} was lost")
    assert len(caplog.records) < 10


async def known(scene: Scene, ids: list[str]) -> list[str]:
    """Return those of the messages that the relay still tells of."""
    found = []
    for id in ids:
        try:
            await scene.relay.messages.status(await scene.agent("req"), id, requests.MessageQuery())
        except UnknownMessage:
            continue
        found.append(id)
    return found


async def test_of_settled_messages_only_as_many_are_forgotten_as_there_are_too_many_bytes() -> None:
    scene = Scene(retention_bytes=ROOM)
    await scene.register("req", "bob")
    ids: list[str] = []
    size = 0
    for _ in range(40):
        ids.append(await scene.send("req", "bob", "x" * 1000))
        await scene.relay.acks.ack("bob", [receipt_of(d) for d in await scene.take("bob")])
        await scene.let_pass(1)
        size = size or (await scene.store.usage(Delivery, SETTLED)).bytes
        assert await known(scene, ids) == ids[-(ROOM // size) :]
    assert len(await known(scene, ids)) < len(ids)


async def broken_tasks(scene: Scene, count: int) -> list[str]:
    """Delegate tasks whose end fails: where their requester is to be told of it stands what nobody can read."""
    ids = [await scene.delegate(to_agent="bob", task=f"task {n}") for n in range(count)]
    for id in ids:
        junk = Delivery(end_id(id), 1, "req", "bob", 1, b"{", scene.now, scene.now, scene.now + 1e9)
        await scene.store.commit("req", Put(junk))
    return ids


def complaints(caplog: pytest.LogCaptureFixture) -> list[Any]:
    relays = [record for record in caplog.records if record.name == "clawlink.relay"]
    return [record.__dict__.get("step") for record in relays if record.levelno >= logging.ERROR]


async def test_records_that_cannot_be_settled_hide_none_behind_them(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene(message_ttl=60, rate_agent=0, rate_pair=0)
    await scene.register("req", "bob")
    broken = await broken_tasks(scene, 450)  # more than two pages of what has ended
    message = await scene.send("req", "bob")
    with caplog.at_level(logging.ERROR):
        await scene.let_pass(62)
        status = await scene.relay.messages.status(await scene.agent("req"), message, requests.MessageQuery())
        assert status.state == "expired"
        failures = scene.relay.stats.upkeep_failures
        assert (failures, scene.relay.janitor.stuck) == (450, 450)
        for _ in range(5):
            await scene.let_pass(0.1)
        assert scene.relay.stats.upkeep_failures == failures  # each waits before it is tried again
        for _ in range(12):
            await scene.let_pass(1)
        assert failures + 2 * 450 <= scene.relay.stats.upkeep_failures <= failures + 4 * 450
    assert complaints(caplog) == ["end Delivery"]
    readable = await scene.store.get(Delivery, message)
    assert readable is not None
    for id in broken:
        junk = await scene.store.get(Delivery, end_id(id))
        assert junk is not None
        await scene.store.commit("req", Put(replace(junk, version=2, body=readable.body)))
    await scene.let_pass(300)
    assert scene.relay.janitor.stuck == 0
    assert await scene.status(broken[0]) == "expired"


async def test_a_step_that_fails_stops_none_of_the_others(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene(message_ttl=60)
    await scene.register("req", "bob")

    async def fails() -> bool:
        raise ValueError("it cannot be read")

    janitor: Any = scene.relay.janitor
    works = {name: getattr(janitor, name) for name in ("_evict", "_forget_agents", "_look_at_pools", "_end")}

    async def end(kind: Any) -> bool:
        return bool(await (fails() if kind is not Delivery else works["_end"](kind)))

    for name in works:
        setattr(janitor, name, fails if name != "_end" else end)
    id = await scene.send("req", "bob")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            await scene.let_pass(31)
    status = await scene.relay.messages.status(await scene.agent("req"), id, requests.MessageQuery())
    assert status.state == "expired"
    assert len(complaints(caplog)) == len(set(complaints(caplog))) == 10, complaints(caplog)
    assert scene.relay.stats.upkeep_failures == 30
    for name, step in works.items():
        setattr(janitor, name, step)
    await scene.let_pass(1)
    janitor._evict = fails
    caplog.clear()
    with caplog.at_level(logging.ERROR):
        await scene.let_pass(1)
    assert complaints(caplog) == ["evict"]  # it had worked again in between


async def test_a_disk_without_room_is_one_line_of_the_log_without_a_trace(caplog: pytest.LogCaptureFixture) -> None:
    class FullStore(MemoryStore):
        is_full = False

        async def commit(self, partition_key: str, *changes: Put | Drop | Absent) -> None:
            if self.is_full:
                raise Full("the disk is full")
            await super().commit(partition_key, *changes)

    store = FullStore()
    scene = Scene(store=store)
    await scene.register("req", "bob")
    for _ in range(3):
        await scene.delegate(to_agent="bob")
    assert len(await scene.claim("bob")) == 3
    store.is_full = True
    for _ in range(3):
        await scene.let_pass(30)
    assert complaints(caplog) == ["end Delivery"]
    assert [record.exc_info for record in caplog.records if record.levelno >= logging.ERROR] == [None]
    store.is_full = False
    await scene.let_pass(300)
    assert scene.relay.janitor.stuck == 0


async def test_a_store_that_does_not_answer_is_one_line_of_the_log_however_many_steps_fail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene()

    async def away() -> None:
        raise Failed("the store is away")

    async def there() -> None:
        return None

    for answers, lines in ((away, 1), (there, 1), (away, 2)):
        for _ in range(3):
            for name in ("evict", "pools", "mesh"):
                await scene.relay.janitor.step(name, answers)
        assert len(complaints(caplog)) == lines
    assert {(record.exc_info, getattr(record, "reason", "")) for record in caplog.records} == {
        (None, "the store is away")
    }
