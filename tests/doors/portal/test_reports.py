"""Reports on a task of another portal: each comes once and in its order, or ends with a reason."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from clawlink.doors.portal.server import outbox
from clawlink.doors.portal.server.file_poster import FilePoster
from clawlink.doors.portal.server.held_back import HeldBack
from clawlink.doors.portal.server.poster import Poster
from clawlink.doors.portal.transfers import UNCLAIMED, Transfer
from clawlink.store.base import Failed
from tests.doors.portal.conftest import Bridges, Own, Portals
from tests.doors.portal.old_peer import OldBridge
from tests.doors.portal.test_files import md5, pair, put, status_of
from tests.doors.portal.test_forwarded_tasks import B_KEY, heard, task_in, well
from tests.doors.portal.test_task_files import bring, delegate, files_of
from tests.waiting import eventually, until


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon."""
    monkeypatch.setattr(outbox, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(outbox, "MOST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(outbox, "_MISHAP_SECONDS", 0.05)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Hold up all files of more than a byte until this is set."""
    gate = asyncio.Event()
    part = FilePoster.part

    async def wait(self: FilePoster, peer: Any, begun: Any, index: int, length: int, contents: Any) -> Any:
        if length > 1:
            await gate.wait()
        return await part(self, peer, begun, index, length, contents)

    monkeypatch.setattr(FilePoster, "part", wait)
    return gate


async def test_reports_behind_a_file_come_once_and_in_their_order(
    portals: Portals, bridges: Bridges, gate: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await pair(portals)
    bridge = await bridges(b, key=B_KEY)
    told: list[tuple[str, Any]] = []
    held: list[str] = []
    tell, put = Poster.tell, HeldBack.put
    mishaps: list[str] = []

    async def note(self: Poster, peer: Any, news: dict[str, Any]) -> Any:
        if news["kind"] == "response":
            told.append((news["task_id"], news["content"]))
        return await tell(self, peer, news)

    def note_held(self: HeldBack, delivery: Any, task_id: str) -> None:
        held.append(delivery.id)
        put(self, delivery, task_id)
        if not mishaps and len(set(held)) == 10:
            mishaps.append(delivery.id)
            raise Failed("the disk went away")

    monkeypatch.setattr(Poster, "tell", note)
    monkeypatch.setattr(HeldBack, "put", note_held)
    tasks = [await delegate(a, "B-bot@portal", text) for text in ("first", "second")]
    theres = [await heard(bridge, text) for text in ("first", "second")]
    wanted = ["draft", "1", "2", "3", "final"]
    for there in theres:
        file = await bring(b, there, "draft.txt", b"draft")
        for text in wanted:
            body = {"result": text, "status": "completed" if text == "final" else "in_progress"}
            await b.well("POST", f"/api/portal/tasks/{there}", body | ({"files": [file]} if text == "draft" else {}))
    await until(lambda: len(held) >= 20)
    assert told == []
    gate.set()
    for id in tasks:
        done = await task_in(a, id, "completed")
        assert (done["result"], done["result_attachments"]) == ("final", [])
        assert [text for of, text in told if of == id] == wanted
    assert len(held) <= 40, "no report waits over and over"


async def test_an_answer_that_the_other_portal_refuses_ends_the_task_there_and_is_told(
    portals: Portals, bridges: Bridges, gate: asyncio.Event
) -> None:
    a, b = await portals(limits={"max_body_bytes": 8192}), await portals(key=B_KEY)
    key = await a.befriend(b.url, agent_name="B-bot")
    await b.well("POST", "/api/contacts", {"portal_url": a.url, "agent_name": "A-bot", "SHARED_KEY": key})
    bridge = await bridges(b, key=B_KEY)
    await well(a, "POST", "/register", {"agent_id": "ann", "name": "Ann"})
    large = await delegate(a, "B-bot@portal", "too large")
    there = await heard(bridge, "too large")
    for text, status in (("x" * 10_000, "in_progress"), ("y" * 10_000, "completed")):
        await b.well("POST", f"/api/portal/tasks/{there}", {"result": text, "status": status})
    done = await task_in(a, large, "failed")
    assert done["result"].startswith("the answer (completed) did not go over: the other portal answers 413")
    assert [event["status"] for event in done["history"]].count("in_progress") == 0
    for said in ("(in_progress) to", "(completed) went to"):
        (told,) = await eventually(partial(told_with, bridge, said))
        assert "the other portal answers 413" in told


async def test_an_answer_goes_without_files_that_are_gone_at_the_other_portal(
    portals: Portals, bridges: Bridges, gate: asyncio.Event
) -> None:
    a, b = await pair(portals)
    bridge = await bridges(b, key=B_KEY)
    id = await delegate(a, "B-bot@portal", "with files")
    there = await heard(bridge, "with files")
    files = [await bring(b, there, name, data) for name, data in (("gone", b"1"), ("slow", b"22"))]
    await b.well("POST", f"/api/portal/tasks/{there}", {"result": "see there", "note": "both", "files": files})

    await status_of(b, files[0], "sent")
    await a.well("DELETE", f"/api/portal/files/{(await files_of(a))['gone']['file_id']}")
    gate.set()
    done = await task_in(a, id, "completed")
    assert (done["result"], done["result_attachments"]) == ("see there", [])
    assert done["note"].startswith('both; without its files: the other portal answers 400: "no complete file')
    await until(lambda: any(f"task {there} (completed) went to" in told for told in bridge.texts))
    assert any("without its files: the other portal answers 400" in told for told in bridge.texts)


def _at(clock: Callable[[], float], later: float) -> float:
    return clock() + later


async def told_with(bridge: OldBridge, words: str) -> list[str]:
    """Return what a bridge heard with these words in it."""
    return [text for text in bridge.texts if words in text]


async def messages_of(own: Own, agent: str) -> list[Any]:
    """Read what waits for an agent of the relay."""
    found: list[Any] = (await well(own, "GET", f"/poll/{agent}?max=100"))["messages"]
    return found


async def test_what_agents_left_for_a_contact_that_is_blocked_is_told_or_kept(
    portals: Portals, bridges: Bridges, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await pair(portals)
    ours, theirs = await bridges(a), await bridges(b, key=B_KEY)
    ids = [await delegate(a, "B-bot@portal", text) for text in ("first", "second")]
    theres = [await heard(theirs, text) for text in ("first", "second")]
    await a.well("POST", "/api/portal/contacts/B-bot", {"blocked": True})
    await b.well("POST", "/api/portal/contacts/A-bot", {"blocked": True})
    send = {"from_agent": "ann", "to_agent": "B-bot@portal", "content": "hello"}
    sent = (await well(a, "POST", "/send", send))["message_id"]
    words = f"Message {sent} to 127.0.0.1:{b.url.rpartition(':')[2]} was not sent: the contact was blocked before"
    told = await eventually(lambda: messages_of(a, "ann"))
    assert told[0]["content"].startswith(words)
    assert " " not in told[0]["message_id"], "it stands in addresses"
    await until(lambda: any(words in text for text in ours.texts))
    state = await well(a, "GET", f"/messages/{sent}?agent_id=ann")
    assert (state["state"], state["acked_at"]) == ("expired", None)
    # An answer is kept until the contact is unblocked, and what comes behind it passes.
    for there in theres:
        await b.well("POST", f"/api/portal/tasks/{there}", {"result": "a hundred"})
    send = {"from_agent": "bob", "to_agent": "A-bot@portal", "content": "hello"}
    await well(b, "POST", "/register", {"agent_id": "bob", "name": "Bob"})
    await well(b, "POST", "/send", send)
    assert "was not sent: the contact was blocked" in (await eventually(lambda: messages_of(b, "bob")))[0]["content"]
    assert (await well(a, "GET", f"/tasks/{ids[0]}?agent_id=ann"))["result"] is None
    await a.well("POST", "/api/portal/contacts/B-bot", {"blocked": False})
    await b.well("POST", "/api/portal/contacts/A-bot", {"blocked": False})
    for id in ids:
        assert (await task_in(a, id, "completed"))["result"] == "a hundred"


async def test_the_files_of_an_answer_wait_with_it_for_a_blocked_contact(portals: Portals, bridges: Bridges) -> None:
    a, b = await pair(portals)
    bridge = await bridges(b, key=B_KEY)
    id = await delegate(a, "B-bot@portal", "count them")
    there = await heard(bridge, "count them")
    await a.well("POST", "/api/portal/contacts/B-bot", {"blocked": True})
    file = await bring(b, there, "count.txt", b"a hundred")
    await b.well("POST", f"/api/portal/tasks/{there}", {"result": "see there", "files": [file]})

    async def tried() -> bool:
        return "403" in ((await files_of(b))["count.txt"]["detail"] or "")

    await eventually(tried)
    await b.well("POST", "/api/portal/contacts/A-bot", {"blocked": True})
    door: Any = b.relay.app.doors["portal"]
    door.active.file_outbox.wake(a.url)
    await until(lambda: not door.active.file_outbox.is_working_on(a.url))
    assert (await files_of(b))["count.txt"]["status"] == "queued"
    await a.well("POST", "/api/portal/contacts/B-bot", {"blocked": False})
    await b.well("POST", "/api/portal/contacts/A-bot", {"blocked": False})
    done = await task_in(a, id, "completed")
    assert [one["name"] for one in done["result_attachments"]] == ["count.txt"]


async def test_an_answer_for_a_contact_that_stays_blocked_ends_with_a_notice(
    portals: Portals, bridges: Bridges, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await pair(portals, portal_ttl=3600.0)
    bridge = await bridges(b, key=B_KEY)
    await delegate(a, "B-bot@portal", "count them")
    there = await heard(bridge, "count them")
    await b.well("POST", "/api/portal/contacts/A-bot", {"blocked": True})
    held = asyncio.Event()
    put = HeldBack.put

    def note_held(self: HeldBack, delivery: Any, task_id: str) -> None:
        put(self, delivery, task_id)
        held.set()

    monkeypatch.setattr(HeldBack, "put", note_held)
    file = await bring(b, there, "count.txt", b"a hundred")
    await b.well("POST", f"/api/portal/tasks/{there}", {"result": "a hundred", "files": [file]})
    await until(held.is_set)
    core = b.relay.app.relay.core
    door: Any = b.relay.app.doors["portal"]
    clock = core.clock
    assert (await core.store.usage(Transfer, UNCLAIMED)).count == 0, "the answer has come, and its file stays"
    monkeypatch.setattr(core, "clock", lambda: clock() + 3601)
    door.active.outbox.files_moved(a.url)
    await until(lambda: any("within its time to live, in which the contact was blocked" in t for t in bridge.texts))

    async def dropped() -> bool:
        return await files_of(b) == {}

    await eventually(dropped)


async def test_files_of_a_task_stay_a_day_after_the_last_of_them_moved(
    portals: Portals, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await pair(portals)
    key = (await b.contact(a.url))["SHARED_KEY"]
    door: Any = b.relay.app.doors["portal"]
    core = b.relay.app.relay.core
    clock = core.clock

    async def begin(name: str) -> str:
        head = {"filename": name, "size": 1, "md5": md5(b"x"), "to_portal": b.url, "api_key": key, "task_id": "t1"}
        return str((await b.well("POST", "/api/file/initiate", head, key=""))["file_id"])

    assert (await put(b, await begin("first"), 0, b"x", key=key))[0] == 200
    monkeypatch.setattr(core, "clock", lambda: clock() + 80_000)
    second = await begin("second")
    for later, status in ((87_000, 200), (170_000, None)):
        monkeypatch.setattr(core, "clock", partial(_at, clock, later))
        await door.active.task_files.sweep()
        assert set(await files_of(b)) == {"first", "second"}, later
        if status:
            assert (await put(b, second, 0, b"x", key=key))[0] == status
    monkeypatch.setattr(core, "clock", lambda: clock() + 260_000)
    await door.active.task_files.sweep()
    assert await files_of(b) == {}
