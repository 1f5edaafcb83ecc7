"""A relay with ``--data`` on a disk that fills up: it can be emptied through the relay itself, also after a restart."""

from __future__ import annotations

import base64
import errno
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from clawlink.store.sqlite.room import RESERVE, RESERVE_BYTES
from tests.conftest import Running
from tests.restarting import Restarting
from tests.server.asks import ack, claim, claim_one, delegate, ok, poll, refused, send, task_of
from tests.store.small_disks import can_mount, counted, fill, mounted
from tests.torture.operations import MKDIR, RENAME, SYNC, Operation, can_watch, watched
from tests.waiting import eventually

MIB = 1 << 20


@pytest.fixture(params=["counted", "mounted"])
def disk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk with 5 MiB beside the reserve. The one that counts needs no rights."""
    place = tmp_path / "disk"
    if request.param == "mounted" and not can_mount():
        pytest.skip("only the superuser of Linux mounts a disk; the other one counts in its place")
    if request.param == "counted" and not can_watch():
        pytest.skip("only Linux, with an open SQLite, lets operations of the disk be watched")
    size = RESERVE_BYTES + 5 * MIB
    small: AbstractContextManager[None]
    small = mounted(place, size) if request.param == "mounted" else counted(place, size, monkeypatch)
    with small:
        yield place


@pytest.fixture
async def restarting(disk: Path) -> AsyncIterator[Restarting]:
    restarting = Restarting(disk / "data")
    yield restarting
    await restarting.end()


async def share(relay: Running, key: str, data: bytes, status: int) -> None:
    async with relay.session.put(f"{relay.url}/blobs/{key}", data=data, headers={"ClawLink-Agent": "a"}) as reply:
        assert reply.status == status, await reply.text()


async def test_a_full_disk_is_emptied_through_the_relay(disk: Path, restarting: Restarting) -> None:
    relay = await restarting.begin()
    for agent in ("a", "b"):
        await relay.register(agent, agent_id=agent)
    tasks = [await delegate(relay, "a", "b") for _ in range(3)]
    mail = [await send(relay, "a", "b", "x" * 1000) for _ in range(20)]
    await share(relay, "large", b"x" * 900_000, 201)
    held = (await claim(relay, "b", 1, max=1))[0]
    fill(disk)
    relay = await restarting.begin()  # without room for a log

    async def require_full() -> None:
        """Send until the database and its log have no room any more."""
        for n in range(300):
            async with relay.session.post(
                relay.url + "/send", json={"from_agent": "a", "to_agent": "b", "content": "y" * 20_000, "n": n}
            ) as reply:
                if reply.status == 507:
                    assert (await reply.json())["code"] == "storage_full"
                    assert int(reply.headers["Retry-After"]) > 0
                    return
                assert reply.status == 200, await reply.text()
        raise AssertionError("the disk is not full")

    await require_full()
    await share(relay, "another", b"y" * 900_000, 507)
    assert (await ack(relay, "b", held.receipt))["results"][0]["status"] == "acked"
    answer = {"from_agent": "b", "message_id": tasks[0], "result": "done" * 500, "receipt": held.receipt}
    await ok(relay.post("/respond", answer))
    assert (await task_of(relay, "a", tasks[0]))["status"] == "completed"
    assert (disk / "data" / RESERVE).stat().st_size == 0, "the reserve was not needed"
    await refused(relay.post("/send", {"from_agent": "a", "to_agent": "b", "content": "new"}), 507, "storage_full")

    relay = await restarting.begin()
    assert (await claim_one(relay, "a")).message["message_id"] == tasks[0]
    await ok(relay.post(f"/tasks/{tasks[1]}/cancel", {"from_agent": "a"}))
    for got in await claim(relay, "b", 10, max=10):
        assert (await ack(relay, "b", got.receipt))["results"][0]["status"] == "acked", got
    async with relay.session.delete(f"{relay.url}/blobs/large", headers={"ClawLink-Agent": "a"}) as reply:
        assert reply.status == 200, await reply.text()
    (disk / "filler").unlink()

    async def taken() -> bool:
        status, _ = await relay.post("/send", {"from_agent": "a", "to_agent": "b", "content": "new"})
        return status == 200

    await eventually(taken)
    assert (disk / "data" / RESERVE).stat().st_size == RESERVE_BYTES

    relay = await restarting.begin()
    assert (await task_of(relay, "a", tasks[0]))["result"] == "done" * 500
    assert (await task_of(relay, "a", tasks[2]))["status"] in ("queued", "delivered")
    reply = await poll(relay, "b", lease=60, max=100)
    assert len({message["message_id"] for message in reply["messages"]} & set(mail)) >= 10, "mail is lost"


@pytest.mark.skipif(not can_watch(), reason="only Linux, with an open SQLite, lets operations of the disk be watched")
async def test_bytes_that_the_disk_lost_or_could_not_name_are_refused_and_come_again(tmp_path: Path) -> None:
    failing: list[tuple[str, str, int]] = []

    def watch(operation: Operation) -> None:
        for kind, place, number in failing:
            if operation.kind == kind and operation.path.startswith(place):
                raise OSError(number, os.strerror(number))

    restarting = Restarting(tmp_path / "data")
    with watched(tmp_path / "data", watch):
        try:
            relay = await restarting.begin()
            await relay.register("a", agent_id="a")
            used = relay.app.relay.file_quota.used
            for kind, place, number, status in (
                (SYNC, "incoming", errno.EIO, 503),
                (MKDIR, "contents", errno.ENOSPC, 507),
                (RENAME, "incoming", errno.EDQUOT, 507),
            ):
                failing[:] = [(kind, place, number)]
                await share(relay, f"{kind}-{number}", f"{kind} {number}".encode() * 100, status)
                assert relay.app.relay.file_quota.used == used, kind
                failing.clear()
                await share(relay, f"{kind}-{number}", f"{kind} {number}".encode() * 100, 201)
                used = relay.app.relay.file_quota.used

            tus = {"Tus-Resumable": "1.0.0", "ClawLink-Agent": "a"}
            begun = {"Upload-Length": "10", "Upload-Metadata": "filename " + base64.b64encode(b"f").decode()}
            async with relay.session.post(relay.url + "/uploads", headers=tus | begun) as reply:
                upload = urlsplit(reply.headers["Location"]).path
            part = tus | {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
            failing[:] = [(SYNC, "incoming", errno.EIO)]
            async with relay.session.patch(relay.url + upload, data=b"01234", headers=part) as reply:
                assert reply.status == 503, await reply.text()
            failing.clear()
            async with relay.session.head(relay.url + upload, headers=tus) as reply:
                assert reply.status == 404, "it would go on from bytes that the disk does not have"
            assert relay.app.relay.file_quota.used == used
        finally:
            failing.clear()
            await restarting.end()
    assert os.listdir(tmp_path / "data" / "incoming") == []
