"""The folder after a process was killed at any step, after files were torn or lost, and after many wrote at once."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clawlink.doors.agentrelay.client import locked_folder
from clawlink.doors.agentrelay.client.folder import Folder
from clawlink.doors.agentrelay.client.transactions import entry
from clawlink.errors import BadRequest, ClawLinkError, StorageFull, StoreUnavailable, UnknownEvent, WrongState
from tests.doors.agentrelay.client.conftest import Desk
from tests.doors.agentrelay.client.dying import ACTIONS, Runner
from tests.effort import size
from tests.processes import Popen
from tests.waiting import PATIENCE

pytestmark = pytest.mark.storm

MOST_STEPS = 60
STATUS = {
    "send": "sent",
    "receive": "received",
    "burn": "burned_on_read",
    "update": "updated",
    "hand_on": "sent",
    "cmp": "completed",
    "verify": "verified",
}

SENDER = """
import sys
from pathlib import Path

from clawlink.doors.agentrelay.client.folder import Folder

data, name, count = sys.argv[1:]
folder = Folder(Path(data))
for number in range(int(count)):
    folder.send("b", "REQ", f"p{name}-{number}", {"sender_agent": "a"})
"""


def prepared(data: Path) -> None:
    """Make a folder with an event to read, one that burns, and one that was read."""
    folder = Folder(data)
    folder.send("b", "REQ", "base", {"sender_agent": "a"})
    folder.send("b", "REQ", "burns", {"sender_agent": "a", "burn_on_read": True})
    folder.send("b", "REQ", "read", {"sender_agent": "a"}, "secret")
    folder.receive("REQ,read,s/read.json,,")


def subject(action: str) -> str:
    """Return the id of the event that changes."""
    return {"send": "e1", "hand_on": "e1", "burn": "burns", "cmp": "read", "verify": "read"}.get(action, "base")


def happened(folder: Folder, action: str) -> bool:
    """Tell whether it did, by all that tells of it; fail the test where that disagrees."""
    id = subject(action)
    logged = {"send": "SENT", "receive": "CONFIRMED", "burn": "CONFIRMED", "update": "PREPARING"}
    logged |= {"hand_on": "PREPARING", "cmp": "COMPLETED", "verify": "VERIFIED"}
    did = folder.record(id).get("status") == STATUS[action]
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
    with Runner() as runner:
        for step in range(1, MOST_STEPS):
            data = tmp_path / str(step)
            prepared(data)
            how = runner.run(data, step, action)
            assert how in ("done", "killed")
            lived = how == "done"
            said: list[str] = []
            folder = Folder(data, tell=said.append)
            folder.send("b", "REQ", "next", {"sender_agent": "a"})  # the next command works
            did = happened(folder, action)
            json.loads(folder.registry.read_text())
            assert {path.name for path in folder.root.iterdir()} <= {
                "storage",
                "logs",
                "registry.json",
                ".lock",
                ".seen",
            }
            assert not [path for path in folder.storage.iterdir() if path.name.startswith(".")]
            outcomes.append((did, bool(said), lived))
            assert folder.receive("REQ,next,s/next.json,,")["event_id"] == "next"
            assert len(said) == len(set(said))
            if lived:
                break
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
    each = size(4, 16, 63)
    senders = [Popen([sys.executable, "-c", SENDER, str(tmp_path), str(name), str(each)]) for name in range(16)]
    assert [sender.wait(PATIENCE) for sender in senders] == [0] * 16
    said: list[str] = []
    folder = Folder(tmp_path, tell=said.append)
    events = json.loads(folder.registry.read_text())["events"]
    assert len(events) == len(list(folder.storage.iterdir())) == 16 * each
    assert sum(1 for one in folder.transactions.read() if one["status"] == "SENT") == 16 * each
    assert len({event["secret"] for event in events.values()}) > 16 * each * 0.97
    folder.receive("REQ,p3-3,s/p3-3.json,,")
    assert said == []


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
    monkeypatch.setattr(locked_folder, "LOCK_SECONDS", 0.05)
    with FileLock(desk.folder.root / ".lock"), pytest.raises(StoreUnavailable, match=r"has held .*\.lock"):
        desk.send("e2")
    desk.send("e2")


@pytest.mark.parametrize("where", ["within", "indented"])
def test_a_record_with_a_bad_byte_is_restored_and_the_registry_is_utf8_again(desk: Desk, where: str) -> None:
    secret = desk.send("e1", task="x")["secret"]
    desk.send("e2")
    desk.receive("e1")
    if where == "indented":
        desk.write_events(desk.events)
    raw = desk.folder.registry.read_bytes()
    desk.folder.registry.write_bytes(raw.replace(b'"sender"', b'"s\xffnder"', 1))
    desk.now += 60
    assert desk.folder.cmp("e1") == f"CMP,e1,,,{secret}"
    desk.folder.cleanup()
    desk.folder.registry.read_text("utf-8")
    assert (desk.events["e1"]["secret"], desk.events["e1"]["status"]) == (secret, "completed")
    assert desk.said == ["the registry had lost event e1: restored from the files and the log"]


@pytest.mark.parametrize("emptied", [b"", b" \n"])
def test_a_registry_that_was_emptied_is_torn(desk: Desk, emptied: bytes) -> None:
    secret = desk.send("e1")["secret"]
    desk.send("burns", burn_on_read=True)
    desk.receive("burns")
    desk.folder.registry.write_bytes(emptied)
    desk.send("e2")
    assert desk.events["e1"]["secret"] == secret
    assert "registry.json was torn" in desk.said[0]
    assert "only the log knows of event burns" in desk.said[1]


def test_an_earlier_event_of_the_same_id_leaves_nothing_to_a_restored_one(desk: Desk) -> None:
    desk.send("e1", ttl_hours=1)
    desk.receive("e1")
    desk.folder.cmp("e1")
    desk.now += 3600
    desk.folder.cleanup(24, 0)
    desk.now += 3600
    desk.send("e1")
    desk.write_events({})
    with pytest.raises(WrongState, match="not received"):
        desk.folder.cmp("e1")
    assert desk.events["e1"]["status"] == "sent"


def test_what_a_relay_keeps_is_no_part_of_the_folder(desk: Desk) -> None:
    desk.send("e1")
    for id in ("e1", "far"):
        told = entry(desk.now, id, "REQ", "a", "b", "RECEIVED", "Read")
        desk.folder.transactions.append({**told, "place": "http://relay"})
    desk.folder.registry.write_bytes(b"{")
    with pytest.raises(WrongState, match="not received"):
        desk.folder.cmp("e1")
    assert "far" not in "".join(desk.said)


def test_what_is_no_event_of_the_folder_is_left_alone(desk: Desk) -> None:
    desk.send("e1")
    odd = [desk.folder.storage / name for name in ("no id, this.json", "mine.json")]
    for path in odd:
        path.write_text(json.dumps({"meta": {"event_id": "another"}}))
        os.utime(path, (0, 0))
    desk.folder.cleanup()
    desk.send("e2")
    assert all(path.exists() for path in odd)


def test_what_was_put_aside_is_kept_for_a_day_from_then_on(desk: Desk) -> None:
    desk.send("e1")
    torn, aside = (desk.folder.storage / f"old.json{more}" for more in ("", ".damaged"))
    torn.write_text("{")
    os.utime(torn, (0, 0))
    desk.now += 60
    desk.send("e2")
    assert aside.exists()
    desk.now += 23 * 3600
    desk.folder.cleanup()
    assert aside.exists()
    desk.now += 3600
    desk.folder.cleanup()
    assert not aside.exists()


def test_another_object_of_the_registry_is_not_taken_for_an_event(desk: Desk) -> None:
    secret = desk.send("e1")["secret"]
    more = {"older": {"e1": {"secret": "wrong", "event_id": "e1"}, "E2": {}}}
    desk.folder.registry.write_text(json.dumps({**more, "events": desk.events}, indent=2))
    desk.now += 60
    desk.receive("e1")
    desk.send("e2")
    assert desk.folder.cmp("e1") == f"CMP,e1,,,{secret}"
    top = json.loads(desk.folder.registry.read_text())
    assert (top["older"], set(top["events"])) == (more["older"], {"e1", "e2"})


class Full:
    """A disk without room from the n-th write on."""

    def __init__(self, patch: pytest.MonkeyPatch, step: int) -> None:
        self.left, self.hit = step, False
        self._write = os.write
        patch.setattr(os, "write", self.write)

    def write(self, handle: int, data: bytes) -> int:
        self.left -= 1
        if self.left <= 0:
            self.hit = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._write(handle, data)


@pytest.mark.parametrize("action", ["send", "receive", "burn", "update", "hand_on", "cmp", "verify"])
def test_on_a_full_disk_nothing_happened_or_all_of_it(tmp_path: Path, action: str) -> None:
    refused = 0
    for step in range(1, MOST_STEPS):
        data = tmp_path / str(step)
        prepared(data)
        said: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            full, raised = Full(patch, step), ""
            try:
                ACTIONS[action](Folder(data, tell=said.append))
            except StorageFull as error:
                raised = error.message
        if raised:
            refused += 1
            assert str(data) in raised
            assert "make room" in raised
            folder = Folder(data, tell=said.append)
            folder.send("b", "REQ", "next", {"sender_agent": "a"})
            assert not happened(folder, action)
            assert said == []
            ACTIONS[action](folder)  # and can be done again
        else:  # only the log may have found no room
            assert Folder(data).record(subject(action))["status"] == STATUS[action]
        if not full.hit:
            break
    assert refused >= 2


def test_cleaning_up_makes_room_before_it_needs_any(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.send("e1", ttl_hours=1)
    desk.now += 2 * 3600
    Full(monkeypatch, 1)
    with pytest.raises(StorageFull):
        desk.folder.cleanup()
    assert not desk.folder.file_of("e1").exists()


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_log_that_cannot_be_written_is_told_and_stops_nothing(desk: Desk, kind: str) -> None:
    desk.send("e0")
    (today,) = desk.folder.transactions.files()
    today.unlink()
    if kind == "folder":
        today.mkdir()
    else:
        today.symlink_to(desk.data / "elsewhere")
    secret = desk.send("e1")["secret"]
    desk.receive("e1")
    assert desk.folder.verify(desk.folder.cmp("e1"))["status"] == "ok"
    assert desk.events["e1"]["secret"] == secret
    assert len(desk.said) == 4
    assert all(str(today) in said for said in desk.said)


@pytest.mark.parametrize("name", ["storage/e5.json", "storage/.old.new", ".seen"])
def test_a_folder_in_the_place_of_a_file_stops_no_other_event(desk: Desk, name: str) -> None:
    desk.send("e1")
    (desk.folder.root / ".seen").unlink()
    (desk.folder.root / name).mkdir()
    for _ in range(3):
        desk.now += 60
        desk.receive("e1")
        desk.folder.cleanup()


@pytest.mark.parametrize("name", ["registry.json", ".doing"])
def test_a_folder_in_the_place_of_what_all_events_need_is_told(desk: Desk, name: str) -> None:
    desk.send("e1")
    (desk.folder.root / name).unlink(missing_ok=True)
    (desk.folder.root / name).mkdir()
    for _ in range(30):
        with pytest.raises(BadRequest, match=r"no plain file, so it is not read; remove it"):
            desk.receive("e1")
    (desk.folder.root / name).rmdir()
    desk.receive("e1")


def test_the_file_of_an_event_that_became_a_folder_stops_that_event_only(desk: Desk) -> None:
    desk.send("e1", ttl_hours=1)
    desk.send("e2")
    desk.folder.file_of("e1").unlink()
    desk.folder.file_of("e1").mkdir()
    with pytest.raises(BadRequest, match="no plain file"):
        desk.receive("e1")
    desk.now += 2 * 3600
    desk.receive("e2")
    assert "cannot be deleted" in desk.said[0]


DEEP = b'{"x":' * 5000 + b"1" + b"}" * 5000
ODD = [
    b'{"created_at": "9999-12-31T23:59:59+00:00", "last_received_at": "9999-12-31T23:59:59-12:00", "secret": "x"}',
    b'{"updated_at": "0001-01-01T00:00:00+14:00", "last_verification_at": "0001-01-01", "verified": true}',
    DEEP,
    b'{"a": 1e999}',
    b'{"a": "\\ud800"}',
    b'{"a": "\xff"}',
    b'{\n"a": "\xff"}',
    b'{\n"a": 1e999}',
    b"[]",
    b"{}",
    b"null",
    b'{"secret": [], "sender": {}, "status": [], "ttl_hours": {}, "verified": 1}',
]


@pytest.mark.parametrize("record", ODD, ids=[str(number) for number in range(len(ODD))])
@pytest.mark.parametrize("id", ["e1", "\\ud800", "other"])
def test_no_record_stops_the_others(desk: Desk, record: bytes, id: str) -> None:
    desk.send("e1")
    desk.send("e2")
    desk.receive("e2")
    whole = json.dumps(desk.events["e2"]).encode()
    desk.folder.registry.write_bytes(b'{"events": {"e2": ' + whole + b', "' + id.encode() + b'": ' + record + b"}}")
    for _ in range(2):
        desk.now += 60
        assert desk.folder.cmp("e2").startswith("CMP,e2,")
        for verb in (desk.receive, desk.folder.cmp, lambda id: desk.folder.verify(f"CMP,{id},,,x")):
            with contextlib.suppress(ClawLinkError):
                verb("e1")
        desk.folder.cleanup()


@pytest.mark.parametrize("line", [b'{"event_id": []}', b'{"event_id": {}, "status": "SENT"}', b"[]", b"\xff", DEEP])
def test_no_line_of_the_log_stops_anything(desk: Desk, line: bytes) -> None:
    desk.send("e1")
    (path,) = desk.folder.transactions.files()
    path.write_bytes(path.read_bytes() + line + b"\n")
    for torn in (b"{", b'{"events": {}}'):
        desk.folder.registry.write_bytes(torn)
        desk.now += 60
        desk.receive("e1")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["9999-12-31", "sent"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        "event_id",
        "type",
        "secret",
        "sender",
        "receiver",
        "ttl_hours",
        "status",
        "created_at",
        "updated_at",
        "expired_at",
        "last_received_at",
        "burned_at",
        "verified",
        "last_verification_at",
        "meta",
        "payload",
        "content",
        "burn_on_read",
        "verb",
        "record",
        "digest",
        "unlink",
        "log",
        "timestamp",
        "events",
    ]
)
RECORDS = st.dictionaries(NAMES, VALUES | st.dictionaries(NAMES, VALUES, max_size=4), max_size=6)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Give JSON that looks right from afar, perhaps torn or with a byte gone bad."""
    record = draw(RECORDS)
    whole = draw(st.sampled_from([record, {"events": {"e1": record}}, {"events": {"e1": record, "e9": record}}]))
    data = bytearray(json.dumps(whole, indent=draw(st.sampled_from([None, 2]))).encode())
    for _ in range(draw(st.integers(0, 2))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.sampled_from([None, draw(st.integers(0, len(data)))]))])


@settings(max_examples=size(20, 60), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(["registry.json", ".doing", ".seen", "storage/e1.json", "storage/e9.json", "log"]),
    data=files(),
)
def test_whatever_stands_in_its_files_the_folder_goes_on(name: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as root:
        desk = Desk(Path(root))
        desk.send("e1")
        desk.send("e2")
        path = desk.folder.transactions.files()[0] if name == "log" else desk.folder.root / name
        path.write_bytes(data)
        for _ in range(2):
            desk.now += 60
            for verb in (
                desk.receive,
                desk.folder.cmp,
                lambda id: desk.folder.update(id, {"x": 1}),
                desk.folder.record,
            ):
                with contextlib.suppress(ClawLinkError):
                    verb("e1")
            with contextlib.suppress(ClawLinkError):
                desk.folder.verify("CMP,e1,,,x")
            assert desk.receive("e2")["event_id"] == "e2"
            desk.folder.cleanup()
        json.loads(desk.folder.registry.read_text("utf-8"))
