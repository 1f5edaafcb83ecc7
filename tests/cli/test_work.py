"""Discover, delegate, respond, send, broadcast, status, dead letters: for people and with --json."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable

import pytest

from clawlink.client.sync import Client
from clawlink.version import VERSION
from tests.cli.conftest import Relays, Run
from tests.tables import each
from tests.waiting import wait_until

Fresh = Callable[[str], str]


@pytest.fixture
def me(call: Run, relay: str, fresh: Fresh) -> str:
    """Register this account's agent, and return its name."""
    name = fresh("me")
    call("register", "--name", name).ok()
    return name


def test_discover_filters(run: Run, peer: Client, fresh: Fresh) -> None:
    name = next(agent.name for agent in peer.discover(status="all").agents if agent.agent_id == peer.agent_id)
    told = run("discover").ok().out
    assert told.splitlines()[0].split() == ["NAME", "ID", "CAN", "DO", "MACHINE", "STATUS", "LOAD"]
    assert name in told
    assert [a["name"] for a in run("discover", "--name", name, "--json").ok().json["agents"]] == [name]
    assert name in run("discover", "--capability", "peering", "--all").ok().out
    assert run("discover", "--capability", "no such thing").ok().out == "No agent matches.\n"
    assert run("discover", "--status", "stale").ok().out == "No agent matches.\n"


def test_discover_on_an_empty_relay(call: Run, own_relay: Relays) -> None:
    url = own_relay("--stale-after", "1")
    assert "No agent is online; --all" in call("--relay", url, "discover").ok().out
    call("--relay", url, "register", "--name", "ada", "--caps", "x").ok()
    wait_until(lambda: "No agent is online" in call("discover").ok().out)
    assert re.search(r"stale: last seen \d+ s ago", call("discover", "--all").ok().out)
    told = call("delegate", "--to", "ada", "--task", "later").ok().out
    assert "it will get it when it polls" in told or "online" in told


def test_a_task_from_delegation_to_answer(run: Run, call: Run, me: str, peer: Client) -> None:
    to = peer.agent_id or ""
    told = run("delegate", "--to", to, "--task", "do it", "--context", '{"a": [1, "ü"]}', "--priority", "high").ok().out
    assert f"({to}), online." in told
    assert "follow:  clawlink task " in told
    task_id = told.split("task:")[1].split()[0]
    assert call("status", task_id, "--json").ok().json["state"] == "stored"
    [claimed] = [one for one in peer.poll() if one.raw["type"] == "task_delegation"]
    assert (claimed.raw["task"], claimed.raw["context"], claimed.raw["priority"]) == ("do it", {"a": [1, "ü"]}, "high")
    assert "delivered" in call("status", task_id).ok().out.splitlines()[0]
    peer.ack([claimed.receipt])
    peer.respond(task_id, "done", status="completed")
    shown = run("status", task_id).ok().out
    assert shown.splitlines()[0] == f"task {task_id}: completed"
    assert re.search(r"^  answered: +\d+ s ago \(\d\d:\d\d:\d\d\)$", shown, re.MULTILINE)
    polled = run("poll").ok().out
    assert "status:  completed" in polled
    assert "    │ done" in polled


def test_delegate_with_json_is_the_reply(run: Run, me: str, peer: Client) -> None:
    told = run("delegate", "--to", peer.agent_id or "", "--task", "-", "--json", stdin=b"from stdin\r\n").ok().json
    assert (told["status"], told["delivery"], told["recipient"]["agent_id"]) == ("delegated", "queued", peer.agent_id)
    [claimed] = [one for one in peer.poll() if one.raw["type"] == "task_delegation"]
    assert claimed.raw["task"] == "from stdin"


def test_a_key_makes_a_repeat_harmless(call: Run, me: str, peer: Client) -> None:
    to = peer.agent_id or ""
    for command in (
        ["delegate", "--to", to, "--task", "once", "--key", "k1"],
        ["send", "--to", to, "--content", "once", "--key", "k2"],
        ["broadcast", "--content", "once", "--key", "k3"],
        ["file-put", "--key", "once", "--file", "-", "--idempotency-key", "k4"],
    ):
        first = call(*command, "--json").ok().json
        assert call(*command, "--json").ok().json.get("message_id") == first.get("message_id")
        assert call(*command, "--json").ok().json.get("version") == first.get("version")
    call("delegate", "--to", to, "--task", "another", "--key", "k1").failed(7)
    ours = [one for one in peer.poll() if one.raw.get("content") == "once" or one.raw.get("task") == "once"]
    assert len(ours) == 3


@pytest.fixture
def task(call: Run, me: str, peer: Client) -> str:
    """Have the peer delegate a task to this account's agent; return its id."""
    return peer.delegate(me, "work", context={}).message_id


def test_respond_reports_and_answers(call: Run, run: Run, task: str, peer: Client) -> None:
    told = call("respond", "--msg-id", task, "--status", "in_progress").ok().out
    assert "Response stored for" in told
    assert "status:    in_progress" in told
    told = (
        run("respond", "--msg-id", task, "--result", "-", "--to", peer.agent_id or "", "--json", stdin=b"ok\n")
        .ok()
        .json
    )
    assert (told["status"], told["task_status"], told["recipient"]["agent_id"]) == (
        "response_sent",
        "completed",
        peer.agent_id,
    )
    results = [one.raw["result"] for one in peer.poll() if one.raw["type"] == "task_response"]
    assert results == [None, "ok"]
    again = call("respond", "--msg-id", task, "--result", "something else").failed(7)
    assert "already completed" in again.err


def test_respond_with_a_result_that_is_json(call: Run, task: str, peer: Client) -> None:
    call("respond", "--msg-id", task, "--result", '{"n": 1}', "--result-json", "--status", "failed").ok()
    assert [one.raw["result"] for one in peer.poll() if one.raw["type"] == "task_response"] == [{"n": 1}]


def test_respond_when_the_requester_has_left(call: Run, task: str, peer: Client) -> None:
    peer.leave()
    assert "no agent will get it" in call("respond", "--msg-id", task, "--result", "too late").ok().out


@each(
    ("args", "code", "said"),
    [
        (["respond", "--msg-id", "x"], 2, "--result TEXT"),
        (["respond", "--msg-id", "x", "--result", "{", "--result-json"], 2, "--result is not JSON"),
        (["respond", "--msg-id", "x", "--result", "y"], 5, "no task 'x'"),
        (["delegate", "--to", "nobody", "--task", "x"], 5, "discover"),
        (["delegate", "--to", "a", "--task", "x", "--context", "{"], 2, "--context is not JSON"),
        (["delegate", "--to", "a", "--task", "x", "--context", "[1"], 2, "not JSON"),
        (["delegate", "--to", "a", "--task", "x", "--context", "[" * 5000], 2, "not JSON"),
        (["delegate", "--to", "a", "--task", "-", "--context", "-"], 2, "cannot both"),
        (["delegate", "--to", "x" * 200, "--task", "x"], 1, "to_agent"),
        (["send", "--to", "nobody", "--content", "x"], 5, "nobody"),
        (["broadcast", "--content", "x", "--topic", "t" * 200], 1, "topic"),
        (["status", "nothing"], 5, "nothing"),
        (["redrive", "--id", "nothing"], 5, "clawlink message dead-letters"),
        (["file-get", "--key", "nothing"], 5, "clawlink file list"),
        (["file-rm", "--key", "nothing"], 5, "clawlink file list"),
        (["file-put", "--key", "k", "--file", "/no/such/file"], 1, "/no/such/file"),
    ],
)
def test_refusals_are_one_sentence_and_a_code(call: Run, me: str, args: list[str], code: int, said: str) -> None:
    assert said in call(*args).failed(code).err
    told = call(*args, "--json").failed(code)
    assert said in json.loads(told.err)["error"]


def test_standard_input_must_be_text_where_text_is_asked_for(call: Run, me: str) -> None:
    assert "not UTF-8" in call("send", "--to", "a", "--content", "-", stdin=b"\xff").failed(2).err


def test_a_closed_standard_input_is_empty(
    call: Run, me: str, peer: Client, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    import sys

    from clawlink.cli.main import main

    monkeypatch.setattr(sys, "stdin", None)
    assert main(["send", "--to", peer.agent_id or "", "--content", "-"]) == 2
    assert b"--content is empty" in capfdbinary.readouterr().err


def test_send_and_reply(run: Run, call: Run, me: str, peer: Client) -> None:
    told = (
        run("send", "--to", peer.agent_id or "", "--content", "hello", "--thread", "t", "--priority", "urgent").ok().out
    )
    assert "Sent to" in told
    [claimed] = [one for one in peer.poll() if one.raw["type"] == "message"]
    assert (claimed.raw["content"], claimed.raw["thread"]) == ("hello", "t")
    peer.send(claimed.raw["from_agent"], "and to you", in_reply_to=claimed.message_id, thread="t")
    shown = run("poll").ok().out
    assert f"answers:  {claimed.message_id}" in shown
    assert "thread:   t" in shown
    assert f"reply:  clawlink send --to {peer.agent_id} --reply-to " in shown
    sent = (
        call("send", "--to", peer.agent_id or "", "--content", "x", "--reply-to", claimed.message_id, "--json")
        .ok()
        .json
    )
    assert sent["status"] == "sent"
    assert call("status", sent["message_id"]).ok().out.startswith(f"message {sent['message_id']}: stored")


def test_broadcast_tells_how_many_mailboxes(run: Run, call: Run, me: str, peer: Client) -> None:
    told = run("broadcast", "--content", "news", "--topic", "research", "--tags", "a,b").ok().out
    assert told.startswith("Stored in ")
    [claimed] = [one for one in peer.poll() if one.raw["type"] == "knowledge_broadcast"]
    assert (claimed.raw["topic"], claimed.raw["tags"]) == ("research", ["a", "b"])
    sent = call("broadcast", "--content", "-", "--json", stdin=b"news").ok().json
    assert sent["recipients"] >= 1
    shown = call("status", sent["message_id"]).ok().out
    assert shown.startswith(f"broadcast {sent['message_id']} to ")
    assert "in state stored:" in shown


def test_a_full_mailbox_is_over_a_limit_and_a_broadcast_goes_past_it(call: Run, own_relay: Relays) -> None:
    url = own_relay("--max-mailbox-messages", "2")
    with Client(url) as peer:
        peer.register("peer")
        call("--relay", url, "register", "--name", "me").ok()
        for _ in range(2):
            call("send", "--to", "peer", "--content", "what fills the mailbox").ok()
        assert "mailbox" in call("send", "--to", "peer", "--content", "x").failed(8).err
        for flags in ((), ("-q",), ("--json",)):
            told = call("broadcast", "--content", "x", *flags).failed(8)
            assert (
                "1 mailbox had no room: broadcasts fill half of a mailbox at most (--max-mailbox-messages" in told.err
            )
            assert "clawlink topic history general" in told.err
        assert told.json["refused"] == 1
        shown = call("status", told.json["message_id"]).ok().out
        heading, refused, full = shown.splitlines()
        assert heading == f"broadcast {told.json['message_id']} to 1 agent"
        assert refused.startswith("  refused:  ")
        assert full.split() == ["had", "no", "room:", "1", "mailbox"]
        peer.ack([held.receipt for held in peer.poll()])
        assert "Stored in 1 mailbox.\n" in call("broadcast", "--content", "x").ok().out


def test_a_broadcast_without_room_names_a_command_that_its_readers_can_run(call: Run, own_relay: Relays) -> None:
    url = own_relay("--max-mailbox-messages", "2")
    for name in ("me", "peer"):
        call("--relay", url, "register", "--name", name).ok()
    call("--as", "me", "broadcast", "--content", "x").ok()
    told = call("--as", "me", "broadcast", "--content", "y", "--topic", "all clear").failed(8)
    assert told.err.endswith("their agents find it with: clawlink topic history 'all clear'\n")


def test_dead_letters_and_redrive(run: Run, call: Run, me: str, peer: Client, relay: str) -> None:
    call("poll").ok()
    assert call("dead-letters").ok().out == "No dead letters.\n"
    task_id = peer.delegate(me, "too hard").message_id
    bury(call, relay)
    shown = run("dead-letters").ok().out
    assert "    │ too hard" in shown
    assert "reason:      handed out 5 times, and never acknowledged" in shown
    assert f"again:       clawlink message redrive --id {task_id}" in shown
    assert "All of them again: clawlink message redrive --all" in shown
    listed = call("dead-letters", "--json").ok().json
    assert listed["count"] == 1
    assert (listed["dead_letters"][0]["attempts"], listed["dead_letters"][0]["message"]["task"]) == (5, "too hard")
    assert "expired" not in call("status", task_id).ok().out
    assert "dead:" in call("status", task_id).ok().out
    assert "queued, dead letter" in call("tasks").ok().out
    assert call("redrive", "--id", task_id, "--json").ok().json == {"message_ids": [task_id], "count": 1}
    assert "dead letter" not in call("tasks").ok().out
    bury(call, relay)
    assert run("redrive", "--all").ok().out.startswith("1 message put back")
    assert run("redrive", "--all").ok().out == "You have no dead letters, so none is put back.\n"
    assert "    │ too hard" in call("poll").ok().out


def bury(call: Run, relay: str) -> None:
    """Hand this account's messages out until the relay gives up."""
    from clawlink.client.identity import Identities, home

    [saved] = Identities(home()).all()
    with Client(relay, agent_id=saved.agent_id, agent_key=saved.agent_key) as client:
        for _ in range(6):
            claimed = client.poll()
            if claimed:
                client.nack([one.receipt for one in claimed])


def test_info_shows_holdings_and_limits(run: Run, relay: str) -> None:
    shown = run("info").ok().out
    assert shown.startswith(f"ClawLink Relay {VERSION} at {relay}")
    limits = shown.partition("limits:\n")[2]
    assert re.search(r"^  max body bytes: +1,048,576 bytes \(1 MiB\)$", limits, re.MULTILINE), shown
    assert re.search(r"^  message ttl: +86,400 seconds \(24 h\)$", limits, re.MULTILINE), shown
    assert re.search(r"^  lease: +60 seconds$", limits, re.MULTILINE), shown
    assert re.search(r"^  rate agent: +\d+ per second$", limits, re.MULTILINE), shown
    assert re.search(r"uploads: +0 under way", shown), shown
    assert re.search(r"memory: +[\d.,]+ \w+ of 2 GiB", shown), shown
    assert run("info", "--json").ok().json["auth_required"] is False


def test_a_time_that_is_none_is_answered_with_the_short_forms(call: Run, me: str) -> None:
    for text in ("yesterday", "1 week", "ad", "2026-99-01"):
        told = call("knowledge", "--since", text).failed(2).err
        assert "as 90s, 30m, 2h or 3d" in told, text
    for text in ("30m", "2026-11-29T08:00:00Z", "2026-11-29", "0"):
        call("knowledge", "--since", text).ok()


def test_redrive_of_nothing_says_only_that_it_failed(call: Run, me: str) -> None:
    assert call("redrive", "--id", "abc").failed(5).raw == b""


def test_one_agent_under_several_names_gets_one_task(call: Run, me: str, peer: Client) -> None:
    name = next(agent.name for agent in peer.discover(status="all").agents if agent.agent_id == peer.agent_id)
    told = call("delegate", "--to", f"{name},{name.upper()},{peer.agent_id}", "--task", "once", "--json").ok().json
    assert "message_id" in told or len(told["results"]) == 1
    assert len([one for one in peer.poll(max=50) if one.raw.get("task") == "once"]) == 1


def test_what_is_shown_to_copy_finds_an_agent_whose_name_cannot_be_typed(call: Run, relay: str, fresh: Fresh) -> None:
    call("register", "--name", fresh("plain")).ok()
    refused = call("register", "--name", fresh("na\u202eme")).failed(1)
    assert "\u202e" not in refused.out + refused.err
    told = call("register", "--name", fresh("na\u200dme"), "--description", "de\u202esc", "--json").ok().json
    agent_id = told["agent"]["agent_id"]
    shown = call("--as", agent_id, "discover", "--all").ok().out
    assert agent_id in shown
    assert "\u202e" not in shown
    assert "\u200d" not in shown
    shown = call("register", "--name", told["agent"]["name"]).ok().out
    assert f"clawlink discover --as {agent_id}" in shown


def test_work_as_process_1_asks_for_an_init(call: Run, me: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clawlink.Link.run", lambda self: None)
    assert "docker run --init" not in call("work", "--exec", sys.executable).ok().err
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert "docker run --init" in call("work", "--exec", sys.executable).ok().err
