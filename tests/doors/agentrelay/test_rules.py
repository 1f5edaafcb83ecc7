"""The rules of AgentRelay's events: what may be named, who has read, and that a CMP counts once."""

from __future__ import annotations

import importlib

import pytest
from msgspec.structs import replace

from clawlink.doors.agentrelay import names, rules
from clawlink.doors.agentrelay.rules import Event, Status, Verdict
from clawlink.errors import BadRequest, UnknownEvent, WrongState
from clawlink.store import records
from tests.domain.test_devices import NAMES, PORTS
from tests.tables import each

NOW = 1_000_000.0

# Names that lead elsewhere, that a system reads in its own way, that break a line, or that mislead the eye.
ATTACKS = [
    "",
    ".",
    "..",
    "...",
    "../e1",
    "../../etc/passwd",
    "a/../../b",
    "/etc/passwd",
    "//host/share",
    "a/b",
    "./e1",
    "..\\e1",
    "a\\b",
    "\\\\host\\share",
    "C:\\e1",
    "C:e1",
    "c:/e1",
    "e1:stream",
    "e1::$DATA",
    "~",
    "~/e1",
    "$HOME",
    "%TEMP%",
    "e1\x00",
    "e1\x00.json",
    "\x00",
    "e\n1",
    "e\r1",
    "e1\t",
    "e\x1b[2J1",
    "e\x7f1",
    "e\x851",
    "CON",
    "con",
    "NUL",
    "nul.json",
    "Aux.tar.gz",
    "prn",
    "COM1",
    "com0.x",
    "LPT9",
    "COM\u00b9",
    "e1.",
    "e1..",
    "e1 ",
    " e1",
    "e 1",
    "a..b",
    ".e1",
    ".lock",
    "-rf",
    "--help",
    "e,1",
    'e"1',
    "e'1",
    "e*",
    "e?",
    "<e1>",
    "e|1",
    "e;1",
    "e`1",
    "\u202ee1",
    "e\u200b1",
    "\uff0e\uff0e\uff0fe1",
    "e\u20441",
    "\ufb01le",
    "e\u0301",
    "\u0301e",
    "\ud800",
    "a" * 129,
    "\u00e9" * 65,
]


def sent(**fields: object) -> Event:
    """Return an event that was sent just now."""
    content = {"task": "sum", **fields}
    return rules.send("e1", "REQ", content, sender="a", receiver="b", secret="s3cret", now=NOW)


def read(**fields: object) -> Event:
    """Return an event that ``b`` has read."""
    return rules.receive(sent(**fields), "b", NOW + 1)


@each("id", ATTACKS, ids=ascii)
def test_no_id_leads_out_of_its_folder_or_out_of_its_line(id: str) -> None:
    with pytest.raises(BadRequest) as refused:
        names.require_id(id)
    assert refused.value.field == "event_id"
    assert "order-17" in refused.value.message


@each(
    "ptr",
    [
        *(f"s/{id}.json" for id in ATTACKS),
        *(id for id in ATTACKS if id),
        "e1.json",
        "s/e1",
        "s/e2.json",
        "s/./e1.json",
        "s//e1.json",
        "s/e1.json/",
        "S/e1.json",
        "s\\e1.json",
        "/s/e1.json",
        "s/../s/e1.json",
        "file:///s/e1.json",
        "s/e1.json\x00",
        "",
    ],
    ids=ascii,
)
def test_no_pointer_leads_anywhere_but_to_its_event(ptr: str) -> None:
    with pytest.raises(BadRequest) as refused:
        names.require_pointer(ptr, "e1")
    assert refused.value.field == "ptr"


@each("id", ["e1", "event_001", "r1_r", "a", "_x", "hop-1.2", "Console", "com10", "a" * 128, "任务七", "заказ-1", "é1"])
def test_ids_of_any_script_are_taken(id: str) -> None:
    assert names.require_id(id) == id
    assert names.require_pointer(f"s/{id}.json", id) == f"s/{id}.json" == names.pointer(id)
    assert names.require_pointer("s/", id) == f"s/{id}.json"


def test_an_id_is_used_once_whatever_its_case() -> None:
    names.require_unused("e1", ["e2", "e11"])
    with pytest.raises(WrongState, match="exists already"):
        names.require_unused("e1", ["e2", "e1"])
    with pytest.raises(WrongState, match="case alone"):
        names.require_unused("Été", ["été"])


@each(
    ("content", "hours"),
    [
        ({}, 24),
        ({"ttl_hours": 5}, 5),
        ({"ttl_hours": "5"}, 5),
        ({"ttl_hours": 0}, 24),
        ({"ttl_hours": -3}, 1),
        ({"ttl_hours": 0.5}, 1),
        ({"ttl_hours": "soon"}, 24),
        ({"ttl_hours": float("inf")}, 24),
        ({"payload": {"content": {"ttl_hours": 7}}}, 7),
        ({"payload": 3}, 24),
    ],
)
def test_contents_say_how_long_they_are_kept(content: dict[str, object], hours: int) -> None:
    assert rules.ttl_hours(content) == hours


def test_nothing_is_kept_for_ever() -> None:
    with pytest.raises(BadRequest, match="87600"):
        rules.ttl_hours({"ttl_hours": 10**9})


@each(
    ("fields", "field"),
    [
        ({"sender": None}, "sender_agent"),
        ({"sender": ""}, "sender_agent"),
        ({"sender": 3}, "sender_agent"),
        ({"receiver": "a\nb"}, "receiver_agent"),
        ({"receiver": "b" * 129}, "receiver_agent"),
        ({"secret": ""}, "secret"),
        ({"secret": "a\x00b"}, "secret"),
        ({"secret": " a"}, "secret"),
        ({"secret": "a" * 129}, "secret"),
        ({"type": ""}, "type"),
        ({"type": "A,B"}, "type"),
        ({"type": "CMP"}, "type"),
        ({"type": "R" * 33}, "type"),
        ({"id": "../x"}, "event_id"),
    ],
)
def test_what_cannot_be_sent_is_told_with_its_field(fields: dict[str, object], field: str) -> None:
    given = {"id": "e1", "type": "REQ", "sender": "a", "receiver": "b", "secret": "s", **fields}
    with pytest.raises(BadRequest) as refused:
        rules.send(str(given.pop("id")), str(given.pop("type")), {}, now=NOW, **given)  # type: ignore[arg-type]
    assert refused.value.field == field


def test_an_event_that_was_not_read_cannot_be_completed_even_with_its_secret() -> None:
    for reader in ("a", "b", "stranger"):
        with pytest.raises(WrongState, match="not received"):
            rules.complete(sent(), reader, "s3cret", NOW)
    with pytest.raises(WrongState, match="not received"):
        rules.complete(read(), "stranger", "s3cret", NOW)


def test_whoever_read_completes_with_or_without_the_secret_and_not_with_a_wrong_one() -> None:
    for secret in (None, "", "s3cret"):
        assert rules.complete(read(), "b", secret, NOW).status is Status.COMPLETED
    with pytest.raises(BadRequest, match="Secret mismatch"):
        rules.complete(read(), "b", "S3cret", NOW)
    with pytest.raises(UnknownEvent):
        rules.complete(replace(read(), secret=""), "b", None, NOW)


def test_a_cmp_counts_once_and_a_forged_one_changes_nothing() -> None:
    event = rules.complete(read(), "b", None, NOW)
    for forged in ("", "S3CRET", "s3cre", "s 3cret", "\ud800"):
        assert rules.verify(event, forged, NOW) == (Verdict.MISMATCH, event)
    verdict, verified = rules.verify(event, "s3cret", NOW + 5)
    assert (verdict, verified.status, verified.verified_at) == (Verdict.OK, Status.VERIFIED, NOW + 5)
    assert rules.verify(verified, "s3cret", NOW + 9) == (Verdict.REPEAT, verified)
    assert rules.verify(verified, "wrong", NOW + 9) == (Verdict.MISMATCH, verified)


def test_what_the_original_marked_as_failed_can_still_be_verified() -> None:
    failed = replace(read(), status=Status.FAILED)
    assert rules.verify(failed, "s3cret", NOW)[0] is Verdict.OK
    assert rules.receive(failed, "b", NOW).status is Status.RECEIVED


def test_nothing_is_verified_against_nothing() -> None:
    with pytest.raises(UnknownEvent):
        rules.verify(replace(sent(), secret=""), "", NOW)


def test_reading_burns_what_asks_for_it_and_work_goes_on() -> None:
    burned = read(burn_on_read=True)
    assert (burned.status, burned.present, burned.burned_at) == (Status.BURNED, False, NOW + 1)
    with pytest.raises(UnknownEvent, match="burned"):
        rules.receive(burned, "b", NOW)
    assert rules.complete(burned, "b", None, NOW).status is Status.COMPLETED
    assert rules.verify(burned, "s3cret", NOW)[0] is Verdict.OK
    again = rules.update(burned, NOW + 2)
    assert (again.status, again.present) == (Status.UPDATED, True)
    assert rules.receive(again, "a", NOW + 3).present


def test_reading_or_changing_takes_nothing_back() -> None:
    done = rules.complete(read(), "b", None, NOW)
    verified = rules.verify(done, "s3cret", NOW)[1]
    for event in (done, verified):
        assert rules.receive(event, "b", NOW).status is event.status
        assert rules.update(event, NOW).status is event.status
    assert rules.complete(verified, "b", None, NOW).status is Status.VERIFIED


def test_what_has_expired_is_still_verified_but_neither_read_nor_changed() -> None:
    event = rules.expire(read(), NOW + 2)
    with pytest.raises(UnknownEvent, match="expired after 24 h"):
        rules.receive(event, "b", NOW)
    with pytest.raises(UnknownEvent, match="expired after 24 h"):
        rules.update(event, NOW)
    assert rules.verify(event, "s3cret", NOW)[0] is Verdict.OK
    assert rules.expires_at(sent(ttl_hours=2)) == NOW + 7200


def test_the_next_event_comes_from_the_reader_and_goes_where_the_updates_say() -> None:
    content = {"task": "sum", "sender_agent": "a", "receiver_agent": "b"}
    back = rules.handed_on(content, {"result": 3, "next_agent": ""}, sent())
    assert back == {"task": "sum", "result": 3, "next_agent": "", "sender_agent": "b", "receiver_agent": "a"}
    assert rules.handed_on(content, {"next_agent": "c"}, sent())["receiver_agent"] == "c"
    assert rules.handed_on(content, {"next_agent": "c", "receiver_agent": "d"}, sent())["receiver_agent"] == "d"


def test_a_line_of_another_type_is_refused() -> None:
    rules.require_said(sent(), "REQ")
    with pytest.raises(BadRequest, match="not its line"):
        rules.require_said(sent(), "RESPONSE")


@each(
    "data",
    [
        's3cret"',
        's3cret"}',
        's3cret",',
        "s3cret.",
        "s3cret,",
        "s3cret)",
        "s3cret>",
        "s3cret</b>",
        "**s3cret**",
        "'s3cret'",
        's3cret","to":"b"}',
        's3cret\\"',
        "`s3cret`.",
        "<b>s3cret</b>",
        "\u201cs3cret\u201d",
        "s3cret!?",
    ],
)
def test_what_is_written_around_a_line_makes_no_forgery_of_it(data: str) -> None:
    assert rules.verify(read(), data, NOW)[0] is Verdict.OK
    assert rules.verify(read(), data.replace("s3cret", "s3cres"), NOW)[0] is Verdict.MISMATCH


def test_a_secret_of_odd_signs_is_compared_as_it_is_written() -> None:
    event = replace(read(), secret='"<x>".')
    assert rules.verify(event, '"<x>".', NOW)[0] is Verdict.OK


def test_no_cmp_counts_of_what_nobody_received() -> None:
    event = replace(read(), received_by=())
    with pytest.raises(WrongState, match="not received yet"):
        rules.verify(event, event.secret, NOW)
    assert rules.verify(event, "forged", NOW) == (Verdict.MISMATCH, event)


@each(("id", "other"), [("stra\u00dfe", "strasse"), ("\u0130x", "i\u0307x"), ("\u017fx", "sx")])
def test_ids_that_some_systems_take_for_the_same_are_used_together(id: str, other: str) -> None:
    for one, two in ((id, other), (other, id)):
        with pytest.raises(WrongState, match="by case alone"):
            names.require_unused(one, [two])


def test_names_of_devices_are_no_ids() -> None:
    for name in (*NAMES, *PORTS):
        for id in (name, name.upper() + ".json"):
            with pytest.raises(BadRequest):
                names.require_id(id)


def test_events_are_stored_under_a_name() -> None:
    importlib.import_module("clawlink.doors.agentrelay.server.events")
    assert records.kinds()[rules.Pointer].name == "agentrelay_event"
