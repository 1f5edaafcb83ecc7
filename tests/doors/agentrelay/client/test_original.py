"""The checks of the original's own tests, made on ``clawlink.agentrelay``, and the rest of its names."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clawlink import agentrelay
from clawlink.agentrelay import AgentRelayTool
from tests.tables import each

PARTIES = {"sender_agent": "agent:sender:main", "receiver_agent": "agent:worker:main"}
OLD = "2026-03-01T00:00:00"


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test a folder of its own."""
    monkeypatch.setenv("OPENCLAW_DATA_DIR", str(tmp_path))
    return tmp_path


def send(id: str, **content: object) -> dict[str, str]:
    found: dict[str, str] = AgentRelayTool.send("agent:worker:main", "REQ", id, {**PARTIES, **content})
    return found


def test_a_round_trip() -> None:
    sent = send("round_trip_evt", task="round_trip")
    received = AgentRelayTool.receive(f"AgentRelay: {sent['csv_message']}")
    AgentRelayTool.update("round_trip_evt", {"status": "completed", "result": "ok"})
    verified = AgentRelayTool.verify(AgentRelayTool.cmp("round_trip_evt", received["secret"]))
    assert received["event_id"] == "round_trip_evt"
    assert (verified["status"], verified["verified"]) == ("ok", True)
    assert verified["expected_secret"] == sent["secret"]
    assert (verified["sender"], verified["receiver"]) == ("agent:sender:main", "agent:worker:main")


def test_verifying_by_the_registry_after_burning() -> None:
    sent = send("burn_verify_evt", burn_on_read=True)
    received = AgentRelayTool.receive(f"AgentRelay: {sent['csv_message']}")
    assert agentrelay.get_event_file("burn_verify_evt").exists() is False
    verified = AgentRelayTool.verify(f"CMP,burn_verify_evt,,,{received['secret']}")
    assert (verified["status"], verified["verified"], verified["file_exists"]) == ("ok", True, False)


def test_a_wrong_secret() -> None:
    sent = send("mismatch_evt")
    verified = AgentRelayTool.verify("CMP,mismatch_evt,,,WRONG1")
    assert (verified["status"], verified["verified"]) == ("mismatch", False)
    assert (verified["expected_secret"], verified["received_secret"]) == (sent["secret"], "WRONG1")


def test_cleaning_up() -> None:
    send("cleanup_evt", ttl_hours=1)
    path = agentrelay.get_event_file("cleanup_evt")
    data = json.loads(path.read_text("utf-8"))
    data["meta"]["created_at"] = OLD
    path.write_text(json.dumps(data, ensure_ascii=False, indent=2), "utf-8")
    fields = {"created_at": OLD, "updated_at": OLD, "ttl_hours": 1}
    agentrelay.upsert_registry_event(
        "cleanup_evt", {"event_id": "cleanup_evt", **fields, "file_path": str(path), "file_exists": True}
    )
    agentrelay.upsert_registry_event(
        "only_known", {"event_id": "only_known", **fields, "expired_at": OLD, "file_exists": False}
    )
    result = agentrelay.cleanup_stale_events(
        default_ttl_hours=24, registry_ttl_hours=24, now=agentrelay.parse_iso_datetime("2026-03-13T00:00:00")
    )
    assert "cleanup_evt" in result["deleted_files"]
    assert "only_known" in result["deleted_registry"]
    assert path.exists() is False
    record = agentrelay.get_registry_event("cleanup_evt")
    assert (record["status"], record["file_exists"]) == ("expired", False)


@each(
    ("name", "parameters"),
    [
        ("agentrelay_send", "agent_id message_type event_id content secret"),
        ("agentrelay_receive", "csv_message"),
        ("agentrelay_update_file", "event_id updates next_event_id"),
        ("agentrelay_cmp", "event_id secret sender_override receiver_override"),
        ("agentrelay_verify", "cmp_message"),
        ("cleanup_stale_events", "default_ttl_hours registry_ttl_hours now"),
        ("normalize_relay_message", "raw_message"),
        ("build_csv", "msg_type event_id ptr data"),
        ("parse_csv", "csv_msg"),
        ("generate_secret", "length"),
        ("get_event_file", "event_id"),
        ("get_registry_event", "event_id"),
        ("upsert_registry_event", "event_id event_data"),
        ("parse_iso_datetime", "value"),
        ("get_file_alias_path", "file_path storage_root alias"),
        ("resolve_alias", "ptr storage_root alias"),
        ("load_registry", ""),
        ("save_registry", "registry"),
        ("read_event_file", "event_id"),
        ("ensure_dirs", ""),
        ("get_event_ttl_hours", "content"),
        ("log_transaction", "event_id msg_type sender receiver status hint ptr notes next_action_plan log_path"),
    ],
)
def test_the_names_and_parameters_are_the_originals(name: str, parameters: str) -> None:
    assert list(inspect.signature(getattr(agentrelay, name)).parameters) == parameters.split()


@each(
    ("name", "parameters"),
    [
        ("send", "agent_id msg_type event_id content"),
        ("receive", "csv_msg"),
        ("update", "event_id new_content next_event_id"),
        ("cmp", "event_id secret"),
        ("verify", "cmp_message"),
        ("cleanup", "default_ttl_hours registry_ttl_hours"),
    ],
)
def test_so_are_those_of_the_class(name: str, parameters: str) -> None:
    assert list(inspect.signature(getattr(AgentRelayTool, name)).parameters) == parameters.split()


def test_it_raises_what_the_original_raises() -> None:
    with pytest.raises(ValueError, match="missing sender_agent"):
        agentrelay.agentrelay_send("b", "REQ", "e1", {"task": 1})
    with pytest.raises(FileNotFoundError):
        agentrelay.agentrelay_receive("REQ,e1,s/e1.json,,")
    with pytest.raises(FileNotFoundError):
        agentrelay.agentrelay_update_file("e1", {})
    with pytest.raises(FileNotFoundError):
        agentrelay.agentrelay_verify("CMP,e1,,,x")
    with pytest.raises(ValueError, match="Expected CMP message, got REQ"):
        agentrelay.agentrelay_verify("REQ,e1,s/e1.json,,")
    with pytest.raises(ValueError, match="Empty AgentRelay message"):
        agentrelay.normalize_relay_message(" ")
    with pytest.raises(ValueError, match="Invalid CSV format"):
        agentrelay.parse_csv("REQ,e1")
    send("e1")
    agentrelay.agentrelay_receive("REQ,e1,s/e1.json,,")
    with pytest.raises(ValueError, match="Secret mismatch for event e1"):
        agentrelay.agentrelay_cmp("e1", "wrong")
    with pytest.raises(ValueError, match="exists already"):
        send("e1")


def test_the_small_functions(data: Path) -> None:
    assert agentrelay.normalize_relay_message("Hi, AgentRelay: REQ,e1,s/e1.json,,") == "REQ,e1,s/e1.json,,"
    fields = {"type": "CMP", "event_id": "e1", "ptr": "", "reserved": "", "data": "x"}
    assert agentrelay.parse_csv(agentrelay.build_csv("CMP", "e1", "", "x")) == fields
    assert agentrelay.build_csv("REQ", "e1", "s/e1.json") == "REQ,e1,s/e1.json,,"
    assert len(agentrelay.generate_secret()) == 6
    assert agentrelay.generate_secret(40).isalnum()
    assert agentrelay.parse_iso_datetime("") is agentrelay.parse_iso_datetime("soon") is None
    storage = data / "agentrelay" / "storage"
    assert storage == agentrelay.STORAGE_PATH == agentrelay.get_event_file("e1").parent
    assert data / "agentrelay" / "logs" == agentrelay.LOG_PATH
    assert data / "agentrelay" / "registry.json" == agentrelay.REGISTRY_PATH
    assert data == agentrelay.BASE_DIR
    assert agentrelay.get_file_alias_path(storage / "e1.json", storage) == "s/e1.json"
    assert agentrelay.get_file_alias_path(data / "e1.json", storage) == str(data / "e1.json")
    assert agentrelay.resolve_alias("s/e1.json", storage) == storage / "e1.json"
    for ptr in ("s/../x.json", "/etc/passwd", "s/e1", "x/e1.json", "s/a/b.json"):
        with pytest.raises(ValueError):  # noqa: PT011
            agentrelay.resolve_alias(ptr, storage)
    assert agentrelay.get_registry_event("unknown") == {}
    with pytest.raises(AttributeError):
        agentrelay.NOTHING  # noqa: B018
    assert all(hasattr(agentrelay, name) for name in agentrelay.__all__)


def test_what_was_mended_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    send("e1")
    Path(agentrelay.REGISTRY_PATH).write_text("{")
    with caplog.at_level(logging.WARNING, "clawlink.agentrelay"):
        agentrelay.agentrelay_receive("REQ,e1,s/e1.json,,")
    assert "registry.json was torn" in caplog.text


def test_the_line_has_the_whole_pointer_which_every_reader_knows() -> None:
    assert send("event_001")["csv_message"] == "REQ,event_001,s/event_001.json,,"


def test_the_registry_is_loaded_and_saved_and_changes_of_others_stay(data: Path) -> None:
    assert agentrelay.load_registry() == {"events": {}}
    assert not (data / "agentrelay").exists()
    for id in ("e1", "e2", "e3"):
        send(id)
    mine = agentrelay.load_registry()
    assert list(mine["events"]) == ["e1", "e2", "e3"]
    agentrelay.agentrelay_receive("REQ,e1,s/e1.json,,")  # another process, say
    send("e4")
    agentrelay.get_event_file("e3").unlink()
    del mine["events"]["e3"]
    mine["events"]["e2"]["note"] = "mine"
    mine["events"]["e5"] = {"event_id": "e5", "status": "sent"}
    agentrelay.save_registry(mine)
    events = agentrelay.load_registry()["events"]
    assert sorted(events) == ["e1", "e2", "e4", "e5"]
    assert (events["e1"]["status"], events["e2"]["note"]) == ("received", "mine")
    wrongs: list[Any] = [None, {"events": []}, {"events": {"e1": 7}}, {"events": {"../x": {}}}]
    for wrong in [*wrongs, {"events": {"e1": {"x": {1}}}}]:
        with pytest.raises(ValueError, match=r"\w+ \w+ \w+"):
            agentrelay.save_registry(wrong)
    assert agentrelay.load_registry()["events"] == events


def test_the_rest_of_the_originals_functions(data: Path) -> None:
    agentrelay.ensure_dirs()
    assert Path(agentrelay.STORAGE_PATH).is_dir()
    assert Path(agentrelay.LOG_PATH).is_dir()
    sent = send("e1", task="sum")
    found = agentrelay.read_event_file("e1")
    assert (found["meta"]["secret"], found["payload"]["content"]["task"]) == (sent["secret"], "sum")
    with pytest.raises(FileNotFoundError):
        agentrelay.read_event_file("e2")
    with pytest.raises(ValueError, match="no id of an event"):
        agentrelay.read_event_file("../e1")
    for content, hours in (({}, 24), ({"ttl_hours": "3"}, 3), ({"payload": {"content": {"ttl_hours": 5}}}, 5)):
        assert agentrelay.get_event_ttl_hours(content) == hours
    elsewhere = data / "logs"
    elsewhere.mkdir()
    for path in (None, elsewhere):
        agentrelay.log_transaction("e7", "REQ", "a", "b", "SENT", "hint", "s/e7.json", "notes", log_path=path)
        folder = Path(agentrelay.LOG_PATH) if path is None else path
        (log,) = folder.glob("transactions_*.jsonl")
        last = json.loads(log.read_text("utf-8").splitlines()[-1])
        assert (last["event_id"], last["sender"], last["next_action_plan"]) == ("e7", "a", "")
    with pytest.raises(ValueError, match="are texts"):
        agentrelay.log_transaction("e7", "REQ", "a", "b", "SENT", "hint", "", None)  # type: ignore[arg-type]


def test_the_folder_is_the_accounts_unless_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OPENCLAW_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    assert tmp_path / "home" / ".openclaw" / "data" == agentrelay.BASE_DIR


@pytest.mark.parametrize(
    "call",
    [
        lambda: agentrelay.agentrelay_send(7, "REQ", "e2", {"sender_agent": "a"}),  # type: ignore[arg-type]
        lambda: agentrelay.agentrelay_send("b", None, "e2", PARTIES),  # type: ignore[arg-type]
        lambda: agentrelay.agentrelay_send("b", "REQ", 7, PARTIES),  # type: ignore[arg-type]
        lambda: agentrelay.agentrelay_send("b", "REQ", "e2", "text"),  # type: ignore[arg-type]
        lambda: agentrelay.agentrelay_send("b", "REQ", "e2", {**PARTIES, "x": {1}}),
        lambda: agentrelay.agentrelay_send("b", "REQ", "e2", PARTIES, 7),  # type: ignore[arg-type]
        lambda: agentrelay.agentrelay_send("b", "REQ", "e2", {"sender_agent": ["a"]}),
        lambda: agentrelay.agentrelay_receive(None),  # type: ignore[arg-type]
        lambda: agentrelay.agentrelay_receive(b"REQ,e1,s/e1.json,,"),  # type: ignore[arg-type]
        lambda: agentrelay.agentrelay_update_file("e1", []),  # type: ignore[arg-type]
        lambda: agentrelay.agentrelay_update_file(None, {}),  # type: ignore[arg-type]
        lambda: agentrelay.agentrelay_update_file("e1", {}, 7),  # type: ignore[arg-type]
        lambda: agentrelay.agentrelay_cmp(7),  # type: ignore[arg-type]
        lambda: agentrelay.agentrelay_cmp("e1", 7),  # type: ignore[arg-type]
        lambda: agentrelay.agentrelay_cmp("e1", None, 7),  # type: ignore[arg-type]
        lambda: agentrelay.agentrelay_verify({}),  # type: ignore[arg-type]
        lambda: agentrelay.cleanup_stale_events("soon"),  # type: ignore[arg-type]
        lambda: agentrelay.cleanup_stale_events(24, None),  # type: ignore[arg-type]
        lambda: agentrelay.cleanup_stale_events(24, 24, "now"),  # type: ignore[arg-type]
        lambda: agentrelay.normalize_relay_message(7),  # type: ignore[arg-type]
        lambda: agentrelay.parse_csv(None),  # type: ignore[arg-type]
        lambda: agentrelay.build_csv("REQ", 7, ""),  # type: ignore[arg-type]
        lambda: agentrelay.get_event_file(7),  # type: ignore[arg-type]
        lambda: agentrelay.upsert_registry_event("e1", 7),  # type: ignore[arg-type]
        lambda: agentrelay.upsert_registry_event("e1", {"x": object()}),
    ],
)
def test_what_is_of_the_wrong_type_is_a_value_error_with_a_sentence(call: Callable[[], object]) -> None:
    send("e1")
    agentrelay.agentrelay_receive("REQ,e1,s/e1.json,,")
    with pytest.raises(ValueError, match=r"\w+ \w+ \w+"):
        call()
    agentrelay.agentrelay_cmp("e1")
