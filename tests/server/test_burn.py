"""Files for one reader: exactly one gets it, whole, and what breaks off burns nothing."""

from __future__ import annotations

import asyncio
import base64
import random
import socket
import sys
from typing import Any

import pytest

from clawlink.domain.limits import PART_HOLD_SECONDS, READ_HOLD_SECONDS
from clawlink.store.memory import MemoryStore
from tests.conftest import Running, Serve
from tests.server import blobs
from tests.server.asks import ack, claim_one, ok
from tests.server.blobs import content, get, history, refused, saved, settles_at, some, used
from tests.store.faulty import FaultyStore
from tests.system.conftest import Dial
from tests.system.raw import Clock, request
from tests.tables import each
from tests.waiting import PATIENCE, eventually

pytestmark = pytest.mark.both_stores

SECRET = some(400_000)
LARGE = some(3_000_000)
HUGE = some(8_000_000)  # more than the buffers of both sides take in
tells_what_arrived = pytest.mark.skipif(
    sys.platform not in ("linux", "darwin"), reason="this system does not tell what has arrived"
)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the janitor look often."""
    monkeypatch.setattr("clawlink.server.app._SWEEP_SECONDS", 0.02)


@pytest.fixture
async def trio(serve: Serve, clock: Clock) -> Running:
    relay = await serve(clock=clock)
    for name in ("a", "b", "c"):
        await relay.register(name, agent_id=name)
    return relay


async def burning(relay: Running, data: bytes = SECRET, **headers: str) -> int:
    """Write a file that only one may read."""
    return await saved(relay, "k", data, ClawLink_Burn_After_Read="1", **headers)


async def read_as(relay: Running, reader: str, query: str = "", **headers: str) -> blobs.Told:
    return await get(relay, "k", query, ClawLink_Agent=reader, **headers)


async def burned(relay: Running, clock: Clock | None = None) -> None:
    """Check that it comes to be gone, and leaves nothing; with a clock, once time has passed."""

    async def gone() -> bool:
        if clock is not None:  # its time counts from when the reply has arrived, which its reader knows first
            clock.skip(READ_HOLD_SECONDS / 10)
        return (await blobs.ask(relay, "HEAD", blobs.path("k"))).status == 404

    await eventually(gone)
    await settles_at(relay, 0)


async def stays(relay: Running) -> None:
    """Check that some looks of the janitor leave it where it is."""
    sweeps = 0
    real = relay.app.relay.janitor.sweep

    async def counted() -> None:
        nonlocal sweeps
        await real()
        sweeps += 1

    relay.app.relay.janitor.sweep = counted  # type: ignore[method-assign]

    async def swept() -> bool:
        return sweeps > 2

    await eventually(swept)
    relay.app.relay.janitor.sweep = real  # type: ignore[method-assign]
    assert (await blobs.ask(relay, "HEAD", blobs.path("k"))).status == 200


async def free(relay: Running, reader: str = "c") -> None:
    """Check that another reader comes to get it whole."""

    async def had() -> bool:
        told = await read_as(relay, reader)
        assert told.status in (200, 409)
        return told.status == 200 and told.body in (SECRET, LARGE, HUGE)

    await eventually(had)


def confirm(relay: Running, reader: str) -> Any:
    return blobs.ask(relay, "DELETE", blobs.path("k", "read=true"), ClawLink_Agent=reader)


# -- read once ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"1", SECRET, LARGE], ids=["nothing", "a byte", "some", "much"])
async def test_the_first_reader_gets_it_and_after_a_while_it_is_gone(trio: Running, clock: Clock, data: bytes) -> None:
    assert await burning(trio, data) == 1
    told = await read_as(trio, "b")
    assert (told.status, told.body) == (200, data)
    assert (told.headers["ClawLink-Burn-After-Read"], told.headers["Cache-Control"]) == ("1", "no-store")
    body = refused(await read_as(trio, "c"), 409, "being_read", "file_key")
    assert 0 < body["retry_after"] <= READ_HOLD_SECONDS
    clock.skip(READ_HOLD_SECONDS - 5)
    await stays(trio)
    refused(await read_as(trio, "c"), 409, "being_read", "file_key")
    clock.skip(6)
    await burned(trio)
    refused(await read_as(trio, "b"), 404, "unknown_file", "file_key")


async def test_the_others_are_told_that_it_is_gone(trio: Running) -> None:
    await burning(trio)
    got = await claim_one(trio, "c")
    await ack(trio, "c", got.receipt)
    await read_as(trio, "b")
    assert (await confirm(trio, "b")).json == {"status": "deleted", "file_key": "k", "version": 2}
    told = (await claim_one(trio, "c")).message
    assert (told["file_key"], told["version"], told["deleted"], told["last_editor"]) == ("k", 2, True, "b")
    assert await saved(trio, "k", b"new") == 3


async def test_the_reader_may_ask_again_for_a_while(trio: Running, clock: Clock) -> None:
    await burning(trio)
    for _ in range(3):
        clock.skip(READ_HOLD_SECONDS - 5)
        assert (await read_as(trio, "b")).body == SECRET
        refused(await read_as(trio, "c"), 409, "being_read", "file_key")
    assert (await read_as(trio, "b", Range="bytes=-10")).body == SECRET[-10:]
    await burned(trio, clock)


async def test_who_has_read_it_may_say_so_and_nobody_else(trio: Running) -> None:
    await burning(trio)
    refused(await confirm(trio, "b"), 404, "unknown_file", "file_key")
    await read_as(trio, "b", Range="bytes=0-99")
    refused(await confirm(trio, "b"), 404, "unknown_file", "file_key")
    await read_as(trio, "b", Range="bytes=100-")
    refused(await confirm(trio, "c"), 404, "unknown_file", "file_key")
    refused(await blobs.ask(trio, "DELETE", "/blobs/k?read=true"), 404, "unknown_file", "file_key")
    assert (await confirm(trio, "b")).status == 200
    await burned(trio)
    refused(await confirm(trio, "b"), 404, "unknown_file", "file_key")


async def test_what_is_not_for_one_reader_cannot_be_confirmed(trio: Running) -> None:
    await saved(trio, "k", b"x")
    await read_as(trio, "b")
    refused(await confirm(trio, "b"), 404, "unknown_file", "file_key")
    assert await content(trio, "k") == b"x"


async def test_the_json_route_burns_too(trio: Running, clock: Clock) -> None:
    await burning(trio)
    read = await ok(trio.get("/files/k", headers={"ClawLink-Agent": "b"}))
    assert (base64.b64decode(read["content"]), read["burn_after_read"]) == (SECRET, True)
    refused(await read_as(trio, "c"), 409, "being_read", "file_key")
    status, body = await trio.get("/files/k", headers={"ClawLink-Agent": "c"})
    assert (status, body["code"]) == (409, "being_read")
    await burned(trio, clock)


async def test_asking_about_it_burns_nothing(trio: Running, clock: Clock) -> None:
    await burning(trio)
    assert (await blobs.ask(trio, "HEAD", "/blobs/k", ClawLink_Agent="b")).headers["ClawLink-Burn-After-Read"] == "1"
    assert (await read_as(trio, "b", If_None_Match='"1"')).status == 304
    assert (await read_as(trio, "b", If_Match='"2"')).status == 412
    assert (await read_as(trio, "b", Range=f"bytes={len(SECRET)}-")).status == 416
    assert (await history(trio, "k"))["burn_after_read"] is True
    assert (await ok(trio.get("/files")))["files"][0]["burn_after_read"] is True
    clock.skip(READ_HOLD_SECONDS + 1)
    await stays(trio)
    await free(trio)


async def test_it_has_no_versions_beside_it(trio: Running) -> None:
    await saved(trio, "k", b"for all")
    assert await burning(trio) == 2
    assert await blobs.versions(trio, "k") == [2]
    refused(await read_as(trio, "b", "version=1"), 404, "unknown_file", "version")
    assert await saved(trio, "k", b"for all again") == 3
    assert await blobs.versions(trio, "k") == [3]
    assert await content(trio, "k") == await content(trio, "k") == b"for all again"


async def test_its_time_to_live_and_its_deletion_come_first(trio: Running, clock: Clock) -> None:
    await burning(trio, ClawLink_TTL="5")
    clock.skip(6)
    refused(await read_as(trio, "b"), 404, "unknown_file", "file_key")
    await burned(trio)
    await burning(trio)
    await read_as(trio, "b")
    assert (await blobs.ask(trio, "DELETE", "/blobs/k", ClawLink_Agent="a")).status == 200
    refused(await read_as(trio, "b"), 404, "unknown_file", "file_key")
    assert used(trio) == 0


async def test_a_new_version_is_for_one_reader_anew(trio: Running, clock: Clock) -> None:
    await burning(trio)
    assert (await read_as(trio, "b")).body == SECRET
    await burning(trio, b"second")
    assert (await read_as(trio, "c")).body == b"second"
    refused(await confirm(trio, "b"), 404, "unknown_file", "file_key")
    refused(await read_as(trio, "b"), 409, "being_read", "file_key")
    assert (await confirm(trio, "c")).json["version"] == 3
    await burned(trio)


# -- one of many -------------------------------------------------------------------------------------------------------


@each("data", [b"small", LARGE], ids=["small", "large"])
async def test_of_many_readers_at_once_exactly_one_gets_it(trio: Running, data: bytes) -> None:
    for n in range(30):
        await trio.register(f"r{n}", agent_id=f"r{n}")
    await burning(trio, data)
    await saved(trio, "same", data)  # the bytes stay, the file does not

    async def read(n: int) -> tuple[int, bytes]:
        if n % 3 == 2:
            status, body = await trio.get("/files/k", headers={"ClawLink-Agent": f"r{n}"})
            return status, base64.b64decode(body["content"]) if body.get("encoding") == "base64" else (
                body.get("content", "").encode()
            )
        told = await read_as(trio, f"r{n}")
        return told.status, told.body

    told = await asyncio.gather(*(read(n) for n in range(30)))
    assert sorted(status for status, _ in told) == [200] + [409] * 29
    (won,) = [n for n, (status, _) in enumerate(told) if status == 200]
    assert told[won][1] == data

    async def hunted(n: int) -> int:
        return (await read(n))[0]

    others = [n for n in range(30) if n != won]
    results = await asyncio.gather(*map(hunted, others), confirm(trio, f"r{won}"), *map(hunted, others))
    assert {r for r in results if isinstance(r, int)} <= {404, 409}
    assert {await hunted(n) for n in others} == {404}


async def test_while_it_burns_nobody_else_begins(serve: Serve) -> None:
    """Not even if the store takes long, or does not take it at all."""
    store = FaultyStore(MemoryStore(), random.Random(7))
    relay = await serve(store=store)
    for name in ("a", "b", "c"):
        await relay.register(name, agent_id=name)
    await burning(relay)
    assert (await read_as(relay, "b")).body == SECRET
    store.conflicts = 1.0
    burns = asyncio.create_task(confirm(relay, "b"))
    while not burns.done():
        refused(await read_as(relay, "c"), 409, "being_read", "file_key")
    assert (await burns).status == 503
    refused(await read_as(relay, "c"), 409, "being_read", "file_key")
    store.conflicts = 0.0
    assert (await confirm(relay, "b")).status == 200
    await burned(relay)


async def test_without_a_name_the_connection_is_the_reader(trio: Running, dial: Dial) -> None:
    await burning(trio)
    one, other = await dial(trio.url), await dial(trio.url)
    assert (await one.ask(request("GET", "/blobs/k"))).body == SECRET
    assert (await other.ask(request("GET", "/blobs/k"))).json["code"] == "being_read"
    assert (await one.ask(request("GET", "/blobs/k"))).body == SECRET
    assert (await other.ask(request("DELETE", "/blobs/k?read=true"))).status == 404
    assert (await one.ask(request("DELETE", "/blobs/k?read=true"))).status == 200
    assert (await other.ask(request("GET", "/blobs/k"))).status == 404


@pytest.mark.parametrize("route", ["blobs", "files"])
async def test_peers_that_share_a_connection_are_not_one_reader(
    serve: Serve, dial: Dial, clock: Clock, route: str
) -> None:
    path = f"/{route}/k"
    for proxies, read in (
        ((), request("GET", path, Via="1.1 proxy")),
        (("127.0.0.1",), request("GET", path)),
    ):
        relay = await serve(clock=clock, trust_proxies=proxies)
        for name in ("a", "b", "c"):
            await relay.register(name, agent_id=name)
        await burning(relay)
        shared = await dial(relay.url)
        assert (await shared.ask(read)).status == 200, proxies
        assert (await shared.ask(read)).json["code"] == "being_read", proxies
        shared.close()
        assert (await (await dial(relay.url)).ask(read)).status == 409, "it has been read"
        await burned(relay, clock)

    relay = await serve(clock=clock)
    for name in ("a", "b", "c"):
        await relay.register(name, agent_id=name)
    await burning(relay)
    shared = await dial(relay.url)
    assert (await shared.ask(request("GET", path + "?agent_id=b"))).status == 200
    assert (await shared.ask(request("GET", path + "?agent_id=c"))).json["code"] == "being_read"
    assert (await shared.ask(request("DELETE", "/blobs/k?read=true&agent_id=c"))).status == 404
    assert (await shared.ask(request("DELETE", "/blobs/k?read=true&agent_id=b"))).status == 200


@each("route", ["blobs", "files"])
async def test_a_reader_that_closes_in_peace_has_read_it(trio: Running, dial: Dial, route: str) -> None:
    await burning(trio)
    connection = await dial(trio.url)
    assert (await connection.ask(request("GET", f"/{route}/k"))).status == 200
    connection.close()
    await burned(trio)


@pytest.mark.parametrize("route", ["blobs", "files"])
async def test_an_agent_that_could_not_keep_what_it_read_may_ask_again_for_a_while(
    trio: Running, dial: Dial, route: str, clock: Clock
) -> None:
    await burning(trio)
    connection = await dial(trio.url)
    assert (await connection.ask(request("GET", f"/{route}/k", ClawLink_Agent="b"))).status == 200
    connection.close()
    await trio.app.relay.janitor.sweep()
    assert (await read_as(trio, "c")).json["code"] == "being_read"
    assert (await read_as(trio, "b")).body == SECRET
    await burned(trio, clock)


@pytest.mark.parametrize("route", ["blobs", "files"])
async def test_a_reader_that_asked_to_close_has_read_it(trio: Running, dial: Dial, route: str, clock: Clock) -> None:
    await burning(trio)
    connection = await dial(trio.url)
    assert (await connection.ask(request("GET", f"/{route}/k", Connection="close"))).status == 200
    assert await connection.reader.read() == b""
    await burned(trio, clock)


# -- breaking off ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["blobs", "files"])
@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_download_that_breaks_off_burns_nothing_wherever_it_does(
    trio: Running, dial: Dial, clock: Clock, how: str, route: str
) -> None:
    await burning(trio, HUGE)
    reader, other = "b", "c"
    for offset in (0, 1, 100, 1_000, 70_000, 1_500_000, 7_000_000):
        connection = await dial(trio.url, receive_buffer=262_144)
        await connection.send(request("GET", f"/{route}/k", ClawLink_Agent=reader))
        if offset:
            assert (await asyncio.wait_for(connection.reader.readexactly(offset), PATIENCE)).startswith(
                b"HTTP/1.1 200"[:offset]
            )
        getattr(connection, how)()
        reader, other = other, reader

        async def nobody_has_it(reader: str = reader) -> bool:
            told = await read_as(trio, reader, Range="bytes=0-0")
            assert told.status in (206, 409)
            return told.status == 206

        await eventually(nobody_has_it)
        clock.skip(READ_HOLD_SECONDS + 1)
        await stays(trio)
    await free(trio, reader)


async def test_a_connection_that_is_reset_after_the_last_byte_has_not_read_it(trio: Running, dial: Dial) -> None:
    await burning(trio)
    connection = await dial(trio.url)
    assert (await connection.ask(request("GET", "/blobs/k", ClawLink_Agent="b"))).body == SECRET
    connection.reset()
    await free(trio)


@tells_what_arrived
async def test_what_is_still_on_its_way_is_not_read(trio: Running, dial: Dial, clock: Clock) -> None:
    """The system took all of it in long ago, and a reader on a slow line has had little of it."""
    await burning(trio, LARGE)
    connection = await dial(trio.url, receive_buffer=4096)
    await connection.send(request("GET", "/blobs/k", ClawLink_Agent="b"))
    await asyncio.wait_for(connection.reader.readexactly(10_000), PATIENCE)
    for _ in range(3):
        clock.skip(READ_HOLD_SECONDS + 1)
        await stays(trio)
        refused(await read_as(trio, "c"), 409, "being_read", "file_key")
    connection.reset()
    await free(trio)


@tells_what_arrived
@each("route", ["blobs", "files"])
async def test_who_closes_while_something_is_on_its_way_has_not_read_it(trio: Running, dial: Dial, route: str) -> None:
    await burning(trio, SECRET)
    connection = await dial(trio.url, receive_buffer=4096)
    await connection.send(request("GET", f"/{route}/k", ClawLink_Agent="b"))
    await asyncio.wait_for(connection.reader.readexactly(1_000), PATIENCE)
    connection.writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
    await free(trio)


async def test_a_reader_that_stands_still_is_given_up(
    trio: Running, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawlink.server.flow.IDLE_BODY_SECONDS", 1.0)
    await burning(trio, some(20_000_000))
    connection = await dial(trio.url, receive_buffer=4096)
    await connection.send(request("GET", "/blobs/k", ClawLink_Agent="b"))
    assert (await asyncio.wait_for(connection.reader.readline(), PATIENCE)).split()[1] == b"200", "it is the one reader"
    assert (await read_as(trio, "c", If_None_Match="*")).status == 304

    async def had() -> bool:
        return (await read_as(trio, "c", Range="bytes=0-0")).status == 206

    await eventually(had)


# -- in ranges ---------------------------------------------------------------------------------------------------------


async def test_ranges_in_order_make_a_whole(trio: Running, clock: Clock) -> None:
    await burning(trio)
    found = b""
    while len(found) < len(SECRET):
        clock.skip(PART_HOLD_SECONDS - 2)
        told = await read_as(trio, "b", Range=f"bytes={len(found)}-{len(found) + 99_999}")
        assert told.status == 206
        found += told.body
        refused(await read_as(trio, "c"), 409, "being_read", "file_key")
    assert found == SECRET
    await burned(trio, clock)


@pytest.mark.parametrize("asked", ["bytes=-1", "bytes=1-", "bytes=0-399998", "bytes=399999-399999"])
async def test_a_part_is_not_the_whole(trio: Running, clock: Clock, asked: str) -> None:
    await burning(trio)
    assert (await read_as(trio, "b", Range=asked)).status == 206
    refused(await confirm(trio, "b"), 404, "unknown_file", "file_key")
    clock.skip(READ_HOLD_SECONDS + 1)
    await stays(trio)
    await free(trio)


async def test_a_download_that_broke_off_goes_on_where_it_was(trio: Running, dial: Dial, clock: Clock) -> None:
    await burning(trio, LARGE)
    connection = await dial(trio.url, receive_buffer=4096)
    await connection.send(request("GET", "/blobs/k", ClawLink_Agent="b"))
    await asyncio.wait_for(connection.reader.readuntil(b"\r\n\r\n"), PATIENCE)
    found = await asyncio.wait_for(connection.reader.readexactly(50_000), PATIENCE)
    connection.reset()
    told = await read_as(trio, "b", Range=f"bytes={len(found)}-", If_Range='"1"')
    assert (told.status, found + told.body) == (206, LARGE)
    await burned(trio, clock)


async def test_a_part_after_one_that_broke_off_is_not_the_whole(trio: Running, dial: Dial, clock: Clock) -> None:
    """All of the first reply had gone out, and was lost on its way; what was read then is not the end."""
    await burning(trio, SECRET)
    connection = await dial(trio.url, receive_buffer=4096)
    await connection.send(request("GET", "/blobs/k", ClawLink_Agent="b"))
    await asyncio.wait_for(connection.reader.readexactly(1_000), PATIENCE)
    connection.reset()

    async def part() -> bool:
        return (await read_as(trio, "b", Range="bytes=1000-1999")).status == 206

    await eventually(part)
    refused(await confirm(trio, "b"), 404, "unknown_file", "file_key")
    clock.skip(READ_HOLD_SECONDS + 1)
    await stays(trio)
    await free(trio)


# -- who is who --------------------------------------------------------------------------------------------------------


async def test_nobody_reads_in_the_name_of_a_claimed_agent(trio: Running) -> None:
    reply = await ok(trio.post("/register", {"agent_id": "claimed", "name": "Claimed", "claim": True}))
    key = reply["agent_key"]
    await burning(trio)
    for headers in ({}, {"ClawLink_Agent_Key": "x" * 43}):
        told = await read_as(trio, "claimed", **headers)
        assert (told.status, told.json["code"]) == (403, "not_allowed")
    assert (await read_as(trio, "claimed", ClawLink_Agent_Key=key)).body == SECRET
    told = await confirm(trio, "claimed")
    assert (told.status, told.json["code"]) == (403, "not_allowed")
    assert (await read_as(trio, "nobody")).status == 404
