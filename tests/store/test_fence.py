"""Leases of a mesh, and commits behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count

import pytest

from clawlink.domain.task import Task
from clawlink.relay.timestamps import steady_clock
from clawlink.store.base import Batch, Fenced, Put, Store
from clawlink.store.fence import Fence, behind, current
from clawlink.store.valkey.mesh import Mesh
from tests.store.contract import put, task
from tests.valkey import Server, program
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(program() is None, reason="there is no valkey-server here")

_SECONDS = 0.2
_LONG = 60.0
_meshes = count()


@pytest.fixture
async def relays(valkey: Server) -> AsyncIterator[tuple[Mesh, Mesh]]:
    """Two relays of a mesh."""
    prefix = f"fence{next(_meshes)}"
    made = [await Mesh.open(valkey.url, prefix=prefix, steady=steady_clock()) for _ in range(2)]
    yield made[0], made[1]
    for mesh in made:
        await mesh.close()


async def test_a_lease_has_one_holder_and_a_term_ends_once_another_had_it(relays: tuple[Mesh, Mesh]) -> None:
    one, other = relays
    assert await one.lease("x", "", "a", _LONG) == "a"
    assert await one.lease("x", "", "a", _LONG) == "a", "a repeat whose answer was lost"
    assert await one.lease("x", "a", "b", _LONG) == "a", "it is renewed"
    assert await other.lease("x", "", "c", _LONG) is None
    assert await other.lease("y", "", "c", _LONG) == "c", "another lease is free"
    await other.end_lease("x", "c")
    assert await other.lease("x", "", "c", _LONG) is None, "only the holder ends it"
    await one.end_lease("x", "a")
    assert await one.lease("x", "a", "b", _LONG) == "a", "nobody had it meanwhile: the term goes on"
    await one.end_lease("x", "a")
    assert await other.lease("x", "", "c", _LONG) == "c"
    await other.end_lease("x", "c")
    assert await one.lease("x", "a", "b", _SECONDS) == "b", "another had it: this is a new term"

    async def taken() -> bool:
        return await other.lease("x", "", "d", _LONG) == "d"

    await eventually(taken)


async def test_a_commit_behind_a_lost_lease_takes_no_effect(relays: tuple[Mesh, Mesh]) -> None:
    one, other = relays
    store: Store = one.store
    record = task(id="kept")
    assert await one.lease("x", "", "a", _LONG) == "a"
    with behind(Fence("x", "a")):
        await put(store, record)
        begun = asyncio.create_task(_current())
    assert await begun == Fence("x", "a"), "tasks have the fence of the one that began them"
    assert current() is None
    await one.end_lease("x", "a")
    with behind(Fence("x", "a")), pytest.raises(Fenced):
        await put(store, task(id="free"))
    assert await other.lease("x", "", "b", _LONG) == "b"
    with behind(Fence("x", "a")), pytest.raises(Fenced):
        await put(store, task(id="taken"))
    first, second = (task(id=f"in order {n}", assignee=str(n)) for n in range(2))
    batches = [Batch(record.partition_key, (Put(record),)) for record in (first, second)]
    with behind(Fence("x", "a")):
        (result,) = await store.commit_in_order(batches)
        assert isinstance(result, Fenced)
        assert [type(result) for result in await store.commit_many(batches)] == [Fenced, Fenced]
    for id in ("free", "taken", first.id, second.id):
        assert await store.get(Task, id) is None
    with behind(Fence("x", "b")):
        await put(other.store, task(id="taken"))
    await put(store, task(id="without"))


async def _current() -> Fence | None:
    return current()
