"""Locks of files: a request to the others not to write, for a time, which everyone sees and anyone may override."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conftest import Running
from tests.server import blobs
from tests.server.asks import ok, refused
from tests.server.blobs import content, history, put, saved
from tests.server.test_blobs import small
from tests.server.test_files import KEYS
from tests.system.raw import Clock, exchange, request
from tests.tables import each
from tests.waiting import eventually

pytestmark = [pytest.mark.both_stores, pytest.mark.durable]


async def lock(relay: Running, key: str = "k", agent: str = "a", seconds: float = 60, **fields: Any) -> Any:
    """Take a lock and return the reply."""
    return await ok(relay.post("/locks", {"agent_id": agent, "file_key": key, "seconds": seconds, **fields}))


async def unlock(relay: Running, key: str = "k", agent: str = "a", **query: str) -> Any:
    """Give a lock up and return the reply."""
    return await ok(relay.ask("DELETE", f"/locks/{key}", params={"agent_id": agent, **query}))


async def shown(relay: Running, key: str = "k") -> Any:
    """Return the lock as the history, the list and the file itself show it, which is the same."""
    told = (await history(relay, key))["lock"]

    async def same() -> bool:
        listed = {file["file_key"]: file["lock"] for file in (await ok(relay.get("/files")))["files"]}
        return bool(listed.get(key) == (await ok(relay.get(f"/files/{key}")))["lock"] == told)

    await eventually(same)
    return told


def is_locked(told: blobs.Told, holder: str = "a", note: str | None = None) -> Any:
    body = blobs.refused(told, 423, "file_locked", "ClawLink-Force")
    assert (body["current"]["holder"], body["current"]["note"]) == (holder, note)
    assert {"a": "'Ann'", "b": "'Bob'"}[holder] in body["error"]
    assert int(told.headers["Retry-After"]) >= body["retry_after"] > 0
    return body


async def test_a_lock_is_seen_by_all_and_keeps_others_from_writing(pair: Running) -> None:
    await saved(pair, "k", b"1")
    reply = await lock(pair, note="rewriting it")
    assert {k: reply[k] for k in ("status", "file_key", "holder", "note")} == {
        "status": "locked",
        "file_key": "k",
        "holder": "a",
        "note": "rewriting it",
    }
    assert await shown(pair) == {"holder": "a", "until": reply["until"], "note": "rewriting it"}
    body = is_locked(await put(pair, "k", b"no", "b"), note="rewriting it")
    assert body["current"]["until"] == reply["until"]
    is_locked(await blobs.ask(pair, "DELETE", "/blobs/k", ClawLink_Agent="b"), note="rewriting it")
    ask = {"file_key": "k", "content": "no", "agent_id": "b"}
    assert (await refused(pair.post("/files", ask), 423, "file_locked"))["current"]["holder"] == "a"
    await refused(pair.ask("DELETE", "/files/k?agent_id=b"), 423, "file_locked")
    await refused(pair.post("/locks", {"agent_id": "b", "file_key": "k", "seconds": 5}), 423, "file_locked")
    await refused(pair.ask("DELETE", "/locks/k?agent_id=b"), 423, "file_locked")
    assert await content(pair, "k") == b"1"


async def test_the_holder_writes_and_keeps_it(pair: Running) -> None:
    await lock(pair)
    assert await saved(pair, "k", b"1") == 1
    assert await saved(pair, "k", b"2") == 2
    assert (await shown(pair))["holder"] == "a"
    assert (await blobs.ask(pair, "DELETE", "/blobs/k", ClawLink_Agent="a")).status == 200
    is_locked(await put(pair, "k", b"no", "b"))
    assert await saved(pair, "k", b"4") == 4


async def test_a_lock_lapses_by_itself(pair: Running, clock: Clock) -> None:
    await saved(pair, "k", b"1")
    await lock(pair, seconds=10)
    clock.skip(9)
    assert 0 < is_locked(await put(pair, "k", b"no", "b"))["retry_after"] <= 1.01
    clock.skip(1.1)
    assert await shown(pair) is None
    assert await saved(pair, "k", b"2", "b") == 2


async def test_taking_it_again_renews_it(pair: Running, clock: Clock) -> None:
    await lock(pair, seconds=10)
    first = (await lock(pair, seconds=20, note="more"))["until"]
    clock.skip(15)
    is_locked(await put(pair, "k", b"no", "b"), note="more")
    assert (await lock(pair, seconds=10))["until"] > first
    clock.skip(11)
    assert (await lock(pair, agent="b"))["holder"] == "b"


async def test_giving_it_up_frees_the_file_and_is_no_error_where_nobody_holds_it(pair: Running) -> None:
    assert await unlock(pair) == {"status": "unlocked", "file_key": "k"}
    await lock(pair)
    assert await unlock(pair) == {"status": "unlocked", "file_key": "k"}
    assert await saved(pair, "k", b"1", "b") == 1
    assert await unlock(pair) == {"status": "unlocked", "file_key": "k"}


async def test_whoever_must_may_force_it(pair: Running) -> None:
    await saved(pair, "k", b"1")
    await lock(pair)
    assert await saved(pair, "k", b"2", "b", ClawLink_Force="1") == 2
    assert (await shown(pair))["holder"] == "a"  # it was no reason to take it away
    ask = {"file_key": "k", "content": "3", "agent_id": "b", "force": True}
    assert (await ok(pair.post("/files", ask)))["version"] == 3
    await unlock(pair, agent="b", force="true")
    assert await shown(pair) is None
    await lock(pair)
    assert (await blobs.ask(pair, "DELETE", "/blobs/k?force=true", ClawLink_Agent="b")).status == 200
    assert await saved(pair, "k", b"5") == 5
    assert (await blobs.ask(pair, "DELETE", "/blobs/k", ClawLink_Agent="b", ClawLink_Force="1")).status == 200
    await saved(pair, "k", b"7")
    assert (await ok(pair.ask("DELETE", "/files/k?agent_id=b&force=true")))["status"] == "deleted"


async def test_a_lock_too_can_be_taken_from_another(pair: Running) -> None:
    await saved(pair, "k")
    await lock(pair)
    mine = {"agent_id": "b", "file_key": "k", "seconds": 60}
    await refused(pair.post("/locks", mine), 423, "file_locked")
    assert (await lock(pair, agent="b", force=True))["holder"] == "b"
    is_locked(await put(pair, "k", agent="a"), holder="b")


async def test_a_lock_is_no_version_and_no_file(pair: Running, clock: Clock) -> None:
    await lock(pair, "none")
    assert (await blobs.get(pair, "none")).status == 404
    assert (await ok(pair.get("/files")))["count"] == 0
    is_locked(await put(pair, "none", b"x", "b", If_None_Match="*"))
    assert await saved(pair, "none", b"x", If_None_Match="*") == 1
    await lock(pair, "none", seconds=5)
    assert (await history(pair, "none"))["version"] == 1
    clock.skip(6)
    assert await saved(pair, "none", b"y", "b", If_Match='"1"') == 2


async def test_of_a_lock_on_nothing_nothing_is_left(pair: Running, clock: Clock) -> None:
    await lock(pair, "none", seconds=5)
    clock.skip(6)
    await eventually(lambda: _looked(pair))
    assert await saved(pair, "none", b"x", "b") == 1


async def _looked(relay: Running) -> bool:
    from clawlink.domain.file import SharedFile

    return await relay.app.relay.core.store.get(SharedFile, "none") is None


async def test_a_deleted_file_goes_on_counting_under_a_lock(pair: Running, clock: Clock) -> None:
    await saved(pair, "k", b"1")
    await blobs.ask(pair, "DELETE", "/blobs/k", ClawLink_Agent="a")
    await lock(pair)
    assert await saved(pair, "k", b"3") == 3


async def test_the_end_of_a_file_is_told_though_a_lock_finds_it_first(pair: Running, clock: Clock) -> None:
    """The versions go on counting over the end, so that nobody takes the new file for the old one."""
    await saved(pair, "k", b"1", ClawLink_TTL="5")
    clock.skip(6)
    await lock(pair)
    assert blobs.used(pair) == 0

    async def told() -> bool:
        polled = await ok(pair.get("/poll/a?lease=60"))
        return any(m["type"] == "file_updated" and m["deleted"] and m["version"] == 2 for m in polled["messages"])

    await eventually(told)
    assert await saved(pair, "k", b"3", If_None_Match="*") == 3


async def test_of_many_who_ask_at_once_one_gets_it(pair: Running) -> None:
    for n in range(12):
        await pair.register(f"r{n}", agent_id=f"r{n}")
    told = await asyncio.gather(
        *(pair.post("/locks", {"agent_id": f"r{n}", "file_key": "k", "seconds": 60}) for n in range(12))
    )
    assert sorted(status for status, _ in told) == [200] + [423] * 11
    holder = next(body["holder"] for status, body in told if status == 200)
    assert {body["current"]["holder"] for status, body in told if status == 423} == {holder}


@each("key", KEYS)
async def test_any_key_can_be_locked(pair: Running, key: str) -> None:
    await lock(pair, key)
    is_locked(await put(pair, key, b"no", "b"))
    answer = await exchange(pair.url, request("DELETE", blobs.path(key, "agent_id=a", of="locks")))
    assert (answer.status, answer.json) == (200, {"status": "unlocked", "file_key": key})


@each(
    ("fields", "field"),
    [
        ({"seconds": 0.5}, "seconds"),
        ({"seconds": 86_401}, "seconds"),
        ({"seconds": None}, "seconds"),
        ({"seconds": "60"}, "seconds"),
        ({"note": "x" * 1001}, "note"),
        ({"file_key": ""}, "file_key"),
        ({"file_key": "a/../b"}, "file_key"),
        ({"file_key": "a\nb"}, "file_key"),
        ({"file_key": "x" * 1025}, "file_key"),
        ({"agent_id": ""}, "agent_id"),
    ],
)
async def test_a_lock_out_of_range_is_400(pair: Running, fields: dict[str, Any], field: str) -> None:
    ask = {"agent_id": "a", "file_key": "k", "seconds": 60, **fields}
    assert (await refused(pair.post("/locks", ask), 400, "bad_request"))["field"] == field


async def test_who_gives_it_up_must_be_named(pair: Running) -> None:
    await lock(pair)
    assert (await refused(pair.ask("DELETE", "/locks/k"), 400, "bad_request"))["field"] == "agent_id"
    await refused(pair.ask("DELETE", "/locks/k?agent_id=nobody"), 404, "unknown_agent")
    assert (await ok(pair.ask("DELETE", "/locks/k", headers={"ClawLink-Agent": "a"})))["status"] == "unlocked"


@pytest.mark.parametrize("store_kind", ["memory"])
async def test_a_locked_file_makes_room_for_its_holder_only(serve: Any) -> None:
    relay = await small(serve, max_files_bytes=100)
    await relay.register("Bob", agent_id="b")
    await saved(relay, "k", b"1" * 40)
    await saved(relay, "k", b"2" * 40)
    await lock(relay)
    is_locked(await put(relay, "k", b"3" * 60, "b"))
    assert await blobs.versions(relay, "k") == [2, 1]
