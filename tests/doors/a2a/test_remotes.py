"""A remote agent of A2A as an agent of the mesh: the official SDK as its server, in both bindings."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from clawlink.config import ServerConfig
from clawlink.domain.backoff import backoff
from clawlink.doors.a2a import Settings
from clawlink.doors.a2a.server import forwarded_tasks, remote_calls, remotes
from clawlink.doors.a2a.wire.remotes import CARD_PATH, REMOTES, Remote, add_remote, remote_of
from clawlink.errors import Unavailable
from clawlink.server.app import App
from clawlink.store.sqlite.folder import DataFolder
from tests.conftest import Running
from tests.doors.a2a.conftest import Rest, ServeA2A
from tests.doors.a2a.sdk_server import remote_agent
from tests.tables import each
from tests.waiting import eventually, until


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarded_tasks, "FIRST_SECONDS", 0.02)
    monkeypatch.setattr(forwarded_tasks, "MOST_SECONDS", 0.2)


async def add(file: Path, url: str, name: str = "poet") -> None:
    async with aiohttp.ClientSession() as session, session.get(url + CARD_PATH) as got:
        card = await got.read()
    add_remote(file, remote_of(card, url, name=name, credential=None))


async def test_a_remote_agent_under_a_name_that_dns_cannot_have_does_not_answer() -> None:
    remote = Remote(name="poet", url="http://a..b", interface="http://a..b", binding="JSONRPC")
    async with aiohttp.ClientSession() as session:
        calls = remote_calls.RemoteCalls(session, remote)
        with pytest.raises(Unavailable, match="poet does not answer"):
            await calls.call("GetTask", {"id": "t"}, dict)
        assert [change async for change in calls.changes("t")] == []


class Asker:
    """An agent of the mesh that delegates."""

    def __init__(self, relay: Running) -> None:
        self.relay = relay

    async def delegate(self, task: Any, **fields: Any) -> str:
        status, done = await self.relay.post("/delegate", {"from_agent": "al", "task": task, **fields})
        assert status == 200, done
        id: str = done["message_id"]
        return id

    async def task(self, id: str, *states: str) -> dict[str, Any]:
        """Return a task once it is in one of these states."""

        async def there() -> dict[str, Any] | None:
            _, task = await self.relay.get(f"/tasks/{id}?agent_id=al")
            return task if task["status"] in states else None

        found: dict[str, Any] = await eventually(there)
        return found


async def registered(relay: Running, name: str) -> bool:
    _, found = await relay.get("/discover")
    return any(agent["agent_id"] == name for agent in found["agents"])


@each("binding", ["JSONRPC", "HTTP+JSON"])
async def test_a_remote_agent_is_delegated_to_like_any_other(serve_a2a: ServeA2A, tmp_path: Path, binding: str) -> None:
    file = tmp_path / f"{binding[:4]}.json"
    async with remote_agent(binding, streaming=binding == "JSONRPC") as remote:
        await add(file, remote.url)
        relay = await serve_a2a(agents=str(file))
        asker = Asker(relay)
        await relay.register("al", agent_id="al")
        assert await registered(relay, "poet")
        done = await asker.task(await asker.delegate("hi", to_agent="poet"), "completed")
        assert done["result"] == "done: hi"
        # Its skills are capabilities, so it takes work of pools.
        done = await asker.task(await asker.delegate({"n": 1}, capability="poetry"), "completed")
        assert (done["assignee"], done["result"]) == ("poet", "done: ")
        assert remote.executor.heard[-1].parts[0].data.struct_value["n"] == 1
        done = await asker.task(await asker.delegate("say", to_agent="poet"), "completed")
        assert done["result"] == "said"
        for text, status, why in (("reject", "rejected", "not mine"), ("fail", "failed", "broken")):
            done = await asker.task(await asker.delegate(text, to_agent="poet"), status)
            assert done["result"] == why
        id = await asker.delegate("ask", to_agent="poet")
        asked = await asker.task(id, "input_required")
        assert asked["history"][-1]["content"] == "which one?"
        await relay.post(f"/tasks/{id}/answer", {"from_agent": "al", "content": "this"})
        done = await asker.task(id, "completed")
        assert done["result"] == "done: this"
        id = await asker.delegate("wait", to_agent="poet")
        task = await asker.task(id, "in_progress")
        await eventually(lambda: _noted(asker, id, "at work"))
        assert (await relay.post(f"/tasks/{id}/cancel", {"from_agent": "al"}))[0] == 200

        async def cancelled() -> bool:
            return len(remote.executor.cancelled) == 1

        await eventually(cancelled)
        assert task["assignee"] == "poet"
        # Files go along, and come back.
        put = await relay.session.put(
            f"{relay.url}/blobs/in", data=b"\x00" * 300_000, headers={"ClawLink-Agent": "al", "ClawLink-Readers": ""}
        )
        saved = await put.json()
        attached = {"file_key": "in", "version": 1, "size": 300_000, "sha256": saved["sha256"], "name": "in.bin"}
        done = await asker.task(await asker.delegate("file", to_agent="poet", attachments=[attached]), "completed")
        (part,) = done["result"]["a2a"]["artifacts"][0]["parts"]
        assert (part["filename"], len(part["raw"])) == ("in.bin", 400_000)
        # A client of A2A reaches it through the relay, too.
        through = await Rest(relay, "/a2a/poet").send("hi", wait=True)
        assert through["artifacts"][0]["parts"] == [{"text": "done: hi"}]
        REMOTES.remove(file, "poet")

        async def gone() -> bool:
            return not await registered(relay, "poet")

        await eventually(gone)


async def _noted(asker: Asker, id: str, note: str) -> bool:
    _, task = await asker.relay.get(f"/tasks/{id}?agent_id=al")
    return bool(task["note"] == note)


async def test_a_remote_agent_comes_once_its_name_is_free(
    serve_a2a: ServeA2A, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remotes, "_TOUCH_SECONDS", 0.1)
    file = tmp_path / "agents.json"
    relay = await serve_a2a(agents=str(file))
    _, taken = await relay.post("/register", {"agent_id": "poet", "claim": True})
    url = "http://127.0.0.1:9"
    add_remote(file, Remote(name="poet", url=url, interface=url, binding="JSONRPC"))

    async def remote_agents() -> int:
        count: int = (await relay.get("/"))[1]["doors"]["a2a"]["remote_agents"]
        return count

    assert await remote_agents() == 0
    key = {"ClawLink-Agent-Key": taken["agent_key"]}
    assert (await relay.ask("DELETE", "/agents/poet", headers=key))[0] == 200
    await eventually(remote_agents)


async def test_a_task_waits_for_a_remote_agent_that_does_not_answer(serve_a2a: ServeA2A, tmp_path: Path) -> None:
    file = tmp_path / "agents.json"
    async with remote_agent("JSONRPC") as remote:
        await add(file, remote.url)
    relay = await serve_a2a(agents=str(file))
    asker = Asker(relay)
    await relay.register("al", agent_id="al")
    id = await asker.delegate("hi", to_agent="poet")
    await asker.task(id, "delivered")
    cancelled = await asker.delegate("hi", to_agent="poet")
    await asker.task(cancelled, "delivered")
    await relay.post(f"/tasks/{cancelled}/cancel", {"from_agent": "al"})

    async def one_left() -> bool:
        return bool((await relay.get("/"))[1]["doors"]["a2a"]["errands"] == 1)

    await eventually(one_left)
    assert (await relay.get(f"/tasks/{id}?agent_id=al"))[1]["status"] == "delivered"
    _, sent = await relay.post("/send", {"from_agent": "al", "to_agent": "poet", "content": "hello?"})

    async def given_back() -> bool:
        _, status = await relay.get(f"/messages/{sent['message_id']}?agent_id=al")
        return bool(status["attempts"] and status["acked_at"] is None)

    await eventually(given_back)


async def test_a_forwarded_task_goes_on_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "agents.json"
    config = ServerConfig(port=0, secret=b"s" * 32, doors={"a2a": Settings(on=True, agents=str(file))})
    async with remote_agent("JSONRPC") as remote, aiohttp.ClientSession() as session:
        await add(file, remote.url)

        async def start() -> tuple[DataFolder, App, Asker]:
            data = DataFolder(tmp_path / "data", sync="normal")
            app = App(config, data=data)
            port = await app.start(close_seconds=0.1)
            return data, app, Asker(Running(f"http://127.0.0.1:{port}", app, session))

        data, app, asker = await start()
        await asker.relay.register("al", agent_id="al")
        id = await asker.delegate("wait", to_agent="poet")
        await asker.task(id, "in_progress")
        await app.relay.drain()
        await app.stop()
        data.close()
        remote.executor.go.set()

        data, app, asker = await start()
        try:
            done = await asker.task(id, "completed")
            assert done["result"] == "done: wait"
            assert len(remote.executor.heard) == 1, "the message went once"
        finally:
            await app.stop()
            data.close()


async def test_two_relays_have_each_others_agents(serve_a2a: ServeA2A, tmp_path: Path) -> None:
    near, far = tmp_path / "near.json", tmp_path / "far.json"
    one, other = await serve_a2a(agents=str(near)), await serve_a2a(agents=str(far))
    for relay, name in ((one, "al"), (other, "bob")):
        await relay.register(name, agent_id=name)
    await add(near, f"{other.url}/a2a/bob", "bob-there")
    await add(far, f"{one.url}/a2a/al", "al-there")
    await eventually(lambda: registered(one, "bob-there"))
    await eventually(lambda: registered(other, "al-there"))
    asker = Asker(one)
    id = await asker.delegate("hi", to_agent="bob-there")

    async def answered() -> bool:
        _, polled = await other.get("/poll/bob?wait=1")
        for message in polled["messages"]:
            await other.post("/respond", {"from_agent": "bob", "message_id": message["message_id"], "result": "there"})
        return bool(polled["messages"])

    await eventually(answered)
    assert (await asker.task(id, "completed"))["result"] == "there"


async def test_remote_agents_that_lead_to_each_other_end(serve_a2a: ServeA2A, tmp_path: Path) -> None:
    near, far = tmp_path / "near.json", tmp_path / "far.json"
    one = await serve_a2a(agents=str(near), limits={"max_hops": 3})
    other = await serve_a2a(agents=str(far), limits={"max_hops": 3})
    for file, relay in ((near, other), (far, one)):
        url = f"{relay.url}/a2a/poet"
        add_remote(file, Remote(name="poet", url=url, interface=url, binding="JSONRPC", streaming=True))
    for relay in (one, other):
        await eventually(partial(registered, relay, "poet"))
    asker = Asker(one)
    await one.register("al", agent_id="al")
    done = await asker.task(await asker.delegate("hi", to_agent="poet"), "failed")
    assert "came through 3 relays" in str(done["result"] or done["note"])


async def test_a_hostile_remote_agent_ends_its_task_and_nothing_else(
    serve_a2a: ServeA2A, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_calls, "MAX_ANSWER_BYTES", 100_000)
    good = {"task": {"id": "r", "status": {"state": "TASK_STATE_WORKING"}}}
    answers: list[tuple[int, bytes]] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        asked = await request.json()
        status, body = answers[0]
        if asked["method"] == "SendMessage" and b"GetTask" in body:
            status, body = 200, json.dumps({"jsonrpc": "2.0", "id": 1, "result": good}).encode()
        headers = {"Location": str(request.url)} if status == 307 else {}
        return web.Response(status=status, body=body.replace(b"GetTask", b""), headers=headers)

    runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    file = tmp_path / "agents.json"
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    add_remote(file, Remote(name="poet", url=url, interface=url, binding="JSONRPC"))
    relay = await serve_a2a(agents=str(file))
    asker = Asker(relay)
    await relay.register("al", agent_id="al")
    wrapped = b'{"jsonrpc": "2.0", "id": 1, "result": %b}'
    try:
        for status, body in (
            (200, b"no JSON"),
            (200, b"\xff"),
            (200, b"[]"),
            (200, b"null"),
            (200, b"[" * 100_000),
            (200, b"x" * 200_000),
            (200, wrapped % b'{"message": {"parts": []}, "more": %b}' % (b"[" * 70 + b"]" * 70)),
            (200, wrapped % b"{}"),
            (200, wrapped % b'{"id": "r"} ' + b"GetTask"),
            (200, b'{"jsonrpc": "2.0", "id": 1}'),
            (200, b'{"error": "text"}'),
            (200, b'{"error": {"code": -32001, "message": "no \x1b such"}}GetTask'),
            (200, wrapped % b'{"task": {"id": 5}}'),
            (307, b""),
            (404, b"<html>"),
            (401, b"{}"),
        ):
            answers[:] = [(status, body)]
            done = await asker.task(await asker.delegate("hi", to_agent="poet"), "failed", "completed")
            assert (done["status"], bool(done["note"])) == ("failed", True), (status, body[:80], done)
        # All but long strings has to be small, for it holds the relay while it is read.
        monkeypatch.setattr(remote_calls, "MAX_ANSWER_BYTES", 8 << 20)
        answers[:] = [(200, wrapped % b'{"message": {"parts": [{"data": [%b[]]}]}}' % (b"[]," * 400_000))]
        done = await asker.task(await asker.delegate("hi", to_agent="poet"), "failed", "completed")
        assert (done["status"], "1048576 bytes" in (done["note"] or "")) == ("failed", True)
        # Nor may it have very many parts, though commas in texts count for nothing.
        answers[:] = [(200, wrapped % b'{"message": {"parts": [{"data": [%b[]]}]}}' % (b"[]," * 200_000))]
        done = await asker.task(await asker.delegate("hi", to_agent="poet"), "failed", "completed")
        assert (done["status"], "30000 arrays" in (done["note"] or "")) == ("failed", True)
        answers[:] = [(200, wrapped % json.dumps({"message": {"parts": [{"text": ',\n"[{' * 40_000}]}}).encode())]
        done = await asker.task(await asker.delegate("hi", to_agent="poet"), "completed")
        assert done["result"] == ',\n"[{' * 40_000
        answers[:] = [(200, wrapped % json.dumps({"message": {"parts": [{"text": "x" * 2_000_000}]}}).encode())]
        done = await asker.task(await asker.delegate("hi", to_agent="poet"), "completed")
        assert len(done["result"]) == 2_000_000
        answers[:] = [(200, wrapped % json.dumps({"message": {"parts": [{"text": "fine"}]}}).encode())]
        done = await asker.task(await asker.delegate("hi", to_agent="poet"), "completed")
        assert done["result"] == "fine"
    finally:
        await runner.cleanup()


async def test_few_messages_with_files_are_in_memory_at_a_time(
    serve_a2a: ServeA2A, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ForwardedTasks whose remote agent is away hold no files while they wait, and send few at a time."""
    size, tasks = 700_000, 12
    held = asyncio.Event()
    under_way, most, come = 0, 0, 0

    async def answer(request: web.BaseRequest) -> web.Response:
        nonlocal under_way, most, come
        come += 1
        under_way += 1
        most = max(most, under_way)
        await held.wait()
        under_way -= 1
        return web.Response(status=503)

    runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    file = tmp_path / "agents.json"
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    for name in ("poet", "bard", "seer"):
        add_remote(file, Remote(name=name, url=url, interface=url, binding="JSONRPC"))
    relay = await serve_a2a(agents=str(file))
    asker = Asker(relay)
    await relay.register("al", agent_id="al")
    headers = {"ClawLink-Agent": "al", "ClawLink-Readers": ""}
    async with relay.session.put(f"{relay.url}/blobs/in", data=b"x" * size, headers=headers) as put:
        saved = await put.json()
    attached = {"file_key": "in", "version": 1, "size": size, "sha256": saved["sha256"], "name": "in.bin"}
    gc.disable()
    tracemalloc.start()
    try:
        for n in range(tasks):
            name = ("poet", "bard", "seer")[n % 3] if n else "poet"
            await asker.delegate("file", to_agent=name, attachments=[attached])
            if n == 3:  # one remote agent that hangs has not taken all turns
                await until(lambda: most == forwarded_tasks.FILES_AT_ONCE)
        assert most == forwarded_tasks.FILES_AT_ONCE
        held.set()
        await until(lambda: come > 2 * tasks)
        assert most == forwarded_tasks.FILES_AT_ONCE
        await runner.cleanup()  # from here on nothing listens, and each attempt fails in the client
        failures = 0

        def counted(failed: int, *, first: float, most: float) -> float:
            nonlocal failures
            failures += 1
            return backoff(failed, first=first, most=most)

        monkeypatch.setattr(forwarded_tasks, "backoff", counted)
        await until(lambda: failures > tasks)
        for name in ("FIRST_SECONDS", "MOST_SECONDS"):
            monkeypatch.setattr(forwarded_tasks, name, 600.0)
        await until(lambda: tracemalloc.get_traced_memory()[0] < tasks * size // 4)
        assert (await relay.get("/"))[1]["doors"]["a2a"]["errands"] == tasks
    finally:
        tracemalloc.stop()
        gc.enable()
        held.set()
        await runner.cleanup()
