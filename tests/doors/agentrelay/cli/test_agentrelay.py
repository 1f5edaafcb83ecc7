"""``clawlink agentrelay``: the original's arguments and outputs, over a folder and over a relay."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND, Relays, Run
from tests.processes import Popen

CONTENT = '{"sender_agent": "a", "task": "sum"}'


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a folder of events of its own."""
    monkeypatch.setenv("OPENCLAW_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data" / "agentrelay"


def test_the_verbs_over_a_folder(call: Run, data: Path) -> None:
    sent = call("agentrelay", "send", "b", "REQ", "e1", CONTENT).ok()
    secret = sent.json["secret"]
    assert sent.out == (
        f'{{\n  "file_path": "{data / "storage" / "e1.json"}",\n  "ptr": "s/e1.json",\n'
        f'  "csv_message": "REQ,e1,s/e1.json,,",\n  "secret": "{secret}"\n}}\n'
    )
    assert sent.err == f"clawlink: events are kept in {data}\n"
    got = call("agentrelay", "receive", "Hello, AgentRelay: REQ,e1,s/e1.json,,").ok()
    assert list(got.json) == ["type", "event_id", "ptr", "content", "secret", "full_data"]
    assert got.json["content"] == json.loads(CONTENT)
    assert call("agentrelay", "update", "e1", '{"result": 6}').ok().json == {
        "status": "ok",
        "file": str(data / "storage" / "e1.json"),
        "ptr": "s/e1.json",
    }
    message = f"CMP,e1,,,{secret}"
    for args in ((), (secret,)):
        assert call("agentrelay", "cmp", "e1", *args).ok().json == {
            "status": "ok",
            "cmp_message": message,
            "instruction": f"Call sessions_send with message='{message}'",
        }
    assert call("agentrelay", "verify", message).ok().json["status"] == "ok"
    assert call("agentrelay", "verify", message).json["status"] == "repeat"
    done = call("agentrelay", "complete", "e1", "Task completed", "agent:sender:main", "e2", secret).ok()
    assert done.out == f"✅ Created pointer for e2\n✅ CMP: {message}\n"
    assert "send: AgentRelay: REQ,e2,s/e2.json,,\n" in done.err
    assert "send: AgentRelay: REQ,e3,s/e3.json,,\n" in call("agentrelay", "update", "e1", "{}", "e3").ok().err
    call("agentrelay", "cleanup", "24", "168").ok()
    assert call("agentrelay", "cleanup", "24", "168").ok().json["kept_events"] == ["e1", "e2", "e3"]


def test_what_a_cmp_is_worth_is_in_the_exit_code_and_no_secret_in_the_output(call: Run, data: Path) -> None:
    secret = call("agentrelay", "send", "b", "REQ", "e1", CONTENT).ok().json["secret"]
    forged = call("agentrelay", "verify", "CMP,e1,,,forged")
    assert (forged.code, forged.json["status"], forged.json["expected_secret"]) == (1, "mismatch", "")
    assert secret not in forged.out
    assert "not received yet" in call("agentrelay", "verify", f"CMP,e1,,,{secret}").failed(7).err
    call("agentrelay", "receive", "REQ,e1,s/e1.json,,").ok()
    assert call("agentrelay", "verify", f"CMP,e1,,,{secret}").code == 0
    assert call("agentrelay", "verify", f"CMP,e1,,,{secret}").code == 7


def test_json_says_where_events_are_kept(call: Run, data: Path) -> None:
    sent = call("--json", "agentrelay", "send", "b", "REQ", "e1", CONTENT).ok()
    assert sent.json["place"] == str(data)
    assert sent.err == ""
    call("agentrelay", "receive", "REQ,e1,s/e1.json,,").ok()
    done = call("agentrelay", "complete", "e1", "--json").ok()
    assert (done.json["status"], done.json["ptr"], done.json["place"]) == ("ok", "s/e1.json", str(data))


def test_standard_input_and_the_senders_name(call: Run, data: Path) -> None:
    call("agentrelay", "send", "b", "REQ", "e1", "-", "--as", "me", stdin=b'{"task": "sum"}').ok()
    got = call("agentrelay", "receive", "-", stdin=b"- Message Type: REQ\n- Event ID: e1\n- File Pointer: s/e1.json\n")
    assert got.ok().json["full_data"]["meta"]["sender"] == "me"
    call("agentrelay", "update", "e1", "-", stdin=b'{"x": 1}').ok()


def test_a_pointer_is_written_in_full_for_the_original(call: Run, data: Path) -> None:
    for flags in ((), ("--long",)):
        id = f"event_00{len(flags)}"
        sent = call("agentrelay", "send", "b", "REQ", id, CONTENT, *flags).ok().json
        assert sent["csv_message"] == f"REQ,{id},s/{id}.json,,"
        assert call("agentrelay", "receive", f"REQ,{id},s/,,").ok().json["event_id"] == id


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("receive",), 2),
        (("receive", "a", "b"), 2),
        (("send", "b", "REQ"), 2),
        (("send", "b", "REQ", "e1", "{"), 2),
        (("send", "b", "REQ", "e1", "[]"), 2),
        (("send", "b", "REQ", "e1", "{}"), 1),
        (("send", "b", "REQ", "../e1", CONTENT), 1),
        (("receive", "hello"), 1),
        (("receive", "REQ,e9,s/e9.json,,"), 5),
        (("receive", "REQ,e9,../../e9.json,,"), 1),
        (("cmp", "e9"), 5),
        (("complete", "e9"), 5),
        (("verify", "CMP,e9,,,x"), 5),
        (("cleanup", "soon"), 2),
        (("cleanup", "-1"), 2),
        (("unknown",), 2),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(call: Run, data: Path, args: tuple[str, ...], code: int) -> None:
    call("agentrelay", *args).failed(code)


def test_flags_stand_anywhere(call: Run, data: Path) -> None:
    call("--json", "agentrelay", "send", "--local", "b", "REQ", "e1", CONTENT).ok()
    for args in (("receive", "--local", "REQ,e1,s/e1.json,,"), ("--local", "receive", "REQ,e1,s/e1.json,,", "--json")):
        assert call("agentrelay", *args).ok().json["event_id"] == "e1"
    call("agentrelay", "receive", "--nonsense", "x").failed(2)
    assert "|log; see" in call("agentrelay").failed(2).err, "no action, and no word of it"


def test_a_used_id_is_a_conflict(call: Run, data: Path) -> None:
    call("agentrelay", "send", "b", "REQ", "e1", CONTENT).ok()
    assert "exists already" in call("agentrelay", "send", "b", "REQ", "E1".lower(), CONTENT).failed(7).err
    assert "not received" in call("agentrelay", "complete", "e1").failed(7).err


def test_what_was_mended_is_said(call: Run, data: Path) -> None:
    call("agentrelay", "send", "b", "REQ", "e1", CONTENT).ok()
    (data / "registry.json").write_text("{")
    got = call("agentrelay", "receive", "REQ,e1,s/e1.json,,").ok()
    assert "registry.json was torn" in got.err
    assert got.json["event_id"] == "e1"


def test_nothing_that_others_wrote_acts_on_the_terminal(call: Run, data: Path) -> None:
    evil = json.dumps({"sender_agent": "a", "x": "\x1b[2J\u202e\x9b31m"}, ensure_ascii=False)
    call("agentrelay", "send", "b", "REQ", "e1", evil).ok()
    got = call("agentrelay", "receive", "REQ,e1,s/e1.json,,").ok()
    assert not {"\x1b", "\u202e", "\x9b"} & set(got.out)
    assert got.json["content"]["x"] == "\x1b[2J\u202e\x9b31m"
    (path,) = (data / "logs").iterdir()
    line = {"timestamp": "\x1b[1m", "event_id": "\u202e", "status": "[red]", "hint": "a\nb"}
    path.write_text(json.dumps(line) + "\n")
    shown = call("agentrelay", "log").ok()
    assert not {"\x1b", "\u202e"} & set(shown.out)
    assert "[red]" in shown.out
    assert len(shown.out.splitlines()) == 1


def test_the_log_by_event_and_in_json(call: Run, data: Path) -> None:
    for id in ("e1", "e2", "e3"):
        call("agentrelay", "send", "b", "REQ", id, CONTENT).ok()
    assert len(call("agentrelay", "log").ok().out.splitlines()) == 3
    assert [line.split()[2] for line in call("agentrelay", "log", "--last", "2").ok().out.splitlines()] == ["e2", "e3"]
    assert "e2  a -> b  REQ to b" in call("agentrelay", "log", "e2").ok().out
    assert call("--json", "agentrelay", "log", "e1").ok().json["status"] == "SENT"
    (path,) = (data / "logs").iterdir()
    path.write_text(path.read_text() + "{}\n")
    assert len(call("agentrelay", "log").ok().out.splitlines()) == 3
    assert call("agentrelay", "log", "--last", "0").ok().out == ""
    assert "sender_agent" in call("agentrelay", "--help").out


def test_the_log_is_followed(call: Run, data: Path) -> None:
    call("agentrelay", "send", "b", "REQ", "e1", CONTENT).ok()
    process = Popen([*COMMAND, "agentrelay", "log", "--follow"], stdout=subprocess.PIPE, env={**os.environ})
    try:
        assert process.stdout is not None
        assert b"e1" in process.stdout.readline()
        call("agentrelay", "send", "b", "REQ", "e2", CONTENT).ok()
        assert b"e2" in process.stdout.readline()
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_over_the_relay_without_a_shared_folder(call: Run, own_relay: Relays, data: Path) -> None:
    url = own_relay()
    for name in ("ann", "bob"):
        call("register", "--name", name, "--relay", url).ok()
    sent = call("agentrelay", "send", "bob", "REQ", "e1", '{"task": "sum"}', "--as", "ann").ok()
    assert sent.json["ptr"] == sent.json["file_path"] == "s/e1.json"
    assert sent.json["csv_message"] == "REQ,e1,s/e1.json,,"
    assert f"its receiver was told by message {sent.json['message_id']}" in sent.err
    assert f"events are kept by the relay at {url}, for ann" in sent.err
    assert not (data / "storage").exists()
    assert call("--json", "agentrelay", "log", "e1").ok().json["place"] == url
    polled = call("poll", "--as", "bob", "--json").ok().out
    assert "AgentRelay: REQ,e1,s/e1.json,," in polled
    call("agentrelay", "send", "bob", "REQ", "e9", "{}", "--as", "ann").ok()
    assert "clawlink agentrelay receive REQ,e9,s/e9.json,, --as bob" in call("poll", "--as", "bob").ok().out
    got = call("agentrelay", "receive", "AgentRelay: REQ,e1,s/e1.json,,", "--as", "bob").ok()
    assert list(got.json) == ["type", "event_id", "ptr", "content", "secret", "full_data"]
    assert got.json["content"] == {"task": "sum"} == got.json["full_data"]["payload"]["content"]
    assert got.json["secret"] == sent.json["secret"] == got.json["full_data"]["meta"]["secret"]
    done = call("agentrelay", "complete", "e1", "6", "ann", "e2", "--as", "bob").ok()
    assert done.out == f"✅ Created pointer for e2\n✅ CMP: CMP,e1,,,{sent.json['secret']}\n"
    message = done.out.split("CMP: ")[1].strip()
    assert "AgentRelay: REQ,e2" not in call("poll", "--as", "ann", "--json").ok().out
    back = call("agentrelay", "receive", "REQ,e2,s/e2.json,,", "--as", "ann").ok()
    assert back.json["content"]["result"] == "6"
    call("agentrelay", "verify", message, "--as", "bob").failed(4)
    assert call("agentrelay", "verify", message, "--as", "ann").ok().json["status"] == "ok"
    assert call("agentrelay", "verify", message, "--as", "ann").code == 7
    assert call("agentrelay", "update", "e2", '{"x": 1}', "--as", "ann").ok().json["file"] == "s/e2.json"
    assert call("agentrelay", "cleanup", "--as", "ann").ok().json["kept_events"] == ["e1", "e9"]
    assert call("--json", "agentrelay", "cleanup", "--as", "ann").ok().json["place"] == url
    shown = call("agentrelay", "log", "e1").ok().out
    assert [line.split()[1] for line in shown.splitlines()] == ["SENT", "RECEIVED", "COMPLETED", "VERIFIED", "REPEATED"]


def test_the_lines_are_short_and_the_parties_have_names_over_the_relay(
    call: Run, own_relay: Relays, data: Path
) -> None:
    url = own_relay()
    ids = {
        n: call("--json", "register", "--name", n, "--relay", url).ok().json["agent"]["agent_id"]
        for n in ("ann", "bob")
    }
    sent = call("agentrelay", "send", ids["bob"], "REQ", "event_001", "{}", "--as", "ann").ok().json
    assert sent["csv_message"] == "REQ,event_001,s/,,"  # its receiver is ours
    long = call("agentrelay", "send", "bob", "REQ", "event_002", "{}", "--long", "--as", "ann").ok().json
    assert long["csv_message"] == "REQ,event_002,s/event_002.json,,"
    meta = call("agentrelay", "receive", "REQ,event_001,s/,,", "--as", "bob").ok().json["full_data"]["meta"]
    assert (meta["sender"], meta["receiver"], meta["sender_id"]) == ("ann", "bob", ids["ann"])
    message = call("agentrelay", "cmp", "event_001", "--as", "bob").ok().json["cmp_message"]
    found = call("agentrelay", "verify", message, "--as", "ann").ok().json
    assert (found["sender"], found["receiver"]) == ("ann", "bob")
    lines = call("agentrelay", "log", "event_001").ok().out.splitlines()
    assert [line.split()[3:6] for line in lines] == [
        ["ann", "->", "bob"],
        ["ann", "->", "bob"],
        ["bob", "->", "ann"],
        ["bob", "->", "ann"],
    ]


def test_an_event_is_found_in_either_place(call: Run, own_relay: Relays, data: Path) -> None:
    call("agentrelay", "send", "b", "REQ", "e1", CONTENT).ok()
    call("agentrelay", "send", "b", "REQ", "both", CONTENT).ok()
    url = own_relay()
    for name in ("ann", "bob"):
        call("register", "--name", name, "--relay", url).ok()
    me = ("--as", "bob")
    call("agentrelay", "receive", "REQ,e1,s/e1.json,,", "--via-relay", *me).failed(5)
    got = call("agentrelay", "receive", "-", *me, stdin=b"REQ,e1,s/e1.json,,").ok()
    assert (got.json["content"]["task"], got.err) == ("sum", f"clawlink: events are kept in {data}\n")
    call("agentrelay", "update", "e1", "-", *me, stdin=b'{"x": 1}').ok()
    call("agentrelay", "complete", "e1", "6", "a", "e2", *me).ok()
    message = call("agentrelay", "cmp", "e1", *me).ok().json["cmp_message"]
    assert call("agentrelay", "verify", message, *me).ok().json["status"] == "ok"
    # An event of the same id at the relay goes first; where that is refused, the sentence names the flag.
    call("agentrelay", "send", "ann", "REQ", "both", "{}", "--as", "ann").ok()
    assert "--local" in call("agentrelay", "receive", "REQ,both,s/both.json,,", *me).failed(4).err
    assert "--local" in call("agentrelay", "receive", "REQ,both,s/both.json,,").failed(2).err
    own_relay.stop(url)
    unreachable = call("agentrelay", "receive", "REQ,e1,s/e1.json,,", "--timeout", "2", *me).failed(3)
    assert f"also kept in {data}, where --local asks" in unreachable.err


def test_strangers_and_mistakes_over_the_relay(call: Run, own_relay: Relays, data: Path) -> None:
    url = own_relay()
    for name in ("ann", "bob", "eve"):
        call("register", "--name", name, "--relay", url).ok()
    call("agentrelay", "send", "bob", "REQ", "e1", '{"burn_on_read": true}', "--as", "ann").ok()
    call("agentrelay", "receive", "REQ,e1,s/e1.json,,", "--as", "eve").failed(4)
    call("agentrelay", "cmp", "e1", "--as", "bob").failed(7)
    call("agentrelay", "send", "bob", "REQ", "e1", "--as", "ann").failed(7)
    call("agentrelay", "send", "bob", "REQ", "e2", "{}", "chosen", "--as", "ann").failed(1)
    call("agentrelay", "receive", "REQ,e1,s/e1.json,,", "--as", "bob").ok()
    assert "burned" in call("agentrelay", "receive", "REQ,e1,s/e1.json,,", "--as", "bob").failed(5).err
    call("agentrelay", "cmp", "e1", "--as", "bob").ok()
    nobody = call("agentrelay", "send", "nobody", "REQ", "e3", "--as", "ann").ok()
    assert "nobody was told yet" in nobody.err
    call("agentrelay", "receive", "REQ,e1,s/e1.json,,").failed(2)  # as whom?
    assert "--local" in call("agentrelay", "send", "--help").out


def test_each_place_can_be_insisted_on(call: Run, own_relay: Relays, data: Path) -> None:
    call("agentrelay", "send", "b", "REQ", "e1", CONTENT, "--via-relay").failed(5)
    url = own_relay()
    call("register", "--name", "ann", "--relay", url).ok()
    kept = call("agentrelay", "send", "b", "REQ", "e1", CONTENT, "--local").ok()
    assert kept.err == f"clawlink: events are kept in {data}\n"
    call("agentrelay", "send", "b", "REQ", "e1", '{"task": 1}').ok()
    call("agentrelay", "log", "--local", "--via-relay").failed(2)
    own_relay.stop(url)
    call("agentrelay", "receive", "REQ,e1,s/e1.json,,", "--timeout", "2").failed(3)
    call("agentrelay", "receive", "REQ,e1,s/e1.json,,", "--local").ok()
