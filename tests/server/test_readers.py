"""Files for readers: no route tells a stranger that there is one, and its readers use it as any file."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from clawlink.protocol.paths import ENDPOINTS
from tests.conftest import Running, Serve
from tests.server import blobs
from tests.server.asks import claim_one, nothing_due, ok, refused
from tests.server.blobs import Told
from tests.system.raw import Clock
from tests.virtual_time import pass_time
from tests.waiting import eventually

KEYS = {name: name * 40 for name in "abcde"}
SECRET = "plans/secret plan.md"
ABSENT = "plans/absent plan.md"
TUS = {"Tus_Resumable": "1.0.0"}


def me(name: str) -> dict[str, str]:
    """Return the headers of a claimed agent."""
    return {"ClawLink_Agent": name, "ClawLink_Agent_Key": KEYS[name]}


def key_of(name: str) -> dict[str, str]:
    return {"ClawLink-Agent-Key": KEYS[name]}


async def join(relay: Running, *names: str, **fields: Any) -> None:
    for name in names:
        ask = {"agent_id": name, "name": f"Name {name}", "claim": True, "notices": True, **fields}
        await ok(relay.post("/register", ask, headers=key_of(name)))


@pytest.fixture
async def team(relay: Running) -> Running:
    """A relay with the claimed agents ``a``, ``b`` and ``c``, and ``k``, an agent without a key."""
    await join(relay, "a", "b", "c")
    await relay.register("Kim", agent_id="k")
    return relay


async def put(relay: Running, key: str, name: str, data: bytes = b"x", **headers: str) -> Told:
    return await blobs.put(relay, key, data, **{"agent": name, **me(name), **headers})


async def shared(relay: Running, readers: str = "b", data: bytes = b"secret", key: str = SECRET) -> Told:
    told = await put(relay, key, "a", data, ClawLink_Readers=readers)
    assert told.status in (200, 201), told
    return told


async def attached(relay: Running, key: str) -> list[dict[str, Any]]:
    """Let ``a`` share a file for itself alone, and return what a message says of it."""
    told = (await shared(relay, "", key=key)).json
    return [{name: told[name] for name in ("file_key", "version", "size", "sha256")} | {"name": "x"}]


async def reads(relay: Running, key: str, headers: dict[str, str]) -> int:
    """Return the status of a read."""
    return (await blobs.get(relay, key, **headers)).status


async def listed(relay: Running, headers: dict[str, str], query: str = "") -> list[str]:
    """Return the keys that an agent finds in the list, page by page."""
    keys: list[str] = []
    after = ""
    for _ in range(50):
        told = await blobs.ask(relay, "GET", f"/files?{query}{after}", **headers)
        keys += [file["file_key"] for file in told.json["files"]]
        if told.json["next"] is None:
            return keys
        after = "&after=" + quote(told.json["next"])
    raise AssertionError("the list does not end")


# -- strangers ---------------------------------------------------------------------------------------------------------


class Try(NamedTuple):
    """A request about a file: the route, how it is sent, and whether it may tell that a key is in use."""

    route: str
    send: Callable[[Running, str, dict[str, str]], Awaitable[Told]]
    tells: bool = False


def _ask(method: str, of: str, query: str = "", **more: str) -> Callable[..., Awaitable[Told]]:
    async def send(relay: Running, key: str, headers: dict[str, str]) -> Told:
        return await blobs.ask(relay, method, blobs.path(key, query, of=of), **{**headers, **more})

    return send


def _post(route: str, **fields: Any) -> Callable[..., Awaitable[Told]]:
    async def send(relay: Running, key: str, headers: dict[str, str]) -> Told:
        agent = headers.get("ClawLink_Agent", "")
        body = {"agent_id": agent, "file_key": key, **fields}
        return await blobs.ask(relay, "POST", route, json.dumps(body).encode(), **headers)

    return send


async def _put(relay: Running, key: str, headers: dict[str, str]) -> Told:
    return await blobs.ask(relay, "PUT", blobs.path(key), b"x", **headers)


def _upload(**metadata: str) -> Callable[..., Awaitable[Told]]:
    async def send(relay: Running, key: str, headers: dict[str, str]) -> Told:
        said = ",".join(f"{n} {base64.b64encode(v.encode()).decode()}" for n, v in {"key": key, **metadata}.items())
        return await blobs.ask(relay, "POST", "/uploads", Upload_Length="3", Upload_Metadata=said, **TUS, **headers)

    return send


TRIES = (
    Try("GET /files", _ask("GET", "files", "after=own.0")),
    Try("GET /files/{file_key}", _ask("GET", "files")),
    Try("GET /files/{file_key}", _ask("GET", "files", "agent_id=b")),
    Try("GET /files/{file_key}", _ask("HEAD", "files")),
    Try("DELETE /files/{file_key}", _ask("DELETE", "files")),
    Try("DELETE /files/{file_key}", _ask("DELETE", "files", "force=true&if_version=1")),
    Try("GET /blobs", _ask("GET", "blobs")),
    Try("GET /blobs/{file_key}", _ask("GET", "blobs")),
    Try("GET /blobs/{file_key}", _ask("GET", "blobs", "version=1&agent_id=a")),
    Try("GET /blobs/{file_key}", _ask("GET", "blobs", Range="bytes=0-1")),
    Try("GET /blobs/{file_key}", _ask("GET", "blobs", Range="bytes=99-")),
    Try("GET /blobs/{file_key}", _ask("GET", "blobs", If_None_Match='"1"')),
    Try("GET /blobs/{file_key}", _ask("GET", "blobs", If_Match='"7"')),
    Try("GET /blobs/{file_key}", _ask("GET", "blobs", "versions")),
    Try("GET /blobs/{file_key}", _ask("GET", "blobs", "versions&since=1&wait=0.05")),
    Try("HEAD /blobs/{file_key}", _ask("HEAD", "blobs")),
    Try("HEAD /blobs/{file_key}", _ask("HEAD", "blobs", "version=1")),
    Try("DELETE /blobs/{file_key}", _ask("DELETE", "blobs")),
    Try("DELETE /blobs/{file_key}", _ask("DELETE", "blobs", If_Match='"1"')),
    Try("DELETE /blobs/{file_key}", _ask("DELETE", "blobs", "force=true")),
    Try("DELETE /blobs/{file_key}", _ask("DELETE", "blobs", "read=true")),
    Try("DELETE /locks/{file_key}", _ask("DELETE", "locks")),
    Try("DELETE /locks/{file_key}", _ask("DELETE", "locks", "force=true")),
    Try("PUT /blobs/{file_key}", _put, tells=True),
    Try("POST /files", _post("/files", content="x", force=True), tells=True),
    Try("POST /locks", _post("/locks", seconds=5, force=True), tells=True),
    Try("POST /uploads", _upload(), tells=True),
)
# The routes of an upload are its owner's alone: see test_uploads.
UPLOADS = {f"{e.method} {e.path}" for e in ENDPOINTS if e.path.startswith("/uploads/") or e.name == "upload_options"}


def test_the_tries_below_cover_every_route_of_files() -> None:
    of_files = {
        f"{e.method} {e.path}"
        for e in ENDPOINTS
        if ("{file_key}" in e.path and not e.admin) or e.path.split("/")[1] in ("files", "blobs", "locks", "uploads")
    }
    assert of_files - UPLOADS == {one.route for one in TRIES}


def plain(told: Told, key: str) -> tuple[int, str, dict[str, str]]:
    """Return a reply without what differs by the key alone."""
    body = told.body.decode().replace(json.dumps(key)[1:-1], "KEY")
    headers = {name: value for name, value in told.headers.items() if name not in ("Date", "Content-Length")}
    return told.status, body, headers


@pytest.mark.parametrize("store_kind", ["memory"])
async def test_a_stranger_is_answered_as_if_there_were_no_such_file(team: Running, clock: Clock) -> None:
    await shared(team, "b,Kim")
    lock = {"agent_id": "a", "file_key": SECRET, "seconds": 9000, "note": "hidden note"}
    await ok(team.post("/locks", lock, headers=key_of("a")))
    await join(team, "d", "e")
    await ok(team.ask("DELETE", "/agents/k"))
    await ok(team.ask("DELETE", "/agents/e", headers=key_of("e")))
    await ok(team.post("/register", {"agent_id": "k", "name": "Kim"}))  # takes the id that a reader has left
    strangers = {
        "nobody": {},
        "another agent": me("c"),
        "an agent that came later": me("d"),
        "a reader without its key": {"ClawLink_Agent": "b"},
        "a reader with a wrong key": {"ClawLink_Agent": "b", "ClawLink_Agent_Key": "w" * 40},
        "the owner with a reader's key": {"ClawLink_Agent": "a", "ClawLink_Agent_Key": KEYS["b"]},
        "an agent that took a reader's id": {"ClawLink_Agent": "k"},
        "an unknown agent": {"ClawLink_Agent": "zoe"},
        "an agent that has left": me("e"),
    }
    for who, headers in strangers.items():
        for one in TRIES:
            told, absent = await one.send(team, SECRET, headers), await one.send(team, ABSENT, headers)
            if one.tells and absent.status in (200, 201):
                assert told.status == 403, (who, one.route, told)
                assert "hidden note" not in str(told), (who, one.route, told)
                assert told.json["field"] == "file_key", (who, one.route, told)
                await blobs.ask(team, "DELETE", blobs.path(ABSENT, "force=true"), **headers)
                await blobs.ask(team, "DELETE", blobs.path(ABSENT, "force=true", of="locks"), **headers)
                clock.skip(4000)  # the relay forgets that there was such a file
                await team.app.relay.janitor.sweep()
            else:
                assert plain(told, SECRET) == plain(absent, ABSENT), (who, one.route, told, absent)
            kept = await blobs.get(team, SECRET, **me("b"))
            assert (kept.status, kept.body, kept.headers["ETag"]) == (200, b"secret", '"1"'), (who, one.route)
    assert (await blobs.ask(team, "DELETE", blobs.path(SECRET), **me("b"))).status == 200
    for one in (one for one in TRIES if not one.tells):
        told, absent = await one.send(team, SECRET, me("c")), await one.send(team, ABSENT, me("c"))
        assert plain(told, SECRET) == plain(absent, ABSENT), ("deleted", one.route, told, absent)


async def test_what_is_left_of_a_deleted_file_stays_hidden_until_it_is_forgotten(team: Running, clock: Clock) -> None:
    await shared(team)
    assert (await blobs.ask(team, "DELETE", blobs.path(SECRET), **me("b"))).status == 200
    blobs.refused(await put(team, SECRET, "c"), 403, "not_allowed", "file_key")
    again = await put(team, SECRET, "b")
    assert (again.json["version"], again.json["readers"]) == (3, ["b"]), "no reader opens it by a deletion"
    await shared(team, key="other")
    await blobs.ask(team, "DELETE", blobs.path("other"), **me("a"))
    clock.skip(4000)
    await team.app.relay.janitor.sweep()
    told = (await put(team, "other", "c")).json
    assert (told["version"], told["readers"]) == (1, None)


# -- readers -----------------------------------------------------------------------------------------------------------


async def test_readers_read_list_lock_write_and_delete_it(team: Running) -> None:
    told = await shared(team, "Name%20b, k")
    assert told.json["readers"] == ["b", "k"]
    for name, headers in (("a", me("a")), ("b", me("b")), ("k", {"ClawLink_Agent": "k"})):
        for method, path in (("GET", blobs.path(SECRET)), ("HEAD", blobs.path(SECRET))):
            got = await blobs.ask(team, method, path, **headers)
            assert got.status == 200, (name, method, got)
            assert (got.headers["ClawLink-Owner"], got.headers["ClawLink-Readers"]) == ("a", "b,k"), (name, method)
        whole = await blobs.ask(team, "GET", blobs.path(SECRET, of="files"), **headers)
        assert (whole.json["content"], whole.json["owner"], whole.json["readers"]) == ("secret", "a", ["b", "k"]), name
        part = await blobs.get(team, SECRET, **headers, Range="bytes=1-2")
        assert (part.status, part.body) == (206, b"ec"), name
        versions = (await blobs.get(team, SECRET, "versions", **headers)).json
        assert (versions["version"], versions["readers"]) == (1, ["b", "k"]), name

        async def seen(headers: dict[str, str] = headers) -> bool:
            return await listed(team, headers) == [SECRET]

        await eventually(seen)
    lock = {"agent_id": "b", "file_key": SECRET, "seconds": 60}
    await ok(team.post("/locks", lock, headers=key_of("b")))
    blobs.refused(await put(team, SECRET, "a"), 423, "file_locked", "ClawLink-Force")
    second = await put(team, SECRET, "b", b"2")
    assert (second.json["version"], second.json["readers"]) == (2, ["b", "k"]), "without the header they stay"
    assert (await blobs.ask(team, "DELETE", blobs.path(SECRET, "force=1"), ClawLink_Agent="k")).status == 200


async def test_the_asker_may_stand_in_the_query(team: Running) -> None:
    await shared(team, "b")
    key = {"ClawLink_Agent_Key": KEYS["b"]}
    for path in (blobs.path(SECRET, "agent_id=b"), blobs.path(SECRET, "versions&agent_id=b")):
        assert (await blobs.ask(team, "GET", path, **key)).status == 200, path
        blobs.refused(await blobs.ask(team, "GET", path), 403, "not_allowed", "agent_id")
    assert (await blobs.ask(team, "GET", blobs.path(SECRET, "agent_id=b", of="files"), **key)).status == 200
    assert (await blobs.ask(team, "HEAD", blobs.path(SECRET, "agent_id=b"), **key)).status == 200

    async def seen() -> bool:
        return await listed(team, key, "agent_id=b") == [SECRET]

    await eventually(seen)


async def test_readers_are_named_in_json_and_in_uploads_too(team: Running) -> None:
    body = {"file_key": "j", "content": "x", "agent_id": "a", "readers": ["Name b"]}
    assert (await ok(team.post("/files", body, headers=key_of("a"))))["readers"] == ["b"]
    begun = await _upload(readers="b,Name%20c")(team, "u", me("a"))
    assert begun.status == 201, begun
    part = {**TUS, **me("a"), "Upload_Offset": "0", "Content_Type": "application/offset+octet-stream"}
    done = await blobs.ask(team, "PATCH", begun.headers["Location"], b"abc", **part)
    assert (done.status, done.headers["ClawLink-Version"]) == (204, "1"), done
    assert [await reads(team, key, me("b")) for key in "ju"] == [200, 200]
    assert [await reads(team, key, me("c")) for key in "ju"] == [404, 200]
    assert [await reads(team, key, {}) for key in "ju"] == [404, 404]


async def test_an_upload_is_for_the_agents_that_it_named_when_it_began(team: Running) -> None:
    begun = await _upload(readers="Kim")(team, "u", me("a"))
    await ok(team.ask("DELETE", "/agents/k"))
    await ok(team.post("/register", {"agent_id": "k", "name": "Kim"}))
    part = {**TUS, **me("a"), "Upload_Offset": "0", "Content_Type": "application/offset+octet-stream"}
    assert (await blobs.ask(team, "PATCH", begun.headers["Location"], b"abc", **part)).status == 204
    assert await reads(team, "u", {"ClawLink_Agent": "k"}) == 404
    assert await reads(team, "u", me("a")) == 200


async def test_only_the_owner_changes_readers(team: Running) -> None:
    await shared(team)
    for readers in ("c", "*", ""):
        blobs.refused(await put(team, SECRET, "b", ClawLink_Readers=readers), 403, "not_allowed", "ClawLink-Readers")
    assert (await put(team, SECRET, "b", ClawLink_Readers="b")).status == 200
    assert (await put(team, SECRET, "a", ClawLink_Readers="c")).json["readers"] == ["c"]
    assert [await reads(team, SECRET, me(name)) for name in "abc"] == [200, 404, 200]
    assert (await put(team, SECRET, "a", ClawLink_Readers="")).json["readers"] == []
    assert [await reads(team, SECRET, me(name)) for name in "abc"] == [200, 404, 404]
    assert (await put(team, SECRET, "a", ClawLink_Readers="*")).json["readers"] is None
    assert await reads(team, SECRET, {}) == 200
    assert [one["version"] for one in (await blobs.history(team, SECRET))["versions"]] == [5], "none from before"
    await put(team, "open", "b")
    blobs.refused(await put(team, "open", "a", ClawLink_Readers=""), 403, "not_allowed", "ClawLink-Readers")


async def test_bad_readers_are_refused_by_name_and_nothing_is_written(serve: Serve) -> None:
    relay = await serve(limits={"max_readers": 2})
    await join(relay, "a", "b", "c", "d")
    await relay.register("Twin", agent_id="t1")
    await relay.register("Twin", agent_id="t2")
    for readers, status, code, limit in (
        ("nobody", 404, "unknown_agent", None),
        ("Twin", 409, "ambiguous_name", None),
        ("b,c,d", 400, "bad_request", 2),
        ("b,*", 400, "bad_request", None),
        ("%ff", 400, "bad_request", None),
        ("x" * 129, 400, "bad_request", 128),
        ("b%0Ac", 400, "bad_request", 128),
    ):
        told = await put(relay, "k", "a", ClawLink_Readers=readers)
        assert blobs.refused(told, status, code, "ClawLink-Readers").get("limit") == limit, readers
        blobs.refused(await _upload(readers=readers)(relay, "k", me("a")), status, code, "readers")
        body = {"file_key": "k", "content": "x", "agent_id": "a", "readers": readers.split(",")}
        if "%" not in readers:
            assert (await relay.post("/files", body, headers=key_of("a")))[0] == status, readers
        assert await reads(relay, "k", me("a")) == 404, readers
    several: list[Any] = ["b", [1], [""], {}]
    for wrong in several:
        asked: dict[str, Any] = {"file_key": "k", "content": "x", "agent_id": "a", "readers": wrong}
        status, told = await relay.post("/files", asked, headers=key_of("a"))
        assert (status, told["code"]) == (400, "bad_request"), wrong
        assert told["field"].startswith("readers"), wrong


async def test_a_repeat_answers_as_the_first_and_other_readers_are_another_request(team: Running) -> None:
    first = await put(team, SECRET, "a", b"1", ClawLink_Readers="Kim", Idempotency_Key="i")
    await ok(team.ask("DELETE", "/agents/k"))
    again = await put(team, SECRET, "a", b"1", ClawLink_Readers="Kim", Idempotency_Key="i")
    assert (again.status, again.json) == (201, first.json)
    assert first.json["readers"] == ["k"]
    await put(team, SECRET, "a", b"2", ClawLink_Readers="*")
    await blobs.ask(team, "DELETE", blobs.path(SECRET), **me("a"))
    later = await put(team, SECRET, "a", b"1", ClawLink_Readers="Kim", Idempotency_Key="i")
    assert later.json == first.json
    for other in ({}, {"ClawLink_Readers": "b"}, {"ClawLink_Readers": "*"}):
        blobs.refused(
            await put(team, SECRET, "a", b"1", Idempotency_Key="i", **other), 409, "key_reused", "idempotency_key"
        )


async def test_only_readers_hear_of_it(team: Running) -> None:
    await shared(team, "b")
    got = await claim_one(team, "b", headers=key_of("b"))
    assert (got.message["type"], got.message["file_key"]) == ("file_updated", SECRET)
    assert (await blobs.ask(team, "DELETE", blobs.path(SECRET), **me("b"))).status == 200
    assert (await claim_one(team, "a", headers=key_of("a"))).message["deleted"] is True
    await nothing_due(team, "c", headers=key_of("c"))
    await nothing_due(team, "k")
    await shared(team, "", key="own")
    await nothing_due(team, "b", headers=key_of("b"))
    await put(team, "own", "a", ClawLink_Readers="*")
    assert (await claim_one(team, "c", headers=key_of("c"))).message["file_key"] == "own"


@pytest.mark.virtual_time
async def test_a_reader_that_waits_hears_of_it_until_it_is_one_no_more(team: Running) -> None:
    await shared(team, "b")
    for readers, version in (("b", 2), ("", 0)):
        waiting = asyncio.create_task(blobs.get(team, SECRET, f"versions&wait=30&since={version - 1 or 1}", **me("b")))
        stranger = asyncio.create_task(blobs.get(team, SECRET, "versions&wait=20", **me("c")))
        await pass_time(5)
        await shared(team, readers)
        if not version:
            waiting.cancel()
            continue
        assert (await waiting).json["version"] == version, readers
        told = (await stranger).json
        assert (told["version"], told["deleted"], told["versions"], told["readers"]) == (0, True, [], None)
    gone = await blobs.get(team, SECRET, "versions&wait=5&since=2", **me("b"))
    assert (gone.json["version"], gone.json["versions"]) == (0, [])


async def test_a_list_pages_through_files_for_everyone_and_then_those_for_the_asker(team: Running) -> None:
    for n in range(5):
        await put(team, f"open{n}", "a")
        await shared(team, "b" if n % 2 else "", key=f"own{n}")
    opened, own = [f"open{n}" for n in range(5)], [f"own{n}" for n in range(5)]

    async def complete() -> bool:
        return len(await listed(team, me("a"))) == 10 and len(await listed(team, me("b"))) == 7

    await eventually(complete)
    for limit in (1, 2, 3, 5, 7, 10, 100):

        async def paged(limit: int = limit) -> bool:
            seen = [await listed(team, headers, f"limit={limit}") for headers in (me("a"), me("b"), me("c"), {})]
            return seen == [opened + own, opened + own[1::2], opened, opened]

        await eventually(paged)
    status, info = await team.get("/")
    assert (status, info["shared_files"]) == (200, 5)


# -- departures --------------------------------------------------------------------------------------------------------


async def test_an_agent_that_takes_a_freed_id_reads_nothing_and_the_one_with_the_key_reads_on(team: Running) -> None:
    await shared(team, "b,k")
    await ok(team.ask("DELETE", "/agents/b", headers=key_of("b")))
    await ok(team.ask("DELETE", "/agents/k"))
    await ok(team.post("/register", {"agent_id": "b", "claim": True}, headers={"ClawLink-Agent-Key": "s" * 40}))
    await ok(team.post("/register", {"agent_id": "k", "claim": True}, headers={"ClawLink-Agent-Key": "s" * 40}))
    for name in "bk":
        as_stranger = {"ClawLink_Agent": name, "ClawLink_Agent_Key": "s" * 40}
        assert await reads(team, SECRET, as_stranger) == 404, name
        assert await listed(team, as_stranger) == [], name
    await put(team, SECRET, "a", b"news")
    await nothing_due(team, "b", headers={"ClawLink-Agent-Key": "s" * 40})
    await ok(team.ask("DELETE", "/agents/b", headers={"ClawLink-Agent-Key": "s" * 40}))
    await join(team, "b")
    assert await reads(team, SECRET, me("b")) == 200


async def test_a_file_goes_with_the_last_agent_that_may_see_it(team: Running) -> None:
    before = blobs.used(team)
    await shared(team, "b", bytes(1000))
    await ok(team.ask("DELETE", "/agents/a", headers=key_of("a")))
    assert await reads(team, SECRET, me("b")) == 200
    await ok(team.ask("DELETE", "/agents/b", headers=key_of("b")))
    await blobs.settles_at(team, before)
    await join(team, "b")
    assert await reads(team, SECRET, me("b")) == 404


# -- attachments -------------------------------------------------------------------------------------------------------


async def test_a_message_lets_its_recipient_read_what_goes_with_it(team: Running) -> None:
    for n, (route, fields, readers) in enumerate(
        (
            ("/delegate", {"to_agent": "Name b", "task": "t"}, "b"),
            ("/send", {"to_agent": "b", "content": "c"}, "b"),
            ("/delegate", {"to_agent": "k", "task": "t"}, "k"),
        )
    ):
        key = f"attached{n}"
        body = {"from_agent": "a", "attachments": await attached(team, key), **fields}
        assert await reads(team, key, me("b")) == 404
        await ok(team.post(route, body, headers=key_of("a")))
        seen = [await reads(team, key, who) for who in (me("a"), me("b"), me("c"), {"ClawLink_Agent": "k"}, {})]
        assert seen == [200, 200 if readers == "b" else 404, 404, 200 if readers == "k" else 404, 404], route


async def test_a_response_lets_the_requester_read_what_goes_with_it(team: Running) -> None:
    body = {"from_agent": "b", "to_agent": "a", "task": "t"}
    task = (await ok(team.post("/delegate", body, headers=key_of("b"))))["message_id"]
    await claim_one(team, "a", headers=key_of("a"))
    answer = {"from_agent": "a", "message_id": task, "result": "r", "attachments": await attached(team, "out")}
    await ok(team.post("/respond", answer, headers=key_of("a")))
    assert [await reads(team, "out", me(name)) for name in "abc"] == [200, 200, 404]


async def test_a_message_of_another_than_the_owner_lets_nobody_read(team: Running) -> None:
    attachments = await attached(team, "x")
    await put(team, "x", "a", ClawLink_Readers="b")
    ask = {"from_agent": "b", "to_agent": "c", "content": "c", "attachments": attachments}
    await ok(team.post("/send", ask, headers=key_of("b")))
    assert [await reads(team, "x", me(name)) for name in "abc"] == [200, 200, 404]


async def test_whoever_claims_a_task_of_a_pool_reads_what_goes_with_it(team: Running) -> None:
    await join(team, "d", "e", capabilities=["sums"])
    body = {"from_agent": "a", "capability": "sums", "task": "t", "attachments": await attached(team, "x")}
    task = (await ok(team.post("/delegate", body, headers=key_of("a"))))["message_id"]
    assert [await reads(team, "x", me(name)) for name in "ade"] == [200, 404, 404]
    got = await claim_one(team, "d", headers=key_of("d"))
    assert [await reads(team, "x", me(name)) for name in "ade"] == [200, 200, 404]
    await ok(team.post("/nack", {"agent_id": "d", "receipts": [got.receipt]}, headers=key_of("d")))
    assert await reads(team, "x", me("d")) == 404
    await claim_one(team, "e", headers=key_of("e"))
    assert [await reads(team, "x", me(name)) for name in "ade"] == [200, 404, 200]
    blobs.refused(await put(team, "x", "e"), 403, "not_allowed", "file_key")
    answer = {"from_agent": "e", "message_id": task, "result": "r"}
    await ok(team.post("/respond", answer, headers=key_of("e")))
    assert await reads(team, "x", me("e")) == 200
    await ok(team.ask("DELETE", "/agents/e", headers=key_of("e")))
    await ok(team.post("/register", {"agent_id": "e", "claim": True}, headers={"ClawLink-Agent-Key": "s" * 40}))
    assert await reads(team, "x", {"ClawLink_Agent": "e", "ClawLink_Agent_Key": "s" * 40}) == 404


async def test_the_file_of_a_requester_that_leaves_stays_while_somebody_may_do_the_task(team: Running) -> None:
    body = {"from_agent": "a", "capability": "sums", "task": "t", "attachments": await attached(team, "x")}
    await ok(team.post("/delegate", body, headers=key_of("a")))
    await ok(team.ask("DELETE", "/agents/a", headers=key_of("a")))
    await join(team, "d", capabilities=["sums"])
    await claim_one(team, "d", headers=key_of("d"))
    told = await blobs.get(team, "x", **me("d"))
    assert told.status == 200
    assert "ClawLink-Expires-At" in told.headers


async def test_tasks_that_are_over_make_room_for_others_that_a_file_goes_with(
    team: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawlink.relay.files.grants.MAX_FILE_TASKS", 2)
    await join(team, "d", capabilities=["sums"])
    body = {"from_agent": "a", "capability": "sums", "task": "t", "attachments": await attached(team, "x")}
    for _ in range(2):
        await ok(team.post("/delegate", body, headers=key_of("a")))
    told = await refused(team.post("/delegate", body, headers=key_of("a")), 400, "bad_request")
    assert (told["field"], told["limit"], told["actual"]) == ("attachments", 2, 3)
    got = await claim_one(team, "d", headers=key_of("d"))
    answer = {"from_agent": "d", "message_id": got.message["message_id"], "result": "r"}
    await ok(team.post("/respond", answer, headers=key_of("d")))
    await ok(team.post("/delegate", body, headers=key_of("a")))


@pytest.mark.parametrize("store_kind", ["memory"])
async def test_a_refused_message_lets_nobody_read(serve: Serve) -> None:
    relay = await serve(limits={"max_readers": 1, "max_mailbox_messages": 1})
    await join(relay, "a", "b", "c", notices=False)
    one, two = await attached(relay, "x"), await attached(relay, "y")
    ask = {"from_agent": "a", "to_agent": "b", "content": "c"}
    await ok(relay.post("/send", {**ask, "attachments": two}, headers=key_of("a")))
    for route, fields in (("/send", {"content": "c"}), ("/delegate", {"task": "t"})):
        body = {"from_agent": "a", "to_agent": "b", "attachments": one, **fields}
        told = await refused(relay.post(route, body, headers=key_of("a")), 429, "mailbox_full")
        assert await reads(relay, "x", me("b")) == 404, (route, told)
        body = {"from_agent": "a", "to_agent": "c", "attachments": one + two, **fields}
        told = await refused(relay.post(route, body, headers=key_of("a")), 400, "bad_request")
        assert (told["field"], told["limit"], told["actual"]) == ("attachments", 1, 2)
        assert await reads(relay, "x", me("c")) == 404, (route, told)


# -- side channels -----------------------------------------------------------------------------------------------------


async def test_the_memory_in_use_does_not_tell_that_another_file_has_the_same_content(team: Running) -> None:
    guess = blobs.some(50_000)
    await shared(team, "b", guess)
    before = blobs.used(team)
    await put(team, "guess", "c", guess)
    assert blobs.used(team) - before == len(guess)
    before = blobs.used(team)
    await put(team, "again", "c", guess)
    assert blobs.used(team) == before, "files for everyone are kept once"


async def test_a_file_for_one_reader_burns_for_its_readers_alone(team: Running) -> None:
    await put(team, SECRET, "a", b"once", ClawLink_Readers="b", ClawLink_Burn_After_Read="1")
    assert await reads(team, SECRET, me("c")) == 404
    assert (await blobs.get(team, SECRET, **me("b"))).body == b"once"
    blobs.refused(await blobs.get(team, SECRET, **me("a")), 409, "being_read", "file_key")
    assert await reads(team, SECRET, me("c")) == 404
    assert (await blobs.ask(team, "DELETE", blobs.path(SECRET, "read=1"), **me("b"))).status == 200
    assert await reads(team, SECRET, me("a")) == 404
