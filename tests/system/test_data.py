"""A relay with ``--data`` is stopped and started again: all that agents left there is where it was."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import requests

from clawlink.config import ServerConfig
from clawlink.domain.file_write import UPLOADS, UnfinishedUpload
from clawlink.relay.timestamps import RelayTime
from clawlink.server.app import App
from clawlink.server.keys import with_secrets
from clawlink.store.base import Absent, Drop, Put
from clawlink.store.sqlite.database import DataFolderError
from clawlink.store.sqlite.folder import DataFolder
from clawlink.store.sqlite.store import SqliteStore
from tests.conftest import Running, Start
from tests.processes import run
from tests.restarting import Restarting
from tests.server.asks import (
    Got,
    ack,
    claim,
    claim_one,
    delegate,
    ok,
    poll,
    refused,
    send,
    status_of,
    task_of,
    with_key,
)
from tests.system.raw import connect, exchange, request
from tests.waiting import PATIENCE, eventually, until


async def acked(relay: Running, agent: str, receipt: str) -> str:
    """Ack a receipt and return its status."""
    status: str = (await ack(relay, agent, receipt))["results"][0]["status"]
    return status


async def due(relay: Running, agent: str, **options: Any) -> list[Got]:
    """Claim what is due at this moment."""
    reply = await poll(relay, agent, **{"lease": 60, "max": 100, **options})
    held = zip(reply["messages"], reply["deliveries"], strict=True)
    return [Got(message, lease["receipt"], lease["attempt"], lease["lease_expires_at"]) for message, lease in held]


@pytest.fixture
async def restarting(tmp_path: Path) -> AsyncIterator[Restarting]:
    restarting = Restarting(tmp_path / "data")
    yield restarting
    await restarting.end()


async def test_agents_mail_and_tasks_are_where_they_were(restarting: Restarting) -> None:
    relay = await restarting.begin()
    for agent in ("a", "b", "c"):
        await relay.register(agent, agent_id=agent)
    key = (await ok(relay.post("/register", {"agent_id": "k", "name": "Kim", "claim": True})))["agent_key"]
    unread = await send(relay, "a", "b", "unread")
    held = await claim_one(relay, "b")
    task, queued = await delegate(relay, "a", "c"), await delegate(relay, "b", "c")
    got = await due(relay, "c", max=1)
    told = await ok(relay.post("/broadcast", {"from_agent": "a", "content": "news", "topic": "build"}))

    restarting.wall.now += 20
    relay = await restarting.begin()
    await ok(relay.post("/heartbeat", {"agent_id": "k"}, headers=with_key(key)))
    await refused(relay.post("/heartbeat", {"agent_id": "k"}), 403, "not_allowed")
    for name in ("kim", "\u039aim", "K\u0456m"):  # its name, and what looks like it
        await refused(relay.post("/register", {"agent_id": "other", "name": name}), 409, "name_taken")
    assert held.message["message_id"] == unread
    assert (await status_of(relay, "a", unread))["state"] == "delivered"
    assert await acked(relay, "b", held.receipt) == "acked"  # the receipt of a claim before the stop
    assert (await status_of(relay, "a", unread))["state"] == "acked"
    assert await acked(relay, "c", got[0].receipt) == "acked"
    answer = {"from_agent": "c", "message_id": task, "result": 5, "receipt": got[0].receipt}
    await ok(relay.post("/respond", answer))
    assert (await task_of(relay, "a", task))["status"] == "completed"
    assert (await task_of(relay, "b", queued))["status"] == "queued"
    assert [m.message["message_id"] for m in await due(relay, "k", headers=with_key(key))] == [told["message_id"]]
    kept = await ok(relay.get("/broadcasts?topic=build"))
    assert [one["content"] for one in kept["broadcasts"]] == ["news"]

    relay = await restarting.begin()
    assert (await task_of(relay, "a", task))["result"] == 5
    await ok(relay.post("/respond", answer))  # a repeat over the restart
    assert len([one for one in await due(relay, "a") if one.message["type"] == "task_response"]) == 1


async def test_a_lease_ends_when_it_would_have_ended(restarting: Restarting) -> None:
    relay = await restarting.begin()
    for agent in ("a", "b"):
        await relay.register(agent, agent_id=agent)
    await send(relay, "a", "b", "held")
    first = await claim(relay, "b", 1)  # for 60 s
    for later, attempts in ((30, []), (31, [2])):
        restarting.wall.now += later
        relay = await restarting.begin()
        assert [got.attempt for got in await due(relay, "b")] == attempts, later
    assert await acked(relay, "b", first[0].receipt) == "lease_lost"


async def test_the_task_of_an_agent_that_left_waits_for_its_key_over_stops_and_is_then_returned_once(
    restarting: Restarting,
) -> None:
    relay = await restarting.begin(return_after=600.0)
    await relay.register("a", agent_id="a")
    kim = {"agent_id": "k", "name": "Kim", "claim": True}
    key = with_key((await ok(relay.post("/register", kim)))["agent_key"])
    task = await delegate(relay, "a", "k")
    await ok(relay.ask("DELETE", "/agents/k", headers=key))
    restarting.wall.now += 599
    relay = await restarting.begin(return_after=600.0)
    await relay.register("Kim", agent_id="stranger")
    assert await due(relay, "stranger") == []
    await ok(relay.ask("DELETE", "/agents/stranger"))
    assert (await task_of(relay, "a", task))["status"] == "queued"
    await ok(relay.post("/register", kim, headers=key))
    (got,) = await due(relay, "k", headers=key)
    assert got.message["message_id"] == task, "it has come back"
    await ok(relay.ask("DELETE", "/agents/k", headers=key))

    restarting.wall.now += 601
    for _ in range(2):
        relay = await restarting.begin(return_after=600.0)
        await relay.app.relay.janitor.sweep()
        assert (await task_of(relay, "a", task))["status"] == "returned"
    told = [one.message for one in await due(relay, "a")]
    assert [one["status"] for one in told if one["type"] == "task_update"].count("returned") == 1
    await ok(relay.post("/register", kim, headers=key))
    assert await due(relay, "k", headers=key) == []
    answer = {"from_agent": "k", "message_id": task, "result": "late"}
    await refused(relay.post("/respond", answer, headers=key), 409, "wrong_state")


async def test_nobody_is_gone_after_a_long_pause_in_which_nobody_could_be_heard(restarting: Restarting) -> None:
    relay = await restarting.begin(stale_after=120.0, forget_after=3600.0)
    for agent in ("a", "b"):
        await relay.register(agent, agent_id=agent)
    task = await delegate(relay, "a", "b")
    got = await claim_one(relay, "b")
    assert await acked(relay, "b", got.receipt) == "acked"
    restarting.wall.now += 50
    await ok(relay.post("/heartbeat", {"agent_id": "a"}))
    await restarting.end()

    restarting.wall.now += 7 * 3600
    relay = await restarting.begin(stale_after=120.0, forget_after=3600.0)
    found = await ok(relay.get("/discover?status=all"))
    assert {agent["agent_id"]: agent["status"] for agent in found["agents"]} == {"a": "online", "b": "online"}
    await relay.app.relay.janitor.sweep()
    assert (await task_of(relay, "a", task))["status"] == "delivered", "it was taken from who works on it"
    restarting.wall.now += 90  # of silence, after the 50 before the stop
    await relay.app.relay.janitor.sweep()
    found = await ok(relay.get("/discover?status=all"))
    assert {agent["agent_id"]: agent["status"] for agent in found["agents"]} == {"a": "online", "b": "stale"}
    assert (await task_of(relay, "a", task))["status"] == "queued"


async def test_files_locks_and_versions_are_where_they_were(restarting: Restarting) -> None:
    relay = await restarting.begin()
    await relay.register("a", agent_id="a")
    large = os.urandom(700_000)
    for data in (b"first", large):
        async with relay.session.put(
            relay.url + "/blobs/plan.bin",
            data=data,
            headers={"Content-Type": "application/x-plan", "ClawLink-Agent": "a"},
        ) as reply:
            assert reply.status in (200, 201), await reply.text()
    await ok(relay.post("/locks", {"agent_id": "a", "file_key": "plan.bin", "seconds": 600}))
    orphan = restarting.folder / "contents" / "ab" / ("ab" + "0" * 62)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"left by a crash")

    relay = await restarting.begin()
    assert not orphan.exists()
    assert (restarting.folder / "orphans" / orphan.name).read_bytes() == b"left by a crash"
    for version, data in ((1, b"first"), (2, large)):
        async with relay.session.get(f"{relay.url}/blobs/plan.bin?version={version}&agent_id=a") as reply:
            assert (reply.status, await reply.read()) == (200, data)
            assert reply.headers["Content-Type"] == "application/x-plan"
    await relay.register("b", agent_id="b")
    url = relay.url + "/blobs/plan.bin"
    async with relay.session.put(
        relay.url + "/blobs/plan.bin", data=b"third", headers={"ClawLink-Agent": "b"}
    ) as reply:
        assert reply.status == 423
    async with relay.session.delete(url, headers={"ClawLink-Agent": "a"}) as reply:
        assert reply.status == 200
    contents = restarting.folder / "contents"
    assert [file for shard in contents.iterdir() for file in shard.iterdir()] == []
    assert (await ok(relay.get("/")))["shared_files"] == 0


async def test_a_clock_that_was_set_back_does_not_turn_the_order_of_messages(
    restarting: Restarting, tmp_path: Path
) -> None:
    relay = await restarting.begin()
    for agent in ("a", "b"):
        await relay.register(agent, agent_id=agent)
    first = await send(relay, "a", "b", "first")
    await restarting.end()
    data = DataFolder(restarting.folder)
    stopped_at = data.store.last_alive
    assert stopped_at == 1_000_000.0
    app = App(ServerConfig(port=0), data=data)
    assert app.relay.clock() >= stopped_at  # today is later than 1970; no clock is set back in this test
    data.close()
    restarting.wall.now -= 86_400
    back = DataFolder(restarting.folder)
    later = replace(ServerConfig(port=0), data=str(restarting.folder))
    clock = RelayTime(wall=restarting.wall, steady=lambda: 5.0, not_before=stopped_at + 2)
    assert clock() == stopped_at + 2
    app = App(with_secrets(later, {}), data=back, clock=clock)
    port = await app.start(close_seconds=0.1)
    session = aiohttp.ClientSession()
    relay = Running(f"http://127.0.0.1:{port}", app, session)
    second = await send(relay, "a", "b", "second")
    assert [got.message["message_id"] for got in await due(relay, "b")] == [first, second]
    await session.close()
    await app.stop()
    back.close()


async def test_a_clock_that_was_set_while_no_relay_ran_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    steady = 100.0
    told = []
    # The wall clock beside a steady one: right, two days ahead after a stop of a minute, then an hour back.
    for wall in (1_000_000.0, 1_000_060.0 + 2 * 86_400, 1_000_120.0 + 2 * 86_400 - 3600):
        data = DataFolder(tmp_path / "data", sync="normal")
        clock = RelayTime(
            wall=lambda at=wall: at,  # type: ignore[misc]
            steady=lambda at=steady: at,  # type: ignore[misc]
            not_before=(data.store.last_alive or 0.0),
            boot="one",
        )
        app = App(with_secrets(replace(ServerConfig(port=0), data=str(tmp_path / "data")), {}), data=data, clock=clock)
        await app.start(close_seconds=0.1)
        await app.stop()
        data.close()
        told.append([(one.message, one.__dict__.get("seconds", one.__dict__.get("step"))) for one in caplog.records])
        caplog.clear()
        steady += 60
    assert told == [
        [],
        [
            ("goes on after a stop", 2 * 86_400 + 60.0),
            ("the system's clock was set while no relay ran", 2 * 86_400.0),
        ],
        [("goes on after a stop", 0.0), ("the system's clock was set while no relay ran", -3600.0)],
    ]


async def test_a_full_disk_is_507_and_the_folder_stays_good(restarting: Restarting) -> None:
    relay = await restarting.begin()
    for agent in ("a", "b"):
        await relay.register(agent, agent_id=agent)
    before = await send(relay, "a", "b", "before")
    store = relay.app.relay.core.store

    def limit(pages: int) -> Callable[[sqlite3.Connection], Any]:
        return lambda db: db.execute(f"PRAGMA max_page_count = {pages}").fetchone()

    await store.ask("limit", limit(1), lambda answer: None)  # type: ignore[attr-defined]
    content = "x" * 500_000
    body = await refused(
        relay.post("/send", {"from_agent": "a", "to_agent": "b", "content": content}), 507, "storage_full"
    )
    assert "disk" in body["error"]
    await store.ask("limit", limit(1_000_000), lambda answer: None)  # type: ignore[attr-defined]
    after = await send(relay, "a", "b", content)
    relay = await restarting.begin()
    assert [got.message["message_id"] for got in await due(relay, "b")] == [before, after]


def serve(folder: Path, *flags: str, **options: Any) -> Any:
    """Run a relay that is expected to end by itself."""
    command = [sys.executable, "-m", "clawlink.server", "--port", "0", "--data", str(folder), *flags]
    return run(command, text=True, timeout=PATIENCE, **options)


def test_a_second_relay_on_the_folder_is_refused(start_relay: Start, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    first = start_relay("--data", str(folder))
    ended = serve(folder)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        f"clawlink: another relay uses {folder} at this moment; stop it first, or give --data another folder\n"
    )
    first.process.kill()
    first.process.wait()
    start_relay("--data", str(folder))  # a lock does not outlive its holder


async def test_contents_are_there_again_once_a_wrong_database_is_put_right(
    restarting: Restarting, tmp_path: Path
) -> None:
    database = restarting.folder / "clawlink.db"
    relay = await restarting.begin()
    await relay.register("a", agent_id="a")
    await restarting.end()
    shutil.copy(database, tmp_path / "earlier.db")
    relay = await restarting.begin()
    data = os.urandom(3000)
    async with relay.session.put(f"{relay.url}/blobs/f", data=data, headers={"ClawLink-Agent": "a"}) as reply:
        assert reply.status == 201, await reply.text()
    await restarting.end()
    shutil.copy(database, tmp_path / "right.db")

    for wrong in (tmp_path / "earlier.db", None):
        if wrong is None:  # an emptied one is refused before anything is looked for
            database.write_bytes(b"")
            with pytest.raises(DataFolderError, match="is empty, and other parts of a relay are beside it"):
                DataFolder(restarting.folder)
        else:
            shutil.copy(wrong, database)
            await restarting.begin()
            await restarting.end()
        shutil.copy(tmp_path / "right.db", database)
        relay = await restarting.begin()
        async with relay.session.get(f"{relay.url}/blobs/f?agent_id=a") as reply:
            assert (reply.status, await reply.read()) == (200, data)
        await restarting.end()


@pytest.mark.skipif(os.name != "posix", reason="Windows removes no lock that is held")
async def test_of_two_relays_on_one_folder_the_first_writes_no_more_and_ends(
    start_relay: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    first = start_relay("--data", str(folder))
    async with aiohttp.ClientSession() as session:

        async def register(url: str, name: str) -> int:
            async with session.post(f"{url}/register", json={"agent_id": name, "name": name}) as reply:
                return reply.status

        assert await register(first.url, "a") == 200
        (folder / "lock").unlink()
        second = start_relay("--data", str(folder))
        assert await register(second.url, "b") == 200
        assert await register(first.url, "c") == 503
        assert await asyncio.to_thread(first.process.wait, PATIENCE) == 1
        assert await register(second.url, "d") == 200


@pytest.mark.skipif(os.name != "posix", reason="Windows lets nobody move an open file")
def test_a_relay_whose_folder_is_moved_ends_and_goes_on_from_there(start_relay: Start, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    first = start_relay("--data", str(folder))
    assert requests.post(f"{first.url}/register", json={"agent_id": "a"}, timeout=PATIENCE).status_code == 200
    folder.rename(elsewhere)
    assert first.process.wait(PATIENCE) == 1
    assert not folder.exists()
    again = start_relay("--data", str(elsewhere))
    found = requests.get(f"{again.url}/discover?status=all", timeout=PATIENCE).json()
    assert [agent["agent_id"] for agent in found["agents"]] == ["a"]


def test_a_folder_without_its_secret_is_no_other_relay(start_relay: Start, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    first = start_relay("--data", str(folder)).process
    first.send_signal(signal.SIGTERM)
    assert first.wait(PATIENCE) == 0
    (folder / "secret").write_text("")
    ended = serve(folder)
    assert (ended.returncode, "agents would meet another relay" in ended.stderr) == (1, True), ended.stderr
    assert (folder / "secret").read_text() == ""


def test_folders_that_are_not_to_be_used_are_refused_and_stay_as_they_are(tmp_path: Path) -> None:
    other, plain = tmp_path / "other", tmp_path / "plain"
    other.mkdir(mode=0o755)
    (other / "thesis.txt").write_text("mine")
    plain.write_text("a file")
    for folder, why in ((other, "holds other files (thesis.txt)"), (plain, "is no folder")):
        ended = serve(folder)
        assert (ended.returncode, why in ended.stderr) == (1, True), ended.stderr
    assert os.listdir(other) == ["thesis.txt"]
    assert other.stat().st_mode & 0o777 == 0o755 or os.name != "posix"


@pytest.mark.skipif(os.name != "posix", reason="Windows has access lists in place of modes")
def test_a_folder_is_for_its_owner_and_one_that_cannot_be_written_is_refused() -> None:
    top = Path(tempfile.mkdtemp(prefix="clawlink-"))
    folder = top / "data"
    folder.mkdir(mode=0o755)
    DataFolder(folder).close()
    assert folder.stat().st_mode & 0o777 == 0o700
    root = os.geteuid() == 0
    try:
        if root:  # for whom every folder can be written
            os.chown(top, 65534, 65534)
            os.chown(folder, 65534, 65534)
        top.chmod(0o500)
        before = (folder / "clawlink.db").read_bytes()
        for place, why in ((top / "new", "cannot be written"), (folder, "cannot be written")):
            if root:
                os.seteuid(65534)
            try:
                with pytest.raises(DataFolderError, match=why):
                    DataFolder(place)
            finally:
                os.seteuid(0 if root else os.geteuid())
            (folder / "clawlink.db").chmod(0o400)
        assert (folder / "clawlink.db").read_bytes() == before
    finally:
        top.chmod(0o700)
        shutil.rmtree(top)


def test_a_network_disk_is_told_of(tmp_path: Path) -> None:
    from clawlink.store.sqlite.folder import network_disk

    mounts = tmp_path / "mounts"
    point = str(tmp_path / "my share").replace(" ", "\\040")
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {point} nfs4 rw 0 0\n")
    for folder, kind in (("my share/data", "nfs4"), ("my share", "nfs4"), ("my shares", None), ("local", None)):
        assert network_disk(tmp_path / folder, mounts) == kind, folder


async def test_what_was_cut_from_the_log_is_told_and_the_rest_is_there(tmp_path: Path) -> None:
    from tests.store.contract import delivery

    data = DataFolder(tmp_path / "data")
    await data.store.commit("mia", Put(delivery("d1")))
    await data.store.commit("mia", Put(delivery("d2")))
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("clawlink.db", "clawlink.db-wal"):
        (copy / name).write_bytes((tmp_path / "data" / name).read_bytes())
    data.close()
    log = copy / "clawlink.db-wal"
    log.write_bytes(log.read_bytes()[:-1000])
    cut = DataFolder(copy)
    try:
        assert any("in the middle of a page" in warning for warning in cut.warnings)
        from clawlink.domain.delivery import Delivery

        assert await cut.store.get(Delivery, "d1") == delivery("d1")
    finally:
        cut.close()
    await asyncio.sleep(0)


async def test_an_upload_goes_on_after_a_restart_where_it_was_on_the_disk(restarting: Restarting) -> None:
    tus = {"Tus-Resumable": "1.0.0", "ClawLink-Agent": "a"}
    relay = await restarting.begin()
    await relay.register("a", agent_id="a")
    data = os.urandom(900_000)

    async def ask(method: str, address: str, body: bytes = b"", **headers: str) -> aiohttp.ClientResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with relay.session.request(method, relay.url + address, data=body, headers=tus | named) as reply:
            await reply.read()
            return reply

    async def begin(key: str, length: int) -> str:
        metadata = "filename " + base64.b64encode(key.encode()).decode()
        made = await ask("POST", "/uploads", Upload_Length=str(length), Upload_Metadata=metadata)
        assert made.status == 201, made.headers
        return urlsplit(made.headers["Location"]).path

    async def part(address: str, start: int, end: int) -> None:
        part = {"Upload_Offset": str(start), "Content_Type": "application/offset+octet-stream"}
        assert (await ask("PATCH", address, data[start:end], **part)).status == 204

    going, ended, done, empty = [await begin(key, len(data)) for key in ("going", "ended", "done", "empty")]
    await part(going, 0, 300_001)
    await part(ended, 0, 10)
    assert (await ask("DELETE", ended)).status == 204
    await part(done, 0, len(data))
    for start, end in ((300_001, 300_005), (300_005, 800_000), (800_000, len(data))):
        relay = await restarting.begin()
        offset = await ask("HEAD", going)
        assert (offset.status, offset.headers.get("Upload-Offset")) == (200, str(start))
        assert (await ask("HEAD", empty)).headers["Upload-Offset"] == "0"
        assert [(await ask("HEAD", gone)).status for gone in (ended, done)] == [404, 404]
        await part(going, start, end)
    for key in ("going", "done"):
        async with relay.session.get(f"{relay.url}/blobs/{key}?agent_id=a") as reply:
            assert (reply.status, await reply.read()) == (200, data), key
    assert (await ask("DELETE", empty)).status == 204
    await restarting.end()
    assert os.listdir(restarting.folder / "incoming") == []


async def test_an_upload_that_ends_while_it_is_noted_leaves_no_note(
    restarting: Restarting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its agent ends it by the key of another request, or hangs up before it has the answer."""
    relay = await restarting.begin()
    await relay.register("a", agent_id="a")
    reached, goes_on = asyncio.Event(), asyncio.Event()
    commit = SqliteStore.commit

    async def held(store: SqliteStore, partition_key: str, *changes: Put | Drop | Absent) -> None:
        noting = any(isinstance(change, Put) and isinstance(change.record, UnfinishedUpload) for change in changes)
        if noting and not late:
            reached.set()
            await goes_on.wait()
        await commit(store, partition_key, *changes)
        if noting and late:
            reached.set()
            await goes_on.wait()

    async def notes() -> int:
        return len((await relay.app.store.page(UnfinishedUpload, UPLOADS)).records)

    async def no_note() -> bool:
        return await notes() == 0

    monkeypatch.setattr(SqliteStore, "commit", held)
    asked: dict[str, Any] = {
        "Tus_Resumable": "1.0.0",
        "ClawLink_Agent": "a",
        "Upload_Length": "10",
        "Upload_Metadata": "filename " + base64.b64encode(b"f").decode(),
        "Content_Length": "0",
    }
    late = False
    first = asyncio.create_task(exchange(relay.url, request("POST", "/uploads", Idempotency_Key="once", **asked)))
    await asyncio.wait_for(reached.wait(), PATIENCE)
    known = await exchange(relay.url, request("POST", "/uploads", Idempotency_Key="once", **asked))
    gone = await exchange(relay.url, request("DELETE", urlsplit(known.headers["location"]).path, **asked))
    assert (known.status, gone.status) == (201, 204)
    goes_on.set()
    await first
    await eventually(no_note)

    late = True
    for event in (reached, goes_on):
        event.clear()
    connection = await connect(relay.url)
    await connection.send(request("POST", "/uploads", **asked))
    await asyncio.wait_for(reached.wait(), PATIENCE)
    assert await notes() == 1
    connection.reset()
    await until(lambda: relay.app.relay.uploads.count == 0)
    await eventually(no_note)
