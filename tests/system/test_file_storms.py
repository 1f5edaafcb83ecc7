"""Files under those who write against each other, drip, lie about lengths, fill the disk, or are killed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Running, Serve
from tests.server import blobs
from tests.server.asks import ok
from tests.server.blobs import Told, content, get, put, refused, saved, settles_at, some, used
from tests.server.test_uploads import create, metadata
from tests.system.conftest import Dial, Live, Starting
from tests.system.raw import Answer, exchange, request
from tests.tables import each
from tests.waiting import eventually, until

linux = pytest.mark.skipif(sys.platform != "linux", reason="it is looked up in /proc")
posix = pytest.mark.skipif(sys.platform == "win32", reason="there a file has a name until it is closed")

MIB = 2**20
OFFSET: dict[str, Any] = {"Tus_Resumable": "1.0.0", "Content_Type": "application/offset+octet-stream"}


@pytest.fixture
async def relay(serve: Serve) -> Running:
    relay = await serve()
    for name in ("a", "b"):
        await relay.register(name, agent_id=name)
    return relay


def memory_of(relay: Live, what: str = "VmRSS") -> int:
    """Return how many bytes of memory a relay takes, or took at most (``VmHWM``)."""
    for line in Path(f"/proc/{relay.relay.process.pid}/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(what)


async def with_agents(relay: Live) -> Live:
    for name in ("a", "b"):
        await relay.register(name, agent_id=name)
    return relay


# -- writers against each other ----------------------------------------------------------------------------------------


async def test_what_was_acknowledged_is_current_or_in_the_history(start_live: Starting) -> None:
    relay = await with_agents(start_live("--rate-files", "0", "--file-versions", "100000"))
    end = time.monotonic() + 3
    acked: dict[int, bytes] = {}
    conflicts = 0

    async def write(agent: str) -> None:
        nonlocal conflicts
        at = 0
        while time.monotonic() < end:
            text = b"%s after %d: " % (agent.encode(), at) + some(random.randrange(2_000))
            headers = {"If_Match": f'"{at}"'} if at else {"If_None_Match": "*"}
            told = await put(relay, "k", text, agent, **headers)
            if told.status == 412:
                conflicts += 1
                at = told.json["current"]
            else:
                assert told.status in (200, 201), told
                assert told.json["version"] == at + 1
                at += 1
                assert acked.setdefault(at, text) == text, "two were told that they wrote this version"

    async def read() -> None:
        last = 0
        while time.monotonic() < end:
            told = await get(relay, "k")
            if told.status == 200:
                version = int(told.headers["ClawLink-Version"])
                assert version >= last
                last = version
                assert blobs.digest(told.body) == told.headers["Repr-Digest"]
                assert told.body.partition(b": ")[0].endswith(b"after %d" % (version - 1))

    await asyncio.gather(write("a"), write("b"), read())
    assert conflicts
    history = {one["version"]: one["sha256"] for one in (await blobs.history(relay, "k"))["versions"]}
    assert history == {version: hashlib.sha256(text).hexdigest() for version, text in acked.items()}
    for version in random.sample(sorted(acked), min(50, len(acked))):
        assert await content(relay, "k", f"version={version}") == acked[version]


@pytest.mark.parametrize("store_kind", ["memory", "faulty"])
async def test_files_that_come_and_go_at_once_leave_the_room_as_it_was(serve: Serve) -> None:
    """Writes, deletions, uploads, downloads and break-offs on few keys with few contents, and few bytes for all."""
    relay = await serve(limits={"max_files_bytes": 1_500_000, "file_versions": 3})
    for name in ("a", "b"):
        await relay.register(name, agent_id=name)
    contents = [some(size, size) for size in (0, 10, 100_000, 300_000, 400_000)]
    known = {hashlib.sha256(data).hexdigest() for data in contents}
    most = 0

    async def storm(seed: int) -> None:
        nonlocal most
        chance = random.Random(seed)
        for _ in range(60):
            key, data = f"k{chance.randrange(4)}", chance.choice(contents)
            what = chance.randrange(7)
            most = max(most, used(relay))
            with contextlib.suppress(asyncio.TimeoutError):
                if what < 2:
                    told = await put(relay, key, data, Idempotency_Key=f"{seed} {chance.randrange(5)}")
                    assert told.status in (200, 201, 409, 507), told
                elif what == 2:
                    assert (await blobs.ask(relay, "DELETE", blobs.path(key), ClawLink_Agent="b")).status in (200, 404)
                elif what == 3:
                    told = await get(relay, key, f"version={chance.randrange(1, 50)}")
                    assert told.status in (200, 404)
                    if told.status == 200:
                        assert hashlib.sha256(told.body).hexdigest() in known
                elif what == 4:
                    told = await create(relay, len(data), data, metadata(key))
                    assert told.status in (201, 507), told
                elif what == 5:
                    await asyncio.wait_for(put(relay, key, data), chance.random() / 100)
                else:
                    await asyncio.wait_for(get(relay, key), chance.random() / 100)

    await asyncio.gather(*(storm(seed) for seed in range(8)))
    assert most <= 1_500_000 + 400_000 * 4
    for n in range(4):
        await blobs.ask(relay, "DELETE", f"/blobs/k{n}", ClawLink_Agent="a")
    await settles_at(relay, 0)
    assert relay.app.relay.file_quota._blobs._held == {}  # type: ignore[attr-defined]
    assert relay.app.relay.file_quota._replaced == set()


# -- slow ones ---------------------------------------------------------------------------------------------------------


@linux
async def test_fifty_that_drip_keep_nobody_waiting(start_live: Starting, dial: Dial) -> None:
    relay = await with_agents(start_live("--rate-files", "0"))
    idle = memory_of(relay)
    drips = []
    for n in range(50):
        connection = await dial(relay.url)
        if n % 2:
            told = await create(relay, 1000, said=metadata(f"slow{n}"))
            head = request("PATCH", told.headers["Location"], Content_Length="1000", Upload_Offset="0", **OFFSET)
        else:
            head = request("PUT", f"/blobs/slow{n}", Content_Length="4", ClawLink_Agent="a")
        await connection.send(head)
        drips.append(connection)

    async def drip() -> None:
        for n in range(4):
            for connection in drips:
                await connection.send(b"%d" % n)
            enough = 4 * (n + 1)
            await until(lambda: min(done) >= enough)  # noqa: B023 - it is asked in this round alone

    async def work(n: int) -> None:
        while not dripping.done():
            data = some(200_000, n)
            await saved(relay, f"fast{n}", data)
            assert await content(relay, f"fast{n}") == data
            done[n] += 1

    done = [0] * 4
    dripping = asyncio.create_task(drip())
    await asyncio.gather(dripping, *(work(n) for n in range(4)))
    for n, connection in enumerate(drips):
        if n % 2 == 0:
            assert (await connection.answer()).status == 201
            assert await content(relay, f"slow{n}") == b"0123"
        else:
            connection.reset()
    assert memory_of(relay) - idle < 100 * MIB


# -- lies --------------------------------------------------------------------------------------------------------------


def lies(path: str, *head: str, body: bytes = b"0123456789") -> bytes:
    lines = [f"{path} HTTP/1.1", "Host: 127.0.0.1", "ClawLink-Agent: a", *head, "", ""]
    return "\r\n".join(lines).encode() + body


@each(
    "lie",
    [
        ("Content-Length: -1",),
        ("Content-Length: 1e3",),
        ("Content-Length: 0x10",),
        ("Content-Length: +5",),
        ("Content-Length: ",),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: 5, 6",),
        ("Content-Length: 10", "Transfer-Encoding: chunked"),
        ("Content-Length: 99999999999999999999999",),
        ("Transfer-Encoding: gzip",),
        ("Transfer-Encoding: chunked, chunked",),
    ],
)
@each("path", ["PUT /blobs/k", "POST /uploads"])
async def test_a_length_that_is_none_is_refused(relay: Running, path: str, lie: tuple[str, ...]) -> None:
    answer = await exchange(relay.url, lies(path, *lie))
    assert 400 <= answer.status < 500
    assert answer.json["error"]
    assert (await get(relay, "k")).status == 404
    await settles_at(relay, 0)


async def test_a_body_shorter_than_was_said_is_no_file(relay: Running, dial: Dial) -> None:
    connection = await dial(relay.url)
    await connection.send(lies("PUT /blobs/k", "Content-Length: 11"))
    await settles_at(relay, 10)
    connection.writer.write_eof()
    await settles_at(relay, 0)
    assert (await get(relay, "k")).status == 404


async def test_what_comes_after_the_length_that_was_said_is_another_request(relay: Running, dial: Dial) -> None:
    connection = await dial(relay.url)
    first = await connection.ask(lies("PUT /blobs/k", "Content-Length: 4", body=b"0123"))
    assert (first.status, first.json["size"]) == (201, 4)
    assert (await connection.ask(b"456789\r\n\r\n")).status == 400
    assert await connection.reader.read() == b""
    assert await content(relay, "k") == b"0123"
    connection = await dial(relay.url)
    smuggled = lies("PUT /blobs/s", "Content-Length: 4", body=b"data" + request("DELETE", "/blobs/k?agent_id=a"))
    assert (await connection.ask(smuggled)).status == 201
    assert (await connection.answer()).status == 200  # it is a request like any other, answered in its turn


async def test_without_a_length_there_is_no_body(relay: Running, dial: Dial) -> None:
    connection = await dial(relay.url)
    answer = await connection.ask(lies("PUT /blobs/k", body=b""))
    assert (answer.status, answer.json["size"]) == (201, 0)
    assert (await connection.ask(b"0123456789\r\n\r\n")).status == 400
    assert (await exchange(relay.url, lies("PUT /blobs/other"))).status in (201, 400)
    assert (await get(relay, "other")).body in (b"", (await get(relay, "none")).body)


@pytest.mark.parametrize(
    "chunk", [b"zz\r\n", b"-1\r\n", b"5\r\n0123456789\r\n", b"ffffffffffffffffff\r\n", b"4;" + b"x" * 20_000]
)
async def test_chunks_that_are_none_are_refused_and_nothing_is_kept(
    relay: Running, dial: Dial, monkeypatch: pytest.MonkeyPatch, chunk: bytes
) -> None:
    monkeypatch.setattr("clawlink.server.flow.IDLE_BODY_SECONDS", 0.2)
    for before in (b"", b"5\r\nvalid\r\n"):
        connection = await dial(relay.url)
        await connection.send(lies("PUT /blobs/k", "Transfer-Encoding: chunked", body=before + chunk))
        with contextlib.suppress(asyncio.IncompleteReadError):
            answer: Answer = await connection.answer()
            assert 400 <= answer.status < 500
        connection.reset()
        assert (await get(relay, "k")).status == 404
        await settles_at(relay, 0)


# -- the disk ----------------------------------------------------------------------------------------------------------


@linux
async def test_a_disk_that_fills_refuses_what_it_cannot_take_and_the_relay_goes_on(
    start_live: Starting, tmp_path: Path
) -> None:
    import resource

    relay = await with_agents(start_live("--rate-files", "0", "--spool", str(tmp_path)))
    resource.prlimit(relay.relay.process.pid, resource.RLIMIT_FSIZE, (3 * MIB, resource.RLIM_INFINITY))
    await saved(relay, "before", some(2 * MIB))
    for data in (some(8 * MIB), blobs.chunks(some(8 * MIB), 300_000)):
        body = refused(await put(relay, "k", data), 507, "storage_full")
        assert "to its disk (File too large)" in body["error"]
        assert body["current"] == {"free": 0}
    assert (await get(relay, "k")).status == 404
    told = await create(relay, 8 * MIB)
    address = told.headers["Location"]
    told = await blobs.ask(relay, "PATCH", address, some(8 * MIB), Upload_Offset="0", **OFFSET)
    refused(told, 507, "storage_full")
    at = int((await blobs.ask(relay, "HEAD", address, Tus_Resumable="1.0.0")).headers["Upload-Offset"])
    assert 0 < at <= 3 * MIB + MIB
    assert await content(relay, "before") == some(2 * MIB)
    small = some(500_000)
    await saved(relay, "small", small)
    assert await content(relay, "small") == small
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(relay.relay.process.pid, resource.RLIMIT_FSIZE, unlimited)
    told = await blobs.ask(relay, "PATCH", address, some(8 * MIB)[at:], Upload_Offset=str(at), **OFFSET)
    assert told.status == 204  # there is room again, and it goes on where it was
    assert await content(relay, "k") == some(8 * MIB)
    assert (await ok(relay.get("/healthz")))["status"] == "ok"


@posix
@pytest.mark.parametrize("number", [signal.SIGKILL if sys.platform != "win32" else 9, signal.SIGTERM])
async def test_a_relay_that_ends_leaves_no_file(start_live: Starting, dial: Dial, tmp_path: Path, number: int) -> None:
    relay = await with_agents(start_live("--rate-files", "0", "--spool", str(tmp_path), "--spool-above", "100000"))
    await saved(relay, "whole", some(3 * MIB))
    connection = await dial(relay.url)
    await connection.send(request("PUT", "/blobs/k", Content_Length="9000000", ClawLink_Agent="a") + some(2 * MIB))
    told = await create(relay, 9 * MIB, some(2 * MIB), said=metadata("u"))
    assert told.status == 201
    relay.relay.stop(number)
    assert os.listdir(tmp_path) == []


@linux
async def test_twenty_uploads_at_once_take_no_memory_of_their_size(start_live: Starting, tmp_path: Path) -> None:
    """50 MB each are measured, and these are enough to show if it were kept."""
    relay = await with_agents(
        start_live("--rate-files", "0", "--spool", str(tmp_path), "--max-files-bytes", str(2**31))
    )
    size = 10 * MIB
    await saved(relay, "first", some(2 * MIB))
    idle = memory_of(relay)
    data = some(size)

    async def one(n: int) -> Told:
        return await put(relay, f"k{n}", blobs.chunks(b"%4d" % n + data[4:], MIB))

    told = await asyncio.gather(*(one(n) for n in range(20)))
    assert {t.status for t in told} == {201}
    assert memory_of(relay, "VmHWM") - idle < 150 * MIB
    assert await content(relay, "k7") == b"   7" + data[4:]
    downloaded = await asyncio.gather(*(content(relay, f"k{n}") for n in range(20)))
    assert all(found[4:] == data[4:] for found in downloaded)
    assert memory_of(relay, "VmHWM") - idle < 150 * MIB


async def test_many_who_watch_a_file_are_all_told(relay: Running) -> None:
    await saved(relay, "k", b"1")
    watching = [
        asyncio.create_task(exchange(relay.url, request("GET", "/blobs/k?versions&wait=30&since=1"), 20))
        for _ in range(150)
    ]

    async def waiting() -> bool:
        return len(relay.app.relay.core._watched.get("k", ())) == 150

    await eventually(waiting)
    await saved(relay, "k", b"2")
    assert {answer.json["version"] for answer in await asyncio.gather(*watching)} == {2}
