"""Moving in at a portal that runs: over HTTP, with the session of the owner's page."""

from __future__ import annotations

import asyncio
import hashlib
import io
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from clawlink.domain.limits import MIB
from clawlink.doors.portal.records import Message
from clawlink.doors.portal.rules.access import PUBLIC_PASSWORD
from clawlink.doors.portal.rules.consent import WELL_KNOWN_KEY
from clawlink.doors.portal.rules.file_parts import MAX_PART_BYTES
from clawlink.doors.portal.rules.import_rows import MAX_TEXT_BYTES
from clawlink.doors.portal.server import import_page, importer
from clawlink.doors.portal.server.old_database import OldDatabase
from clawlink.store.base import Conflict
from tests.conftest import Start
from tests.doors.portal.conftest import OWNER, PASSWORD, Bridges, Own, Portals
from tests.doors.portal.old_databases import GENERATIONS, K1, K2, K3, MINE, OWN, OWNER_KEY, THEIRS, insert, make
from tests.doors.portal.test_page_texts import texts
from tests.doors.portal.test_processes import Portal as PortalProcess
from tests.waiting import PATIENCE, eventually, until

IMPORT = "/api/portal/import"


class Page:
    """A session of the owner's page, as a browser has it."""

    def __init__(self, portal: Own) -> None:
        self._portal = portal
        self._headers: dict[str, str] = {}

    async def enter(self) -> Page:
        url = self._portal.url + "/api/portal/session"
        async with self._portal.relay.session.post(url, json={"password": PASSWORD}) as answer:
            csrf = (await answer.json())["csrf"]
            cookie = answer.headers["Set-Cookie"].partition(";")[0]
        self._headers = {"Cookie": cookie, "ClawLink-CSRF": csrf}
        return self

    async def ask(self, method: str, path: str = IMPORT, body: Any = None, data: Any = None) -> tuple[int, Any]:
        url, session = self._portal.url + path, self._portal.relay.session
        async with session.request(method, url, json=body, data=data, headers=self._headers) as answer:
            return answer.status, await answer.json()

    async def bring(self, path: Path, *, at: str | None = OWN, **choice: Any) -> Any:
        """Bring a database, look at it, and take it over. Return the reports of both."""
        data = await asyncio.to_thread(path.read_bytes)
        assert (await self.ask("PUT", data=data))[0] == 200
        looked = await self.go({"at": at})
        return looked["report"], (await self.go({"at": at, "bring": True, **choice}))["report"]

    async def go(self, body: Any, state: str | None = None) -> Any:
        """Start an import, and return how it ended."""
        status, told = await self.ask("POST", body=body)
        assert status == 200, told
        return await self.settled(state or ("brought" if body.get("bring") else "looked"))

    async def state(self, wanted: str) -> bool:
        """Return True if the import is in this state."""
        return bool((await self.ask("GET"))[1]["state"] == wanted)

    async def settled(self, state: str) -> Any:
        async def ask() -> Any:
            status, told = await self.ask("GET")
            assert status == 200, told
            return told if told["state"] not in ("looking", "bringing", "uploading") else None

        told = await eventually(ask)
        assert told["state"] == state, told
        return told


Pages = Callable[[Own], Awaitable[Page]]


@pytest.fixture
async def page(portals: Portals) -> tuple[Own, Page]:
    """Start a portal, and sign its owner in."""
    portal = await portals()
    return portal, await Page(portal).enter()


@pytest.mark.parametrize("release", GENERATIONS)
async def test_each_form_of_the_schema_comes_to_a_portal_that_runs(
    page: tuple[Own, Page], tmp_path: Path, release: str
) -> None:
    portal, owner = page
    path = make(tmp_path / "portal.db", release)
    looked, brought = await owner.bring(path)
    assert looked == brought
    assert (brought["came"]["contacts"], brought["came"]["messages"]) == (1, 1), brought
    contact = await portal.contact("https://b.example")
    key = MINE if release.startswith("0.5") else K1
    assert (contact["id"], contact["SHARED_KEY"], contact["unread_count"]) == (4, key, 1)
    assert [one["key_id"] for one in brought["keys"]] == [OWNER_KEY[:12] + "..."]
    body = {"api_key": key, "from_portal": "https://b.example", "content": "after"}
    assert (await portal.ask("POST", "/api/message/receive", body, key=""))[0] == 200
    looked, brought = await owner.bring(path)
    assert (brought["came"]["contacts"], brought["there"]["contacts"]) == (0, 1), brought
    assert (looked["there"]["messages"], brought["came"]["messages"]) == (1, 0), "a repeat doubles nothing"
    assert (await portal.well("GET", "/api/contacts"))["total"] == 1
    assert THEIRS not in str(brought)
    assert (await owner.ask("GET"))[1]["size"] > 0


async def test_a_look_changes_nothing_and_a_key_of_the_owner_is_not_enough(
    page: tuple[Own, Page], tmp_path: Path
) -> None:
    portal, owner = page
    data = make(tmp_path / "portal.db", "0.9").read_bytes()
    for method in ("PUT", "POST", "GET", "DELETE"):
        status, refused = await portal.ask(method, IMPORT, {} if method == "POST" else None)
        assert (status, "the owner's page alone" in refused["detail"]) == (403, True), method
    assert (await owner.ask("POST", body={}))[0] == 409, "nothing was brought"
    await owner.ask("PUT", data=data)
    report = (await owner.go({"at": OWN}))["report"]
    assert report["came"]["contacts"] == 1
    assert (await portal.well("GET", "/api/contacts"))["total"] == 0
    own = (await owner.go({}))["report"]
    assert own["noted"] == [{"reason": "address", "name": OWN, "detail": portal.url}], "it had another address"
    status, told = await owner.ask("DELETE")
    assert (status, told["state"], told["size"]) == (200, "none", 0)
    assert (await owner.ask("POST", body={}))[0] == 409


async def test_what_must_not_come_stays_and_the_owner_chooses_keys(
    page: tuple[Own, Page], bridges: Bridges, tmp_path: Path
) -> None:
    portal, owner = page
    taken = await portal.befriend("https://z.example")
    path = make(
        tmp_path / "portal.db",
        "0.9",
        contacts=[
            {"id": 1, "portal_url": "https://b.example", "SHARED_KEY": K1},
            {"id": 2, "portal_url": "https://c.example", "SHARED_KEY": WELL_KNOWN_KEY},
            {"id": 3, "portal_url": "https://d.example", "SHARED_KEY": taken},
        ],
        api_keys=[
            {"key_id": OWNER_KEY[:-1] + "x", "portal_url": OWN, "agent_name": "a <b>stranger</b>"},
            {"key_id": K3, "portal_url": "https://b.example"},
        ],
        config=[{"key": "admin_password", "value": PUBLIC_PASSWORD}],
    )
    bridge = await bridges(portal)
    await owner.ask("PUT", data=path.read_bytes())
    report = (await owner.go({"at": OWN}))["report"]
    assert {(one["kind"], one["reason"]) for one in report["left"]} == {
        ("contact", "known_key"),
        ("contact", "same_key"),
        ("keys", "other_portal"),
        ("password", "public"),
    }
    assert {f"portal.reason.{one['reason']}" for one in report["left"]} <= texts("portal-zh.js").keys()
    ids = [one["id"] for one in report["keys"]]
    failed = await owner.go({"at": OWN, "bring": True, "owner_key": OWNER_KEY[:20]}, "failed")
    assert "2 keys" in failed["fault"]["detail"]
    assert (await portal.well("GET", "/api/contacts"))["total"] == 1, "a wrong choice changes nothing"
    choice = {"owner_key": ids[0], "agent_keys": [ids[1]]}
    brought = (await owner.go({"at": OWN, "bring": True, **choice}))["report"]
    assert brought["came"]["keys"] == 2
    assert brought["noted"][1:] == [{"reason": "number", "name": "1 (https://b.example)", "detail": "4"}]
    await until(lambda: bridge.closed)
    assert (await portal.ask("GET", "/api/contacts", key=OWNER))[0] == 401, "its key was replaced"
    assert (await portal.ask("GET", "/api/key/list", key=OWNER_KEY))[0] == 200
    assert (await portal.ask("GET", "/api/key/list", key=OWNER_KEY[:-1] + "x"))[0] == 403, "an agent key"
    assert (await portal.ask("POST", "/api/admin/login", {"password": PASSWORD}, key=""))[0] == 200, "it stays"


async def test_files_chat_guests_and_what_lies_beside_come(
    page: tuple[Own, Page], bridges: Bridges, tmp_path: Path
) -> None:
    portal, owner = page
    bridge = await bridges(portal)
    body = bytes(range(256)) * 10
    md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
    file = {
        "filename": "../r\u202eeport.pdf",
        "size": len(body),
        "chunk_size": 1000,
        "from_portal": "https://b.example/",
    }
    path = make(
        tmp_path / "portal.db",
        "0.9",
        file_transfers=[
            {"file_id": "whole", "md5": md5, "status": "completed", **file},
            {"file_id": "begun", "md5": md5, "status": "transferring", **file},
            {"file_id": "wrong", "md5": "0" * 32, "status": "completed", **file},
        ],
        file_chunks=[
            {"file_id": id, "chunk_index": n, "data": body[n * 1000 : n * 1000 + 1000]}
            for id in ("whole", "wrong")
            for n in range(3)
        ],
        owner_chats=[{"role": "owner", "content": "hello"}, {"role": "agent", "content": "<b>hi</b>"}],
        guest_messages=[{"id": 7, "content": f"I am https://z.example with {K2}"}],
    )
    await owner.ask("PUT", data=path.read_bytes())
    gif = b"GIF89a" + b"x" * 20
    assert (await owner.ask("PUT", f"{IMPORT}/photos/..%2Fa%20b.gif", data=gif))[0] == 200
    assert (await owner.ask("PUT", f"{IMPORT}/owner_files/a1b2c3d4e5f6.html", data=b"<script>"))[0] == 200
    assert (await owner.ask("PUT", f"{IMPORT}/etc/passwd", data=b"x"))[0] == 404
    looked = (await owner.go({"at": OWN}))["report"]
    assert (looked["came"]["files"], looked["came"]["photos"]) == (2, 2), "sums are compared when the file comes"
    report = (await owner.go({"at": OWN, "bring": True}))["report"]
    came = {kind: report["came"][kind] for kind in ("chat", "guests", "files", "photos")}
    assert came == {"chat": 2, "guests": 1, "files": 1, "photos": 2}
    assert sorted(one["reason"] for one in report["left"] if one["kind"] == "file") == ["incomplete", "sums"]
    (kept,) = (await portal.well("GET", "/api/portal/files"))["files"]
    assert (kept["filename"], kept["status"]) == ("report.pdf", "completed")
    headers = {"Authorization": f"Bearer {OWNER}"}
    async with portal.relay.session.get(f"{portal.url}/api/file/download/{kept['file_id']}", headers=headers) as told:
        assert await told.read() == body
    assert (await portal.well("GET", "/api/photos/list", key=""))["photos"] == [{"url": "/static/photos/a%20b.gif"}]
    await until(lambda: len(bridge.texts) == 2)
    assert not [text for text in bridge.texts if "文件传输完成" in text], "the agent heard of it long ago"


async def test_a_database_that_is_none_is_refused_with_the_next_step(
    page: tuple[Own, Page], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, owner = page
    good = make(tmp_path / "good.db", "0.9").read_bytes()
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE songs (id)")
    other.execute("CREATE VIEW contacts AS SELECT * FROM songs")
    other.commit()
    other.close()
    chinese = texts("portal-zh.js")
    for data, reason, word in (
        (b"hello " * 1000, "no_database", "no SQLite database"),
        (good[:4096] + b"\xff" * 4096 + good[8192:], "damaged", "damaged"),
        ((tmp_path / "other.db").read_bytes(), "foreign", "no database of Agent P2P"),
        (b"", "foreign", "no database of Agent P2P"),
    ):
        assert (await owner.ask("PUT", data=data))[0] == 200
        fault = (await owner.go({"at": OWN}, "failed"))["fault"]
        assert fault["detail"].startswith("portal.db "), fault
        assert word in fault["detail"], fault
        assert (fault["reason"], f"portal.fault.{reason}" in chinese) == (reason, True)
    monkeypatch.setattr(import_page, "MAX_DATABASE_BYTES", 1000)

    async def pieces() -> AsyncIterator[bytes]:
        yield good

    for large in (good, pieces()):
        status, refused = await owner.ask("PUT", data=large)
        assert (status, "clawlink portal import" in refused["detail"]) == (413, True)
        assert (await owner.ask("GET"))[1]["state"] == "none"
    status, refused = await owner.ask("PUT", data=b"x" * 10)
    assert status == 200
    status, refused = await owner.ask("POST", body={"at": "javascript:alert(1)"})
    assert (status, refused["field"]) == (400, "at")
    assert (await owner.ask("POST", body={"agent_keys": ["x"] * 101}))[0] == 422


async def test_a_database_computes_nothing(page: tuple[Own, Page], tmp_path: Path) -> None:
    """Of a computed column or a check, a few bytes could make gigabytes."""
    _, owner = page
    for n, columns in enumerate(
        ("id INTEGER, x AS (zeroblob(9))", "id INTEGER, x TEXT AS ('x') STORED", "id INTEGER CHECK (id > 5)")
    ):
        db = sqlite3.connect(tmp_path / f"{n}.db")
        db.execute("PRAGMA ignore_check_constraints=ON")
        db.execute("CREATE TABLE contacts (id)")
        db.execute("CREATE TABLE messages (id)")
        db.execute(f"CREATE TABLE others ({columns})")
        db.execute("INSERT INTO others (id) VALUES (1)")
        db.commit()
        db.close()
        await owner.ask("PUT", data=(tmp_path / f"{n}.db").read_bytes())
        told = await owner.go({"at": OWN}, "looked" if "CHECK" in columns else "failed")
        assert "CHECK" in columns or "'others' has computed columns" in told["fault"]["detail"], told


async def test_a_value_without_a_limit_is_cut_before_it_comes_into_memory(tmp_path: Path) -> None:
    long = "x\0" + "y" * (64 * MIB)
    path = make(
        tmp_path / "portal.db",
        "0.9",
        messages=[{"from_portal": "https://b.example", "to_portal": OWN, "content": text} for text in (long, "a\0b")],
        file_chunks=[{"file_id": "f", "chunk_index": 0, "data": long.encode()}],
    )
    with OldDatabase(path) as database:
        texts = [row["content"] for row in database.rows("messages")]
        assert (len(texts[1]), texts[2]) == (MAX_TEXT_BYTES + 1, "a\0b")
        assert [len(data) for data in database.chunks("f")] == [MAX_PART_BYTES + 1]


async def test_an_upload_beside_the_deletion_of_the_one_before_is_the_one_that_counts(
    page: tuple[Own, Page], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, owner = page
    data = make(tmp_path / "portal.db", "0.9").read_bytes()
    deleting, goes_on, rest = threading.Event(), threading.Event(), asyncio.Event()
    delete = shutil.rmtree

    def slowly(path: Path, **said: Any) -> None:
        deleting.set()
        assert goes_on.wait(PATIENCE)
        delete(path, **said)

    async def pieces() -> AsyncIterator[bytes]:
        yield data[:100]
        await rest.wait()
        yield data[100:]

    assert (await owner.ask("PUT", data=data))[0] == 200
    monkeypatch.setattr(shutil, "rmtree", slowly)
    dropping = asyncio.create_task(owner.ask("DELETE"))
    await until(deleting.is_set)
    coming = asyncio.create_task(owner.ask("PUT", data=pieces()))
    await eventually(lambda: owner.state("uploading"))
    goes_on.set()
    assert (await dropping)[0] == 200
    assert await owner.state("uploading")
    assert (await owner.ask("PUT", data=b"another"))[0] == 409
    rest.set()
    assert (await coming)[1]["size"] == len(data)
    assert (await owner.go({"at": OWN}))["report"]["came"]["contacts"] == 1


async def test_rows_with_one_number_come_with_one_each(page: tuple[Own, Page], tmp_path: Path) -> None:
    portal, owner = page
    path = make(tmp_path / "portal.db", "0.9")
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE copy AS SELECT * FROM messages")
    db.execute("DROP TABLE messages")
    db.execute("ALTER TABLE copy RENAME TO messages")
    more = {"from_portal": "https://b.example", "to_portal": OWN, "is_delivered": 1}
    insert(db, "messages", [{"id": 7, "content": f"m{n}", **more} for n in range(20)])
    db.commit()
    db.close()
    _, brought = await owner.bring(path)
    assert brought["came"]["messages"] == 21
    history = await portal.well("GET", "/api/messages/history", params={"contact_portal": "https://b.example"})
    assert len({one["id"] for one in history["messages"]}) == 21


async def test_one_database_comes_at_a_time(
    page: tuple[Own, Page], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal, owner = page
    monkeypatch.setattr(import_page, "KEPT_SECONDS", 0.0)
    data = make(tmp_path / "portal.db", "0.9").read_bytes()
    goes_on = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield data[:100]
        await goes_on.wait()
        yield data[100:]

    coming = asyncio.create_task(owner.ask("PUT", data=slowly()))
    await eventually(lambda: owner.state("uploading"))
    for method, sent in (("PUT", {"data": b"x"}), ("POST", {"body": {}}), ("DELETE", {})):
        assert (await owner.ask(method, **sent))[0] == 409, method
    await portal.relay.app.relay.janitor.sweep()
    goes_on.set()
    assert (await coming)[1]["state"] == "uploaded", "the time without an act begins with its end"
    await eventually(lambda: owner.state("none"))  # the upkeep has looked


async def test_an_import_that_breaks_off_goes_on_by_a_repeat(
    page: tuple[Own, Page], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal, owner = page
    messages = [{"from_portal": "https://b.example", "to_portal": OWN, "content": f"m{n}"} for n in range(20)]
    path = make(tmp_path / "portal.db", "0.9", messages=messages)
    original, reached, goes_on = importer.Importer.put, asyncio.Event(), asyncio.Event()

    async def waits(self: Any, message: Any) -> None:
        if message.content == "m9":
            reached.set()
            await goes_on.wait()
        await original(self, message)

    monkeypatch.setattr(importer.Importer, "put", waits)
    await owner.ask("PUT", data=path.read_bytes())
    await owner.ask("POST", body={"at": OWN, "bring": True})
    await reached.wait()
    told = (await owner.ask("GET"))[1]
    assert (told["state"], told["report"]["came"]["messages"], told["total"]) == ("bringing", 10, 22)
    for method, sent in (("PUT", {"data": b"x"}), ("POST", {"body": {}})):
        status, refused = await owner.ask(method, **sent)
        assert (status, "under way" in refused["detail"]) == (409, True), method
    said = {"api_key": K1, "from_portal": "https://b.example", "content": "meanwhile"}
    live = await portal.well("POST", "/api/message/receive", said, key="")
    assert live["message_id"] == 22, "the numbers of the old portal are its own"
    assert (await owner.ask("DELETE"))[1]["state"] == "none"
    goes_on.set()
    _, brought = await owner.bring(path)
    assert (brought["there"]["messages"], brought["came"]["messages"]) == (10, 11)
    history = await portal.well("GET", "/api/messages/history", params={"contact_portal": "https://b.example"})
    assert sorted(one["content"] for one in history["messages"]) == sorted(
        ["hi", "meanwhile", *(f"m{n}" for n in range(20))]
    )
    assert len({one["id"] for one in history["messages"]}) == 22


async def test_nothing_of_it_is_left_behind(start_relay: Start, session: aiohttp.ClientSession, tmp_path: Path) -> None:
    """A portal that is killed deletes the upload at its next start. Its folder is for its account alone."""
    folder = tmp_path / "data"
    portal = PortalProcess(start_relay, session, folder)
    portal.begin()
    owner = await Page(portal.own).enter()
    await owner.ask("PUT", data=make(tmp_path / "portal.db", "0.9").read_bytes())
    (kept,) = folder.glob("clawlink-import-*")
    assert kept.stat().st_mode & 0o077 == 0
    portal.kill()
    portal.begin()
    assert not list(folder.glob("clawlink-import-*"))
    _, brought = await owner.bring(tmp_path / "portal.db")
    assert brought["came"]["contacts"] == 1, "the session goes on"
    assert not list(folder.glob("clawlink-import-*")), "the upload has keys in it"


async def test_a_large_database_holds_up_nobody(page: tuple[Own, Page], tmp_path: Path) -> None:
    """Rows are read in another thread, a few at a time."""
    portal, owner = page
    messages = [{"from_portal": "https://b.example", "to_portal": OWN, "content": "x" * 2000} for n in range(2000)]
    path = make(tmp_path / "portal.db", "0.9", messages=messages)
    await owner.ask("PUT", data=io.BytesIO(path.read_bytes()))
    await owner.ask("POST", body={"at": OWN, "bring": True})
    answers = 0
    while (await owner.ask("GET"))[1]["state"] == "bringing":
        assert (await portal.ask("GET", "/api/portal/about", key=""))[0] == 200
        answers += 1
    assert answers > 5, "others are answered on the way"
    assert (await owner.settled("brought"))["report"]["came"]["messages"] == 2001


async def test_messages_that_wait_for_nobody_share_commits_and_none_is_left_out(
    page: tuple[Own, Page], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal in the midst of a commit leaves out those behind it: they come one by one."""
    portal, owner = page
    messages = [
        {"from_portal": "https://b.example", "to_portal": OWN, "content": f"m{n}", "is_delivered": 1}
        for n in range(5 * importer.MOST_GATHERED)
    ]
    path = make(tmp_path / "portal.db", "0.9", messages=messages)
    store, shared = portal.relay.app.relay.core.store, []
    original = store.commit_in_order

    async def partly(batches: Any) -> Any:
        shared.append(len(batches))
        if len(shared) > 1:
            return await original(batches)
        return [*await original(batches[:3]), Conflict(Message, "x", "exists")]

    monkeypatch.setattr(store, "commit_in_order", partly)
    _, brought = await owner.bring(path)
    assert brought["came"]["messages"] == len(messages) + 1
    assert max(shared) == importer.MOST_GATHERED
    assert len(shared) < 10
    asked = {"contact_portal": "https://b.example", "limit": 200}
    told = (await portal.well("GET", "/api/messages/history", params=asked))["messages"]
    assert [one["id"] for one in told] == list(range(len(messages) + 1, 0, -1))
    _, again = await owner.bring(path)
    assert (again["came"]["messages"], again["there"]["messages"]) == (0, len(messages) + 1)


async def test_kinds_that_had_numbers_of_their_own_go_on_with_one_numbering_after_a_kill(
    start_relay: Start, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Old databases, and folders of earlier portals, have the same number for a message, a guest and a line."""
    portal = PortalProcess(start_relay, session, tmp_path / "data")
    portal.begin()
    path = make(
        tmp_path / "portal.db",
        "0.9",
        messages=[{"from_portal": "https://b.example", "to_portal": OWN, "content": f"m{n}"} for n in range(4)],
        guest_messages=[{"id": n, "content": f"g{n}"} for n in range(1, 8)],
        owner_chats=[{"id": n, "role": "agent", "content": f"c{n}"} for n in range(1, 4)],
    )
    await (await Page(portal.own).enter()).bring(path)
    portal.kill()
    portal.begin()
    own = portal.own
    line = (await own.well("POST", "/api/chat/owner/reply", {"content": "new"}))["message_id"]
    guest = (await own.well("POST", "/api/guest/leave-message", {"content": "new"}, key=""))["message_id"]
    body = {"api_key": K1, "from_portal": "https://b.example", "content": "new"}
    message = (await own.well("POST", "/api/message/receive", body, key=""))["message_id"]
    assert (line, guest, message) == (13, 14, 15)
    history = await own.well("GET", "/api/messages/history", params={"contact_portal": "https://b.example"})
    assert [one["id"] for one in history["messages"]] == [15, 5, 4, 3, 2, 1]
    lines = (await own.well("GET", "/api/chat/owner/history", params={"after": 2}))["messages"]
    assert [one["id"] for one in lines] == [3, 13]
    guests = (await own.well("GET", "/api/guest/messages"))["messages"]
    assert sorted(one["id"] for one in guests) == [*range(6, 13), 14], "unread messages have 1 to 5"


@pytest.mark.parametrize("first", ["message", "guest"])
async def test_what_waits_for_the_owner_shares_no_number(page: tuple[Own, Page], tmp_path: Path, first: str) -> None:
    """The owner answers by a number alone, and the channel plugin drops a second frame with one number."""
    portal, owner = page
    message = {"id": 5, "from_portal": "https://b.example", "to_portal": OWN, "content": "unread"}
    guest = {"id": 5, "content": "waits"}
    told: list[str] = []
    for kind in (first, "guest" if first == "message" else "message"):
        rows: Any = {"messages": [message]} if kind == "message" else {"guest_messages": [guest]}
        _, brought = await owner.bring(make(tmp_path / f"{kind}.db", "0.9", **rows))
        told += [note["detail"] for note in brought["noted"] if note["reason"] == "guest_number"]
    history = await portal.well("GET", "/api/messages/history", params={"contact_portal": "https://b.example"})
    (unread,) = [one["id"] for one in history["messages"] if one["content"] == "unread"]
    (waits,) = [one["id"] for one in (await portal.well("GET", "/api/guest/messages"))["messages"]]
    assert unread != waits
    assert (unread if first == "message" else waits) == 5
    assert told == ([str(waits)] if first == "message" else [])
    for said in ("已读", "同意"):
        await portal.well("POST", "/api/chat/owner/send", {"content": f"{said} {unread}"})
        lines = (await portal.well("GET", "/api/chat/owner/history", params={}))["messages"]
        assert "there is no guest message" in lines[-1]["content"]
