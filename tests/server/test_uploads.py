"""Uploads that go on where they broke off, by tus 1.0.0: each extension by hand, and a client of somebody else's."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import random
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tusclient.client import TusClient
from tusclient.uploader.uploader import Uploader

from clawlink.config import ServerConfig
from clawlink.server.app import App
from clawlink.store.memory import MemoryStore
from clawlink.store.sqlite.folder import DataFolder
from tests.conftest import Running, Serve, Start
from tests.server import blobs
from tests.server.asks import ok
from tests.server.blobs import Told, content, refused, saved, settles_at, some, used, versions
from tests.server.test_blobs import small
from tests.store.faulty import FaultyStore
from tests.system.conftest import Dial
from tests.system.proxy import proxy
from tests.system.raw import Clock, Connection, exchange, request
from tests.tables import each

pytestmark = pytest.mark.both_stores

memory = pytest.mark.parametrize("store_kind", ["memory"])

OFFSET = "application/offset+octet-stream"
NO_KEY_AND_ONE: list[dict[str, Any]] = [{}, {"Idempotency_Key": "k1"}]


def b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def metadata(key: str = "k", **more: str) -> str:
    """Return Upload-Metadata."""
    return ",".join(f"{name} {b64(value)}" for name, value in {"key": key, **more}.items())


async def tus(relay: Running, method: str, address: str, data: Any = None, **headers: str) -> Told:
    """Send a request of tus."""
    told = await blobs.ask(relay, method, address, data, **{"Tus_Resumable": "1.0.0", **headers})
    assert told.headers["Tus-Resumable"] == "1.0.0"
    return told


async def create(relay: Running, length: int | None = 10, data: Any = None, said: str = "", **headers: str) -> Told:
    """Begin an upload as a, whatever becomes of it."""
    size = {"Upload_Defer_Length": "1"} if length is None else {"Upload_Length": str(length)}
    if data is not None:
        headers = {"Content_Type": OFFSET, **headers}
    told = {"ClawLink_Agent": "a", "Upload_Metadata": said or metadata(), **size, **headers}
    return await tus(relay, "POST", "/uploads", data, **told)


async def begun(relay: Running, length: int | None = 10, data: Any = None, said: str = "", **headers: str) -> str:
    """Begin an upload and return its address."""
    told = await create(relay, length, data, said, **headers)
    assert (told.status, told.body) == (201, b"")
    assert told.headers["Upload-Expires"]
    return told.headers["Location"]


async def patch(relay: Running, address: str, offset: int, data: Any, **headers: str) -> Told:
    """Send a part, whatever becomes of it."""
    return await tus(relay, "PATCH", address, data, Upload_Offset=str(offset), Content_Type=OFFSET, **headers)


async def part(relay: Running, address: str, offset: int, data: bytes, **headers: str) -> Told:
    """Send a part, which must be taken."""
    told = await patch(relay, address, offset, data, **headers)
    assert (told.status, told.body) == (204, b""), told
    assert told.headers["Upload-Offset"] == str(offset + len(data))
    assert told.headers["Upload-Expires"]
    assert "Content-Length" not in told.headers
    assert "Content-Type" not in told.headers
    return told


async def head(relay: Running, address: str) -> Told:
    """Ask how much has come."""
    told = await tus(relay, "HEAD", address)
    assert (told.status, told.headers["Cache-Control"]) == (200, "no-store")
    return told


async def offset(relay: Running, address: str) -> int:
    return int((await head(relay, address)).headers["Upload-Offset"])


# -- the core ----------------------------------------------------------------------------------------------------------


async def test_options_tell_what_there_is(serve: Serve) -> None:
    relay = await serve(limits={"max_file_bytes": 1234}, token="t")
    told = await blobs.ask(relay, "OPTIONS", "/uploads")  # as the protocol says: without a version, and without a token
    assert (told.status, told.body) == (204, b"")
    assert told.headers["Tus-Version"] == told.headers["Tus-Resumable"] == "1.0.0"
    assert told.headers["Tus-Max-Size"] == "1234"
    assert told.headers["Tus-Checksum-Algorithm"] == "sha1,sha256"
    assert set(told.headers["Tus-Extension"].split(",")) == {
        "creation",
        "creation-defer-length",
        "creation-with-upload",
        "checksum",
        "expiration",
        "termination",
    }
    assert (await blobs.ask(relay, "POST", "/uploads", Tus_Resumable="1.0.0")).status == 401


async def test_parts_make_a_file(pair: Running) -> None:
    data = some(700_000)
    address = await begun(pair, len(data), said=metadata("dir/名前", content_type="image/png", file_type="photo"))
    assert (await blobs.get(pair, "dir/名前")).status == 404
    at = 0
    for size in (1, 0, 99_999, 300_000):
        await part(pair, address, at, data[at : at + size])
        at += size
        told = await head(pair, address)
        assert (told.headers["Upload-Offset"], told.headers["Upload-Length"]) == (str(at), "700000")
        assert "ClawLink-Version" not in told.headers
        assert used(pair) == at
    done = await part(pair, address, at, data[at:])
    assert (done.headers["ClawLink-Version"], done.headers["ClawLink-SHA256"]) == (
        "1",
        hashlib.sha256(data).hexdigest(),
    )
    assert await content(pair, "dir/名前") == data
    file = await ok(pair.get("/files/dir%2F%E5%90%8D%E5%89%8D"))
    assert (file["content_type"], file["file_type"], file["last_editor"]) == ("image/png", "photo", "a")
    told = await head(pair, address)
    assert (told.headers["ClawLink-Version"], told.headers["Upload-Offset"]) == ("1", "700000")
    assert used(pair) == len(data)


async def test_a_lost_reply_of_the_last_part_can_be_asked_for(pair: Running) -> None:
    address = await begun(pair, 4)
    await part(pair, address, 0, b"data")
    for _ in range(2):
        assert (await part(pair, address, 4, b"")).headers["ClawLink-Version"] == "1"
    refused(await patch(pair, address, 4, b"more"), 413, "too_large", "Upload-Length")
    assert refused(await patch(pair, address, 0, b"data"), 409, "offset_conflict", "Upload-Offset")["current"] == 4
    assert await versions(pair, "k") == [1]


async def test_a_file_of_nothing_is_there_at_once(pair: Running) -> None:
    told = await create(pair, 0)
    assert (told.status, told.headers["ClawLink-Version"]) == (201, "1")
    assert await content(pair, "k") == b""
    assert (await part(pair, told.headers["Location"], 0, b"")).headers["ClawLink-Version"] == "1"


async def test_a_part_that_does_not_follow_is_409_with_where_to_go_on(pair: Running) -> None:
    address = await begun(pair)
    await part(pair, address, 0, b"1234")
    for wrong in (0, 3, 5, 10, 10**17):
        body = refused(await patch(pair, address, wrong, b"56"), 409, "offset_conflict", "Upload-Offset")
        assert body["current"] == 4
    assert await offset(pair, address) == 4


@each("step", [None, 3], ids=["said", "chunked"])
async def test_no_more_comes_than_was_said(pair: Running, step: int | None) -> None:
    address = await begun(pair, 10)
    data = b"x" * 11 if step is None else blobs.chunks(b"x" * 3000, 1000)
    body = refused(await patch(pair, address, 0, data), 413, "too_large", "Upload-Length")
    assert (body["limit"], body["actual"] > 10) == (10, True)
    assert await offset(pair, address) == 0
    await part(pair, address, 0, b"0123456789")
    assert await content(pair, "k") == b"0123456789"


@each("spoken", [None, "0.9.0", "1.0.1", "", "1"])
async def test_another_version_of_tus_is_412_with_the_one_there_is(pair: Running, spoken: str | None) -> None:
    address = await begun(pair)
    headers = {} if spoken is None else {"Tus-Resumable": spoken}
    for method, where in (("POST", "/uploads"), ("HEAD", address), ("PATCH", address), ("DELETE", address)):
        answer = await exchange(pair.url, request(method, where, None if method == "HEAD" else b"", **headers))
        assert (answer.status, answer.headers["tus-version"]) == (412, "1.0.0")
        assert method == "HEAD" or (answer.json["code"], answer.json["field"]) == ("version_conflict", "Tus-Resumable")
    assert await offset(pair, address) == 0


@each("method", ["PATCH", "HEAD", "DELETE"])
async def test_who_cannot_send_a_method_says_so_in_a_header(pair: Running, method: str) -> None:
    address = await begun(pair, 4)
    told = await tus(
        pair,
        "POST",
        address,
        b"data" if method == "PATCH" else None,
        X_HTTP_Method_Override=method,
        Upload_Offset="0",
        Content_Type=OFFSET,
    )
    assert told.status == (200 if method == "HEAD" else 204)
    if method == "PATCH":
        assert await content(pair, "k") == b"data"
    if method == "DELETE":
        assert (await tus(pair, "HEAD", address)).status == 404


@each("method", [None, "", "GET", "PUT", "patch me"])
async def test_another_method_in_the_header_is_405(pair: Running, method: str | None) -> None:
    address = await begun(pair)
    headers = {} if method is None else {"X_HTTP_Method_Override": method}
    told = await blobs.ask(pair, "POST", address, Tus_Resumable="1.0.0", **headers)
    refused(told, 405, "method_not_allowed", "X-HTTP-Method-Override")
    assert told.headers["Allow"]


@each("id", ["none", "a%2Fb", "%00", "x" * 300])
async def test_an_upload_that_is_not_there_is_404(pair: Running, id: str) -> None:
    for method in ("HEAD", "PATCH", "DELETE"):
        told = await tus(pair, method, f"/uploads/{id}", Upload_Offset="0", Content_Type=OFFSET)
        assert told.status == 404
        assert method == "HEAD" or told.json["code"] == "unknown_upload"


# -- creation ----------------------------------------------------------------------------------------------------------


async def test_the_first_part_may_come_at_once(pair: Running) -> None:
    told = await create(pair, 10, b"0123")
    assert (told.status, told.headers["Upload-Offset"]) == (201, "4")
    await part(pair, told.headers["Location"], 4, b"456789")
    assert await content(pair, "k") == b"0123456789"
    told = await create(pair, 5, b"whole", metadata("w"))
    assert (told.status, told.headers["ClawLink-Version"]) == (201, "1")
    assert await content(pair, "w") == b"whole"


async def test_one_that_was_refused_at_its_end_is_not_taken_for_a_file(pair: Running) -> None:
    """Clients of tus take an upload of full length for done: asking for it tries again."""
    address = await begun(pair, 10)
    await part(pair, address, 0, b"01234")
    await ok(pair.post("/locks", {"agent_id": "b", "file_key": "k", "seconds": 60}))
    assert (await patch(pair, address, 5, b"56789")).status == 423
    assert (await tus(pair, "HEAD", address)).status == 423
    await ok(pair.ask("DELETE", "/locks/k?agent_id=b"))
    told = await head(pair, address)
    assert (told.status, told.headers["Upload-Offset"], told.headers["ClawLink-Version"]) == (200, "10", "1")
    assert await content(pair, "k") == b"0123456789"


async def test_one_that_is_ended_while_its_last_part_comes_is_a_file_or_gone(pair: Running) -> None:
    files = 0
    for turn in range(20):
        key = f"k{turn}"
        address = await begun(pair, 10, said=metadata(key))
        body = b"%010d" % turn
        last, _ = await asyncio.gather(patch(pair, address, 0, body), tus(pair, "DELETE", address))
        if last.status == 204:
            files += 1
            assert await content(pair, key) == body
        else:
            assert last.status == 404
            assert (await blobs.ask(pair, "GET", blobs.path(key))).status == 404
        await settles_at(pair, 10 * files)


async def test_uploads_of_one_that_leaves_end(pair: Running) -> None:
    address = await begun(pair, 10)
    await part(pair, address, 0, b"01234")
    await ok(pair.ask("DELETE", "/agents/a"))
    await settles_at(pair, 0)
    await pair.register("a", agent_id="a")
    assert (await tus(pair, "HEAD", address)).status == 404


async def test_the_length_may_come_later_and_once(pair: Running) -> None:
    address = await begun(pair, None)
    told = await head(pair, address)
    assert (told.headers["Upload-Defer-Length"], "Upload-Length" in told.headers) == ("1", False)
    await part(pair, address, 0, b"012")
    for wrong in ("2", "-1", "x", ""):
        told = await patch(pair, address, 3, b"", Upload_Length=wrong)
        refused(told, 400, "bad_request", "Upload-Length")
    refused(await patch(pair, address, 3, b"345", Upload_Length="5"), 413, "too_large", "Upload-Length")
    assert "Upload-Length" not in (await head(pair, address)).headers  # what was refused says nothing
    await part(pair, address, 3, b"34", Upload_Length="6")
    refused(await patch(pair, address, 5, b"5", Upload_Length="7"), 400, "bad_request", "Upload-Length")
    assert (await part(pair, address, 5, b"5", Upload_Length="6")).headers["ClawLink-Version"] == "1"
    assert await content(pair, "k") == b"012345"


async def test_the_length_may_come_when_all_has(pair: Running) -> None:
    address = await begun(pair, None)
    await part(pair, address, 0, b"012")
    assert (await part(pair, address, 3, b"", Upload_Length="3")).headers["ClawLink-Version"] == "1"
    assert await content(pair, "k") == b"012"


async def test_what_was_said_of_it_comes_back(pair: Running) -> None:
    said = metadata("k", filename="other", agent_id="a", note="☃") + ",empty"
    address = await begun(pair, said=said)
    assert (await head(pair, address)).headers["Upload-Metadata"] == said


async def test_what_browsers_call_it_does_as_well(pair: Running) -> None:
    said = f"filename {b64('photo.png')},filetype {b64('image/png')},agent_id {b64('b')}"
    told = await tus(pair, "POST", "/uploads", b"png", Upload_Length="3", Upload_Metadata=said, Content_Type=OFFSET)
    assert told.status == 201
    file = await ok(pair.get("/files/photo.png"))
    assert (file["content_type"], file["last_editor"]) == ("image/png", "b")


async def test_what_a_file_may_be_told_a_file_by_upload_may_too(pair: Running, clock: Clock) -> None:
    address = await begun(pair, 4, b"data", metadata(ttl="60", burn="1", if_version="0"))
    told = await blobs.get(pair, "k", ClawLink_Agent="b")
    assert (told.body, told.headers["ClawLink-Burn-After-Read"]) == (b"data", "1")
    assert told.headers["ClawLink-Expires-At"]
    clock.skip(61)
    assert (await blobs.get(pair, "k", ClawLink_Agent="b")).status == 404
    assert (await head(pair, address)).headers["ClawLink-Version"] == "1"


@each(
    ("headers", "status", "field"),
    [
        ({"Upload-Length": "-1"}, 400, "Upload-Length"),
        ({"Upload-Length": "x"}, 400, "Upload-Length"),
        ({"Upload-Length": "1.5"}, 400, "Upload-Length"),
        ({"Upload-Length": "9" * 30}, 413, "Upload-Length"),
        ({"Upload-Length": "9" * 19}, 413, "Upload-Length"),
        ({"Upload-Length": "9" * 5000}, 413, "Upload-Length"),
        ({"Upload-Length": "9" * 17}, 413, "Upload-Length"),
        ({"Upload-Length": ""}, 400, "Upload-Length"),
        ({"Upload-Length": "", "Upload-Defer-Length": "2"}, 400, "Upload-Defer-Length"),
        ({"Upload-Length": "10", "Upload-Defer-Length": "1"}, 400, "Upload-Defer-Length"),
        ({"Upload-Metadata": ""}, 400, "Upload-Metadata"),
        ({"Upload-Metadata": "key"}, 400, "Upload-Metadata"),
        ({"Upload-Metadata": "key !!!"}, 400, "Upload-Metadata"),
        ({"Upload-Metadata": "key ////"}, 400, "Upload-Metadata"),
        ({"Upload-Metadata": "key \u00e4"}, 400, "Upload-Metadata"),
        ({"Upload-Metadata": metadata("k", sha256="x")}, 400, "Upload-Metadata"),
        ({"Upload-Metadata": metadata("k", sha256="A" * 64)}, 400, "Upload-Metadata"),
        ({"Upload-Metadata": metadata("k", ttl="0")}, 400, "ttl"),
        ({"Upload-Metadata": metadata("k", ttl="soon")}, 400, "ttl"),
        ({"Upload-Metadata": metadata("k", burn="maybe")}, 400, "burn"),
        ({"Upload-Metadata": metadata("k", force="2")}, 400, "force"),
        ({"Upload-Metadata": metadata("k", if_version="-1")}, 400, "if_version"),
        ({"Upload-Metadata": metadata("k", if_version="1")}, 412, "if_version"),
        ({"Upload-Metadata": metadata("k", file_type="a\nb")}, 400, "file_type"),
        ({"Upload-Metadata": metadata("k", content_type="a\r\nX: y")}, 400, "content_type"),
        ({"Upload-Metadata": metadata("k", content_type="ä")}, 400, "content_type"),
        ({"Upload-Metadata": metadata("a/../b")}, 400, "file_key"),
        ({"Upload-Metadata": metadata("a\x00b")}, 400, "file_key"),
        ({"Upload-Metadata": metadata("x" * 1025)}, 400, "file_key"),
        ({"Upload-Metadata": metadata("k", agent_id="nobody"), "ClawLink-Agent": ""}, 404, "agent_id"),
        ({"ClawLink-Agent": ""}, 400, "agent_id"),
        ({"Idempotency-Key": "x" * 129}, 400, "Idempotency-Key"),
        ({"Upload-Checksum": "md5 AAAA"}, 400, "Upload-Checksum"),
        ({"Upload-Checksum": "sha1 !"}, 400, "Upload-Checksum"),
        ({"Content-Type": "text/plain"}, 415, "Content-Type"),
        ({"Content-Encoding": "gzip"}, 415, "Content-Encoding"),
    ],
)
async def test_a_bad_beginning_is_named_and_begins_nothing(
    pair: Running, headers: dict[str, Any], status: int, field: str
) -> None:
    said: dict[str, Any] = {
        "Tus-Resumable": "1.0.0",
        "ClawLink-Agent": "a",
        "Upload-Length": "4",
        "Upload-Metadata": metadata(),
        "Content-Type": OFFSET,
        **headers,
    }
    said = {name: value for name, value in said.items() if value or name != "Upload-Length"}
    answer = await exchange(pair.url, request("POST", "/uploads", b"some", **said))
    assert (answer.status, answer.json["field"]) == (status, field), answer
    assert len(answer.json["error"]) > 8
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert (used(pair), pair.app.relay.uploads.count) == (0, 0)


@pytest.mark.parametrize("data", [None, b"0123"], ids=["alone", "with a part"])
async def test_a_beginning_with_a_key_can_be_repeated(pair: Running, data: bytes | None) -> None:
    first = await create(pair, 10, data, Idempotency_Key="k1")
    again = await create(pair, 10, data, Idempotency_Key="k1")
    for name in ("Location", "Upload-Offset"):
        assert first.headers[name] == again.headers[name]
    assert again.status == 201
    at = 0 if data is None else 4
    await part(pair, first.headers["Location"], at, b"0123456789"[at:])
    last = await create(pair, 10, data, Idempotency_Key="k1")
    assert (last.status, last.headers["ClawLink-Version"]) == (201, "1")
    assert await versions(pair, "k") == [1]
    assert await begun(pair, 10, data, Idempotency_Key="k2") != first.headers["Location"]
    assert await begun(pair, 10, ClawLink_Agent="b", Idempotency_Key="k1") != first.headers["Location"]


async def test_a_key_belongs_to_one_beginning(pair: Running) -> None:
    await begun(pair, 10, Idempotency_Key="k1")
    for length, said in ((11, ""), (None, ""), (10, metadata("other"))):
        told = await create(pair, length, said=said, Idempotency_Key="k1")
        refused(told, 409, "key_reused", "idempotency_key")


async def test_beginnings_with_one_key_at_once_are_one(pair: Running) -> None:
    addresses = set(await asyncio.gather(*(begun(pair, 10, Idempotency_Key="k1") for _ in range(8))))
    assert len(addresses) == 1
    await part(pair, addresses.pop(), 0, b"0123456789")
    assert await content(pair, "k") == b"0123456789"


# -- checksums ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sha1", "sha256"])
async def test_a_part_is_what_its_checksum_says_or_is_not_kept(pair: Running, name: str) -> None:
    data = some(600_000)
    address = await begun(pair, len(data))

    def checksum(data: bytes) -> str:
        return f"{name} {b64(hashlib.new(name, data).digest())}"

    await part(pair, address, 0, data[:300], Upload_Checksum=checksum(data[:300]))
    for wrong in (checksum(b"other"), f"{name} {b64(b'short')}"):
        told = await patch(pair, address, 300, data[300:], Upload_Checksum=wrong)
        body = refused(told, 460, "checksum_mismatch", "Upload-Checksum")
        assert body["current"] == b64(hashlib.new(name, data[300:]).digest())
        assert (await offset(pair, address), used(pair)) == (300, 300)
    for bad in ("md5 AAAA", "sha256", f"{name} !!!", name.upper() + " AAAA"):
        told = await patch(pair, address, 300, data[300:], Upload_Checksum=bad)
        assert told.status in (400, 460)
    assert await offset(pair, address) == 300
    await part(pair, address, 300, data[300:], Upload_Checksum=checksum(data[300:]))
    assert await content(pair, "k") == data


async def test_a_mismatch_takes_the_deferred_length_back(pair: Running) -> None:
    address = await begun(pair, None)
    told = await patch(pair, address, 0, b"data", Upload_Length="4", Upload_Checksum="sha1 AAAA")
    refused(told, 460, "checksum_mismatch", "Upload-Checksum")
    assert (await head(pair, address)).headers["Upload-Defer-Length"] == "1"


async def test_the_whole_is_what_its_digest_says(pair: Running) -> None:
    address = await begun(pair, 4, said=metadata(sha256=hashlib.sha256(b"data").hexdigest()))
    body = refused(await patch(pair, address, 0, b"atad"), 400, "digest_mismatch", "sha256")
    assert body["current"] == hashlib.sha256(b"atad").hexdigest()
    assert (await blobs.get(pair, "k")).status == 404
    assert (await tus(pair, "DELETE", address)).status == 204
    assert used(pair) == 0
    await begun(pair, 4, b"data", metadata(sha256=hashlib.sha256(b"data").hexdigest()))
    assert await content(pair, "k") == b"data"


# -- breaking off ------------------------------------------------------------------------------------------------------


async def sending(relay: Running, dial: Dial, address: str, at: int, data: bytes, **headers: str) -> Connection:
    """Send a part of which the rest does not come, and wait until what was sent has come."""
    connection = await dial(relay.url)
    said: dict[str, Any] = {"Tus_Resumable": "1.0.0", "Upload_Offset": str(at), "Content_Type": OFFSET, **headers}
    before = used(relay)
    await connection.send(request("PATCH", address, Content_Length=str(len(data) + 100_000), **said) + data)
    await settles_at(relay, before + len(data))
    return connection


@each("how", ["close", "reset"])
async def test_what_came_of_a_part_that_breaks_off_is_kept(pair: Running, dial: Dial, how: str) -> None:
    data = some(1_000_000)
    address = await begun(pair, len(data))
    at = 0
    for size in (1, 100_000, 299_999):
        connection = await sending(pair, dial, address, at, data[at : at + size])
        getattr(connection, how)()
        at += size
        assert await offset(pair, address) == at
    await part(pair, address, at, data[at:])
    assert await content(pair, "k") == data


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_of_a_part_with_a_checksum_that_breaks_off_nothing_is_kept(pair: Running, dial: Dial, how: str) -> None:
    data = some(400_000)
    address = await begun(pair, len(data))
    await part(pair, address, 0, data[:1000])
    connection = await sending(pair, dial, address, 1000, data[1000:200_000], Upload_Checksum="sha1 AAAA")
    getattr(connection, how)()
    await settles_at(pair, 1000)
    assert await offset(pair, address) == 1000
    await part(pair, address, 1000, data[1000:])
    assert await content(pair, "k") == data


@pytest.mark.parametrize("by", ["HEAD", "PATCH", "DELETE"])
async def test_one_that_hangs_is_ended_by_the_next(pair: Running, dial: Dial, by: str) -> None:
    data = some(250_000)
    address = await begun(pair, len(data))
    hanging = await sending(pair, dial, address, 0, data[:100_000])
    if by == "HEAD":
        assert await offset(pair, address) == 100_000
    elif by == "PATCH":
        await part(pair, address, 100_000, data[100_000:])
    else:
        assert (await tus(pair, "DELETE", address)).status == 204
        assert (await tus(pair, "HEAD", address)).status == 404
    assert await asyncio.wait_for(hanging.reader.read(), 15) == b""  # its connection is over
    if by == "HEAD":
        await part(pair, address, 100_000, data[100_000:])
    if by == "DELETE":
        await settles_at(pair, 0)
    else:
        assert await content(pair, "k") == data


async def test_of_many_parts_at_once_those_that_follow_are_taken(pair: Running) -> None:
    data = some(400_000)
    address = await begun(pair, len(data))

    async def all_of_it() -> None:
        for _ in range(200):
            try:
                at = await offset(pair, address)
                if at == len(data):
                    return
                told = await patch(pair, address, at, data[at : at + 40_000])
                assert told.status in (204, 409)
            except (OSError, aiohttp.ClientConnectionError):  # another one came and ended it
                pass
        raise AssertionError("it does not get on")

    await asyncio.wait_for(asyncio.gather(*(all_of_it() for _ in range(5))), 30)
    assert await content(pair, "k") == data
    assert await versions(pair, "k") == [1]


async def test_an_upload_that_is_ended_while_parts_wait_keeps_no_room(pair: Running, dial: Dial) -> None:
    address = await begun(pair, 1_000_000)
    await sending(pair, dial, address, 0, some(100_000))
    told = await asyncio.gather(
        tus(pair, "DELETE", address),
        *(patch(pair, address, 100_000, some(50_000)) for _ in range(5)),
        return_exceptions=True,
    )
    assert any(isinstance(t, Told) and t.status == 204 for t in told)
    await tus(pair, "DELETE", address)
    await settles_at(pair, 0)


async def test_a_beginning_that_breaks_off_leaves_nothing_that_nobody_knows_of(pair: Running, dial: Dial) -> None:
    said: dict[str, Any] = {
        "Tus_Resumable": "1.0.0",
        "ClawLink_Agent": "a",
        "Upload_Length": "1000000",
        "Upload_Metadata": metadata(),
        "Content_Type": OFFSET,
    }
    for more in NO_KEY_AND_ONE:
        connection = await dial(pair.url)
        await connection.send(request("POST", "/uploads", Content_Length="1000000", **said, **more) + some(300_000))
        await settles_at(pair, 300_000)
        connection.reset()
        if not more:
            await settles_at(pair, 0)
    told = await create(pair, 1_000_000, Idempotency_Key="k1")  # with a key it can be found again
    assert (told.status, told.headers["Upload-Offset"]) == (201, "300000")


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_one_that_does_not_go_on_is_forgotten(serve: Serve, clock: Clock) -> None:
    relay = await serve(clock=clock, limits={"upload_ttl": 100})
    await relay.register("a", agent_id="a")
    address = await begun(relay)
    clock.skip(99)
    await part(relay, address, 0, b"0123")
    clock.skip(99)
    assert await offset(relay, address) == 4
    clock.skip(1.1)
    refused(await patch(relay, address, 4, b"45"), 404, "unknown_upload", "upload_id")
    await settles_at(relay, 0)


async def test_a_finished_one_is_known_for_a_while(pair: Running, clock: Clock) -> None:
    address = await begun(pair, 4, b"data")
    clock.skip(pair.app.relay.limits.retention - 1)
    assert (await head(pair, address)).headers["ClawLink-Version"] == "1"
    clock.skip(2)
    assert (await tus(pair, "HEAD", address)).status == 404
    assert await content(pair, "k") == b"data"


async def test_one_can_be_given_up_and_its_file_stays(pair: Running) -> None:
    address = await begun(pair, 10, b"0123")
    told = await tus(pair, "DELETE", address)
    assert (told.status, told.body) == (204, b"")
    assert used(pair) == 0
    refused(await tus(pair, "DELETE", address), 404, "unknown_upload", "upload_id")
    address = await begun(pair, 4, b"data")
    assert (await tus(pair, "DELETE", address)).status == 204
    assert await content(pair, "k") == b"data"


async def test_a_finish_that_is_refused_can_be_tried_again(pair: Running) -> None:
    address = await begun(pair, 4, said=metadata(if_version="0"))
    await saved(pair, "k", b"first")
    told = await patch(pair, address, 0, b"data")
    assert refused(told, 412, "version_conflict", "if_version")["current"] == 1
    assert used(pair) == 9
    assert (await tus(pair, "HEAD", address)).status == 412
    refused(await patch(pair, address, 4, b""), 412, "version_conflict", "if_version")
    await blobs.ask(pair, "DELETE", "/blobs/k", ClawLink_Agent="a")
    assert (await part(pair, address, 4, b"")).headers["ClawLink-Version"] == "3"
    assert await content(pair, "k") == b"data"
    await settles_at(pair, 4)


async def test_a_lock_holds_off_the_end_of_an_upload_too(pair: Running) -> None:
    address = await begun(pair, 4)
    await ok(pair.post("/locks", {"agent_id": "b", "file_key": "k", "seconds": 60}))
    refused(await create(pair, 4), 423, "file_locked", "force")
    refused(await patch(pair, address, 0, b"data"), 423, "file_locked", "force")
    forced = await begun(pair, 4, b"mine", metadata(force="1"))
    assert (await head(pair, forced)).headers["ClawLink-Version"] == "1"
    await ok(pair.ask("DELETE", "/locks/k?agent_id=b"))
    assert (await part(pair, address, 4, b"")).headers["ClawLink-Version"] == "2"
    assert (await tus(pair, "DELETE", address)).status == 204
    assert await content(pair, "k") == b"data"
    assert await content(pair, "k", "version=1") == b"mine"


async def test_one_given_up_after_a_refused_finish_keeps_no_room(pair: Running) -> None:
    address = await begun(pair, 4, said=metadata(if_version="0"))
    await saved(pair, "k", b"data")  # the same content: it must outlive the upload
    refused(await patch(pair, address, 0, b"data"), 412, "version_conflict", "if_version")
    assert (await tus(pair, "DELETE", address)).status == 204
    assert (await content(pair, "k"), used(pair)) == (b"data", 4)
    await saved(pair, "k", b"other")
    await blobs.ask(pair, "DELETE", "/blobs/k", ClawLink_Agent="a")
    assert used(pair) == 0


@memory
@pytest.mark.parametrize("fault", ["failures", "lost"])
async def test_a_finish_that_the_store_did_not_answer_is_made_once(serve: Serve, fault: str) -> None:
    store = FaultyStore(MemoryStore(), random.Random(3))
    relay = await serve(store=store)
    await relay.register("a", agent_id="a")
    address = await begun(relay, 4)
    setattr(store, fault, 1.0)
    refused(await patch(relay, address, 0, b"data"), 503, "store_unavailable")
    setattr(store, fault, 0.0)
    assert (await part(relay, address, 4, b"")).headers["ClawLink-Version"] == "1"
    assert (await tus(relay, "DELETE", address)).status == 204
    assert (await content(relay, "k"), await versions(relay, "k")) == (b"data", [1])
    await saved(relay, "k", b"other")
    await blobs.ask(relay, "DELETE", "/blobs/k", ClawLink_Agent="a")


@memory
@each("fault", ["lost", "failures"])
async def test_an_upload_goes_on_after_a_note_of_which_nobody_heard(
    store_kind: str, tmp_path: Path, fault: str
) -> None:
    """Its sender went away while the disk took the note, and each later part failed until a restart."""
    data = DataFolder(tmp_path / "data", sync="normal")
    store = FaultyStore(data.store, random.Random(3))
    app = App(ServerConfig(port=0), store=store, data=data)
    url = f"http://127.0.0.1:{await app.start(close_seconds=0.1)}"
    try:
        async with aiohttp.ClientSession() as session:
            relay = Running(url, app, session)
            await relay.register("a", agent_id="a")
            address = await begun(relay, 16)
            await part(relay, address, 0, b"0123")
            setattr(store, fault, 1.0)
            refused(await patch(relay, address, 4, b"4567"), 503, "store_unavailable")
            setattr(store, fault, 0.0)
            assert await offset(relay, address) == 8
            await part(relay, address, 8, b"89ab")
            await part(relay, address, 12, b"cdef")
            assert await content(relay, "k") == b"0123456789abcdef"
    finally:
        await app.stop()
        data.close()


# -- whose it is -------------------------------------------------------------------------------------------------------


async def test_nobody_but_who_began_it_may_go_on_with_it(pair: Running) -> None:
    address = await begun(pair)
    for method in ("HEAD", "PATCH", "DELETE"):
        told = await tus(pair, method, address, Upload_Offset="0", Content_Type=OFFSET, ClawLink_Agent="b")
        assert told.status == 403
        assert method == "HEAD" or told.json["code"] == "not_allowed"
    await part(pair, address, 0, b"0123456789", ClawLink_Agent="a")
    assert (await ok(pair.get("/files/k")))["last_editor"] == "a"


async def test_a_claimed_agents_upload_needs_its_key(pair: Running) -> None:
    reply = await ok(pair.post("/register", {"agent_id": "claimed", "name": "Claimed", "claim": True}))
    key = {"ClawLink_Agent_Key": reply["agent_key"]}
    assert (await create(pair, ClawLink_Agent="claimed")).status == 403
    address = await begun(pair, ClawLink_Agent="claimed", **key)
    for headers in ({}, {"ClawLink_Agent": "claimed"}, {"ClawLink_Agent": "a"}, {"ClawLink_Agent_Key": "x" * 43}):
        for method in ("HEAD", "PATCH", "DELETE"):
            told = await tus(pair, method, address, Upload_Offset="0", Content_Type=OFFSET, **headers)
            assert told.status == 403
    assert await offset_of(pair, address, **key) == 0
    await part(pair, address, 0, b"0123456789", **key)


async def offset_of(relay: Running, address: str, **headers: str) -> int:
    return int((await tus(relay, "HEAD", address, **headers)).headers["Upload-Offset"])


# -- ceilings ----------------------------------------------------------------------------------------------------------


async def test_ceilings_hold_for_uploads_as_well(serve: Serve) -> None:
    relay = await small(serve, max_file_bytes=100, max_files_bytes=150)
    body = refused(await create(relay, 101), 413, "too_large", "Upload-Length")
    assert (body["limit"], body["actual"]) == (100, 101)
    first, second = await begun(relay, 100), await begun(relay, 100, said=metadata("other"))
    await part(relay, first, 0, b"x" * 80)
    assert refused(await create(relay, 80), 507, "storage_full")["current"] == {"free": 70}
    refused(await patch(relay, second, 0, b"y" * 71), 507, "storage_full")
    await part(relay, second, 0, b"y" * 50)
    refused(await patch(relay, first, 80, blobs.chunks(b"z" * 50, 50)), 413, "too_large", "Upload-Length")
    await part(relay, first, 80, b"x" * 20)
    refused(await patch(relay, second, 50, b"y" * 50), 507, "storage_full")
    assert await offset(relay, second) == 50
    await blobs.ask(relay, "DELETE", "/blobs/k", ClawLink_Agent="a")
    await part(relay, second, 50, b"y" * 50)
    assert (await content(relay, "other"), used(relay)) == (b"y" * 100, 100)


async def test_one_of_unknown_length_ends_at_the_ceiling(serve: Serve) -> None:
    relay = await small(serve, max_file_bytes=100)
    address = await begun(relay, None)
    await part(relay, address, 0, b"x" * 100)
    refused(await patch(relay, address, 100, b"x"), 413, "too_large", "Upload-Length")
    refused(await patch(relay, address, 100, b"", Upload_Length="101"), 413, "too_large", "Upload-Length")
    assert (await part(relay, address, 100, b"", Upload_Length="100")).headers["ClawLink-Version"] == "1"


async def test_there_may_be_so_many_and_finished_ones_make_room(serve: Serve) -> None:
    relay = await small(serve, max_uploads=3)
    finished = await begun(relay, 1, b"x")
    open_ones = [await begun(relay) for _ in range(3)]
    assert (await tus(relay, "HEAD", finished)).status == 404
    body = refused(await create(relay), 507, "storage_full")
    assert (body["limit"], body["actual"]) == (3, 4)
    await tus(relay, "DELETE", open_ones[0])
    await begun(relay)


@memory
async def test_replacing_by_upload_works_at_the_ceiling_and_a_refusal_does_not_spoil_it(serve: Serve) -> None:
    relay = await small(serve, max_files_bytes=100)
    await saved(relay, "k", b"1" * 60)
    await saved(relay, "other", b"2" * 40)
    for _ in range(3):
        refused(await create(relay, 61), 507, "storage_full")
        refused(await create(relay, 60, said=metadata(if_version="7")), 412, "version_conflict", "if_version")
    address = await begun(relay, 60)
    await part(relay, address, 0, b"3" * 30)
    assert (await part(relay, address, 30, b"3" * 30)).headers["ClawLink-Version"] == "2"
    assert used(relay) == 100
    await saved(relay, "k", b"4" * 60)
    assert used(relay) == 100


@memory
async def test_an_upload_that_rests_keeps_nobody_from_replacing_at_the_ceiling(serve: Serve) -> None:
    relay = await small(serve, max_files_bytes=100)
    await saved(relay, "k", b"1" * 60)
    await saved(relay, "other", b"2" * 40)
    address = await begun(relay, 60)
    await saved(relay, "k", b"3" * 60)
    await part(relay, address, 0, b"4" * 20)  # it has gone over the ceiling, and that one at a time may
    refused(await blobs.put(relay, "k", b"5" * 60), 507, "storage_full")
    assert (await tus(relay, "DELETE", address)).status == 204
    await saved(relay, "k", b"6" * 60)
    assert used(relay) == 100


async def test_the_relay_that_ends_takes_no_new_ones(pair: Running) -> None:
    pair.app.relay.core.draining = True
    told = await create(pair)
    assert (told.status, told.json["code"], told.headers["Retry-After"]) == (503, "draining", "5")
    pair.app.relay.core.draining = False


# -- a client of somebody else's ---------------------------------------------------------------------------------------


@memory
async def test_a_stock_client_uploads_and_resumes(pair: Running) -> None:
    def client(data: bytes, **options: Any) -> Uploader:
        of = TusClient(pair.url + "/uploads", headers={"ClawLink-Agent": "a"})
        return of.uploader(file_stream=io.BytesIO(data), metadata={"key": "k"}, **options)

    data = some(300_000)
    await asyncio.to_thread(client(data).upload)
    assert await content(pair, "k") == data
    await asyncio.to_thread(client(b"").upload)
    assert await content(pair, "k") == b""
    begun = client(data[::-1], chunk_size=70_000, upload_checksum=True)
    await asyncio.to_thread(begun.upload, 140_000)
    again = await asyncio.to_thread(lambda: client(data[::-1], chunk_size=70_000, url=begun.url))
    assert again.offset == 140_000
    await asyncio.to_thread(again.upload)
    assert await content(pair, "k") == data[::-1]
    assert await versions(pair, "k") == [3, 2, 1]


async def test_a_stock_client_is_cut_ten_times_and_uploads_200_megabytes(start_relay: Start, tmp_path: Path) -> None:
    size, cuts = 200_000_000, 10
    path, piece, expected = tmp_path / "large", some(1_000_000), hashlib.sha256()
    with path.open("wb") as file:
        for n in range(size // len(piece)):
            expected.update(part := n.to_bytes(4, "big") + piece[4:])
            file.write(part)
    relay = start_relay("--max-file-bytes", str(size), "--spool", str(tmp_path / "spool"))
    chance = random.Random(20261121)
    async with aiohttp.ClientSession() as session:
        await session.post(relay.url + "/register", json={"agent_id": "a", "name": "Ann"})
        async with proxy(relay.url, lambda: None) as between:
            between.budget = lambda: chance.randrange(10_000_000, 19_000_000) if between.cuts < cuts else None
            client = TusClient(between.url + "/uploads", headers={"ClawLink-Agent": "a"})
            with path.open("rb") as file:
                how: dict[str, Any] = {"chunk_size": 50_000_000, "retries": cuts, "retry_delay": 0}
                await asyncio.to_thread(client.uploader(file_stream=file, metadata={"key": "large"}, **how).upload)
            assert between.cuts == cuts
        came = hashlib.sha256()
        async with session.get(relay.url + "/blobs/large") as response:
            async for part in response.content.iter_any():
                came.update(part)
    assert came.hexdigest() == expected.hexdigest()


async def test_silent_uploads_make_room_for_others(serve: Serve) -> None:
    clock = Clock()
    relay = await serve(clock=clock, limits={"max_file_bytes": 100, "max_files_bytes": 150, "fair_share": 100})
    await relay.register("Ann", agent_id="a")
    oldest, other = await begun(relay, 100), await begun(relay, 100, said=metadata("other"))
    await part(relay, oldest, 0, b"x" * 80)
    clock.skipped += 60
    await part(relay, other, 0, b"y" * 60)
    info = await ok(relay.get("/"))
    assert (info["uploads_under_way"], info["upload_bytes"]) == (2, 140)
    clock.skipped += 50
    body = refused(await blobs.put(relay, "k", b"z" * 20), 507, "storage_full")
    assert "140 of them in 2 uploads under way" in body["error"]
    clock.skipped += 20  # the first has been silent for 130 s now, the other for 70 s
    await blobs.put(relay, "k", b"z" * 20)
    assert await content(relay, "k") == b"z" * 20
    refused(await patch(relay, oldest, 80, b"x" * 20), 404, "unknown_upload", "upload_id")
    await part(relay, other, 60, b"y" * 40)
    assert await content(relay, "other") == b"y" * 100


async def test_uploads_are_not_joined_and_the_refusal_says_so(pair: Running) -> None:
    for value in ("partial", "final;/uploads/a /uploads/b"):
        for more in ({}, {"Upload_Length": "10"}):
            headers: dict[str, Any] = {"Tus_Resumable": "1.0.0", "ClawLink_Agent": "a", "Upload_Concat": value, **more}
            answer = await exchange(pair.url, request("POST", "/uploads", **headers))
            assert (answer.status, answer.json["field"]) == (400, "Upload-Concat"), headers
            assert "concatenation" in answer.json["error"], headers
