"""How often the relay asks its store: each call may be a trip to another process."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from clawlink.config import ServerConfig
from clawlink.domain.file_write import UnfinishedUpload
from clawlink.protocol import requests
from clawlink.server.app import App
from clawlink.store.memory import MemoryStore
from clawlink.store.sqlite.folder import DataFolder
from clawlink.store.sqlite.store import SqliteStore
from tests.conftest import Running, Serve
from tests.relay.scene import Scene, receipt_of
from tests.server import blobs
from tests.server.asks import claim, ok, send
from tests.system.raw import Clock


class CountingStore:
    """Passes every call on to a store, and notes its name."""

    def __init__(self, inner: Any = None) -> None:
        self._inner = inner or MemoryStore()
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if inspect.iscoroutinefunction(found):
            self.calls.append(name)
        return found


async def turns() -> None:
    """Let everything come to where it waits."""
    for _ in range(100):
        await asyncio.sleep(0)


async def test_a_poll_and_the_delegation_that_wakes_it_ask_the_store_as_seldom_as_may_be() -> None:
    store: Any = CountingStore()
    scene = Scene(store=store)
    await scene.register("req", "worker")
    await scene.read("worker")

    store.calls.clear()
    poll = asyncio.create_task(scene.take("worker", wait=30))
    await turns()
    assert store.calls == ["get", "claim"]  # the agent, and its mailbox if there are no pools

    store.calls.clear()
    id = await scene.delegate(to_agent="worker")
    assert store.calls == ["get", "get", "admission", "commit"]  # both agents, and room
    assert [d.id for d in await poll] == [id]
    assert store.calls[4:] == ["get"]  # the worker is there still, with the key that it had

    store.calls.clear()
    await scene.send("req", "worker")
    assert store.calls == ["get", "get", "admission", "commit"]


async def test_a_long_mailbox_far_from_its_limits_asks_no_more_of_the_store() -> None:
    """From 1,000 messages on the store is asked for shares now and then, so that it counts them early."""
    store: Any = CountingStore()
    scene = Scene(store=store, rate_agent=0, rate_pair=0, max_open_tasks=100_000, max_mailbox_messages=100_000)
    await scene.register("req", "worker")
    for _ in range(1_002):
        await scene.delegate(to_agent="worker")
    assert {"load_from", "usage_from"} <= set(store.calls)
    store.calls.clear()
    for _ in range(50):
        await scene.delegate(to_agent="worker")
    assert store.calls == ["get", "get", "admission", "commit"] * 50
    for _ in range(50):
        await scene.delegate(to_agent="worker")
    assert store.calls.count("load_from") == 1  # the mailbox may have been empty meanwhile


TUS = {"Tus_Resumable": "1.0.0", "ClawLink_Agent": "a"}
COMMITS = {"commit", "commit_many", "commit_in_order", "claim"}


async def test_each_step_of_a_task_is_one_commit(tmp_path: Path) -> None:
    """Over a disk each waits for an ``fsync``, over a server for an answer, one after the other."""
    transactions: list[None] = []
    on_disk = SqliteStore(tmp_path / "clawlink.db", before_commit=lambda: transactions.append(None))
    await on_disk.open()
    for inner in (MemoryStore(), on_disk):
        store: Any = CountingStore(inner)
        await life_of_a_task(store)
    assert len(transactions) == 2 * 2 + 14  # two agents with their names, and the steps of the task
    await on_disk.close()


async def test_a_task_between_agents_that_wait_takes_three_commits(tmp_path: Path) -> None:
    """The delegation and the answer are leased in the commits that store them. The third one is the last ack."""
    transactions: list[None] = []
    on_disk = SqliteStore(tmp_path / "clawlink.db", before_commit=lambda: transactions.append(None))
    await on_disk.open()
    store: Any = CountingStore(on_disk)
    scene = Scene(store=store)
    await scene.register("req", "worker")
    worker = asyncio.create_task(scene.take("worker", wait=30))
    req = asyncio.create_task(scene.take("req", wait=30))
    await turns()
    store.calls.clear()
    transactions.clear()
    id = await scene.delegate(to_agent="worker")
    (task,) = await worker
    ask = requests.Respond(
        from_agent="worker", message_id=id, receipt=receipt_of(task), status="completed", result="done"
    )
    await scene.relay.tasks.respond(await scene.agent("worker"), ask)
    (answer,) = await req
    await scene.relay.acks.ack("req", [receipt_of(answer)])
    assert [call for call in store.calls if call in COMMITS] == ["commit", "commit_in_order", "commit"]
    assert len(transactions) == 3
    assert await scene.status(id) == "completed"
    await on_disk.close()


async def life_of_a_task(store: Any) -> None:
    """Count the commits of each step from the delegation to the ack of the answer."""
    scene = Scene(store=store)
    await scene.register("req", "worker")
    counted: dict[str, list[str]] = {}

    def step(name: str) -> None:
        counted[name] = [call for call in store.calls if call in COMMITS]
        store.calls.clear()

    store.calls.clear()
    id = await scene.delegate(to_agent="worker")
    step("delegate")
    [work] = await scene.take("worker")
    step("claim")
    await scene.relay.acks.ack("worker", [receipt_of(work)])
    step("ack")
    for progress in (0.1, 0.2):
        report = requests.Respond(from_agent="worker", message_id=id, status="in_progress", progress=progress)
        await scene.relay.tasks.respond(await scene.agent("worker"), report)
        step(f"progress {progress}")
    [news] = await scene.take("req")
    await scene.relay.acks.ack("req", [receipt_of(news)])
    store.calls.clear()
    await scene.respond("worker", id, status="input_required", result="which?")
    step("ask")
    [question] = await scene.take("req")
    step("claim of the question")
    await scene.relay.acks.ack("req", [receipt_of(question)])
    step("ack of the question")
    req = await scene.agent("req")
    await scene.relay.tasks.answer(req, id, requests.Answer(from_agent="req", content="this"))
    step("answer")
    await scene.respond("worker", id, result="done")
    step("respond")
    [answer] = await scene.take("req")
    step("claim of the answer")
    await scene.relay.acks.ack("req", [receipt_of(answer)])
    step("ack of the answer")
    assert counted == {
        "delegate": ["commit"],
        "claim": ["claim"],
        "ack": ["commit"],
        "progress 0.1": ["commit_in_order"],
        "progress 0.2": ["commit_in_order"],
        "ask": ["commit_in_order"],
        "claim of the question": ["claim"],
        "ack of the question": ["commit"],
        "answer": ["commit"],  # the worker's mailbox is the task's partition
        "respond": ["commit_in_order"],
        "claim of the answer": ["claim"],
        "ack of the answer": ["commit"],
    }


async def test_an_answer_asks_the_store_as_seldom_as_may_be() -> None:
    store: Any = CountingStore()
    scene = Scene(store=store)
    await scene.register("req", "worker")
    id = await scene.delegate(to_agent="worker")
    await scene.claim("worker")
    store.calls.clear()
    await scene.respond("worker", id, result="done")
    # The worker, the task, its requester and an answer that is there already, and room.
    assert store.calls == ["get", "get", "get_both", "admission", "commit_in_order"]


async def test_any_number_of_acks_are_read_and_committed_at_once() -> None:
    store: Any = CountingStore()
    scene = Scene(store=store)
    await scene.register("req", "worker")
    await scene.read("worker")
    for count in (1, 20):
        for _ in range(count):
            await scene.send("req", "worker")
        taken = await scene.take("worker")
        worker = await scene.agent("worker")
        store.calls.clear()
        done = await scene.relay.acks.ack(worker.id, [receipt_of(d) for d in taken])
        assert [outcome.error for outcome in done] == [None] * count
        assert store.calls == ["get" if count == 1 else "get_many", "commit"], count


async def test_where_many_messages_wait_their_senders_are_asked_for_once() -> None:
    """The first question has the store count them, while they are few. The limit on their bytes is far."""
    store: Any = CountingStore()
    scene = Scene(store=store, rate_agent=0, rate_pair=0)
    await scene.register("req", "a", "b")
    for _ in range(510):
        for to in "ab":
            await scene.send("req", to)
    assert store.calls.count("commit") > 1000
    assert store.calls.count("load_from") == 1


async def test_each_request_that_settles_reads_its_agent_together_with_its_messages(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawlink.server.app._SWEEP_SECONDS", 1000)
    store: Any = CountingStore()
    relay = await serve(store=store, clock=Clock())
    for id in ("a", "b"):
        await relay.register(id, agent_id=id)
    await claim(relay, "b", 0)
    for count, path, more in ((1, "/ack", {}), (20, "/ack", {}), (2, "/extend", {"lease": 60}), (1, "/nack", {})):
        for _ in range(count):
            await send(relay, "a", "b")
        taken = await claim(relay, "b", count)
        store.calls.clear()
        ask = {"agent_id": "b", "receipts": [message.receipt for message in taken], **more}
        done = await ok(relay.post(path, ask))
        assert done["count"] == count, path
        assert store.calls == ["get_both", "commit"], path
    (given,) = await claim(relay, "b", 1)
    store.calls.clear()
    await ok(relay.post("/poll/b", {"ack": [given.receipt], "wait": 0}))
    assert store.calls == ["get_both", "commit", "claim"]


async def test_a_file_asks_the_store_as_seldom_as_may_be(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one that comes in one part, with a notice to another agent, and its download."""
    monkeypatch.setattr("clawlink.server.app._SWEEP_SECONDS", 1000)
    store: Any = CountingStore()
    relay = await serve(store=store, clock=Clock())
    for id in ("a", "b"):
        await relay.register(id, agent_id=id)

    store.calls.clear()
    begun = await blobs.ask(relay, "POST", "/uploads", **TUS, Upload_Length="3", Upload_Metadata="key aw==")
    assert store.calls == ["get", "get", "admission"]  # the agent, the file, and room for one more

    store.calls.clear()
    part = {"Upload_Offset": "0", "Content_Type": "application/offset+octet-stream"}
    told = await blobs.ask(relay, "PATCH", begun.headers["Location"], b"abc", **TUS, **part)
    assert told.headers["ClawLink-Version"] == "1"
    assert store.calls == [
        "get",  # the agent
        "get",  # the file, for where its content belongs
        *[
            "get_both",
            "admission",
            "commit",
        ],  # the file and an earlier try, room and hearers, and the file with its try
        *[
            "page",
            "first_of",
            "admission",
            "commit_many",
        ],  # the hearers, what they have not read yet, room, and notices
    ]

    store.calls.clear()
    assert (await blobs.get(relay, "k")).body == b"abc"
    assert store.calls == ["get"]


async def test_an_upload_over_a_disk_takes_three_commits(tmp_path: Path) -> None:
    """Its beginning is noted, the file takes the place of the note, and the others are told."""
    data = DataFolder(tmp_path / "data", sync="normal")
    store: Any = CountingStore(data.store)
    app = App(ServerConfig(port=0), store=store, data=data)
    url = f"http://127.0.0.1:{await app.start(close_seconds=0.1)}"
    try:
        async with aiohttp.ClientSession() as session:
            relay = Running(url, app, session)
            for id in ("a", "b"):
                await relay.register(id, agent_id=id)
            store.calls.clear()
            begun = await blobs.ask(relay, "POST", "/uploads", **TUS, Upload_Length="3", Upload_Metadata="key aw==")
            part = {"Upload_Offset": "0", "Content_Type": "application/offset+octet-stream"}
            await blobs.ask(relay, "PATCH", begun.headers["Location"], b"abc", **TUS, **part)
            await app.relay.finished()
            assert [call for call in store.calls if call in COMMITS] == ["commit", "commit_in_order", "commit_many"]
            noted = store.calls.index("commit") + 1
            assert store.calls[noted:].count("get") == 2  # the agent and the file: nothing looks for the note again
            assert await blobs.content(relay, "k") == b"abc"
            assert list(data.store.all(UnfinishedUpload)) == []
    finally:
        await app.stop()
        data.close()
