"""The store over a real Valkey server: it keeps the contract, and says why it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from itertools import count
from typing import Any

import pytest
from msgspec.structs import replace

from clawlink.domain.delivery import Delivery
from clawlink.domain.task import Task, by_owner
from clawlink.store.base import Batch, Drop, Failed, Full, Put, Store
from clawlink.store.memory import MemoryStore
from clawlink.store.valkey.link import Link
from clawlink.store.valkey.store import LAYOUT, ValkeyStore
from clawlink.store.valkey.wire import Wire
from tests.relay.scene import Scene, receipt_of
from tests.store.contract import NOW, StoreContract, ack, delivery, drop, due, lease, put, task
from tests.store.durable import DurableContract, Failing
from tests.valkey import Server, program, running
from tests.waiting import until

pytestmark = pytest.mark.skipif(program() is None, reason="there is no valkey-server here")

_meshes = count()


@pytest.fixture
async def store(valkey: Server) -> AsyncIterator[Store]:
    """Open a mesh of its own."""
    wire = Wire(valkey.url)
    yield ValkeyStore(wire, f"mesh{next(_meshes)}")
    await wire.close()


class TestValkeyStore(StoreContract):
    """The contract."""

    @pytest.fixture
    def store(self, valkey: Server) -> Store:
        return ValkeyStore(Wire(valkey.url), f"mesh{next(_meshes)}")


class TestDurable(DurableContract):
    """The contract over a restart of a relay."""

    @pytest.fixture
    def again(self, valkey: Server) -> Callable[[], Store]:
        mesh = f"mesh{next(_meshes)}"
        return lambda: ValkeyStore(Wire(valkey.url), mesh)

    @pytest.fixture
    def store(self, again: Callable[[], Store]) -> Store:
        return again()

    @pytest.fixture
    def failing(self, valkey: Server, monkeypatch: pytest.MonkeyPatch) -> Failing:
        @contextlib.contextmanager
        def full() -> Iterator[None]:
            valkey.ask("CONFIG", "SET", "maxmemory", "1")
            try:
                yield
            finally:
                valkey.ask("CONFIG", "SET", "maxmemory", "0")

        @contextlib.contextmanager
        def unanswered() -> Iterator[None]:
            commit = Wire.commit

            async def lost(wire: Wire, *words: Any) -> None:
                await commit(wire, *words)
                raise Failed("the answer was lost")

            with monkeypatch.context() as patches:
                patches.setattr(Wire, "commit", lambda wire, *words: asyncio.ensure_future(lost(wire, *words)))
                yield

        return lambda store: [full(), unanswered()]

    @pytest.fixture
    def later(self, store: ValkeyStore, valkey: Server) -> Callable[[], Awaitable[object]]:
        async def write() -> None:
            valkey.ask("HSET", f"{store.base}:meta", "layout", LAYOUT + 1)

        return write


async def counts_of(store: Store, mailboxes: list[str], origins: list[tuple[str | None, str]]) -> list[object]:
    """Return what a store counts."""
    admission = await store.admission(mailboxes, [(Task, by_owner(box)) for box in mailboxes])
    found: list[object] = [list(admission.mailboxes), list(admission.indexes), admission.total]
    for origin in origins:
        found += [await store.load_from(mailbox, *origin) for mailbox in (*mailboxes, None)]
        found += [await store.usage_from(Task, by_owner(box), *origin) for box in mailboxes]
    return found


async def test_reads_that_fail_together_leave_no_error_behind(store: Store) -> None:
    """The first answer raises; the loop would say of the others that nobody retrieved their errors."""
    said: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    await store.close()
    ids = [str(n) for n in range(100)]  # several commands of each kind
    with pytest.raises(Failed):
        await store.get_both((Delivery, ids), (Task, ids))
    gc.collect()
    await asyncio.sleep(0)
    assert said == []


@pytest.mark.parametrize(("steps", "asked_each"), [(120, 10), (1200, 400)])  # the later counts wait for many records
async def test_counts_by_origin_are_those_of_the_store_in_memory(
    store: Store, valkey: Server, steps: int, asked_each: int
) -> None:
    dice, other = random.Random(7), MemoryStore()
    boxes, origins = ["mia", "eve"], [("10.0.0.1", "otto"), ("10.0.0.1", "ann"), (None, "otto")]
    there: dict[str, Any] = {}
    for step in range(steps):
        id = f"r:{dice.randint(0, steps // 4)}"
        old = there.get(id)
        if old is None:
            address, sender = dice.choice(origins)
            kind: Any = dice.choice([delivery, task])
            body = b"x" * dice.randint(0, 9)
            new: Any = replace(kind(id, dice.choice(boxes), body=body), address=address)
            new = replace(new, **{"sender" if kind is delivery else "requester": sender})
            change: Put | Drop = Put(new)
        elif isinstance(old, Delivery) and old.receipt is None and dice.random() < 0.5:
            change = Put(lease(old))
        else:
            change = Drop(old)
        for each in (store, other):
            await each.commit(change.record.partition_key, change)
        if isinstance(change, Put):
            there[id] = change.record
        else:
            del there[id]
        if step % asked_each == asked_each - 1:
            assert await counts_of(store, boxes, origins) == await counts_of(other, boxes, origins), step
    for record in there.values():
        await drop(store, record)
    assert await store.memory_from("10.0.0.1", "otto") == (0, 0)
    assert isinstance(store, ValkeyStore)
    wire = Wire(valkey.url)
    keys = await wire.call("KEYS", f"{store.base}:*")
    await wire.close()
    assert [key.rpartition(b":")[2] for key in keys] == [b"arrivals"]


async def test_a_full_server_refuses_what_is_new_and_can_be_emptied() -> None:
    with running("--maxmemory", "8mb") as server:
        wire = Wire(server.patient_url)
        store = ValkeyStore(wire)
        kept: list[Delivery] = []
        with contextlib.suppress(Full):
            for n in range(100):
                new = delivery(f"d{n:02}", body=b"x" * 200_000)
                await put(store, new)
                kept.append(new)
        assert 5 < len(kept) < 60
        with pytest.raises(Full):
            await put(store, delivery("new", body=b"x" * 200_000))
        await put(store, lease(kept[0]), ack(lease(kept[0])))
        assert await due(store, NOW) == [d.id for d in kept[1:]]
        await drop(store, *kept[1:])
        await put(store, delivery("new"))
        await wire.close()


async def test_a_server_that_is_away_is_a_failure_and_is_there_again_by_itself() -> None:
    with running() as server:
        wire = Wire(server.url)
        back = asyncio.Event()
        wire.on_back.append(back.set)
        store = ValkeyStore(wire)
        await put(store, delivery("d"))
        server.stop()
        for _ in range(2):
            with pytest.raises(Failed):
                await put(store, delivery("e"))
            with pytest.raises(Failed):
                await store.get(Delivery, "d")
        assert await store.commit_many([Batch("mia", (Put(delivery("e")),))]) != [None]
        assert wire.away is not None
        server.start()
        await until(back.is_set)
        assert await store.get(Delivery, "d") == delivery("d")
        await put(store, delivery("f"))  # the scripts of before are sent again
        assert await due(store, NOW) == ["d", "f"]
        server.process.send_signal(signal.SIGSTOP)
        with pytest.raises(Failed):
            await put(store, delivery("g"))
        back.clear()
        server.process.send_signal(signal.SIGCONT)
        await until(back.is_set)
        assert await store.get(Delivery, "d") == delivery("d")
        await wire.close()


async def test_a_server_that_becomes_a_replica_is_away_until_another_is_the_primary() -> None:
    with running() as server:
        wire, other = Wire(server.url), Wire(server.url)
        store = ValkeyStore(wire)
        await put(store, delivery("d"))
        await other.call("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(Failed):
            await put(store, delivery("e"))
        assert wire.away is not None
        await other.call("REPLICAOF", "NO", "ONE")
        await until(lambda: wire.away is None)
        await put(store, delivery("e"))
        assert await due(store, NOW) == ["d", "e"]
        for each in (wire, other):
            await each.close()


async def test_a_commit_is_decided_when_its_cancellation_is_told(store: Store) -> None:
    for n in range(5):
        work = asyncio.ensure_future(store.commit("mia", Put(delivery(f"d{n}"))))
        for _ in range(n):
            await asyncio.sleep(0)
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        there = await store.get(Delivery, f"d{n}")
        for _ in range(20):
            assert await store.get(Delivery, f"d{n}") == there


async def test_each_step_of_a_task_asks_the_server_as_seldom_as_may_be(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits are scripts. Each number of commits and reads is of a command and its reply; what one trip has in all."""
    sent: Counter[str] = Counter()
    leave = Link.send

    def left(link: Link, commands: Sequence[tuple[Any, ...]]) -> None:
        sent["trips"] += 1
        leave(link, commands)

    monkeypatch.setattr(Link, "send", left)
    for name in ("begin", "run", "commit"):
        real = getattr(Wire, name)

        def counted(wire: Wire, *words: Any, real: Any = real, name: str = name, **options: Any) -> Any:
            sent["commits" if name == "commit" else "reads"] += 1
            return real(wire, *words, **options)

        monkeypatch.setattr(Wire, name, counted)
    await store.open()
    scene = Scene(store=store)
    await scene.register("req", "worker")
    steps: dict[str, dict[str, int]] = {}

    def step(name: str) -> None:
        steps[name] = dict(sorted(sent.items()))
        sent.clear()

    for _ in range(2):  # the first time the server learns the scripts
        sent.clear()
        id = await scene.delegate(to_agent="worker")
        step("delegate")
        [work] = await scene.take("worker")
        step("claim")
        await scene.relay.acks.ack("worker", [receipt_of(work)])
        step("ack")
        await scene.respond("worker", id, result="done")
        step("respond")
        [answer] = await scene.take("req")
        step("claim of the answer")
        await scene.relay.acks.ack("req", [receipt_of(answer)])
        step("ack of the answer")
    assert steps == {
        "delegate": {"commits": 1, "reads": 3, "trips": 3},
        "claim": {"commits": 1, "reads": 3, "trips": 4},
        "ack": {"commits": 1, "reads": 1, "trips": 2},
        "respond": {"commits": 1, "reads": 5, "trips": 4},
        "claim of the answer": {"commits": 1, "reads": 3, "trips": 4},
        "ack of the answer": {"commits": 1, "reads": 1, "trips": 2},
    }
    await scene.register("expert", capabilities=["python"])
    await scene.delegate(capability="python")
    await scene.take("worker")
    sent.clear()
    await scene.take("worker")
    step("claim beside a pool of others")
    assert steps["claim beside a pool of others"] == {"reads": 6, "trips": 4}
