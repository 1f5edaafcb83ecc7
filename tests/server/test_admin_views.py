"""The operator's views over HTTP: files with their contents, and parameters that make no sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import UNPACED, Running, Serve
from tests.restarting import Restarting
from tests.server.asks import claim, delegate, nothing_due, ok, refused
from tests.system.raw import Clock
from tests.waiting import eventually


async def put(relay: Running, key: str, content: bytes, agent: str = "a", **headers: str) -> None:
    headers = {"ClawLink-Agent": agent, **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with relay.session.put(f"{relay.url}/blobs/{key}", data=content, headers=headers) as response:
        assert response.status in (200, 201), await response.text()


async def read(relay: Running, path: str, **headers: str) -> tuple[int, bytes, Any]:
    async with relay.session.get(relay.url + path, headers=headers) as response:
        return response.status, await response.read(), response.headers


async def test_files_are_shown_with_their_versions_whoever_may_read_them(serve: Serve) -> None:
    relay = await serve()
    await relay.register("Ann", agent_id="a")
    await relay.register("Bob", agent_id="b")
    await put(relay, "plan%2Fone.md", b"first")
    await put(relay, "plan%2Fone.md", b"second")
    await put(relay, "private", b"for Bob", ClawLink_Readers="b")
    await put(relay, "once", b"burns", ClawLink_Burn_After_Read="1")
    listed = await ok(relay.get("/admin/files"))
    assert [file["file_key"] for file in listed["files"]] == ["plan/one.md", "once", "private"]
    keys: list[str] = []
    after = ""
    for _ in range(9):
        page = await ok(relay.get(f"/admin/files?limit=1{after}"))
        keys += [file["file_key"] for file in page["files"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert keys == ["plan/one.md", "once", "private"]
    for query, found in (("text=PLAN", ["plan/one.md"]), ("agent=b", ["private"]), ("agent=none", [])):
        assert [file["file_key"] for file in (await ok(relay.get(f"/admin/files?{query}")))["files"]] == found, query
    shown = await ok(relay.get("/admin/files/plan%2Fone.md"))
    assert ([version["version"] for version in shown["file"]["versions"]], shown["contents"]) == ([2, 1], True)
    assert not (await ok(relay.get("/admin/files/once")))["contents"]
    status, content, headers = await read(relay, "/admin/file-content/plan%2Fone.md?version=1")
    assert (status, content) == (200, b"first")
    assert headers["Content-Disposition"] == "attachment"
    assert headers["Content-Security-Policy"].startswith("sandbox")
    assert (await read(relay, "/admin/file-content/private"))[1] == b"for Bob"
    assert (await read(relay, "/admin/file-content/private", Range="bytes=4-"))[1] == b"Bob"
    await refused(relay.get("/admin/file-content/once"), 403, "not_allowed")
    await refused(relay.get("/admin/file-content/plan%2Fone.md?version=9"), 404, "unknown_file")
    for path in ("files/none", "file-content/none"):
        await refused(relay.get(f"/admin/{path}"), 404, "unknown_file")
    assert (await read(relay, "/blobs/once"))[1] == b"burns"  # no look of the operator has burnt it


async def test_contents_of_files_are_withheld_like_texts(serve: Serve) -> None:
    relay = await serve(page="metadata")
    await relay.register("Ann", agent_id="a")
    await put(relay, "plan", b"secret")
    assert not (await ok(relay.get("/admin/files/plan")))["contents"]
    refusal = await refused(relay.get("/admin/file-content/plan"), 403, "not_allowed")
    assert "--page metadata" in refusal["error"]


async def test_parameters_that_make_no_sense_are_refused_by_name(serve: Serve) -> None:
    relay = await serve()
    for path, field in (
        ("talk", "agent"),
        ("search", "text"),
        ("search?text=", "text"),
        ("talks?limit=0", "limit"),
        ("files?limit=2000", "limit"),
        ("broadcasts?topic=", "topic"),
        ("file-content/x?version=0", "version"),
        ("talk?agent=a&after=x", "after"),
        ("search?text=a&after=99.9", "after"),
        ("files?after=7.x", "after"),
        ("tasks?after=x", "after"),
    ):
        refusal = await refused(relay.get(f"/admin/{path}"), 400, "bad_request")
        assert refusal["field"] == field, path
    await refused(relay.get("/admin/tasks/none/children"), 404, "unknown_task")
    for path in ("search?text=a&after=9.9.9", "broadcasts?after=-1"):  # whose places are the store's
        await ok(relay.get(f"/admin/{path}"))


@pytest.mark.durable
async def test_a_place_beyond_all_numbers_is_refused_by_every_list(pair: Running) -> None:
    """SQLite could not even be asked for such a number; other stores refuse the same ones."""
    await delegate(pair, "a", "b")
    await put(pair, "plan", b"x")
    lists = (
        *("discover?limit=1", "dead-letters/b?limit=1", "files?limit=1", "blobs?limit=1", "broadcasts?limit=1"),
        "tasks?agent_id=a",
        *("admin/agents?limit=1", "admin/dead-letters?limit=1", "admin/broadcasts?limit=1", "admin/audit?limit=1"),
    )
    with_sources = ("tasks?agent_id=a", "admin/tasks?limit=1", "admin/files?limit=1", "admin/search?text=a")
    for source, paths in (("", lists), ("own.", ["files?agent_id=a", "blobs?agent_id=a"]), ("0.", with_sources)):
        for path in paths:
            for beyond in (str(2**63), "9" * 400):
                reply = await refused(pair.get(f"/{path}&after={source}{beyond}"), 400, "bad_request")
                assert reply["field"] == "after", path
                assert "leave after out to begin the list again" in reply["error"], path
            await ok(pair.get(f"/{path}&after={source}{2**63 - 1}"))


async def test_a_minute_counts_its_own_traffic_whether_anybody_looks_or_not(serve: Serve) -> None:
    relay = await serve()
    await relay.register("Ann", agent_id="a")
    await ok(relay.post("/delegate", {"from_agent": "a", "to_agent": "a", "task": "x"}))

    async def sampled() -> bool:
        minutes = relay.app.relay.load_views.history.minutes()
        return bool(minutes) and minutes[-1].held.connections > 0

    await eventually(sampled)
    minutes = (await ok(relay.get("/admin/load")))["minutes"]  # another one may have begun meanwhile
    assert sum(minute["stored"] for minute in minutes) >= 1
    assert max(minute["connections"] for minute in minutes) >= 1


async def test_talk_children_and_search_come_from_each_store(serve: Serve) -> None:
    relay = await serve()
    for name in ("Ann", "Bob"):
        await relay.register(name, agent_id=name.lower())
    ask = {"from_agent": "ann", "to_agent": "bob", "task": "find the needle"}
    id = (await ok(relay.post("/delegate", ask)))["message_id"]
    await ok(relay.get("/poll/bob?lease=60"))
    part = {"from_agent": "bob", "to_agent": "ann", "task": "a part of it", "parent_task": id}
    child = (await ok(relay.post("/delegate", part)))["message_id"]
    await ok(relay.post("/respond", {"from_agent": "bob", "message_id": id, "status": "completed", "result": "found"}))
    await ok(relay.post("/send", {"from_agent": "ann", "to_agent": "bob", "content": "needle, thread"}))

    async def talk() -> bool:
        lines = (await ok(relay.get("/admin/talk?agent=ann&other=bob")))["lines"]
        return [(line["kind"], line["text"]) for line in lines] == [
            ("message", "needle, thread"),
            ("answer", "found"),
            ("task", "a part of it"),
            ("task", "find the needle"),
        ]

    async def children() -> bool:
        return [t["task_id"] for t in (await ok(relay.get(f"/admin/tasks/{id}/children")))["tasks"]] == [child]

    async def search() -> bool:
        hits = (await ok(relay.get("/admin/search?text=NEEDLE")))["hits"]
        return [(hit["kind"], hit["status"]) for hit in hits] == [("task", "completed"), ("message", "pending")]

    for look in (talk, children, search):
        await eventually(look)


async def said_by(relay: Running, agent: str, **query: Any) -> tuple[list[str], bool]:
    """Return the sorted texts of an agent's talk, and whether it is complete."""
    lines: list[str] = []
    place: dict[str, str] = {}
    while True:
        talk = await ok(relay.get("/admin/talk", params={"agent": agent, **query, **place}))
        lines += [line["text"] for line in talk["lines"]]
        if talk["next"] is None:
            return sorted(lines), talk["complete"]
        place = {"after": talk["next"]}


async def test_a_talk_has_all_unread_messages_after_a_restart(tmp_path: Path) -> None:
    restarting = Restarting(tmp_path / "data")
    unpaced: dict[str, Any] = {**UNPACED}
    try:
        relay = await restarting.begin(**unpaced)
        for name in ("ann", *(f"reader-{number}" for number in range(30))):
            await relay.register(name, agent_id=name)
        texts = [f"for {number:02}" for number in range(30)]
        for number, text in enumerate(texts):
            message = {"from_agent": "ann", "to_agent": f"reader-{number}", "content": text}
            await ok(relay.post("/send", message))
        assert await said_by(relay, "ann") == (texts, True)
        restarting.wall.now += 5
        assert await said_by(await restarting.begin(**unpaced), "ann") == (texts, True)
    finally:
        await restarting.end()


async def test_a_talk_has_more_than_a_hundred_dead_letters(serve: Serve, clock: Clock) -> None:
    relay = await serve(clock=clock, limits={**UNPACED, "max_attempts": 1})
    for name in ("ann", "bob"):
        await relay.register(name, agent_id=name)
    texts = [f"poison {number:03}" for number in range(130)]
    for text in texts:
        await ok(relay.post("/send", {"from_agent": "ann", "to_agent": "bob", "content": text}))
    assert len(await claim(relay, "bob", len(texts))) == len(texts)
    clock.skip(60)
    await nothing_due(relay, "bob")
    for query in ({"other": "bob"}, {}):

        async def shown(query: dict[str, str] = query) -> bool:
            return await said_by(relay, "ann", **query) == (texts, True)

        await eventually(shown)


async def test_a_talk_that_leaves_unread_messages_out_says_so(serve: Serve) -> None:
    relay = await serve(limits=UNPACED)
    for name in ("ann", "bob"):
        await relay.register(name, agent_id=name)
    for number in range(1001):
        await ok(relay.post("/send", {"from_agent": "ann", "to_agent": "bob", "content": f"{number}"}))
    for query in ({"other": "bob"}, {}):
        texts, complete = await said_by(relay, "ann", limit=1000, **query)
        assert (len(texts), complete) == (1000, False), query


async def test_each_view_tells_the_names_of_the_agents_in_it(serve: Serve) -> None:
    relay = await serve()
    names = {"7f3a": "Ann", "91bc": "Bob"}
    for id, name in names.items():
        await relay.register(name, agent_id=id)
    task = await delegate(relay, "7f3a", "91bc")
    await ok(relay.get("/poll/91bc?lease=60"))
    await ok(relay.post("/send", {"from_agent": "7f3a", "to_agent": "91bc", "content": "hello"}))
    await ok(relay.post("/broadcast", {"from_agent": "7f3a", "topic": "news", "content": "hello"}))
    await put(relay, "plan.md", b"first", agent="91bc")
    paths = ("talks", "talk?agent=7f3a", "tasks", f"tasks/{task}", "agents/91bc", "search?text=hello")
    for path in paths:
        shown = await ok(relay.get(f"/admin/{path}"))
        expected = names if path != "agents/91bc" else {"7f3a": "Ann"}
        assert shown["names"] == expected, path
    assert (await ok(relay.get("/admin/broadcasts")))["names"] == {"7f3a": "Ann"}
    for path in ("files", "files/plan.md"):
        assert (await ok(relay.get(f"/admin/{path}")))["names"] == {"91bc": "Bob"}, path
    overview = await ok(relay.get("/admin/overview"))
    assert overview["names"] == {box["agent_id"]: box["name"] for box in overview["mailboxes"]}
    await ok(relay.post("/admin/rename", {"agent": "91bc", "name": "Bob"}))
    await ok(relay.post("/admin/send", {"to_agent": "7f3a", "content": "hello"}))
    assert (await ok(relay.get("/admin/audit")))["names"] == names
    await ok(relay.post("/kick", {"agent": "7f3a"}))
    assert "7f3a" not in (await ok(relay.get("/admin/talks")))["names"], "an agent that has left has its id alone"


async def test_lists_take_the_name_of_an_agent_as_well_as_its_id(serve: Serve) -> None:
    relay = await serve()
    for id, name in (("7f3a", "Ann"), ("91bc", "Bob")):
        await relay.register(name, agent_id=id)
    await delegate(relay, "7f3a", "91bc")
    await ok(relay.post("/broadcast", {"from_agent": "7f3a", "topic": "news", "content": "hello"}))
    await put(relay, "plan.md", b"first", agent="91bc")
    for by_id, by_name in (
        ("tasks?requester=7f3a", "tasks?requester=ann"),
        ("tasks?assignee=91bc", "tasks?assignee=Bob"),
        ("talks?agent=7f3a", "talks?agent=Ann"),
        ("talk?agent=7f3a&other=91bc", "talk?agent=Ann&other=Bob"),
        ("broadcasts?author=7f3a", "broadcasts?author=Ann"),
        ("files?agent=91bc", "files?agent=Bob"),
    ):
        found = await ok(relay.get(f"/admin/{by_id}"))
        assert found["count"] == 1, by_id
        assert await ok(relay.get(f"/admin/{by_name}")) == found, by_name
        assert (await ok(relay.get(f"/admin/{by_name}x")))["count"] == 0, by_name
