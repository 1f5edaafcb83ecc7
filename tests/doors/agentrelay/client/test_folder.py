"""Events in a local folder: the verbs, the files as the original has them, and who may get at them."""

from __future__ import annotations

import json
import os
import string
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from clawlink.doors.agentrelay.client.transactions import FIELDS
from clawlink.errors import BadRequest, ClawLinkError, UnknownEvent, WrongState
from tests.doors.agentrelay.client.conftest import Desk
from tests.doors.agentrelay.test_rules import ATTACKS

POSIX = os.name == "posix"
HOUR = 3600.0


def test_an_event_goes_there_and_back(desk: Desk) -> None:
    sent = desk.send("e1", task="sum")
    assert sent == {
        "file_path": str(desk.data / "agentrelay" / "storage" / "e1.json"),
        "ptr": "s/e1.json",
        "csv_message": "REQ,e1,s/e1.json,,",
        "secret": sent["secret"],
    }
    assert len(sent["secret"]) == 6
    assert set(sent["secret"]) <= set(string.ascii_letters + string.digits)
    got = desk.receive("e1")
    content = {"sender_agent": "a", "task": "sum"}
    assert {name: got[name] for name in ("type", "event_id", "ptr", "content", "secret")} == {
        "type": "REQ",
        "event_id": "e1",
        "ptr": "s/e1.json",
        "content": content,
        "secret": sent["secret"],
    }
    assert got["full_data"] == {
        "meta": {
            "event_id": "e1",
            "type": "REQ",
            "secret": sent["secret"],
            "created_at": "2026-05-13T06:51:00",
            "sender": "a",
            "receiver": "b",
            "ttl_hours": 24,
        },
        "payload": {"content": content},
    }
    assert desk.folder.update("e1", {"result": 3}).file == sent["file_path"]
    assert desk.file("e1")["payload"]["content"] == {**content, "result": 3}
    message = desk.folder.cmp("e1")
    assert message == f"CMP,e1,,,{sent['secret']}" == desk.folder.cmp("e1", sent["secret"])
    assert desk.another().verify(f"Done. AgentRelay: {message}") == {
        "status": "ok",
        "event_id": "e1",
        "verified": True,
        "expected_secret": sent["secret"],
        "received_secret": sent["secret"],
        "sender": "a",
        "receiver": "b",
        "file_exists": True,
    }
    assert desk.another().verify(message)["status"] == "repeat"
    assert desk.events["e1"]["status"] == "verified"
    assert desk.said == []


def test_the_registry_says_what_the_originals_does(desk: Desk) -> None:
    sent = desk.send("e1", ttl_hours=5)
    assert desk.events["e1"] == {
        "event_id": "e1",
        "type": "REQ",
        "secret": sent["secret"],
        "sender": "a",
        "receiver": "b",
        "ttl_hours": 5,
        "ptr": "s/e1.json",
        "file_path": sent["file_path"],
        "file_exists": True,
        "status": "sent",
        "created_at": "2026-05-13T06:51:00",
        "updated_at": "2026-05-13T06:51:00",
    }
    desk.receive("e1")
    assert desk.events["e1"]["status"] == "received"
    assert desk.events["e1"]["last_received_at"] == "2026-05-13T06:51:00"
    desk.folder.update("e1", {})
    assert desk.events["e1"]["status"] == "updated"
    message = desk.folder.cmp("e1")
    assert (desk.events["e1"]["status"], desk.events["e1"]["cmp_message"]) == ("completed", message)
    desk.folder.verify(message)
    assert (desk.events["e1"]["verified"], desk.events["e1"]["last_received_secret"]) == (True, sent["secret"])


def test_what_the_original_wrote_is_read(desk: Desk) -> None:
    desk.send("first")
    meta: dict[str, Any] = {"event_id": "e1", "type": "REQ", "secret": "abc123"}
    meta |= {"created_at": "2026-05-13T06:00:00.123456"}
    meta |= {"sender": "a", "receiver": "b", "ttl_hours": 24, "burn_on_read": False}
    data = {"meta": meta, "payload": {"content": {"task": "überall"}}, "more": 1}
    desk.folder.file_of("e1").write_text(json.dumps(data, ensure_ascii=False, indent=2), "utf-8")
    record = {name: meta[name] for name in ("event_id", "type", "secret", "sender", "receiver", "ttl_hours")}
    record |= {"status": "sent", "created_at": meta["created_at"], "updated_at": meta["created_at"], "mine": "yes"}
    desk.write_events({**desk.events, "e1": record})
    assert desk.receive("e1")["content"] == {"task": "überall"}
    desk.folder.update("e1", {"result": 1})
    assert desk.file("e1")["more"] == 1
    assert desk.file("e1")["meta"] == meta
    assert desk.folder.verify(desk.folder.cmp("e1"))["status"] == "ok"
    assert desk.events["e1"]["mine"] == "yes"
    assert set(desk.events) == {"first", "e1"}
    assert desk.said == []


def test_an_event_that_the_original_received_counts_as_received(desk: Desk) -> None:
    desk.send("e1")
    events = desk.events
    events["e1"] |= {"status": "received", "last_received_at": "2026-05-13T06:52:00"}
    desk.write_events(events)
    assert desk.folder.cmp("e1").startswith("CMP,e1,,,")


def test_the_log_has_the_originals_fields_and_no_secret(desk: Desk) -> None:
    secret = desk.send("e1")["secret"]
    desk.receive("e1")
    desk.folder.update("e1", {"result": 1})
    desk.folder.verify(desk.folder.cmp("e1"))
    desk.folder.verify("CMP,e1,,,forged")
    lines = desk.log()
    assert [(line["type"], line["status"]) for line in lines] == [
        ("REQ", "SENT"),
        ("REQ", "RECEIVED"),
        ("RECEIVED_CONFIRMATION", "CONFIRMED"),
        ("CREATE_POINTER", "PREPARING"),
        ("CMP", "COMPLETED"),
        ("CMP", "VERIFIED"),
        ("CMP", "VERIFICATION_FAILED"),
    ]
    assert all(tuple(line) == FIELDS for line in lines)
    (path,) = desk.folder.transactions.files()
    assert path.name == "transactions_20260513.jsonl"
    assert secret not in path.read_text()


def test_each_day_has_a_log_of_its_own(desk: Desk) -> None:
    desk.send("e1", ttl_hours=1000)
    desk.now += 24 * HOUR
    desk.receive("e1")
    names = [path.name for path in desk.folder.transactions.files()]
    assert names == ["transactions_20260513.jsonl", "transactions_20260514.jsonl"]
    assert [line["status"] for line in desk.folder.transactions.read("e1")] == ["SENT", "RECEIVED", "CONFIRMED"]


def test_the_log_is_followed_over_midnight_and_by_event(desk: Desk) -> None:
    for number in range(5):
        desk.send(f"e{number}", ttl_hours=1000)
    waited = []

    def rest() -> None:
        waited.append(1)
        desk.now += 24 * HOUR
        desk.receive("e1")

    everything = desk.folder.transactions.follow(rest, last=2)
    assert [next(everything)["event_id"] for _ in range(4)] == ["e3", "e4", "e1", "e1"]
    of_one = desk.folder.transactions.follow(rest, last=10, event_id="e1")
    assert [next(of_one)["status"] for _ in range(3)] == ["SENT", "RECEIVED", "CONFIRMED"]
    assert len(waited) == 1


@pytest.mark.skipif(not POSIX, reason="modes are POSIX's")
def test_nobody_else_can_read_any_of_it(desk: Desk) -> None:
    root = desk.data / "agentrelay"
    (root / "storage").mkdir(parents=True, mode=0o755)
    desk.send("e1")
    desk.receive("e1")
    for path in [root, *root.rglob("*")]:
        mode = path.stat().st_mode & 0o777
        if path.is_dir():
            assert mode == 0o700, path
        elif path.name != ".seen":
            assert mode == 0o600, path


def test_a_used_id_is_refused_and_nothing_is_overwritten(desk: Desk) -> None:
    desk.send("e1", task="first")
    for id in ("e1", "E1"):
        with pytest.raises(WrongState) as refused:
            desk.send(id, task="second")
        assert refused.value.field == "event_id"
    assert desk.file("e1")["payload"]["content"]["task"] == "first"
    assert set(desk.events) == {"e1"}


@pytest.mark.parametrize("id", ATTACKS, ids=ascii)
def test_nothing_is_read_written_or_deleted_elsewhere(desk: Desk, id: str) -> None:
    outside = desk.data / "outside.json"
    meta = {"event_id": id, "type": "REQ", "secret": "x", "sender": "a", "receiver": "b", "burn_on_read": True}
    outside.write_text(json.dumps({"meta": meta, "payload": {"content": {"burn_on_read": True}}}))
    desk.send("good")
    before = sorted(path for path in desk.data.rglob("*"))
    quoted = id.replace('"', '""')
    attempts: list[Callable[[], object]] = [
        lambda: desk.send(id),
        lambda: desk.folder.receive(f'REQ,"{quoted}","s/{quoted}.json",,'),
        lambda: desk.folder.receive(f'REQ,good,"s/{quoted}.json",,'),
        lambda: desk.folder.receive(f'REQ,good,"{quoted}",,'),
        lambda: desk.folder.update(id, {"x": 1}),
        lambda: desk.folder.update("good", {"x": 1}, id or "."),
        lambda: desk.folder.cmp(id),
        lambda: desk.folder.complete(id),
        lambda: desk.folder.verify(f'CMP,"{quoted}",,,x'),
        lambda: desk.folder.put_record(id, {}),
        lambda: desk.folder.file_of(id),
    ]
    for attempt in attempts:
        with pytest.raises(ClawLinkError):
            attempt()
    assert sorted(path for path in desk.data.rglob("*")) == before
    assert json.loads(outside.read_text())["meta"] == meta


def test_pointers_lead_to_their_own_event_only(desk: Desk) -> None:
    desk.send("e1")
    desk.send("e2", burn_on_read=True)
    for line in ("REQ,e1,s/e2.json,,", "REQ,e1,,,", "REQ,e1,../registry.json,,", f"REQ,e1,{desk.folder.registry},,"):
        with pytest.raises(BadRequest, match="not the pointer of event"):
            desk.folder.receive(line)
    assert desk.folder.file_of("e2").exists()


def test_type_and_id_are_checked_against_the_file(desk: Desk) -> None:
    desk.send("e1")
    with pytest.raises(BadRequest, match="of type 'RESPONSE'"):
        desk.folder.receive("RESPONSE,e1,s/e1.json,,")
    desk.send("e2")
    desk.folder.file_of("e1").write_bytes(desk.folder.file_of("e2").read_bytes())
    with pytest.raises(BadRequest, match="the file of event 'e2'"):
        desk.receive("e1")


@pytest.mark.skipif(not POSIX, reason="links need rights on Windows")
def test_links_and_pipes_are_not_followed(desk: Desk) -> None:
    desk.send("e1")
    desk.send("e2")
    outside = desk.data / "outside.json"
    outside.write_bytes(desk.folder.file_of("e1").read_bytes())
    desk.folder.file_of("e1").unlink()
    desk.folder.file_of("e1").symlink_to(outside)
    desk.folder.file_of("e2").unlink()
    os.mkfifo(desk.folder.file_of("e2"))
    for id in ("e1", "e2"):
        with pytest.raises(BadRequest, match="link or no plain file"):
            desk.receive(id)
    desk.folder.update("e1", {"x": 1})
    assert not desk.folder.file_of("e1").is_symlink()
    assert '"x"' not in outside.read_text()


@pytest.mark.parametrize("name", ["logs", "storage"])
def test_no_folder_within_is_a_link(desk: Desk, tmp_path: Path, name: str) -> None:
    desk.send("e1")
    elsewhere = tmp_path / "elsewhere"
    inside = desk.folder.root / name
    inside.rename(elsewhere)
    before = {path.name: path.read_bytes() for path in elsewhere.iterdir()}
    inside.symlink_to(elsewhere, target_is_directory=True)
    acts: list[Callable[[], object]] = [desk.folder.cleanup, desk.folder.load]
    acts += [lambda: desk.send("e2"), lambda: desk.receive("e1")]
    for act in acts:
        with pytest.raises(BadRequest, match=f"{name} is a link"):
            act()
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == before
    if name == "logs":
        assert desk.log() == []
        desk.folder.transactions.append({"timestamp": "2026-05-13", "event_id": "e1"})
        assert "is a link" in desk.said[-1]
        assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="it needs pipes with names")
def test_a_pipe_or_a_link_as_a_log_is_left_out(desk: Desk, tmp_path: Path) -> None:
    desk.send("e1")
    os.mkfifo(desk.folder.logs / "transactions_20200101.jsonl")
    (tmp_path / "other.jsonl").write_text('{"event_id": "e9"}\n')
    (desk.folder.logs / "transactions_20200102.jsonl").symlink_to(tmp_path / "other.jsonl")
    assert [one["event_id"] for one in desk.log()] == ["e1"]


def test_what_was_not_received_cannot_be_completed(desk: Desk) -> None:
    secret = desk.send("e1")["secret"]
    for given in (None, secret):
        with pytest.raises(WrongState, match="not received"):
            desk.folder.cmp("e1", given)
        with pytest.raises(WrongState, match="not received"):
            desk.folder.complete("e1", "done", "", "e2", given)
    assert not desk.folder.file_of("e2").exists()
    assert desk.events["e1"]["status"] == "sent"


def test_completing_with_a_wrong_secret_does_nothing(desk: Desk) -> None:
    desk.send("e1")
    desk.receive("e1")
    with pytest.raises(BadRequest, match="Secret mismatch"):
        desk.folder.complete("e1", "done", "c", "e2", "wrong!")
    assert not desk.folder.file_of("e2").exists()
    assert desk.events["e1"]["status"] == "received"


def test_a_forged_cmp_changes_nothing_and_learns_nothing(desk: Desk) -> None:
    secret = desk.send("e1")["secret"]
    desk.receive("e1")
    desk.folder.verify(desk.folder.cmp("e1"))
    before = desk.folder.registry.read_bytes()
    found = desk.another().verify("CMP,e1,,,forged")
    assert (found["status"], found["verified"], found["expected_secret"]) == ("mismatch", False, "")
    assert desk.folder.verify("CMP,e1,,,forged")["expected_secret"] == secret  # this one has sent it
    assert desk.folder.registry.read_bytes() == before
    assert desk.another().verify(f"CMP,e1,,,{secret}")["status"] == "repeat"


def test_burning_leaves_cmp_update_and_verify(desk: Desk) -> None:
    secret = desk.send("e1", task="secret", burn_on_read=True)["secret"]
    assert desk.receive("e1")["content"]["task"] == "secret"
    assert not desk.folder.file_of("e1").exists()
    assert desk.events["e1"]["status"] == "burned_on_read"
    with pytest.raises(UnknownEvent, match="burned when it was read"):
        desk.receive("e1")
    desk.folder.update("e1", {"result": 7})
    assert desk.file("e1")["payload"]["content"] == {"result": 7}
    assert desk.file("e1")["meta"]["secret"] == secret
    assert desk.folder.verify(desk.folder.cmp("e1"))["status"] == "ok"


def test_meta_may_ask_for_burning_too(desk: Desk) -> None:
    desk.send("e1")
    data = desk.file("e1")
    data["meta"]["burn_on_read"] = True
    desk.folder.file_of("e1").write_text(json.dumps(data))
    desk.receive("e1")
    assert not desk.folder.file_of("e1").exists()


def test_the_next_event_is_made_with_a_secret_of_its_own(desk: Desk) -> None:
    secret = desk.send("e1", task="sum")["secret"]
    desk.receive("e1")
    message = desk.folder.complete("e1", "6", "c", "e2").cmp_message
    assert message == f"CMP,e1,,,{secret}"
    made = desk.file("e2")
    assert made["payload"]["content"] == {
        "sender_agent": "b",
        "receiver_agent": "c",
        "task": "sum",
        "status": "completed",
        "result": "6",
        "next_agent": "c",
    }
    assert (made["meta"]["sender"], made["meta"]["receiver"], desk.events["e2"]["status"]) == ("b", "c", "sent")
    assert made["meta"]["secret"] != secret
    assert desk.receive("e2")["secret"] == made["meta"]["secret"]
    assert desk.file("e1")["payload"]["content"] == {"sender_agent": "a", "task": "sum"}


def test_an_own_event_that_waits_is_filled_and_any_other_refused(desk: Desk) -> None:
    desk.send("e1")
    desk.receive("e1")
    desk.folder.send("c", "REQ", "mine", {"sender_agent": "b", "draft": True})
    desk.folder.send("c", "REQ", "theirs", {"sender_agent": "d"})
    assert desk.folder.update("e1", {"result": 1}, "mine").file.endswith("mine.json")
    assert desk.file("mine")["payload"]["content"] == {"sender_agent": "b", "draft": True, "result": 1}
    with pytest.raises(WrongState):
        desk.folder.update("e1", {"result": 1}, "theirs")
    desk.receive("mine")
    with pytest.raises(WrongState):
        desk.folder.update("e1", {"result": 2}, "mine")


def test_a_chain_that_its_coordinator_made_is_filled_along_it(desk: Desk) -> None:
    for id, to in (("h1", "a"), ("h2", "b"), ("h3", "c")):
        desk.folder.send(to, "REQ", id, {"sender_agent": "coordinator", "task": id})
    desk.receive("h1")
    done = desk.folder.complete("h1", "6", "b", "h2")
    assert done.csv_message == "REQ,h2,s/h2.json,,"
    got = desk.receive("h2")
    assert (got["content"]["task"], got["content"]["result"]) == ("h2", "6")
    assert (got["full_data"]["meta"]["sender"], got["full_data"]["meta"]["receiver"]) == ("coordinator", "b")
    with pytest.raises(WrongState):  # h2 was read: nothing changes under its reader
        desk.folder.complete("h1", "7", "b", "h2")
    desk.folder.complete("h2", "8", "c", "h3")
    assert desk.receive("h3")["content"]["result"] == "8"


def test_events_expire_by_themselves_at_whatever_call(desk: Desk) -> None:
    desk.send("e1", ttl_hours=1)
    desk.receive("e1")
    message = desk.folder.cmp("e1")
    desk.send("e2", ttl_hours=3)
    desk.now += HOUR
    desk.send("e3")
    assert not desk.folder.file_of("e1").exists()
    assert (desk.events["e1"]["status"], desk.events["e1"]["file_exists"]) == ("expired", False)
    with pytest.raises(UnknownEvent, match="expired after 1 h"):
        desk.receive("e1")
    assert desk.folder.verify(message)["status"] == "ok"
    assert desk.receive("e2")["event_id"] == "e2"
    desk.now += 168 * HOUR
    desk.send("e4")
    assert set(desk.events) == {"e2", "e3", "e4"}
    with pytest.raises(UnknownEvent):
        desk.folder.verify(message)
    desk.now += 168 * HOUR
    desk.send("e1")
    assert set(desk.events) == {"e1", "e4"}


def test_clean_up_takes_what_the_registry_lost_too(desk: Desk) -> None:
    desk.send("e1", ttl_hours=1)
    desk.send("e2", ttl_hours=48)
    desk.write_events({})
    odd = desk.folder.storage / "no id, this.json"
    odd.write_text(json.dumps({"meta": {"event_id": "x"}}))
    os.utime(odd, (desk.now, desk.now))
    desk.now += 25 * HOUR
    found = desk.folder.cleanup(now=datetime.fromtimestamp(desk.now))
    assert found == {
        "status": "ok",
        "deleted_files": ["e1"],
        "deleted_registry": [],
        "kept_events": ["e1", "e2"],
        "default_ttl_hours": 24,
        "registry_ttl_hours": 168,
    }
    # Files that are no events of this folder are left alone.
    assert {path.name for path in desk.folder.storage.iterdir()} == {"e2.json", odd.name}


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ([], "content"),
        ("text", "content"),
        ({"sender_agent": ""}, "sender_agent"),
        ({"sender_agent": "a", "x": {1, 2}}, "content"),
        ({"sender_agent": "a", "x": "\ud800"}, "content"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_leaves_nothing(desk: Desk, content: object, field: str) -> None:
    with pytest.raises(BadRequest) as refused:
        desk.folder.send("b", "REQ", "e1", content)  # type: ignore[arg-type]
    assert refused.value.field == field
    assert not desk.folder.file_of("e1").exists()
    desk.send("e1")


def test_the_short_pointer_is_the_whole_one_once_it_is_read(desk: Desk) -> None:
    line = desk.send("event_0000000016")["csv_message"]
    assert line == "REQ,event_0000000016,s/event_0000000016.json,,"
    assert desk.folder.receive("REQ,event_0000000016,s/,,")["ptr"] == "s/event_0000000016.json"


def test_importing_it_loads_neither_requests_nor_aiohttp() -> None:
    code = "import clawlink.agentrelay, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"aiohttp", "requests", "urllib3", "asyncio", "rich", "filelock"} & set(done.stdout.split())


def test_the_folder_may_be_anywhere(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "a folder" / "of Ünïcode")
    desk.send("任务七")
    assert desk.receive("任务七")["event_id"] == "任务七"
    with pytest.raises(WrongState):
        desk.send("任务七")


@pytest.mark.parametrize(("id", "other"), [("stra\u00dfe", "strasse"), ("\u1e9ex", "ssx"), ("\u00c4", "\u00e4")])
def test_an_id_that_some_system_takes_for_a_used_one_is_refused(desk: Desk, id: str, other: str) -> None:
    for used, wanted in ((id, other), (other + "2", id + "2")):
        desk.send(used)
        with pytest.raises(WrongState, match="by case alone"):
            desk.send(wanted)
        assert desk.receive(used)["event_id"] == used


def test_what_the_original_completed_or_verified_counts(desk: Desk) -> None:
    for status in ("completed", "verified", "burned_on_read"):
        secret = desk.send(status)["secret"]
        plain = {name: desk.events[status][name] for name in ("event_id", "type", "secret", "sender", "receiver")}
        desk.write_events({**desk.events, status: {**plain, "status": status, "updated_at": "2026-05-13T06:51:00"}})
        desk.now += 60
        message = desk.folder.cmp(status)
        assert message == f"CMP,{status},,,{secret}"
        assert desk.folder.verify(message)["status"] == ("repeat" if status == "verified" else "ok")
        assert desk.folder.verify(message)["status"] == "repeat"
        assert desk.folder.cmp(status) == message


def test_a_burned_event_is_completed_after_it_was_verified(desk: Desk) -> None:
    secret = desk.send("e1")["secret"]
    events = desk.events
    events["e1"] |= {"status": "burned_on_read"}
    desk.write_events(events)
    assert desk.folder.verify(f"CMP,e1,,,{secret}")["status"] == "ok"
    events = desk.events
    assert events["e1"]["last_received_at"]
    assert desk.another().cmp("e1") == f"CMP,e1,,,{secret}"


def test_nobodys_reading_is_proven_by_no_secret(desk: Desk) -> None:
    secret = desk.send("e1")["secret"]
    before = desk.events
    with pytest.raises(WrongState, match="not received yet"):
        desk.folder.verify(f"CMP,e1,,,{secret}")
    assert desk.folder.verify("CMP,e1,,,forged")["status"] == "mismatch"
    assert desk.events == before


@pytest.mark.skipif(not POSIX, reason="modes and links are of POSIX systems")
def test_no_file_of_the_folder_is_for_others_or_written_through_a_link(desk: Desk) -> None:
    desk.send("e1")
    files = [path for path in desk.folder.root.rglob("*") if path.is_file() and path.name != ".lock"]
    assert {path.name for path in files} >= {".seen", "registry.json", "e1.json"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files)
    outside = desk.data / "outside"
    outside.write_text("mine")
    seen = desk.folder.root / ".seen"
    seen.unlink()
    seen.symlink_to(outside)
    desk.receive("e1")
    assert outside.read_text() == "mine"


@pytest.mark.parametrize(
    "text",
    [
        '"CMP,q1,,,S3cret"',
        '{"message": "CMP,q1,,,S3cret"}',
        '{"message":"CMP,q1,,,S3cret","to":"a"}',
        'message="CMP,q1,,,S3cret",',
        "CMP,q1,,,S3cret.",
        "CMP,q1,,,S3cret,",
        "CMP,q1,,,S3cret)",
        "- CMP,q1,,,S3cret.",
        "AgentRelay: CMP,q1,,,S3cret. Bye",
        "<CMP,q1,,,S3cret>",
        "<b>CMP,q1,,,S3cret</b>",
        "CMP,q1,,,**S3cret**",
        "CMP,q1,,,'S3cret'",
        'CMP,q1,,,"S3cret".',
        "- Message Type: CMP\n- Event ID: q1\n- Secret: `S3cret`.",
    ],
)
def test_an_honest_cmp_is_known_in_ordinary_text(desk: Desk, text: str) -> None:
    desk.folder.send("b", "REQ", "q1", {"sender_agent": "a"}, "S3cret")
    desk.receive("q1")
    assert desk.folder.verify(text.replace("S3cret", "S3creT"))["status"] == "mismatch"
    assert desk.folder.verify(text)["status"] == "ok"
    assert desk.events["q1"]["last_received_secret"] == "S3cret"
