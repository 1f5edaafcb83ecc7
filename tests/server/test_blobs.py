"""Shared files as they are: any bytes and any key both ways, versions, conditions, ranges, ceilings, and their end."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
from typing import Any

import pytest

from clawlink.domain.limits import LEAST_BODY_RATE
from clawlink.errors import StoreUnavailable
from clawlink.relay.files.notices import FileNotices
from clawlink.store.bodies import PIECE_BYTES
from tests.conftest import Running, Serve
from tests.server import blobs
from tests.server.asks import ack, claim_one, metrics, nothing_due, ok
from tests.server.blobs import content, digest, get, history, put, refused, saved, settles_at, some, used, versions
from tests.server.test_files import KEYS
from tests.system.conftest import Dial
from tests.system.raw import Clock, exchange, request
from tests.tables import each
from tests.virtual_time import pass_time
from tests.waiting import eventually

pytestmark = pytest.mark.both_stores

memory = pytest.mark.parametrize("store_kind", ["memory"])

SIZES = [0, 1, 255, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 7]


async def small(serve: Serve, **limits: Any) -> Running:
    """Return a relay with one agent, ``a``, and these limits, all of which it may use."""
    relay = await serve(limits={"fair_share": 100, **limits})
    await relay.register("Ann", agent_id="a")
    return relay


# -- bytes and keys ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", [None, 1_000, 300_000], ids=["at once", "in small chunks", "in large chunks"])
@pytest.mark.shared
async def test_any_bytes_come_back_as_they_went_in(pair: Running, size: int, step: int | None) -> None:
    data = some(size)
    told = await put(pair, "k", data if step is None else blobs.chunks(data, step))
    assert (told.status, told.json["size"], told.json["sha256"]) == (201, size, hashlib.sha256(data).hexdigest())
    assert await content(pair, "k") == data
    assert (await get(pair, "k")).headers["Content-Type"] == "application/octet-stream"
    await settles_at(pair, size)


@each("key", KEYS)
async def test_any_key_can_be_written_read_asked_about_and_deleted(pair: Running, key: str) -> None:
    assert await saved(pair, key, b"\x00\xff") == 1
    assert await content(pair, key) == b"\x00\xff"
    assert (await history(pair, key))["file_key"] == key
    head = await exchange(pair.url, request("HEAD", blobs.path(key)))
    assert (head.status, head.headers["content-length"]) == (200, "2")
    told = await blobs.ask(pair, "DELETE", blobs.path(key), ClawLink_Agent="b")
    assert (told.status, told.json) == (200, {"status": "deleted", "file_key": key, "version": 2})
    refused(await get(pair, key), 404, "unknown_file", "file_key")


async def test_slashes_of_a_key_need_no_encoding(pair: Running) -> None:
    told = await blobs.ask(pair, "PUT", "/blobs/site/logo.svg", b"<svg/>", ClawLink_Agent="a")
    assert told.json["file_key"] == "site/logo.svg"
    assert (await blobs.ask(pair, "GET", "/blobs/site/logo.svg")).body == b"<svg/>"
    assert await content(pair, "site/logo.svg") == b"<svg/>"


@each("given", ["text/html; charset=utf-8", "image/png", "nonsense", 'x/y; z="a, b"', "a" * 255, "multipart/mixed"])
async def test_a_content_type_comes_back_as_it_went_in(pair: Running, given: str) -> None:
    await saved(pair, "k", b"data", Content_Type=given)
    assert (await get(pair, "k")).headers["Content-Type"] == given
    assert (await history(pair, "k"))["versions"][0]["content_type"] == given


async def test_without_a_type_it_is_bytes_and_the_file_type_follows(pair: Running) -> None:
    for key, headers, expected in (
        ("none", {}, ("application/octet-stream", "binary")),
        ("text", {"Content_Type": "text/csv"}, ("text/csv", "text")),
        ("said", {"Content_Type": "text/csv", "ClawLink_File_Type": "%E5%90%8D%20x"}, ("text/csv", "名 x")),
    ):
        answer = await exchange(pair.url, request("PUT", blobs.path(key), b"x", ClawLink_Agent="a", **headers))
        assert answer.status == 201
        file = await ok(pair.get(f"/files/{key}"))
        assert (file["content_type"], file["file_type"]) == expected
    assert (await get(pair, "said")).headers["ClawLink-File-Type"] == "%E5%90%8D%20x"


async def test_the_routes_of_json_have_the_same_files(pair: Running) -> None:
    await saved(pair, "bytes", b"\xff\x00")
    await saved(pair, "text", "☃".encode(), Content_Type="text/plain")
    read = await ok(pair.get("/files/bytes"))
    assert (read["encoding"], base64.b64decode(read["content"])) == ("base64", b"\xff\x00")
    assert (await ok(pair.get("/files/text")))["content"] == "☃"
    reply = await ok(pair.post("/files", {"file_key": "text", "content": "two", "agent_id": "b", "if_version": 1}))
    assert (reply["version"], reply["size"], reply["sha256"]) == (2, 3, hashlib.sha256(b"two").hexdigest())
    assert (await content(pair, "text"), await content(pair, "text", "version=1")) == (b"two", "☃".encode())
    packed = base64.b64encode(b"\x80").decode()
    await ok(pair.post("/files", {"file_key": "p", "content": packed, "encoding": "base64", "agent_id": "a"}))
    assert (await content(pair, "p"), (await get(pair, "p")).headers["Content-Type"]) == (
        b"\x80",
        "application/octet-stream",
    )

    async def listed() -> bool:
        one, other = await ok(pair.get("/files")), await ok(pair.get("/blobs"))
        return bool(one == other and one["count"] == 3)

    await eventually(listed)


async def test_a_list_tells_what_each_file_is(pair: Running, clock: Clock) -> None:
    clock.stop()
    await saved(pair, "k", b"12345", Content_Type="text/x", ClawLink_TTL="60")

    async def listed() -> Any:
        return (await ok(pair.get("/blobs")))["files"]

    (file,) = await eventually(listed)
    told = await get(pair, "k")
    assert file == {
        "file_key": "k",
        "file_type": "text",
        "last_editor": "a",
        "version": 1,
        "updated_at": told.headers["ClawLink-Updated-At"],
        "size": 5,
        "sha256": hashlib.sha256(b"12345").hexdigest(),
        "content_type": "text/x",
        "expires_at": told.headers["ClawLink-Expires-At"],
        "burn_after_read": False,
        "lock": None,
        "owner": None,
        "readers": None,
        "tasks": 0,
    }


async def test_an_editor_of_any_script_is_named(pair: Running) -> None:
    await pair.register("Ü", agent_id="ü/é")
    assert await saved(pair, "k", b"x", "ü/é") == 1
    assert (await get(pair, "k")).headers["ClawLink-Editor"] == "%C3%BC%2F%C3%A9"


async def test_what_others_wrote_does_not_become_a_page_with_the_relays_name(pair: Running) -> None:
    page = b"<script>alert(1)</script>"
    await saved(pair, "k", page, Content_Type="text/html")
    for told in (await get(pair, "k"), await get(pair, "k", Range="bytes=0-7")):
        assert told.headers["Content-Disposition"] == "attachment"
        assert told.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in told.headers["Content-Security-Policy"]
        assert told.headers["Cache-Control"] == "no-cache"


# -- conditions --------------------------------------------------------------------------------------------------------


async def test_if_none_match_spares_the_content(pair: Running) -> None:
    await saved(pair, "k", b"x")
    for tag in ('"1"', 'W/"1"', '"7", "1"', "*"):
        for method in ("GET", "HEAD"):
            told = await blobs.ask(pair, method, "/blobs/k", If_None_Match=tag)
            assert (told.status, told.body, told.headers["ETag"]) == (304, b"", '"1"')
    assert (await get(pair, "k", If_None_Match='"2"')).body == b"x"
    await saved(pair, "k", b"y")
    assert (await get(pair, "k", If_None_Match='"1"')).body == b"y"
    assert (await get(pair, "k", "version=1", If_None_Match='"1"')).status == 304


async def test_if_match_refuses_another_version(pair: Running) -> None:
    await saved(pair, "k", b"x")
    for tag in ('"1"', "*", '"3", "1"'):
        assert (await get(pair, "k", If_Match=tag)).body == b"x"
    for tag in ('"2"', "1", "nonsense", '""'):
        assert refused(await get(pair, "k", If_Match=tag), 412, "version_conflict", "If-Match")["current"] == 1
    assert (await blobs.ask(pair, "HEAD", "/blobs/k", If_Match='"2"')).status == 412


async def test_a_write_can_expect_a_version_or_none(pair: Running) -> None:
    assert await saved(pair, "k", b"1", If_None_Match="*") == 1
    for headers in ({"If_None_Match": "*"}, {"If_Match": '"2"'}, {"If_Match": '"99999999999999999"'}):
        field = next(iter(headers)).replace("_", "-")
        body = refused(await put(pair, "k", b"no", **headers), 412, "version_conflict", field)
        assert body["current"] == 1
        assert body["error"].endswith('; read it, merge, and write with If-Match: "1"')
    assert await saved(pair, "k", b"2", If_Match='"1"') == 2
    told = await blobs.ask(pair, "DELETE", "/blobs/k", ClawLink_Agent="a", If_Match='"1"')
    assert refused(told, 412, "version_conflict", "If-Match")["current"] == 2
    told = await blobs.ask(pair, "DELETE", "/blobs/k", ClawLink_Agent="a", If_Match='"2"')
    assert told.json["version"] == 3
    body = refused(await put(pair, "k", b"no", If_Match='"2"'), 412, "version_conflict", "If-Match")
    assert body["current"] == 0
    assert body["error"].endswith("to make the file write with If-None-Match: *")
    assert await saved(pair, "k", b"4", If_None_Match="*") == 4
    assert used(pair) == 1


async def test_conditions_of_a_write_are_those_of_http(pair: Running) -> None:
    """RFC 9110, 13.1.1 and 13.1.2: lists, ``*``, and weak tags, which match only where nothing depends on each byte."""
    absent = [
        ({"If_Match": "*"}, False),
        ({"If_Match": '"1"'}, False),
        ({"If_Match": '"0"'}, False),
        ({"If_None_Match": '"1"'}, True),
        ({"If_None_Match": "*", "If_Match": '"1"'}, False),
        ({"If_None_Match": "*"}, True),
    ]
    at_2 = [
        ({"If_Match": "*"}, True),
        ({"If_Match": '"2"'}, True),
        ({"If_Match": ' "1" ,, "2"'}, True),
        ({"If_Match": '"1", "3"'}, False),
        ({"If_Match": 'W/"2"'}, False),
        ({"If_Match": 'W/"2", "2"'}, True),
        ({"If_Match": '"02"'}, False),
        ({"If_None_Match": "*"}, False),
        ({"If_None_Match": '"2"'}, False),
        ({"If_None_Match": 'W/"2"'}, False),
        ({"If_None_Match": '"1", W/"2"'}, False),
        ({"If_None_Match": '"1", "x"'}, True),
        ({"If_Match": "*", "If_None_Match": '"1"'}, True),
        ({"If_Match": '"2"', "If_None_Match": '"2"'}, False),
        ({"If_Match": "*", "If_None_Match": "*"}, False),
    ]
    for written, cases in ((0, absent), (2, at_2)):
        for n, (headers, happens) in enumerate(cases):
            key = f"k{written}-{n}"
            for _ in range(written):
                await saved(pair, key)
            told = await put(pair, key, **headers)
            assert told.status == (412 if not happens else 200 if written else 201), (written, headers)
            if written:
                current = written + happens
                renamed = {name: value.replace('"2"', f'"{current}"') for name, value in headers.items()}
                told = await blobs.ask(pair, "DELETE", blobs.path(key), ClawLink_Agent="a", **renamed)
                assert told.status == (200 if happens else 412), (written, headers)
    for given in ('"', '"1" x', "2", 'w/"1"', "", "*, *"):
        for name in ("If_Match", "If_None_Match"):
            refused(await put(pair, "bad", **{name: given}), 400, "bad_request", name.replace("_", "-"))


async def test_a_conflict_is_told_before_the_body_comes(pair: Running, dial: Dial) -> None:
    await saved(pair, "k", b"1")
    connection = await dial(pair.url)
    head = request("PUT", "/blobs/k", Content_Length="1000", ClawLink_Agent="a", If_Match='"7"')
    answer = await connection.ask(head, within=20)
    assert (answer.status, answer.json["current"]) == (412, 1)


async def test_of_many_who_write_over_one_version_at_once_one_wins(pair: Running) -> None:
    await saved(pair, "k", b"0")
    told = await asyncio.gather(*(put(pair, "k", b"%d" % n, "ab"[n % 2], If_Match='"1"') for n in range(12)))
    assert sorted(t.status for t in told) == [200] + [412] * 11
    won = next(n for n, t in enumerate(told) if t.status == 200)
    assert await content(pair, "k") == b"%d" % won
    await settles_at(pair, sum(map(len, {b"0", b"%d" % won})))


# -- ranges ------------------------------------------------------------------------------------------------------------

DATA = some(PIECE_BYTES + 5_000)
LAST = len(DATA) - 1


@each(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-9", 0, 10),
        ("bytes=100-199", 100, 200),
        (f"bytes={PIECE_BYTES - 5}-{PIECE_BYTES + 4}", PIECE_BYTES - 5, PIECE_BYTES + 5),
        ("bytes=-10", len(DATA) - 10, len(DATA)),
        (f"bytes=-{len(DATA) + 5}", 0, len(DATA)),
        ("bytes=261000-", 261_000, len(DATA)),
        (f"bytes={LAST}-", LAST, len(DATA)),
        (f"bytes=5-{len(DATA) + 100}", 5, len(DATA)),
        ("bytes=0-", 0, len(DATA)),
        ("BYTES=3-4", 3, 5),
        ("bytes=7-999999999999999999", 7, len(DATA)),
        ("bytes=20-9223372036854775807", 20, len(DATA)),
        ("bytes=20-" + "9" * 5000, 20, len(DATA)),
        ("bytes=" + "0" * 5000 + "20-25", 20, 26),
        ("bytes=-" + "9" * 5000, 0, len(DATA)),
    ],
)
async def test_a_range_is_answered_with_just_that(relay: Running, asked: str, start: int, end: int) -> None:
    await relay.register("Ann", agent_id="a")
    await saved(relay, "k", DATA)
    told = await get(relay, "k", Range=asked)
    assert (told.status, told.headers["Content-Range"]) == (206, f"bytes {start}-{end - 1}/{len(DATA)}")
    assert told.body == DATA[start:end]
    assert told.headers["Repr-Digest"] == digest(DATA)
    assert told.headers["Content-Type"] == "application/octet-stream"


@each("asked", [f"bytes={len(DATA)}-", "bytes=999999999-9999999999", "bytes=-0", f"bytes={'9' * 40}-"])
async def test_a_range_beyond_the_end_is_416_with_the_size(pair: Running, asked: str) -> None:
    await saved(pair, "k", DATA)
    told = await get(pair, "k", Range=asked)
    assert refused(told, 416, "range_not_satisfiable", "Range")["current"] == len(DATA)
    assert told.headers["Content-Range"] == f"bytes */{len(DATA)}"


@each(
    "asked",
    ["", "bytes=", "bytes=-", "bytes=a-b", "bytes=5-2", "bytes 0-1", "lines=0-1", "bytes=0-1,5-6", "bytes=--1", "0-1",
     "bytes=0x1-2", "bytes=٠-١", "bytes=0-1;"],
)  # fmt: skip
async def test_a_range_that_is_none_or_several_is_answered_with_the_whole(pair: Running, asked: str) -> None:
    await saved(pair, "k", b"0123456789")
    told = await get(pair, "k", Range=asked)
    assert (told.status, told.body) == (200, b"0123456789")


async def test_of_nothing_there_is_no_range(pair: Running) -> None:
    await saved(pair, "k", b"")
    assert refused(await get(pair, "k", Range="bytes=0-0"), 416, "range_not_satisfiable", "Range")["current"] == 0
    assert (await get(pair, "k")).body == b""


async def test_if_range_gives_the_whole_of_another_version(pair: Running) -> None:
    await saved(pair, "k", b"old content")
    told = await get(pair, "k", Range="bytes=0-2", If_Range='"1"')
    assert (told.status, told.body) == (206, b"old")
    modified = told.headers["Last-Modified"]
    assert (await get(pair, "k", Range="bytes=0-2", If_Range=modified)).status == 206
    for other in ('"2"', 'W/"1"', "Mon, 01 Jan 2001 00:00:00 GMT", "nonsense"):
        told = await get(pair, "k", Range="bytes=0-2", If_Range=other)
        assert (told.status, told.body) == (200, b"old content")


async def test_a_download_goes_on_in_ranges_and_is_the_same(pair: Running) -> None:
    data = some(700_000)
    await saved(pair, "k", data)
    found = b""
    while len(found) < len(data):
        told = await get(pair, "k", Range=f"bytes={len(found)}-{len(found) + 99_999}", If_Range='"1"')
        assert told.status == 206
        found += told.body
    assert found == data


# -- HEAD --------------------------------------------------------------------------------------------------------------


async def test_head_tells_the_same_without_the_content(pair: Running) -> None:
    await saved(pair, "k", DATA, Content_Type="image/png", ClawLink_TTL="50")
    whole = await get(pair, "k")
    told = await blobs.ask(pair, "HEAD", "/blobs/k")
    assert (told.status, told.body) == (200, b"")
    for name in set(whole.headers) - {"Date", "Server"}:
        assert told.headers[name] == whole.headers[name], name
    missing = await blobs.ask(pair, "HEAD", "/blobs/none")
    assert (missing.status, missing.body) == (404, b"")
    assert (await blobs.ask(pair, "HEAD", "/blobs/k?version=2")).status == 404
    assert (await blobs.ask(pair, "HEAD", "/blobs/k?versions&since=1")).headers["ETag"] == '"1"'


# -- versions ----------------------------------------------------------------------------------------------------------


async def test_older_versions_are_kept_up_to_the_limit(serve: Serve) -> None:
    relay = await small(serve, file_versions=3)
    for n in range(1, 6):
        await saved(relay, "k", b"%d" % n * n)
    assert await versions(relay, "k") == [5, 4, 3]
    for n in (3, 4, 5):
        told = await get(relay, "k", f"version={n}")
        assert (told.body, told.headers["ETag"], told.headers["ClawLink-Version"]) == (b"%d" % n * n, f'"{n}"', str(n))
    body = refused(await get(relay, "k", "version=2"), 404, "unknown_file", "version")
    assert "3, 4, 5" in body["error"]
    assert used(relay) == 5 + 4 + 3


async def test_with_one_version_kept_there_is_the_newest_only(serve: Serve) -> None:
    relay = await small(serve, file_versions=1)
    await saved(relay, "k", b"one")
    await saved(relay, "k", b"two!")
    assert (await versions(relay, "k"), used(relay)) == ([2], 4)


async def test_the_history_tells_of_each_version(pair: Running, clock: Clock) -> None:
    await saved(pair, "k", b"one", Content_Type="text/a")
    clock.skip(5)
    await saved(pair, "k", b"two!", "b", Content_Type="image/b")
    told = await history(pair, "k")
    assert (told["version"], told["deleted"], told["burn_after_read"], told["lock"]) == (2, False, False, None)
    two, one = told["versions"]
    assert (one["version"], one["size"], one["editor"], one["content_type"]) == (1, 3, "a", "text/a")
    assert (two["version"], two["size"], two["editor"], two["file_type"]) == (2, 4, "b", "binary")
    assert two["sha256"] == hashlib.sha256(b"two!").hexdigest()
    assert one["updated_at"] < two["updated_at"]
    refused(await get(pair, "none", "versions"), 404, "unknown_file", "file_key")


@each(
    "query",
    ["version=0", "version=x", "version=-1", "version=", "version=1.5", "since=-1&versions", "versions&wait=61",
     "versions&wait=nan"],
)  # fmt: skip
async def test_a_question_out_of_range_is_400(pair: Running, query: str) -> None:
    await saved(pair, "k")
    told = await get(pair, "k", query)
    assert (told.status, told.json["code"]) == (400, "bad_request")
    assert told.json["field"] in query


async def test_history_waits_for_the_next_version(pair: Running) -> None:
    await saved(pair, "k", b"1")
    for version, query in ((1, "wait=20"), (2, "wait=20&since=2")):
        waiting = asyncio.create_task(history(pair, "k", query))
        await nothing_due(pair, "a")
        assert not waiting.done()
        await saved(pair, "k", b"2")
        assert (await asyncio.wait_for(waiting, 15))["version"] == version + 1
    assert (await history(pair, "k", "wait=20&since=1"))["version"] == 3  # it is at another one already


async def test_history_waits_for_a_file_to_come_and_to_go(pair: Running) -> None:
    coming = asyncio.create_task(history(pair, "k", "wait=20&since=0"))
    await nothing_due(pair, "a")
    await saved(pair, "k", b"1")
    assert (await asyncio.wait_for(coming, 15))["version"] == 1
    going = asyncio.create_task(history(pair, "k", "wait=20"))
    await nothing_due(pair, "a")
    await blobs.ask(pair, "DELETE", "/blobs/k", ClawLink_Agent="a")
    told = await asyncio.wait_for(going, 15)
    assert (told["version"], told["deleted"], told["versions"]) == (0, True, [])


async def test_history_waits_no_longer_than_was_said(pair: Running) -> None:
    await saved(pair, "k", b"1")
    assert (await history(pair, "k", "wait=0.05"))["version"] == 1
    assert (await history(pair, "none", "wait=0.05"))["version"] == 0


async def test_history_wakes_when_the_time_to_live_is_over(pair: Running) -> None:
    await saved(pair, "k", b"1", ClawLink_TTL="1")
    assert (await asyncio.wait_for(history(pair, "k", "wait=20"), 15))["deleted"] is True


# -- digests -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Content-Digest", "Repr-Digest", "Digest"])
async def test_a_digest_is_checked(pair: Running, name: str) -> None:
    old = name == "Digest"
    assert await saved(pair, "k", b"data", **{name: digest(b"data", old=old)}) == 1
    assert await saved(pair, "k", b"data", **{name: "sha-512=:AAAA:, " + digest(b"data", old=old).upper()[:8].lower()
                                              + digest(b"data", old=old)[8:]}) == 2  # fmt: skip
    body = refused(await put(pair, "k", b"other", **{name: digest(b"data", old=old)}), 400, "digest_mismatch", name)
    assert body["current"] == hashlib.sha256(b"other").hexdigest()
    assert await versions(pair, "k") == [2, 1]
    assert used(pair) == 4


@each(
    ("name", "given"),
    [
        ("Content-Digest", "sha-256=:!!!!:"),
        ("Content-Digest", "sha-256=:AAAA:"),
        ("Content-Digest", "sha-256="),
        ("Content-Digest", "sha-256"),
        ("Content-Digest", "sha-256=AAAA"),
        ("Content-Digest", "sha-512=:AAAA:, sha-256=x"),
        ("Repr-Digest", "SHA-256=:" + "A" * 44 + ":"),
        ("Digest", "sha-256=ä"),
        ("Digest", "SHA-256=" + "A" * 40),
    ],
)
async def test_a_digest_that_is_none_is_400_and_nothing_is_stored(pair: Running, name: str, given: str) -> None:
    told = await put(pair, "k", b"data", **{name: given})
    refused_here = told.json
    assert (told.status, refused_here["code"], refused_here["field"]) == (400, "bad_request", name)
    assert (await get(pair, "k")).status == 404
    assert used(pair) == 0


async def test_a_digest_of_another_kind_is_not_looked_at(pair: Running) -> None:
    assert await saved(pair, "k", b"data", Content_Digest="sha-512=:AAAA:", Digest="md5=AAAA") == 1


# -- time to live ------------------------------------------------------------------------------------------------------


async def test_a_file_ends_when_its_time_is_over_and_everyone_is_told(pair: Running, clock: Clock) -> None:
    assert await saved(pair, "k", b"1234", ClawLink_TTL="60") == 1
    got = await claim_one(pair, "b")
    await ack(pair, "b", got.receipt)
    clock.skip(59)
    assert (await get(pair, "k")).headers["ClawLink-Expires-At"]
    clock.skip(1.1)
    refused(await get(pair, "k"), 404, "unknown_file", "file_key")
    for agent in ("a", "b"):
        told = (await claim_one(pair, agent)).message
        assert (told["type"], told["file_key"], told["version"], told["deleted"]) == ("file_updated", "k", 2, True)
    await settles_at(pair, 0)
    assert await saved(pair, "k", b"new", If_None_Match="*") == 3
    assert "ClawLink-Expires-At" not in (await get(pair, "k")).headers


async def test_a_write_without_a_time_to_live_takes_it_away(pair: Running, clock: Clock) -> None:
    await saved(pair, "k", b"1", ClawLink_TTL="60")
    await saved(pair, "k", b"2")
    clock.skip(61)
    assert await content(pair, "k") == b"2"


# -- ceilings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [None, 3], ids=["said", "not said"])
async def test_a_file_too_large_is_413(serve: Serve, step: int | None) -> None:
    relay = await small(serve, max_file_bytes=10)
    await saved(relay, "k", b"x" * 10)
    told = await put(relay, "k", b"x" * 11 if step is None else blobs.chunks(b"x" * 50, step))
    body = refused(told, 413, "too_large", "body")
    assert body["limit"] == 10
    assert 10 < body["actual"] <= 50
    assert (await versions(relay, "k"), used(relay)) == ([1], 10)


@pytest.mark.parametrize("step", [None, 7], ids=["said", "not said"])
async def test_what_does_not_fit_is_507(serve: Serve, step: int | None) -> None:
    relay = await small(serve, max_files_bytes=100)
    await saved(relay, "one", b"x" * 60)
    told = await put(relay, "two", b"y" * 41 if step is None else blobs.chunks(b"y" * 41, step))
    body = refused(told, 507, "storage_full")
    assert (body["limit"], body["actual"] > 100) == (100, True)
    assert 0 <= body["current"]["free"] <= 40
    if step is None:
        assert (body["actual"], body["current"]) == (101, {"free": 40})
    await settles_at(relay, 60)
    await saved(relay, "two", b"y" * 40)
    await saved(relay, "nothing", b"")


async def test_a_refusal_comes_before_the_body_does(serve: Serve, dial: Dial) -> None:
    relay = await small(serve, max_file_bytes=1000, max_files_bytes=1500)
    await saved(relay, "one", b"x" * 900)
    for size, status in ((1001, 413), (700, 507)):
        connection = await dial(relay.url)
        head = request("PUT", "/blobs/k", Content_Length=str(size), ClawLink_Agent="a", Expect="100-continue")
        answer = await connection.ask(head, within=20)
        assert (answer.status, answer.json["actual"]) == (status, size if status == 413 else 1600)


async def test_what_is_taken_is_asked_for(pair: Running, dial: Dial) -> None:
    connection = await dial(pair.url)
    await connection.send(request("PUT", "/blobs/k", Content_Length="4", ClawLink_Agent="a", Expect="100-continue"))
    assert (await connection.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    assert (await connection.ask(b"data")).status == 201
    assert await content(pair, "k") == b"data"


@memory
async def test_older_versions_make_room_the_oldest_first(serve: Serve) -> None:
    relay = await small(serve, max_files_bytes=100)
    for n in range(4):
        await saved(relay, "k", b"%d" % n * 20)
    await saved(relay, "other", b"x" * 15)
    assert await versions(relay, "k") == [4, 3, 2, 1]
    await saved(relay, "k", b"y" * 20)
    assert await versions(relay, "k") == [5, 4, 3, 2]
    await saved(relay, "k", blobs.chunks(b"z" * 50, 9))
    assert await versions(relay, "k") == [6, 5]
    refused(await put(relay, "other", b"x" * 40), 507, "storage_full")  # those of another file stay
    assert await versions(relay, "k") == [6, 5]
    assert used(relay) == 85


@memory
async def test_a_body_that_never_comes_takes_no_older_version_with_it(serve: Serve, dial: Dial) -> None:
    relay = await small(serve, max_files_bytes=100)
    await saved(relay, "k", b"1" * 50)
    await saved(relay, "k", b"2" * 50)
    connection = await dial(relay.url)
    await connection.send(request("PUT", "/blobs/k", Content_Length="40", ClawLink_Agent="a") + b"3" * 20)
    await settles_at(relay, 120)
    connection.reset()
    await settles_at(relay, 100)
    assert await versions(relay, "k") == [2, 1]


@memory
async def test_a_part_of_a_file_is_not_put_in_the_place_of_the_whole(serve: Serve) -> None:
    relay = await small(serve)
    await saved(relay, "k", b"0123456789")
    told = await put(relay, "k", b"56789", Content_Range="bytes 5-9/10")
    assert (told.status, told.json["field"]) == (400, "Content-Range")
    assert await content(relay, "k") == b"0123456789"


@memory
async def test_a_reply_that_fails_on_its_way_ends_the_connection(
    serve: Serve, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else may follow its headers: it would be taken for the content."""
    relay = await small(serve)
    await saved(relay, "k", some(1_000_000))

    async def broken(*_: Any) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("clawlink.relay.files.read.Opened.read", broken)
    connection = await dial(relay.url)
    await connection.send(request("GET", "/blobs/k"))
    got = b""
    with contextlib.suppress(ConnectionError):
        got = await connection.reader.read()
    head, _, rest = got.partition(b"\r\n\r\n")
    assert head.startswith((b"", b"HTTP/1.1 200"))
    assert rest == b""


@memory
async def test_the_longest_key_can_be_read_and_deleted_whatever_it_is_made_of(serve: Serve) -> None:
    relay = await small(serve)
    for sign in ("k", "\u6f22", "\U0001f980"):
        key = sign * 1024
        await saved(relay, key, b"x")
        assert await content(relay, key) == b"x"
        assert (await blobs.ask(relay, "DELETE", blobs.path(key), ClawLink_Agent="a")).status == 200


@memory
async def test_a_write_in_vain_takes_no_older_version_with_it(serve: Serve) -> None:
    relay = await small(serve, max_files_bytes=100)
    await saved(relay, "k", b"1" * 30)
    await saved(relay, "k", b"2" * 30)
    await saved(relay, "other", b"3" * 40)
    refused(await put(relay, "k", b"4" * 70), 507, "storage_full")
    assert await versions(relay, "k") == [2, 1]


@memory
async def test_replacing_works_at_the_ceiling(serve: Serve) -> None:
    relay = await small(serve, max_files_bytes=100)
    await saved(relay, "k", b"1" * 60)
    await saved(relay, "other", b"2" * 40)
    for n in range(3, 6):
        await saved(relay, "k", b"%d" % n * 60)
        assert (await versions(relay, "k"), used(relay)) == ([n - 1], 100)
    refused(await put(relay, "k", b"9" * 61), 507, "storage_full")
    assert used(relay) == 100


@memory
async def test_replacing_works_where_older_versions_must_go_as_well(serve: Serve) -> None:
    relay = await small(serve, max_files_bytes=100)
    await saved(relay, "k", b"1" * 30)
    await saved(relay, "k", b"2" * 60)
    await saved(relay, "other", b"3" * 10)
    await saved(relay, "k", b"4" * 90)
    assert (await versions(relay, "k"), used(relay)) == ([3], 100)


@memory
async def test_replacing_what_others_have_too_frees_nothing(serve: Serve) -> None:
    """Or who writes one content under many keys, and then another under each, would get any amount of room."""
    relay = await small(serve, max_files_bytes=100)
    for n in range(5):
        await saved(relay, f"k{n}", b"x" * 50)
    await saved(relay, "k0", b"0" * 50)
    assert used(relay) == 100
    for n in range(1, 5):
        refused(await put(relay, f"k{n}", b"%d" % n * 50), 507, "storage_full")
    assert used(relay) == 100
    await saved(relay, "k0", b"5" * 50)  # that one is nobody else's
    assert used(relay) == 100


@memory
async def test_of_many_who_replace_at_the_ceiling_one_at_a_time_goes_over_it(serve: Serve) -> None:
    relay = await small(serve, max_files_bytes=1_000_000)
    await saved(relay, "k", some(600_000))
    await saved(relay, "other", some(400_000, 2))
    most = used(relay)

    async def slowly(seed: int) -> int:
        nonlocal most
        data = some(600_000, seed)

        async def parts() -> Any:
            nonlocal most
            for at in range(0, len(data), 50_000):
                yield data[at : at + 50_000]
                most = max(most, used(relay))

        return (await put(relay, "k", parts())).status

    told = await asyncio.gather(*(slowly(n) for n in range(3, 9)))
    assert set(told) <= {200, 507}
    assert 200 in told
    assert most <= 1_600_000
    await settles_at(relay, 1_000_000)


async def test_equal_contents_are_counted_once(pair: Running) -> None:
    for key in ("one", "two", "one"):
        await saved(pair, key, b"x" * 1000)
    assert used(pair) == 1000
    await blobs.ask(pair, "DELETE", "/blobs/one", ClawLink_Agent="a")
    assert (used(pair), await content(pair, "two")) == (1000, b"x" * 1000)
    await blobs.ask(pair, "DELETE", "/blobs/two", ClawLink_Agent="a")
    assert used(pair) == 0


# -- bad input ---------------------------------------------------------------------------------------------------------


@each("encoding", ["gzip", "deflate", "br", "x-unknown", "GZIP"])
async def test_packed_bytes_are_refused(pair: Running, encoding: str) -> None:
    answer = await exchange(
        pair.url, request("PUT", "/blobs/k", b"\x1f\x8bdata", Content_Encoding=encoding, ClawLink_Agent="a")
    )
    assert (answer.status, answer.json["code"]) == (415, "unsupported_media_type")
    assert (await get(pair, "k")).status == 404
    assert used(pair) == 0


@each(
    ("headers", "status", "field"),
    [
        ({"ClawLink-Agent": ""}, 400, "agent_id"),
        ({"ClawLink-Agent": "nobody"}, 404, "agent_id"),
        ({"If-Match": "3"}, 400, "If-Match"),
        ({"If-Match": '"x"'}, 412, "If-Match"),
        ({"If-Match": '"0"'}, 412, "If-Match"),
        ({"If-Match": '"-1"'}, 412, "If-Match"),
        ({"If-Match": '"1", "2"'}, 412, "If-Match"),
        ({"If-Match": "*"}, 412, "If-Match"),
        ({"If-Match": '"' + "9" * 30 + '"'}, 412, "If-Match"),
        ({"If-None-Match": "1"}, 400, "If-None-Match"),
        ({"ClawLink-TTL": "0"}, 400, "ClawLink-TTL"),
        ({"ClawLink-TTL": "-5"}, 400, "ClawLink-TTL"),
        ({"ClawLink-TTL": "1.5"}, 400, "ClawLink-TTL"),
        ({"ClawLink-TTL": "soon"}, 400, "ClawLink-TTL"),
        ({"ClawLink-TTL": "31536001"}, 400, "ClawLink-TTL"),
        ({"ClawLink-TTL": "9" * 400}, 400, "ClawLink-TTL"),
        ({"ClawLink-TTL": "٣"}, 400, "ClawLink-TTL"),
        ({"ClawLink-Burn-After-Read": "yes"}, 400, "ClawLink-Burn-After-Read"),
        ({"ClawLink-Force": "2"}, 400, "ClawLink-Force"),
        ({"ClawLink-File-Type": "x" * 129}, 400, "ClawLink-File-Type"),
        ({"ClawLink-File-Type": "a%0Ab"}, 400, "ClawLink-File-Type"),
        ({"ClawLink-File-Type": "%1b[31m"}, 400, "ClawLink-File-Type"),
        ({"ClawLink-File-Type": "%ff"}, 400, "ClawLink-File-Type"),
        ({"Content-Type": "x" * 256}, 400, "Content-Type"),
        ({"Content-Type": "text/ä"}, 400, "Content-Type"),
        ({"Idempotency-Key": "x" * 129}, 400, "Idempotency-Key"),
        ({"Idempotency-Key": ""}, 400, "Idempotency-Key"),
    ],
)
async def test_a_bad_header_is_named_and_nothing_is_stored(
    pair: Running, headers: dict[str, Any], status: int, field: str
) -> None:
    answer = await exchange(pair.url, request("PUT", "/blobs/k", b"data", **{"ClawLink-Agent": "a", **headers}))
    assert (answer.status, answer.json["field"]) == (status, field), answer
    assert len(answer.json["error"]) > 8
    assert (await get(pair, "k")).status == 404
    assert used(pair) == 0


async def test_who_writes_and_deletes_must_be_named(pair: Running) -> None:
    refused(await blobs.ask(pair, "PUT", "/blobs/k", b"x"), 400, "bad_request", "agent_id")
    await saved(pair, "k")
    refused(await blobs.ask(pair, "DELETE", "/blobs/k"), 400, "bad_request", "agent_id")
    assert (await blobs.ask(pair, "DELETE", "/blobs/k?agent_id=b")).status == 200


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("said", [True, False], ids=["said", "chunked"])
async def test_a_body_that_breaks_off_leaves_nothing(pair: Running, dial: Dial, how: str, said: bool) -> None:
    await saved(pair, "k", b"whole")
    for size in (0, 1, 300_000):
        connection = await dial(pair.url)
        length: dict[str, Any] = {"Content_Length": "1000000"} if said else {"Transfer_Encoding": "chunked"}
        part = some(size) if said else b"%x\r\n" % 400_000 + some(size)
        await connection.send(request("PUT", "/blobs/k", ClawLink_Agent="a", **length) + part)

        async def begun(size: int = size) -> bool:
            return used(pair) >= 5 + size // 2

        await eventually(begun)
        getattr(connection, how)()
        await settles_at(pair, 5)
    assert (await content(pair, "k"), await versions(pair, "k")) == (b"whole", [1])
    assert pair.app.relay.file_quota.free == pair.app.relay.limits.max_files_bytes - 5


async def test_a_body_that_stands_still_is_given_up(pair: Running, dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clawlink.server.flow.IDLE_BODY_SECONDS", 0.2)
    connection = await dial(pair.url)
    answer = await connection.ask(request("PUT", "/blobs/k", Content_Length="100", ClawLink_Agent="a") + b"some")
    assert (answer.status, answer.json["code"]) == (408, "body_timeout")
    await settles_at(pair, 0)


@pytest.mark.virtual_time
async def test_a_slow_but_steady_body_is_taken(pair: Running, dial: Dial) -> None:
    piece = 6 * LEAST_BODY_RATE
    connection = await dial(pair.url)
    await connection.send(request("PUT", "/blobs/k", Content_Length=str(30 * piece), ClawLink_Agent="a"))
    for n in range(30):
        await connection.send(b"%d" % (n % 10) * piece)
        await pass_time(5)
    assert (await connection.answer()).status == 201
    assert await content(pair, "k") == b"".join(b"%d" % n * piece for n in range(10)) * 3


@pytest.mark.virtual_time
async def test_a_body_of_a_byte_at_a_time_is_given_up(pair: Running, dial: Dial) -> None:
    connection = await dial(pair.url)
    await connection.send(request("PUT", "/blobs/k", Content_Length="1000", ClawLink_Agent="a"))
    answer = asyncio.create_task(connection.answer(120))
    while not answer.done():
        await connection.send(b"x")
        await pass_time(5)
    assert (answer.result().status, answer.result().json["code"]) == (408, "body_timeout")
    await settles_at(pair, 0)


async def test_who_does_not_read_is_given_up_and_others_go_on(
    pair: Running, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawlink.server.flow.IDLE_BODY_SECONDS", 1.0)
    data = some(20_000_000)
    await saved(pair, "k", data)
    connection = await dial(pair.url, receive_buffer=4096)
    await connection.send(request("GET", "/blobs/k"))
    assert await content(pair, "k") == data

    async def given_up() -> bool:
        return pair.app.connections <= 1

    await eventually(given_up)
    assert await content(pair, "k") == data


# -- idempotency -------------------------------------------------------------------------------------------------------


async def test_a_repeat_answers_as_the_first_did(pair: Running) -> None:
    key = {"Idempotency_Key": "k1"}
    first = await put(pair, "k", b"data", **key)
    await saved(pair, "k", b"later", "b")
    again = await put(pair, "k", b"data", If_None_Match="*", **key)
    assert (again.status, again.json, again.headers["ETag"]) == (201, first.json, '"1"')
    assert await versions(pair, "k") == [2, 1]
    body = refused(await put(pair, "k", b"other", **key), 409, "key_reused", "idempotency_key")
    assert body["current"] == 1
    assert await saved(pair, "k", b"other", "b", **key) == 3  # another agent's key is another
    await settles_at(pair, len(b"data" + b"later" + b"other"))


async def test_repeats_at_once_make_one_version(pair: Running) -> None:
    told = await asyncio.gather(*(put(pair, "k", some(50_000), Idempotency_Key="k1") for _ in range(10)))
    assert {t.status for t in told} == {201}
    assert {t.json["version"] for t in told} == {1}
    assert await versions(pair, "k") == [1]
    await settles_at(pair, 50_000)


async def test_a_repeat_after_a_lost_reply_makes_one_version(pair: Running, dial: Dial) -> None:
    headers = {"ClawLink_Agent": "a", "Idempotency_Key": "k1", "If_None_Match": "*"}
    connection = await dial(pair.url)
    await connection.send(request("PUT", "/blobs/k", b"data", **headers))

    async def written() -> bool:
        return (await get(pair, "k")).status == 200

    await eventually(written)
    connection.reset()
    told = await put(pair, "k", b"data", Idempotency_Key="k1", If_None_Match="*")
    assert (told.status, told.json["version"]) == (201, 1)
    assert await versions(pair, "k") == [1]


async def test_a_write_that_was_made_is_there_though_nobody_could_be_told(
    pair: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused, and that may be said of the reply alone: what was written stays, with its content."""

    async def nobody(*args: Any, **more: Any) -> None:
        raise StoreUnavailable("the records of this request change too fast; try again", retry_after=1)

    with monkeypatch.context() as failing:
        failing.setattr(FileNotices, "tell", nobody)
        for headers in ({}, {"Idempotency_Key": "k1"}):
            refused(await put(pair, "k", b"data", **headers), 503, "store_unavailable")
    assert (await put(pair, "k", b"data", Idempotency_Key="k1")).json["version"] == 2
    for version in ("1", "2"):
        assert await content(pair, "k", f"version={version}") == b"data"
    await saved(pair, "k", b"3")
    await blobs.ask(pair, "DELETE", "/blobs/k", ClawLink_Agent="a")
    await settles_at(pair, 0)


# -- who is told -------------------------------------------------------------------------------------------------------


async def test_the_others_are_told_of_a_write_and_a_deletion(pair: Running) -> None:
    await saved(pair, "k", b"x")
    got = await claim_one(pair, "b")
    assert (got.message["file_key"], got.message["version"], got.message["deleted"]) == ("k", 1, False)
    await ack(pair, "b", got.receipt)
    await nothing_due(pair, "a")
    await blobs.ask(pair, "DELETE", "/blobs/k", ClawLink_Agent="b")
    got = await claim_one(pair, "a")
    assert (got.message["version"], got.message["deleted"]) == (2, True)


async def test_a_deletion_takes_all_versions(pair: Running) -> None:
    for n in range(4):
        await saved(pair, "k", b"%d" % n)
    await blobs.ask(pair, "DELETE", "/blobs/k", ClawLink_Agent="a")
    assert used(pair) == 0
    refused(await get(pair, "k", "version=2"), 404, "unknown_file", "file_key")
    assert await saved(pair, "k", b"x") == 6
    assert await versions(pair, "k") == [6]

    assert (await metrics(pair))["files_written_total"] == 5
