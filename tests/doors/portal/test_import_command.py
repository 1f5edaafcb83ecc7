"""Moving in: each form of ``portal.db``, what comes, what stays and why, twice, and over a folder that is in use."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clawlink.cli.main import main
from clawlink.domain.delivery import PENDING, Delivery
from clawlink.domain.file import SharedFile
from clawlink.doors.portal.records import Contact, Message, Photo, Portal
from clawlink.doors.portal.rules.access import PUBLIC_PASSWORD
from clawlink.doors.portal.rules.consent import WELL_KNOWN_KEY
from clawlink.doors.portal.server import importer
from clawlink.doors.portal.transfers import FileState, Transfer
from clawlink.errors import BadRequest
from clawlink.store.sqlite.folder import DataFolder
from tests.conftest import Start
from tests.doors.portal.conftest import Bridges, Peers
from tests.doors.portal.old_databases import GENERATIONS, K1, K2, K3, MINE, OWN, OWNER_KEY, THEIRS, make
from tests.doors.portal.old_peer import OldSender
from tests.doors.portal.test_processes import Portal as PortalProcess
from tests.processes import run as run_process
from tests.waiting import PATIENCE, until

Import = Callable[..., Any]


@pytest.fixture
def bring(clawlink_home: Path, capsys: pytest.CaptureFixture[str]) -> Import:
    """Run ``clawlink portal import`` with --json: ``code, report = bring(path, "--data", folder)``."""

    def run(path: Path, *words: str | Path) -> tuple[int, Any]:
        code = main(["portal", "import", str(path), "--at", OWN, "--json", *map(str, words)])
        told = capsys.readouterr()
        return code, json.loads(told.out) if told.out else told.err

    return run


def contacts_in(folder: Path) -> dict[str, Contact]:
    data = DataFolder(folder)
    try:
        return {one.id: one for one in data.store.all(Contact)}
    finally:
        data.close()


def reasons(report: Any) -> dict[str, str]:
    return {left["what"]: left["why"] for left in report["left"]}


def test_each_form_of_the_schema_comes(bring: Import, tmp_path: Path) -> None:
    for n, release in enumerate(GENERATIONS):
        folder = tmp_path / f"data{n}"
        code, report = bring(make(tmp_path / f"{n}.db", release), "--data", folder)
        assert code == 0, (release, report)
        assert (report["came"]["contacts"], report["came"]["messages"]) == (1, 1), (release, report)
        contact = contacts_in(folder)["https://b.example"]
        keys = (MINE, THEIRS) if release.startswith("0.5") else (K1, None)
        assert (contact.number, contact.key, contact.send_key) == (4, *keys), release
        assert "bob" in contact.names, release
        assert [key["key_id"] for key in report["keys"]] == [OWNER_KEY[:12] + "..."], release


def test_without_a_folder_it_only_looks(bring: Import, tmp_path: Path) -> None:
    path = make(tmp_path / "portal.db", "0.9")
    before = path.read_bytes()
    code, report = bring(path)
    assert (code, report["came"]["contacts"], report["came"]["messages"]) == (0, 1, 1)
    assert path.read_bytes() == before
    assert not list(tmp_path.rglob("clawlink.db"))


def test_what_is_known_to_all_and_what_strangers_made_stays(bring: Import, tmp_path: Path) -> None:
    def contact(id: int, url: Any, **more: Any) -> dict[str, Any]:
        return {"id": id, "portal_url": url, "SHARED_KEY": K1, **more}

    path = make(
        tmp_path / "portal.db",
        "0.9",
        contacts=[
            contact(1, "https://b.example", agent_name="<b>x\u202e" + "y" * 300),
            contact(2, "https://B.example/", SHARED_KEY=K2),
            contact(3, "https://c.example", SHARED_KEY=K2),
            contact(4, "https://d.example", SHARED_KEY=""),
            contact(5, "https://e.example", SHARED_KEY=WELL_KNOWN_KEY),
            contact(6, "javascript:alert(1)", SHARED_KEY=K3),
            contact(7, OWN + "/", SHARED_KEY=K3),
            contact(8, "https://f.example", SHARED_KEY=K3, is_verified=0),
            contact(9, None, SHARED_KEY=K3),
            contact(10, "https://g.example", SHARED_KEY="short"),
            contact(11, "https://h.example", SHARED_KEY=K3, expires_at="2027-01-31 00:00:00"),
        ],
        api_keys=[
            {"key_id": WELL_KNOWN_KEY, "portal_url": OWN},
            {"key_id": K1, "portal_url": "https://b.example", "agent_name": "friend"},
            {"key_id": K2, "portal_url": OWN, "is_active": 0},
        ],
        config=[{"key": "admin_password", "value": PUBLIC_PASSWORD}, {"key": "openclaw_token", "value": "s"}],
        messages=[{"from_portal": "https://x.example", "to_portal": "https://y.example", "content": "not ours"}],
        pending_notifications=[{"type": "x"}],
    )
    folder = tmp_path / "data"
    code, report = bring(path, "--data", folder)
    assert code == 0, report
    kept = contacts_in(folder)
    assert {one.number: one.key for one in kept.values()} == {2: K2, 11: K3}
    why = reasons(report)
    for what, word in (
        ("contact 1 (https://b.example)", "contact 2 is the same portal"),
        ("contact 3 (https://c.example)", "contact 2 has the same key"),
        ("contact 4 (https://d.example)", "has no key"),
        ("contact 5 (https://e.example)", "the same for everybody"),
        ("contact 6 (javascript:alert(1))", "address"),
        (f"contact 7 ({OWN}/)", "this portal itself"),
        ("contact 8 (https://f.example)", "never verified"),
        ("contact 9 (-)", "address"),
        ("contact 10 (https://g.example)", "16 to 256"),
        ("contact 11 (https://h.example)", "its end, 2027-01-31 00:00:00, does not come with it"),
        ("message 2", "not with this portal"),
        ("the owner's password", "public default"),
    ):
        assert word in why[what], (what, why)
    assert len(report["keys"]) == 1
    assert sum(left["what"] == "1 keys of api_keys" for left in report["left"]) == 3
    data = DataFolder(folder)
    (portal,) = data.store.all(Portal)
    data.close()
    assert (portal.owner_hash, portal.password) == ("", ""), "the first start makes both"


async def test_contacts_notice_nothing(
    bring: Import,
    start_relay: Start,
    session: Any,
    old_portals: Peers,
    bridges: Bridges,
    tmp_path: Path,
) -> None:
    """An old peer writes before and after, with the key, the address and the number that it always had."""
    peer = await old_portals("0.9")
    folder = tmp_path / "data"
    portal = PortalProcess(start_relay, session, folder)
    own = portal.own.url
    peer.key, peer.from_portal = THEIRS, own + "/"  # this contact knows the address with a slash
    path = make(
        tmp_path / "portal.db",
        "0.5",
        contacts=[{"id": 7, "portal_url": peer.url, "agent_name": "bob", "my_api_key": MINE, "their_api_key": THEIRS}],
        messages=[
            {"from_portal": peer.url, "to_portal": own, "content": "read", "is_delivered": 1},
            {"from_portal": own, "to_portal": peer.url, "content": "sent", "created_at": "2026-04-01 10:00:00"},
            {"from_portal": peer.url, "to_portal": own + "/", "content": "unread", "is_delivered": 0},
        ],
        guest_messages=[
            {"id": 3, "content": f"I am https://z.example with {K3}", "created_at": "2026-04-13T10:00:00.000001+08:00"},
            {"id": 9, "content": "old", "is_read": 1, "status": "rejected"},
        ],
    )
    words = ("--data", folder, "--at", own, "--owner-key", OWNER_KEY[:14])
    db = sqlite3.connect(path)
    with db:
        db.execute("UPDATE api_keys SET portal_url = ?", (own,))
        db.execute("DELETE FROM messages WHERE content = 'hi'")
    db.close()
    code, report = await asyncio.to_thread(bring, path, *words)
    assert (code, report["came"]["keys"]) == (0, 1), report
    again = (await asyncio.to_thread(bring, path, *words))[1]
    assert (again["came"]["contacts"], again["there"]["contacts"]) == (0, 1), again
    assert (again["there"]["messages"], again["there"]["guests"]) == (3, 2), again
    portal.own.key = OWNER_KEY
    portal.begin({"CLAWLINK_TOKEN": "t"})
    code, said = await asyncio.to_thread(bring, path, *words)
    assert code != 0
    assert "another relay uses" in said
    contact = await portal.own.contact(peer.url)
    assert (contact["id"], contact["unread_count"]) == (7, 1)
    told = await OldSender("0.9", peer.url, MINE).send(session, own, "after")
    assert told[0] == 200, told
    bridge = await bridges(portal.own)
    await until(lambda: len(bridge.texts) == 3)
    assert [text.rpartition(" ")[2] for text in bridge.texts if "新消息" in text] == ["unread", "after"]
    number = (await portal.own.well("POST", "/api/portal/send", {"to": 7, "content": "answer"}))["id"]
    await portal.own.state(number, "sent")
    assert [one["content"] for one in peer.stored] == ["answer"]
    history = await portal.own.well("GET", "/api/messages/history", params={"contact_portal": peer.url})
    assert [one["content"] for one in history["messages"]] == ["answer", "after", "unread", "sent", "read"]
    guests = (await portal.own.well("GET", "/api/guest/messages"))["messages"]
    assert [(one["id"], one["status"]) for one in guests] == [(9, "rejected"), (3, "pending")]
    await portal.own.well("POST", "/api/guest/messages/3/status", {"status": "approved"})
    assert (await portal.own.contact("https://z.example"))["SHARED_KEY"] == K3


def test_files_and_photos_come(bring: Import, tmp_path: Path) -> None:
    body = bytes(range(256)) * 10

    def transfer(id: str, **more: Any) -> dict[str, Any]:
        return {
            "file_id": id,
            "filename": "../r\u202eeport.pdf",
            "size": len(body),
            "md5": hashlib.md5(body, usedforsecurity=False).hexdigest(),
            "chunk_size": 1000,
            "status": "completed",
            "from_portal": "https://b.example/",
            **more,
        }

    def chunks(id: str, *indexes: int) -> list[dict[str, Any]]:
        return [{"file_id": id, "chunk_index": n, "data": body[n * 1000 : n * 1000 + 1000]} for n in indexes]

    path = make(
        tmp_path / "portal.db",
        "0.9",
        file_transfers=[
            transfer("whole"),
            transfer("holed"),
            transfer("wrong", md5="0" * 32),
            transfer("begun", status="transferring"),
            transfer("other", from_portal="https://x.example"),
            transfer("empty", size=0, md5=hashlib.md5(b"", usedforsecurity=False).hexdigest()),
        ],
        file_chunks=[
            *chunks("whole", 2, 0, 1),
            *chunks("holed", 0, 2),
            *chunks("wrong", 0, 1, 2),
        ],
    )
    for name, content in (("photos/a b.png", b"photo"), ("owner_files/a1b2c3d4e5f6.html", b"<script>")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    folder = tmp_path / "data"
    for came in (True, False):
        code, report = bring(path, "--data", folder)
        assert code == 0, report
        assert report["came" if came else "there"]["files"] >= 1, report
        assert report["came" if came else "there"]["photos"] == 2, report
        why = [left["why"] for left in report["left"] if left["what"].startswith("file ")]
        assert len(why) == 4, report
        for word in ("never completed", "no contact here", "parts of it are missing", "MD5"):
            assert any(word.lower() in one.lower() for one in why), (word, why)
    data = DataFolder(folder)
    try:
        transfers = {one.size: one for one in data.store.all(Transfer)}
        kept = {one.id for one in data.store.all(SharedFile) if one.versions}
        photos = [one.id for one in data.store.all(Photo)]
        waiting = [one.id for one in data.store.all(Delivery) if one.id.startswith("file-") and one.state is PENDING]
    finally:
        data.close()
    assert transfers[len(body)].state is FileState.COMPLETED
    assert ".." not in transfers[len(body)].file_key
    assert photos == ["a b.png"], "the front page shows them"
    assert {"portal/photos/a b.png", "portal/chat/a1b2c3d4e5f6.html", transfers[len(body)].file_key} <= kept
    assert waiting == [], "the agent heard of them long ago"


def test_a_second_run_goes_on_where_the_first_broke_off(
    bring: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = [{"from_portal": "https://b.example", "to_portal": OWN, "content": f"m{n}"} for n in range(20)]
    path = make(tmp_path / "portal.db", "0.9", messages=messages)
    folder = tmp_path / "data"
    original = importer.Importer.put
    put: list[str] = []

    async def breaks_off(self: Any, message: Any) -> None:
        if len(put) == 9:
            raise BadRequest("the machine stops")
        put.append(message.content)
        await original(self, message)

    with monkeypatch.context() as patch:
        patch.setattr(importer.Importer, "put", breaks_off)
        assert bring(path, "--data", folder)[0] != 0
    code, report = bring(path, "--data", folder)
    assert (code, report["there"]["messages"], report["came"]["messages"]) == (0, 9, 12), report
    data = DataFolder(folder)
    kept = sorted((one.number, one.content) for one in data.store.all(Message))
    data.close()
    assert kept == [(1, "hi"), *((n + 2, f"m{n}") for n in range(20))]


def test_databases_that_are_none_are_refused_and_stay(bring: Import, tmp_path: Path) -> None:
    good = make(tmp_path / "good.db", "0.9")
    torn = tmp_path / "torn.db"
    body = good.read_bytes()
    torn.write_bytes(body[:4096] + b"\xff" * 4096 + body[8192:])
    other = tmp_path / "other.db"
    db = sqlite3.connect(other)
    db.execute("CREATE TABLE songs (id)")
    db.execute("CREATE VIEW contacts AS SELECT * FROM songs")
    db.commit()
    db.close()
    (tmp_path / "text.db").write_text("hello " * 1000)
    (tmp_path / "empty.db").write_bytes(b"")
    folder = tmp_path / "data"
    for name, word in (
        ("missing.db", "no such file"),
        ("text.db", "no SQLite database"),
        ("torn.db", "damaged"),
        ("other.db", "no database of Agent P2P"),
        ("empty.db", "no database of Agent P2P"),
        (".", ""),
    ):
        path = tmp_path / name
        before = path.read_bytes() if path.is_file() else None
        code, said = bring(path, "--data", folder)
        assert code != 0, name
        assert word in said, (name, said)
        assert (path.read_bytes() if path.is_file() else None) == before, name
        assert not folder.exists(), name
    assert main(["portal", "import", str(good), "--data", str(folder)]) != 0, "which address the portal had"
    assert not folder.exists()


def test_the_owner_chooses_among_keys(bring: Import, tmp_path: Path) -> None:
    path = make(
        tmp_path / "portal.db",
        "0.9",
        api_keys=[{"key_id": OWNER_KEY[:-1] + "x", "portal_url": OWN, "agent_name": "a stranger"}],
        config=[{"key": "admin_password", "value": "a password of my own"}],
    )
    folder = tmp_path / "data"
    for words, said in (
        (("--owner-key", OWNER_KEY[:20]), "2 keys"),
        (("--owner-key", WELL_KNOWN_KEY), "the same for everybody"),
        (("--owner-key", ""), "--owner-key is empty"),
        (("--owner-key", OWNER_KEY, "--agent-key", OWNER_KEY), "not both"),
    ):
        code, told = bring(path, "--data", folder, *words)
        assert code != 0, words
        assert said in told, (words, told)
        assert not folder.exists()
    code, report = bring(path, "--data", folder, "--agent-key", OWNER_KEY)
    assert (code, report["came"]["keys"], report["came"]["password"]) == (0, 1, 1), report
    assert OWNER_KEY not in json.dumps(report)
    code, report = bring(path, "--data", folder, "--agent-key", OWNER_KEY)
    assert (report["there"]["keys"], report["there"]["password"]) == (1, 1), report


def test_a_python_without_sqlite_is_told_as_such(tmp_path: Path) -> None:
    start = "import sys, runpy; sys.modules['sqlite3'] = None; runpy.run_module('clawlink', run_name='__main__')"
    command = [sys.executable, "-c", start, "portal", "import", str(tmp_path), "--data", str(tmp_path / "portal")]
    done = run_process(command, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "this Python lacks" in done.stderr
