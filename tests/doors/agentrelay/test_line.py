"""The line of AgentRelay, as agents write it and as they write around it."""

from __future__ import annotations

import contextlib
import time

import pytest

from clawlink.doors.agentrelay.wire import line
from clawlink.doors.agentrelay.wire.line import SHORT, Line, announce, build, find, parse
from clawlink.errors import BadRequest
from tests.tables import each

REQ = Line("REQ", "event_001", "s/event_001.json", "")
CMP = Line("CMP", "event_001", "", "ABC123")
LISTED = """📨 AgentRelay Protocol Message

Please use AgentRelay skill to handle:
- Message Type: REQ
- Event ID: event_001
- File Pointer: s/event_001.json
"""
MESSAGES = [
    ("REQ,event_001,s/event_001.json,,", REQ),
    ("  REQ,event_001,s/event_001.json,,\n", REQ),
    ("REQ,event_001,s/event_001.json,", REQ),
    ("AgentRelay: REQ,event_001,s/event_001.json,,", REQ),
    ("agentrelay:REQ,event_001,s/event_001.json,,", REQ),
    ("AGENTRELAY : REQ,event_001,s/event_001.json,,", REQ),
    ("Agent Relay: REQ,event_001,s/event_001.json,,", REQ),
    ("Please use AgentRelay skill to handle this message:\nREQ,event_001,s/event_001.json,,", REQ),
    ("Hello, dear worker, please see AgentRelay: REQ,event_001,s/event_001.json,, thanks, bye", REQ),
    ("Hello, one, two, three, four\nAgentRelay:\nREQ,event_001,s/event_001.json,,", REQ),
    ("Hi, Bob, there is work, as agreed, for you: REQ,event_001,s/event_001.json,,", REQ),
    ("AgentRelay: well, as, I, said, before\n\nREQ,event_001,s/event_001.json,,\n\nGreetings, yours", REQ),
    ("```\nREQ,event_001,s/event_001.json,,\n```", REQ),
    ("`REQ,event_001,s/event_001.json,,`", REQ),
    ("- REQ,event_001,s/event_001.json,,", REQ),
    ("> REQ,event_001,s/event_001.json,,", REQ),
    ("**REQ,event_001,s/event_001.json,,**", REQ),
    ("REQ, event_001, s/event_001.json, ,", REQ),
    ('REQ,"event_001","s/event_001.json",,', REQ),
    ("REQ,event_001,s/,,", REQ._replace(ptr="s/")),
    (LISTED, REQ),
    (LISTED.replace("\n", "\r\n"), REQ),
    ("AgentRelay:\n* **Type**: `REQ`\n* **ID**: `event_001`\n* **PTR**: `s/event_001.json`", REQ),
    ("AgentRelay:\ntype = REQ\nevent_id = event_001\nptr = s/event_001.json", REQ),
    ("- Message Type: CMP\n- Event ID: event_001\n- Secret Code: ABC123", CMP),
    ("CMP,event_001,,,ABC123", CMP),
    ("CMP,event_001,,,ABC123\r\n", CMP),
    ("AgentRelay: CMP,event_001,,,ABC123", CMP),
    ("Done, and verified. AgentRelay: CMP,event_001,,,ABC123.", CMP),
    ("The answer, as you wished, is 'CMP,event_001,,,ABC123'.", CMP),
    ("**AgentRelay: CMP,event_001,,,ABC123**", CMP),
    ("CMP,event_001,,,ABC123 (please verify)", CMP),
    ('CMP,event_001,,,"a, b ""c"""', CMP._replace(data='a, b "c"')),
    ("CMP,event_001,,,abc.", CMP._replace(data="abc.")),
    ("RESPONSE_2,任务七,s/任务七.json,,", Line("RESPONSE_2", "任务七", "s/任务七.json", "")),
]


@each(("text", "line"), MESSAGES, ids=[ascii(text)[:60] for text, _ in MESSAGES])
def test_a_line_is_found_in_what_agents_write(text: str, line: Line) -> None:
    assert parse(text) == line


@each(
    "text",
    [
        "",
        " \n ",
        "hello",
        "Hello, my friend, how, are, you, today",
        "AgentRelay:",
        "AgentRelay: REQ",
        "REQ,event_001",
        "REQ,event_001,s/event_001.json",
        "- Message Type: REQ",
        '{"type": "REQ"}',
        "x" * 70_000,
    ],
)
def test_what_has_no_line_is_refused(text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse(text)
    assert refused.value.field == "message"


@each(
    "text",
    [
        'REQ,"e,1",s/e1.json,,',
        "REQ,../e1,s/../e1.json,,",
        "REQ,/etc/passwd,/etc/passwd,,",
        "REQ,,s/.json,,",
        'REQ,"",,,',
    ],
)
def test_an_id_that_is_none_is_refused_with_its_field(text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse(text)
    assert refused.value.field == "event_id"


@each("length", range(1, 17))
def test_lines_are_short_for_ids_of_up_to_16_characters(length: int) -> None:
    id = "e" * length
    assert len(announce("REQ", id)) < SHORT
    assert len(build("CMP", id, "", "ABC123")) < SHORT
    assert parse(announce("REQ", id)).event_id == id


def test_a_pointer_is_written_in_full_where_that_is_short_or_where_nothing_helps() -> None:
    assert announce("REQ", "e1") == "REQ,e1,s/e1.json,,"
    assert announce("REQ", "e" * 8) == "REQ,eeeeeeee,s/,,"
    assert announce("REQ", "e" * 40) == f"REQ,{'e' * 40},s/{'e' * 40}.json,,"


@each("data", ["", "ABC123", "a,b", 'a"b', "a b", '"', "é", ",,,"])
def test_what_is_built_is_read_again(data: str) -> None:
    assert find(build("CMP", "e1", "", data)) == Line("CMP", "e1", "", data)


@pytest.mark.parametrize(
    "piece", ["A,", 'A,"', 'A,"""', "A,,,,", "agentrelay:", "- a: b\n", ",", "A-", "- ", "REQ,e,s/"]
)
def test_a_hostile_text_takes_no_time(piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "MAX_TEXT", 100_000)
    text = (piece * 100_000)[:100_000]
    started = time.process_time()
    with contextlib.suppress(BadRequest):
        find(text)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("run", [*" \t\n\",`'-*:=a_", ", ", ' "', '""', " a", "* "])
def test_nor_does_a_long_run_of_anything(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "MAX_TEXT", 200_000)
    middle = (run * 40_000)[:40_000]
    for head in ("", "a", "A,", "a,b,", 'A,"', "- Type", "AgentRelay", "- **ID"):
        for tail in ("", "x", ",", "!"):
            started = time.process_time()
            with contextlib.suppress(BadRequest):
                find(head + middle + tail)
            assert time.process_time() - started < 2, (head, run, tail)


def test_lines_are_looked_at_once_for_all_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "MAX_TEXT", 1_000_000)
    started = time.process_time()
    with contextlib.suppress(BadRequest):
        find(("agentrelay:" * 8).ljust(1_000_000, "\n"))
    assert time.process_time() - started < 3


def test_a_message_is_bounded() -> None:
    with pytest.raises(BadRequest) as refused:
        find("REQ,e1,s/e1.json,, " + " " * 20_000)
    assert (refused.value.limit, refused.value.actual) == (16_384, 20_019)
