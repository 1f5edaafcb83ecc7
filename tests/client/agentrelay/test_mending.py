"""What is left when a process is killed at any step, when files are torn or lost, and when many write at once."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from clawlink.client.agentrelay import folder as folder_module
from clawlink.client.agentrelay.folder import Folder
from clawlink.errors import BadRequest, StoreUnavailable, UnknownEvent
from tests.client.agentrelay.conftest import Desk

MOST_STEPS = 60


def prepared(data: Path) -> None:
    """Make a folder with an event to read, one that burns, and one that was read."""
    folder = Folder(data)
    folder.send("b", "REQ", "base", {"sender_agent": "a"})
    folder.send("b", "REQ", "burns", {"sender_agent": "a", "burn_on_read": True})
    folder.send("b", "REQ", "read", {"sender_agent": "a"}, "secret")
    folder.receive("REQ,read,s/read.json,,")


def happened(folder: Folder, action: str) -> bool:
    """Tell whether it did, by all that tells of it; fail the test where that disagrees."""
    id = {"send": "e1", "hand_on": "e1", "burn": "burns", "cmp": "read", "verify": "read"}.get(action, "base")
    status = {"send": "sent", "receive": "received", "burn": "burned_on_read", "update": "updated"}
    status |= {"hand_on": "sent", "cmp": "completed", "verify": "verified"}
    logged = {"send": "SENT", "receive": "CONFIRMED", "burn": "CONFIRMED", "update": "PREPARING"}
    logged |= {"hand_on": "PREPARING", "cmp": "COMPLETED", "verify": "VERIFIED"}
    did = folder.record(id).get("status") == status[action]
    lines = [one for one in folder.transactions.read(id) if one["status"] == logged[action]]
    assert len(lines) == did
    if action in ("send", "hand_on"):
        assert folder.file_of(id).exists() == did
    if action == "burn":
        assert folder.file_of(id).exists() != did
    if action == "update":
        assert ("result" in folder.file_of(id).read_text()) == did
    return did


@pytest.mark.parametrize("action", ["send", "receive", "burn", "update", "hand_on", "cmp", "verify"])
def test_after_a_kill_at_any_step_all_or_nothing_is_there_and_it_is_said(tmp_path: Path, action: str) -> None:
    outcomes = []
    for step in range(1, MOST_STEPS):
        data = tmp_path / str(step)
        prepared(data)
        command = [sys.executable, "-m", "tests.client.agentrelay.dying", str(data), str(step), action]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        said: list[str] = []
        folder = Folder(data, tell=said.append)
        folder.send("b", "REQ", "next", {"sender_agent": "a"})  # the next command works
        did = happened(folder, action)
        json.loads(folder.registry.read_text())
        assert {path.name for path in folder.root.iterdir()} <= {"storage", "logs", "registry.json", ".lock", ".seen"}
        assert not [path for path in folder.storage.iterdir() if path.name.startswith(".")]
        lived = "done" in done.stdout
        outcomes.append((did, bool(said), lived))
        assert folder.receive("REQ,next,s/next.json,,")["event_id"] == "next"
        assert len(said) == len(set(said))
        if lived:
            break
        assert done.stderr == ""
    assert outcomes[-1] == (True, False, True), "it did not live through all of its steps"
    done_at = [did for did, _, _ in outcomes]
    assert done_at == sorted(done_at), "once it is done it stays done"
    assert False in done_at
    # Before the first step and after the last there is nothing to say; in between, whoever comes next says it.
    killed_within = [told for _, told, _ in outcomes]
    first, last = killed_within.index(True), len(killed_within) - killed_within[::-1].index(True)
    assert all(killed_within[first:last])
    assert last - first >= 8


def test_sixteen_processes_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(16) as pool:
        pool.starmap(_send_many, [(str(tmp_path), name, 63 if name < 8 else 62) for name in range(16)])
    said: list[str] = []
    folder = Folder(tmp_path, tell=said.append)
    events = json.loads(folder.registry.read_text())["events"]
    assert len(events) == 1000
    assert len(list(folder.storage.iterdir())) == 1000
    assert sum(1 for one in folder.transactions.read() if one["status"] == "SENT") == 1000
    assert len({event["secret"] for event in events.values()}) > 990
    folder.receive("REQ,p3-7,s/p3-7.json,,")
    assert said == []


def _send_many(data: str, name: int, count: int) -> None:
    folder = Folder(Path(data))
    for number in range(count):
        folder.send("b", "REQ", f"p{name}-{number}", {"sender_agent": "a"})


def test_of_many_who_send_one_id_one_does(desk: Desk) -> None:
    got: list[object] = []

    def one() -> None:
        try:
            got.append(desk.another().send("b", "REQ", "e1", {"sender_agent": "a"})["secret"])
        except Exception as error:
            got.append(error)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    secrets = [found for found in got if isinstance(found, str)]
    assert len(got) == 8
    assert secrets == [desk.events["e1"]["secret"]]


def test_of_many_who_read_what_burns_one_does(desk: Desk) -> None:
    desk.send("e1", burn_on_read=True)
    got: list[object] = []

    def one() -> None:
        try:
            got.append(desk.another().receive("REQ,e1,s/e1.json,,"))
        except UnknownEvent as error:
            got.append(error)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(found).__name__ for found in got) == ["UnknownEvent"] * 7 + ["dict"]


def test_a_torn_registry_is_restored_from_itself_the_files_and_the_log(desk: Desk) -> None:
    for number in range(6):
        desk.send(f"e{number}")
    desk.receive("e4")
    desk.receive("e5")
    message = desk.folder.cmp("e5")
    raw = desk.folder.registry.read_bytes()
    desk.folder.registry.write_bytes(raw[: raw.index(b'"e3"') + 20])
    desk.send("e6")
    assert set(desk.events) == {f"e{number}" for number in range(7)}
    assert (desk.events["e3"]["status"], desk.events["e4"]["status"]) == ("sent", "received")
    assert desk.events["e5"]["status"] == "completed"
    assert desk.folder.verify(message)["status"] == "ok"
    (said,) = desk.said
    assert "3 events were whole, 3 were restored" in said
    assert (desk.folder.root / "registry.torn.json").read_bytes() == raw[: raw.index(b'"e3"') + 20]


@pytest.mark.parametrize(
    "torn", [b"\x00" * 100, b"{", b'{"events": {"e1": {"sta', b"[]", b'"events"', b"\xff\xfe", b"1"]
)
def test_of_a_registry_that_is_none_everything_comes_back_that_has_a_file(desk: Desk, torn: bytes) -> None:
    desk.send("e1")
    desk.send("e2", burn_on_read=True)
    desk.receive("e2")
    desk.folder.registry.write_bytes(torn)
    assert desk.receive("e1")["event_id"] == "e1"
    assert "registry.json was torn" in desk.said[0]
    assert "only the log knows of event e2" in desk.said[1]
    with pytest.raises(UnknownEvent):
        desk.folder.cmp("e2")
    assert len(desk.said) == 2


def test_trailing_garbage_and_the_originals_form_are_read(desk: Desk) -> None:
    desk.send("e1")
    desk.send("e2")
    desk.folder.registry.write_text(json.dumps({"events": desk.events}, indent=2) + '\n  "status": "sent"\n}}')
    desk.send("e3")
    assert "2 events were whole, 0 were restored" in desk.said[0]
    assert set(desk.events) == {"e1", "e2", "e3"}


def test_what_else_stands_in_the_registry_stays(desk: Desk) -> None:
    desk.send("e1")
    desk.folder.registry.write_text(json.dumps({"version": {"a": 1}, "events": desk.events, "z": [1]}, indent=2))
    desk.send("e2")
    desk.send("e3")
    top = json.loads(desk.folder.registry.read_text())
    assert (top["version"], top["z"], set(top["events"])) == ({"a": 1}, [1], {"e1", "e2", "e3"})


def test_a_torn_file_stops_only_its_own_event(desk: Desk) -> None:
    secret = desk.send("e1")["secret"]
    desk.send("e2")
    desk.receive("e1")
    desk.folder.file_of("e1").write_text('{"meta": {"event_')
    with pytest.raises(BadRequest, match=r"e1\.json is torn"):
        desk.receive("e1")
    assert desk.receive("e2")["event_id"] == "e2"
    assert desk.folder.cmp("e1") == f"CMP,e1,,,{secret}"
    desk.folder.update("e1", {"result": 1})
    assert desk.receive("e1")["content"] == {"result": 1}
    assert desk.file("e1")["meta"]["secret"] == secret
    assert len(desk.said) == 1


def test_a_torn_file_that_nobody_knows_is_put_aside_and_told_once(desk: Desk) -> None:
    desk.send("e1")
    (desk.folder.storage / "lost.json").write_text("{")
    desk.now += 60
    desk.send("e2")
    desk.now += 60
    desk.send("e3")
    (said,) = desk.said
    assert "lost.json is torn" in said
    assert "lost.json.damaged" in said
    assert (desk.folder.storage / "lost.json.damaged").exists()


def test_a_record_that_makes_no_sense_is_dropped_and_restored(desk: Desk) -> None:
    desk.send("e1")
    desk.send("e2")
    desk.write_events({**desk.events, "e1": "?", "e9": 3})
    desk.send("e3")
    assert set(desk.events) == {"e1", "e2", "e3"}
    assert desk.receive("e1")["event_id"] == "e1"
    assert any("'e9' made no sense" in said for said in desk.said)


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        "soon",
        [],
        {},
        "9999-12-31T23:59:59",
        "0001-01-01T00:00:00",
        "0001-01-01T00:00:00+14:00",
        "9" * 400,
        True,
        1e308,
    ],
)
def test_no_field_of_a_record_stops_anything(desk: Desk, value: object) -> None:
    desk.send("e1")
    names = ("created_at", "updated_at", "expired_at", "ttl_hours", "status", "secret", "sender", "last_received_at")
    for name in names:
        events = desk.events
        events["e1"] = {**events.get("e1", {}), name: value}
        desk.write_events(events)
        desk.now += 60
        desk.send(f"after-{name}".replace("_", "-"))
        desk.folder.cleanup()
    assert len(desk.events) >= len(names)


def test_what_the_registry_lost_is_found_again(desk: Desk) -> None:
    desk.send("e1")
    desk.receive("e1")
    desk.write_events({})
    assert desk.folder.cmp("e1").startswith("CMP,e1,,,")
    assert desk.said == ["the registry had lost event e1: restored from the files and the log"]


def test_a_torn_line_of_the_log_harms_no_other(desk: Desk) -> None:
    desk.send("e1")
    (path,) = desk.folder.transactions.files()
    path.write_bytes(path.read_bytes() + b'{"timestamp": "2026')
    desk.send("e2")
    assert [line["event_id"] for line in desk.log()] == ["e1", "e2"]


def test_who_holds_the_lock_too_long_is_named(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    desk.send("e1")
    monkeypatch.setattr(folder_module, "_LOCK_SECONDS", 0.05)
    with FileLock(desk.folder.root / ".lock"), pytest.raises(StoreUnavailable, match=r"has held .*\.lock"):
        desk.send("e2")
    desk.send("e2")
