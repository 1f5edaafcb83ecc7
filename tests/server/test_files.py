"""Shared files: any key, any bytes, versions, and who is told."""

from __future__ import annotations

import asyncio
import base64
from typing import Any
from urllib.parse import quote

import pytest

from tests.conftest import Running, Serve
from tests.server.asks import ack, claim_one, metrics, nothing_due, ok, poll, refused
from tests.system.raw import Clock, exchange, request
from tests.tables import each
from tests.waiting import eventually

pytestmark = pytest.mark.both_stores

memory = pytest.mark.parametrize("store_kind", ["memory"])

KEYS = [
    "notes.md",
    "a/b/c.txt",
    "a//b",
    "trailing/",
    "what?.txt",
    "50%",
    "%2F",
    "a%2Fb",
    "a b+c&d=e#f",
    "☃/名前.txt",
    "ünïcode",
    "..hidden",
    "a..b/c...",
    "\U0001f980",
    "openapi.json",
    "x" * 1024,
    "-",
    "~user",
    "c:\\dir\\file",
    '"quoted"',
]


def path(key: str) -> str:
    """Return a file's address: its key percent-encoded as one piece."""
    return f"/files/{quote(key, safe='')}"


async def put(relay: Running, key: str, content: str = "c", agent: str = "a", **fields: Any) -> int:
    """Write a file and return its version."""
    reply = await ok(relay.post("/files", {"file_key": key, "content": content, "agent_id": agent, **fields}))
    assert (reply["status"], reply["file_key"]) == ("saved", key)
    return int(reply["version"])


async def get(relay: Running, key: str) -> Any:
    """Read a file, with an address that no library has touched."""
    answer = await exchange(relay.url, request("GET", path(key)))
    return (answer.status, answer.json)


@each("key", KEYS)
async def test_any_key_can_be_written_read_listed_and_deleted(pair: Running, key: str) -> None:
    assert await put(pair, key) == 1
    status, read = await get(pair, key)
    assert (status, read["file_key"], read["content"]) == (200, key, "c")

    async def listed() -> Any:
        return [f["file_key"] for f in (await ok(pair.get("/files")))["files"]] == [key]

    await eventually(listed)
    answer = await exchange(pair.url, request("DELETE", path(key) + "?agent_id=a"))
    assert (answer.status, answer.json) == (200, {"status": "deleted", "file_key": key, "version": 2})
    assert (await get(pair, key))[1]["code"] == "unknown_file"


async def test_a_key_with_slashes_may_be_asked_for_with_slashes(pair: Running) -> None:
    await put(pair, "a/b/c.txt")
    assert (await ok(pair.get("/files/a/b/c.txt")))["file_key"] == "a/b/c.txt"


@each("key", ["", ".", "..", "a/../b", "./a", "a/.", "a\\..\\b", "a\x00b", "a\nb", "\x7f", "a\u2028b", "x" * 1025])
async def test_a_key_that_could_do_harm_is_refused(pair: Running, key: str) -> None:
    ask = {"file_key": key, "content": "c", "agent_id": "a"}
    assert (await refused(pair.post("/files", ask), 400, "bad_request"))["field"] == "file_key"
    await nothing_due(pair, "b")


@each("key", ["%FF", "%C3", "a%ED%A0%80b"])
async def test_a_key_that_is_not_utf_8_is_no_file(pair: Running, key: str) -> None:
    answer = await exchange(pair.url, request("GET", f"/files/{key}"))
    assert answer.status in (400, 404)
    assert answer.json["error"]


@each("content", ["", "one\r\ntwo\rthree\n", "\x00\x01\x7f", "☃\U0001f980", "\ufeffbom", "a\u2028b", "x" * 700_000])
async def test_text_comes_back_as_it_went_in(pair: Running, content: str) -> None:
    await put(pair, "k", content)
    _, read = await get(pair, "k")
    assert (read["content"], read["encoding"], read["size"]) == (content, "utf-8", len(content.encode()))


@each("data", [b"", b"\xff\xfe\x00", bytes(range(256)), b"plain text", b"\xed\xa0\x80", b"\x80" * 100_000])
@pytest.mark.shared
async def test_any_bytes_come_back_as_they_went_in(pair: Running, data: bytes) -> None:
    await put(pair, "k", base64.b64encode(data).decode(), encoding="base64", file_type="image/png")
    _, read = await get(pair, "k")
    content = read["content"]
    assert (base64.b64decode(content) if read["encoding"] == "base64" else content.encode()) == data
    assert (read["size"], read["file_type"]) == (len(data), "image/png")
    try:
        data.decode()
    except UnicodeDecodeError:
        assert read["encoding"] == "base64"
    else:
        assert read["encoding"] == "utf-8"


@each("content", ["x", "a===", "not base64!", "YQ==\n", "ä"])
async def test_what_is_not_base64_is_400(pair: Running, content: str) -> None:
    ask = {"file_key": "k", "content": content, "agent_id": "a", "encoding": "base64"}
    assert (await refused(pair.post("/files", ask), 400, "bad_request"))["field"] == "content"


async def test_versions_count_up_over_a_deletion(pair: Running) -> None:
    assert [await put(pair, "k", str(n)) for n in range(3)] == [1, 2, 3]
    assert (await ok(pair.ask("DELETE", "/files/k?agent_id=b")))["version"] == 4
    await refused(pair.ask("DELETE", "/files/k?agent_id=b"), 404, "unknown_file")
    assert await put(pair, "k") == 5


async def test_last_editor_and_time_are_those_of_the_last_write(pair: Running, clock: Clock) -> None:
    await put(pair, "k", agent="a")
    _, first = await get(pair, "k")
    clock.skip(10)
    await put(pair, "k", agent="b")
    _, second = await get(pair, "k")
    assert (first["last_editor"], second["last_editor"]) == ("a", "b")
    assert second["updated_at"] > first["updated_at"]


async def test_if_version_protects_what_the_writer_has_not_seen(pair: Running) -> None:
    assert await put(pair, "k", "one", if_version=0) == 1
    ask = {"file_key": "k", "content": "mine", "agent_id": "b"}
    for wrong in (0, 2, 10**12):
        body = await refused(pair.post("/files", {**ask, "if_version": wrong}), 412, "version_conflict")
        assert (body["field"], body["current"]) == ("if_version", 1)
    assert (await get(pair, "k"))[1]["content"] == "one"
    assert await put(pair, "k", "two", if_version=1) == 2
    body = await refused(pair.ask("DELETE", "/files/k?agent_id=a&if_version=1"), 412, "version_conflict")
    assert body["current"] == 2
    assert (await ok(pair.ask("DELETE", "/files/k?agent_id=a&if_version=2")))["version"] == 3
    body = await refused(pair.post("/files", {**ask, "if_version": 2}), 412, "version_conflict")
    assert body["current"] == 0
    assert await put(pair, "k", "new", if_version=0) == 4


async def test_of_many_who_write_over_one_version_at_once_one_wins(pair: Running) -> None:
    await put(pair, "k")
    asks = [{"file_key": "k", "content": str(n), "agent_id": "ab"[n % 2], "if_version": 1} for n in range(10)]
    replies = await asyncio.gather(*(pair.post("/files", ask) for ask in asks))
    assert sorted(status for status, _ in replies) == [200] + [412] * 9
    won = next(ask for ask, (status, _) in zip(asks, replies, strict=True) if status == 200)
    _, read = await get(pair, "k")
    assert (read["content"], read["last_editor"], read["version"]) == (won["content"], won["agent_id"], 2)


async def test_writes_at_once_without_if_version_get_a_version_each(pair: Running) -> None:
    versions = await asyncio.gather(*(put(pair, "k", str(n)) for n in range(8)))
    assert sorted(versions) == list(range(1, 9))


# -- who is told -------------------------------------------------------------------------------------------------------


async def test_the_others_are_told_and_the_editor_is_not(pair: Running) -> None:
    await put(pair, "k")
    got = await claim_one(pair, "b")
    expected = {"type": "file_updated", "file_key": "k", "version": 1, "last_editor": "a", "deleted": False}
    assert {k: got.message[k] for k in expected} == expected
    await nothing_due(pair, "a")
    await ack(pair, "b", got.receipt)
    await ok(pair.ask("DELETE", "/files/k?agent_id=b"))
    told = (await claim_one(pair, "a")).message
    assert {k: told[k] for k in expected} == {**expected, "version": 2, "last_editor": "b", "deleted": True}


@memory
async def test_ten_updates_that_nobody_has_read_arrive_as_one_the_newest(pair: Running) -> None:
    for n in range(10):
        await put(pair, "k", str(n))
        await put(pair, "other", str(n))
    got = (await poll(pair, "b", lease=60))["messages"]
    assert [(m["file_key"], m["version"]) for m in got] == [("k", 10), ("other", 10)]
    assert (await metrics(pair))["merged_total"] == 18


async def test_the_newest_update_arrives_on_any_store(pair: Running) -> None:
    for n in range(10):
        await put(pair, "k", str(n))
    seen: set[int] = set()

    async def newest() -> bool:
        reply = await poll(pair, "b", lease=60)
        seen.update(m["version"] for m in reply["messages"] if m["type"] == "file_updated")
        return 10 in seen

    await eventually(newest)


@memory
async def test_an_update_after_the_notice_was_claimed_is_told_anew(pair: Running, clock: Clock) -> None:
    await put(pair, "k", "1")
    first = await claim_one(pair, "b")
    await put(pair, "k", "2")
    second = await claim_one(pair, "b")
    assert (first.message["version"], second.message["version"]) == (1, 2)
    await ack(pair, "b", first.receipt, second.receipt)
    await put(pair, "k", "3")
    assert (await claim_one(pair, "b")).message["version"] == 3


@memory
async def test_a_full_mailbox_gets_no_notice_and_the_write_succeeds(serve: Serve) -> None:
    relay = await serve(limits={"max_mailbox_messages": 2})
    await relay.register("a", agent_id="a")
    await relay.register("b", agent_id="b")
    await put(relay, "one")
    assert await put(relay, "two") == 1
    assert [m["file_key"] for m in (await poll(relay, "b"))["messages"]] == ["one"]


# -- lists and limits --------------------------------------------------------------------------------------------------


@memory
async def test_files_are_listed_in_pages(pair: Running) -> None:
    for n in range(7):
        await put(pair, f"k{n}", "x" * n)
    seen: list[Any] = []
    after: dict[str, str] = {}
    while True:
        reply = await ok(pair.get("/files", params={"limit": "3", **after}))
        assert reply["count"] == len(reply["files"])
        seen += [(f["file_key"], f["size"]) for f in reply["files"]]
        if reply["next"] is None:
            break
        after = {"after": reply["next"]}
    assert seen == [(f"k{n}", n) for n in range(7)]


@each("query", ["limit=0", "limit=1001", "limit=x", "after=" + "x" * 600])
async def test_a_list_out_of_range_is_400(relay: Running, query: str) -> None:
    body = await refused(relay.get(f"/files?{query}"), 400, "bad_request")
    assert body["field"] == query.split("=")[0]


async def test_a_place_that_was_never_given_starts_from_the_beginning(pair: Running) -> None:
    await put(pair, "k")

    async def listed() -> bool:
        return bool((await ok(pair.get("/files?after=nonsense")))["count"] == 1)

    await eventually(listed)


async def test_a_file_too_large_is_413_with_limit_and_size(serve: Serve) -> None:
    relay = await serve(limits={"max_file_bytes": 10})
    await relay.register("a", agent_id="a")
    await put(relay, "k", "x" * 10)
    body = await refused(
        relay.post("/files", {"file_key": "k", "content": "x" * 11, "agent_id": "a"}), 413, "too_large"
    )
    assert (body["limit"], body["actual"], body["field"]) == (10, 11, "content")
    assert (await get(relay, "k"))[1]["version"] == 1


@memory
async def test_all_files_together_have_a_limit_and_replacing_counts_only_the_growth(serve: Serve) -> None:
    relay = await serve(limits={"max_files_bytes": 100, "fair_share": 100})
    await relay.register("a", agent_id="a")
    await put(relay, "k1", "x" * 60)
    await put(relay, "k2", "x" * 40)
    ask = {"file_key": "k3", "content": "x", "agent_id": "a"}
    body = await refused(relay.post("/files", ask), 507, "storage_full")
    assert (body["limit"], body["actual"], body["current"]) == (100, 101, {"free": 0})
    await put(relay, "k3", "")
    await put(relay, "k1", "y" * 60)
    await ok(relay.ask("DELETE", "/files/k2?agent_id=a"))
    await put(relay, "k1", "y" * 100)


async def test_who_deletes_must_be_named(pair: Running) -> None:
    await put(pair, "k")
    assert (await refused(pair.ask("DELETE", "/files/k"), 400, "bad_request"))["field"] == "agent_id"
    await ok(pair.ask("DELETE", "/files/k", headers={"ClawLink-Agent": "b"}))
