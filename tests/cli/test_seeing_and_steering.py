"""The verbs that show a relay, tell how far a message came, and remove an agent."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from clawlink.client.sync import Client
from tests.cli.conftest import Relays, Run
from tests.waiting import PATIENCE

Fresh = Callable[[str], str]

# -- relay info --------------------------------------------------------------------------------------------------------


def facts(shown: str) -> dict[str, str]:
    """Return the lines of the form ``name:  value``."""
    return dict(re.findall(r"^ *([a-z][a-z ]*):  +(\S.*)$", shown, re.MULTILINE))


def test_info_shows_what_the_relay_says_of_itself(call: Run, own_relay: Relays) -> None:
    url = own_relay("--max-agents", "7", "--lease", "90", "--max-memory", "67108864")
    with Client(url) as ann, Client(url) as bob:
        ann.register("Ann")
        bob.register("Bob", claim=True)
        ann.send("Bob", "hello")
        ann.broadcast("news")
        ann.put_file("notes.md", "one")
        told = requests.get(url + "/", timeout=PATIENCE).json()
        shown = call("--relay", url, "info").ok().out
        first, *_ = shown.splitlines()
        assert first == f"{told['service']} {told['version']} at {url}"
        for name, value in {
            "token": "not asked for",
            "agent keys": "not required",
            "agents": "2 online, 0 stale",
            "broadcasts": "1",
            "shared files": "1 file",
            "uploads": "0 under way, 0 bytes",
            "takeovers": "0",
            "rate limited": "0",
            "loops stopped": "0",
            "max agents": "7 agents",
            "lease": "90 seconds",
            "max memory": "67,108,864 bytes (64 MiB)",
            "forget after": "86,400 seconds (24 h)",
        }.items():
            assert facts(shown)[name] == value, (name, shown)
        assert facts(shown)["messages held"].startswith(f"{told['messages_held']}, ")
        assert facts(shown)["memory"].endswith(" of 64 MiB")
        limits = re.findall(r"^  ([a-z ]+):", shown.partition("\nlimits:\n")[2], re.MULTILINE)
        assert sorted(limits) == sorted(name.replace("_", " ") for name in told["limits"])
        as_json = call("--relay", url, "info", "--json").ok().json
        assert as_json.keys() == told.keys()
        assert as_json["limits"] == told["limits"]


def test_info_of_a_relay_that_refuses_or_is_not_there(call: Run, own_relay: Relays) -> None:
    url = own_relay("--token", "t", "--require-agent-keys")
    assert "token" in call("--relay", url, "info").failed(4).err
    shown = facts(call("--relay", url, "--token", "t", "info").ok().out)
    assert (shown["token"], shown["agent keys"]) == ("asked for", "required")
    own_relay.stop(url)
    assert url in call("--relay", url, "info").failed(3).err


# -- message status ----------------------------------------------------------------------------------------------------


def test_status_tells_stored_delivered_acked_and_answered_apart(
    call: Run, relay: str, peer: Client, fresh: Fresh
) -> None:
    me = fresh("asker")
    call("register", "--name", me).ok()
    id = call("send", "--to", str(peer.agent_id), "--content", "x", "--json").ok().json["message_id"]

    def seen() -> dict[str, str]:
        return facts(call("status", id).ok().out)

    def at(shown: dict[str, str]) -> list[str]:
        return [fact for fact in ("stored", "delivered", "acked", "answered") if shown[fact] != "-"]

    assert at(seen()) == ["stored"]
    assert seen()["attempts"] == "0"
    (held,) = peer.poll(lease=60)
    assert at(seen()) == ["stored", "delivered"]
    assert seen()["delivered"].endswith(", attempt 1")
    peer.ack([held.receipt])
    assert at(seen()) == ["stored", "delivered", "acked"]
    peer.send(me, "y", in_reply_to=id)
    assert at(seen()) == ["stored", "delivered", "acked", "answered"]
    assert call("status", id, "--json").ok().json["state"] == "acked"


def test_status_of_a_task_that_waits_again_tells_its_last_claim_until_the_answer(
    call: Run, relay: str, peer: Client, fresh: Fresh
) -> None:
    call("register", "--name", fresh("asker")).ok()
    id = call("delegate", "--to", str(peer.agent_id), "--task", "x", "--json").ok().json["message_id"]
    (held,) = peer.poll(lease=60)
    peer.nack([held.receipt])
    shown = facts(call("status", id).ok().out)
    assert re.fullmatch(r"\S+ s ago \(.+\), queued again \S+ s ago \(.+\)", shown["delivered"]), shown
    assert (shown["acked"], shown["answered"], shown["attempts"]) == ("-", "-", "1")
    peer.respond(id, result="done")
    shown = facts(call("status", id).ok().out)
    assert shown["delivered"].endswith(", attempt 1")
    assert "-" not in (shown["acked"], shown["answered"])


def test_a_wake_stands_in_the_status_and_among_the_steps_of_a_task(
    call: Run, relay: str, peer: Client, fresh: Fresh
) -> None:
    call("register", "--name", fresh("asker")).ok()
    id = call("delegate", "--to", str(peer.agent_id), "--task", "x", "--json").ok().json["message_id"]
    peer.woken(id, "claude", "failed", note="no \u202e session")
    peer.woken(id, "openclaw", "started")
    assert facts(call("status", id).ok().out)["woken"].endswith(" by openclaw: a turn begins")
    (held,) = peer.poll(lease=60)
    peer.ack([held.receipt])
    peer.respond(id, "done")
    steps = call("task", id).ok().out.partition("history:\n")[2].splitlines()
    told = [re.sub(r" *\+.*?\) ", "", step).partition(", by")[0] for step in steps[:5]]
    assert told[0] == "queued"
    assert told[1].startswith("wake by claude: failed (no ")
    assert "\u202e" not in told[1]
    assert told[2:] == ["wake by openclaw: a turn begins", "delivered", "completed"]


def test_status_of_a_broadcast_counts_its_copies(call: Run, own_relay: Relays) -> None:
    url = own_relay()
    call("--relay", url, "register", "--name", "teller").ok()
    with Client(url) as one, Client(url) as two:
        one.register("one")
        two.register("two")
        id = call("broadcast", "--content", "news", "--json").ok().json["message_id"]
        (held,) = one.poll(lease=60)
        one.ack([held.receipt])
        two.poll(lease=60)
        shown = call("status", id).ok().out
        assert shown.splitlines()[0] == f"broadcast {id} to 2 agents"
        assert (facts(shown)["in state acked"], facts(shown)["in state delivered"]) == ("1", "1")


def test_status_of_what_is_unknown_or_of_others(call: Run, relay: str, peer: Client, fresh: Fresh) -> None:
    call("register", "--name", fresh("asker")).ok()
    assert "no message" in call("status", "0" * 24).failed(5).err
    with Client(relay) as third:
        third.register(fresh("third"))
        id = peer.send(str(third.agent_id), "private").message_id
        refused = call("status", id)
    assert refused.code != 0
    assert "private" not in refused.out + refused.err


# -- agent kick --------------------------------------------------------------------------------------------------------


def test_kick_removes_an_agent_and_says_what_becomes_of_its_mail(
    call: Run, relay: str, peer: Client, fresh: Fresh
) -> None:
    name = fresh("gone")
    with Client(relay) as gone:
        gone.register(name, claim=True)
        peer.delegate(name, "work")
        peer.send(name, "one")
        peer.send(name, "two")
        said = call("kick", name).ok().out
        assert f'"{name}" is removed from {relay}, and the name is free; 2 unread messages dropped' in said
        assert "1 task waits for it to come back." in said
        assert f"'{name}'" in call("kick", name).failed(5).err
        again = gone.agent_id
    with Client(relay) as other:
        other.register(name, claim=True)
        told = call("kick", str(other.agent_id), "--json").ok().json
        assert told == {"status": "kicked", "agent_id": other.agent_id, "dropped": 0, "waiting": 0}
        assert other.agent_id != again


def test_with_a_data_folder_its_limit_is_shown(call: Run, own_relay: Relays, tmp_path: Path) -> None:
    url = own_relay("--data", str(tmp_path / "data"), "--max-data", "1073741824", "--max-memory", "67108864")
    shown = facts(call("--relay", url, "info").ok().out)
    assert shown["data"].endswith(" of 1 GiB")
    assert "memory" not in shown
    assert re.search(r"; data \S+ \w+ of 1 GiB$", call("--relay", url, "top", "--once").ok().out, re.MULTILINE)


def test_kick_needs_the_right_of_the_operator(call: Run, own_relay: Relays) -> None:
    url = own_relay("--token", "t", "--admin-token", "a")
    with Client(url, token="t") as ann:
        ann.register("Ann")
        assert "admin token" in call("--relay", url, "--token", "t", "kick", "Ann").failed(4).err
        wrong = call("--relay", url, "kick", "Ann", "--admin-token", "wrong").failed(4).err
        assert "not the admin token of this relay" in wrong
        assert "in the file admin-token" in wrong
        assert "prints when it starts" not in wrong, "that is the token of the agents"
        call("--relay", url, "kick", "Ann", "--admin-token", "a").ok()


def test_a_wrong_admin_token_is_refused_also_where_the_relay_asks_for_none(
    call: Run, own_relay: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, with_token = own_relay(), own_relay("--admin-token", "a")
    for relay, wrong in ((url, "nope"), (with_token, "b")):
        for command in (["open", "--print"], ["stop-all"], ["kick", "nobody"], ["audit"], ["top", "--once"]):
            told = call("--relay", relay, *command, "--admin-token", wrong).failed(4).err
            assert f"not the admin token of {relay}, where everybody on this machine is the operator" in told, command
            assert "leave --admin-token out" in told, command
    assert call("--relay", url, "audit", "--json").ok().json["entries"] == []
    call("--relay", with_token, "audit", "--admin-token", "a").ok()
    monkeypatch.setenv("CLAWLINK_ADMIN_TOKEN", "that-of-another-relay")
    call("--relay", url, "audit").ok()


# -- relay open --------------------------------------------------------------------------------------------------------


def test_help_and_pages_say_that_the_command_line_of_a_browser_shows_the_link(call: Run) -> None:
    pages = Path(__file__).parents[2] / "references"
    told = {"--help": call("relay", "open", "--help").ok().out}
    told |= {page: (pages / page).read_text("utf-8") for page in ("operations.md", "cli.md")}
    for where, text in told.items():
        words = " ".join(text.split())
        assert "--print" in words, where
        assert re.search(r"other accounts of (?:this|the|the same) machine may read", words, re.IGNORECASE), where


def test_the_audit_has_agents_by_their_names(call: Run, own_relay: Relays) -> None:
    url = own_relay("--token", "t", "--admin-token", "a")
    right = {"Authorization": "Bearer a"}
    for id, name in (("a1", "Ann"), ("b1", "Bob")):
        requests.post(url + "/register", json={"agent_id": id, "name": name}, headers=right, timeout=PATIENCE)
    for path, body in (
        ("/admin/delegate", {"to_agent": "b1", "task": "x"}),
        ("/admin/rename", {"agent": "a1", "name": "Anna"}),
        ("/admin/redrive", {"agent": "a1"}),
    ):
        assert requests.post(url + path, json=body, headers=right, timeout=PATIENCE).ok, path
    told = call("--relay", url, "audit", "--admin-token", "a").ok().out
    for words in (" for Bob ", " Ann to Anna ", " Anna "):
        assert words in told, words


def test_open_prints_a_link_that_works_once_and_ends_all_sessions(call: Run, own_relay: Relays) -> None:
    url = own_relay("--token", "t", "--admin-token", "a")
    link = call("--relay", url, "open", "--print", "--read-only", "--admin-token", "a").ok().out.splitlines()[0]
    where, _, code = link.partition("/#code=")
    assert where == url
    opened = requests.post(url + "/admin/sessions", json={"code": code}, timeout=PATIENCE)
    assert (opened.status_code, opened.json()["read_only"]) == (200, True)
    told = call("--relay", url, "open", "--print", "--seconds", "60", "--json", "--admin-token", "a").ok().json
    assert (told["read_only"], told["seconds"]) == (False, 60)
    ended = call("--relay", url, "open", "--end-all", "--admin-token", "a").ok().out
    assert ended == "All sessions of the page have ended: 1.\n"
    call("--relay", url, "--token", "t", "open", "--print").failed(4)
    listed = call("--relay", url, "audit", "--admin-token", "a").ok().out.splitlines()
    assert [line.split()[-1] for line in listed[1:]] == ["token"] * 3
    assert ["log_out" in line for line in listed[1:]] == [True, False, False]
    (act,) = call("--relay", url, "audit", "--limit", "1", "--json", "--admin-token", "a").ok().json["entries"]
    assert (act["act"], act["facts"]) == ("log_out", {"ended": 1})
    call("--relay", url, "--token", "t", "audit").failed(4)
