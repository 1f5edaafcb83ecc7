"""Register, resume, choose between several, leave."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from clawlink.client.sync import Client
from tests.cli.conftest import COMMAND, Relays, Run
from tests.processes import Popen
from tests.waiting import PATIENCE

Fresh = Callable[[str], str]


def identity_files(account: Path) -> list[Path]:
    return sorted((account / ".clawlink" / "identities").glob("*.json"))


def test_register_then_everything_else_needs_no_flags(run: Run, own_relay: Relays, account: Path) -> None:
    url = own_relay("--token", "sesame")
    told = run(
        "--relay", url, "--token", "sesame", "register", "--name", "ada", "--caps", "a, b,", "--description", "d"
    ).ok()
    assert 'Registered "ada"' in told.out
    assert "can do:    a, b" in told.out
    assert run("poll").ok().out == "No messages.\n"
    assert '"ada"' in run("heartbeat").ok().out
    assert run("heartbeat", "--json").ok().json == {"status": "ok"}
    assert "ada" in run("discover").ok().out
    [file] = identity_files(account)
    if os.name == "posix":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert json.loads(file.read_bytes())["token"] == "sesame"


def test_register_with_json_tells_all_but_the_key(call: Run, relay: str, fresh: Fresh, account: Path) -> None:
    name = fresh("ada")
    told = call("register", "--name", name, "--json").ok().json
    [file] = identity_files(account)
    assert told["agent"]["name"] == name
    assert (told["status"], told["resumed"], told["claimed"]) == ("registered", False, True)
    assert (told["relay"], told["identity_file"]) == (relay, str(file))
    assert json.loads(file.read_bytes())["agent_key"] not in json.dumps(told)


def test_registering_again_resumes_the_agent_and_its_mailbox(call: Run, relay: str, fresh: Fresh) -> None:
    ada, bob = fresh("ada"), fresh("bob")
    first = call("register", "--name", ada, "--caps", "x", "--description", "about", "--json").ok().json
    call("register", "--name", bob).ok()
    call("--as", bob, "send", "--to", ada, "--content", "still here?").ok()
    assert "was called" not in call("register", "--name", ada).ok().out
    told = call("register", "--name", ada.upper())
    assert f'Resumed "{ada.upper()}"' in told.ok().out
    assert f', which was called "{ada}".' in told.out
    assert "can do:    x" in told.out
    again = call("register", "--name", ada, "--caps", "y", "--json").ok().json
    assert (again["resumed"], again["agent"]["agent_id"]) == (True, first["agent"]["agent_id"])
    assert (again["agent"]["capabilities"], again["agent"]["description"]) == (["y"], "about")
    assert "still here?" in call("--as", ada, "poll").ok().out
    assert "can do:    nothing" in call("register", "--name", ada, "--caps", "").ok().out
    assert call("register", "--name", ada, "--json").ok().json["agent"]["capabilities"] == []


def test_a_capability_with_a_space_comes_with_the_form_of_a_list(call: Run, relay: str, fresh: Fresh) -> None:
    told = call("register", fresh("eve"), "--caps", "a b,c").ok()
    assert "can do:    a b, c" in told.out
    assert "'a b' is one name; if several are meant, separate them by commas: --caps a,b" in told.err
    assert not call("register", fresh("eve"), "--caps", "a, b").ok().err


def test_without_a_claim_there_is_no_key(call: Run, relay: str, fresh: Fresh, account: Path) -> None:
    name = fresh("open")
    assert call("register", "--name", name, "--no-claim", "--json").ok().json["claimed"] is False
    assert "agent_key" not in json.loads(identity_files(account)[0].read_bytes())
    call("poll").ok()
    assert call("register", "--name", name, "--json").ok().json["claimed"] is True
    call("poll").ok()


def test_where_keys_are_required_the_flag_to_leave_out_is_named(call: Run, own_relay: Callable[..., str]) -> None:
    url = own_relay("--require-agent-keys")
    assert "leave out --no-claim" in call("--relay", url, "register", "--name", "open", "--no-claim").failed(4).err


def test_what_to_do_next_names_the_identity_where_several_are_kept(call: Run, relay: str, fresh: Fresh) -> None:
    first, second = fresh("ada"), fresh("bob")
    assert "--as" not in call("register", "--name", first).ok().out
    assert f"clawlink poll --wait --as {second}" in call("register", "--name", second).ok().out


def test_a_name_that_someone_else_holds_is_a_conflict(
    call: Run, relay: str, fresh: Fresh, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = fresh("ada")
    call("register", "--name", name).ok()
    monkeypatch.setenv("CLAWLINK_HOME", str(tmp_path / "another account"))
    refused = call("register", "--name", name).failed(7).err
    assert "is held by agent" in refused
    assert refused.endswith(" s ago; choose another name, or use the account that has its key\n")


def test_several_identities_are_told_apart_by_name(
    call: Run, relay: str, fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, bob = fresh("ada"), fresh("bob")
    call("register", "--name", ada).ok()
    call("register", "--name", bob).ok()
    told = call("poll").failed(2)
    assert ada in told.err
    assert bob in told.err
    assert "--as NAME" in told.err
    assert bob in call("heartbeat", "--as", bob).ok().out
    monkeypatch.setenv("CLAWLINK_AGENT", ada)
    assert ada in call("heartbeat").ok().out
    assert bob in call("--as", bob, "heartbeat").ok().out
    monkeypatch.setenv("CLAWLINK_AGENT", "nobody")
    mistyped = call("heartbeat").failed(5).err
    assert "no identity 'nobody' is kept here" in mistyped
    assert "see which there are: clawlink whoami --offline" in mistyped
    assert "register first" not in mistyped, "a name is mistyped more often than not yet there"
    elsewhere = call("--relay", "http://127.0.0.1:1", "heartbeat", "--as", bob).failed(5).err
    assert f"is kept here for http://127.0.0.1:1, but for {relay}; see which" in elsewhere
    call("discover").ok()


def test_without_an_identity_the_remedy_is_named(call: Run, relay: str) -> None:
    assert "clawlink register --name NAME" in call("poll").failed(5).err
    assert "clawlink register --name NAME" in call("whoami").failed(5).err
    assert "clawlink register --name NAME" in call("discover", "--as", "nobody").failed(5).err
    for command in ("poll", "whoami"):
        assert (
            call("--relay", relay, command).failed(5).err.endswith(f": clawlink register --name NAME --relay {relay}\n")
        )


def test_at_most_three_of_several_identities_are_named(call: Run, own_relay: Callable[..., str]) -> None:
    one, other = own_relay(), own_relay()
    names = ("ada", "bob", "cid", "dan")
    for name in names:
        call("--relay", other if name == "bob" else one, "register", "--name", name).ok()
    several = call("poll").failed(2).err
    assert [name for name in names if f"{name} (on " in several] == ["ada", "bob", "cid"]
    assert " and 1 more (see: clawlink whoami); say which with --as NAME" in several
    assert "say which with --relay URL or CLAWLINK_RELAY" in call("discover").failed(2).err
    call("--relay", one, "discover").ok()


def test_whoami_lists_and_marks(run: Run, relay: str, fresh: Fresh) -> None:
    ada, bob = fresh("ada"), fresh("bob")
    run("register", "--name", ada, "--caps", "x").ok()
    run("register", "--name", bob).ok()
    told = run("whoami").ok().out
    assert "None of them is used: say which with --as NAME or CLAWLINK_AGENT.\n" in told
    told = run("whoami", "--as", ada).ok().out
    [marked] = [line for line in told.splitlines() if line.startswith("*")]
    assert ada in marked
    assert "the relay says:  online" in told
    assert "can do:          x" in told
    assert "the relay says" not in run("whoami", "--as", ada, "--offline").ok().out


def test_whoami_with_json_has_no_secrets(call: Run, relay: str, fresh: Fresh, account: Path) -> None:
    name = fresh("ada")
    call("register", "--name", name).ok()
    told = call("whoami", "--json").ok()
    assert [one["name"] for one in told.json["identities"]] == [name]
    assert told.json["chosen"]["chosen"] is True
    assert told.json["relay_says"]["load"] == {"mailbox": 0, "open_tasks": 0}
    assert json.loads(identity_files(account)[0].read_bytes())["agent_key"] not in told.out
    assert call("whoami", "--json", "--offline").ok().json["relay_says"] is None


def test_whoami_lists_even_when_the_relay_knows_us_no_more(call: Run, relay: str, fresh: Fresh) -> None:
    name = fresh("ada")
    call("register", "--name", name, "--no-claim").ok()
    agent_id = call("whoami", "--json").ok().json["chosen"]["agent_id"]
    requests.delete(f"{relay}/agents/{agent_id}", timeout=PATIENCE).raise_for_status()
    told = call("whoami").failed(5)
    assert name in told.out
    assert f"clawlink register --name {name}" in told.err


def test_leave_forgets_the_identity(call: Run, relay: str, fresh: Fresh, account: Path) -> None:
    name = fresh("ada")
    call("register", "--name", name).ok()
    assert "has left" in call("leave").ok().out
    assert identity_files(account) == []
    assert name not in call("discover", "--all").ok().out
    call("register", "--name", name).ok()
    told = call("leave", "--json").ok().json
    assert (told["status"], told["dropped"]) == ("left", 0)


def test_leave_offline_only_forgets(call: Run, relay: str, fresh: Fresh, account: Path) -> None:
    name = fresh("ada")
    call("register", "--name", name).ok()
    assert "was not told" in call("leave", "--offline").ok().out
    assert identity_files(account) == []
    assert name in call("discover").ok().out


def test_a_relay_that_was_restarted_knows_nobody_and_takes_everybody_back(
    call: Run, own_relay: Relays, account: Path
) -> None:
    url = own_relay()
    call("--relay", url, "register", "--name", "ada", "--caps", "x", "--description", "d").ok()
    before = json.loads(identity_files(account)[0].read_bytes())
    own_relay.stop(url)
    own_relay.restart(url)
    assert "perhaps it was restarted" in call("whoami").failed(5).err
    own = before["agent_id"]
    for command in (["poll"], ["heartbeat"], ["send", "--to", own, "--content", "y"], ["file-put", "k", "--file", "-"]):
        told = call(*command, stdin=b"x").ok()
        assert "had forgotten 'ada'" in told.err, command
        assert len(told.err.splitlines()) == 1, command
        assert call(*command, stdin=b"x").ok().err == "", command
        listed = call("discover", "--name", "ada", "--json").ok().json["agents"]
        assert [(one["agent_id"], one["capabilities"], one["description"], one["claimed"]) for one in listed] == [
            (own, ["x"], "d", True)
        ], command
        own_relay.stop(url)
        own_relay.restart(url)
    told = call("register", "--name", "ada", "--json").ok().json
    assert (told["resumed"], told["agent"]["agent_id"]) == (False, own)


def test_a_name_that_was_taken_meanwhile_is_not_taken_back(call: Run, own_relay: Relays) -> None:
    url = own_relay()
    call("--relay", url, "register", "--name", "ada").ok()
    own_relay.stop(url)
    own_relay.restart(url)
    with Client(url) as other:
        other.register("ada")
        assert "ada" in call("poll").failed(7).err


def test_a_kept_key_follows_its_relay_to_another_address(call: Run, own_relay: Relays, account: Path) -> None:
    url = own_relay()
    localhost = url.replace("127.0.0.1", "localhost")
    first = call("--relay", url, "register", "--name", "ada", "--caps", "x", "--json").ok().json
    again = call("--relay", localhost, "register", "--name", "ada", "--json").ok().json
    assert (again["resumed"], again["agent"]["agent_id"]) == (True, first["agent"]["agent_id"])
    [file] = identity_files(account)
    kept = json.loads(file.read_bytes())
    assert (kept["relay"], kept["capabilities"]) == (localhost, ["x"])
    assert not {"agent_key", "relay_key"} & set(again)
    # Another relay that claims to be this one gets no key: there, it is a new agent.
    file.write_text(json.dumps({**kept, "relay_key": "0" * 64}))
    told = call("--relay", url, "register", "--name", "ada")
    assert told.code == 7
    assert "cannot prove it" in told.err


def test_leaving_a_relay_that_knows_us_no_more_forgets(call: Run, own_relay: Relays, account: Path) -> None:
    url = own_relay()
    call("--relay", url, "register", "--name", "ada").ok()
    own_relay.stop(url)
    own_relay.restart(url)
    told = call("leave").ok()
    assert "has no" in told.out
    assert "forgotten" in told.out
    assert identity_files(account) == []


def test_the_same_name_on_two_relays_is_told_apart_by_relay(call: Run, own_relay: Relays) -> None:
    one, two = own_relay(), own_relay()
    call("--relay", one, "register", "--name", "ada").ok()
    told = call("--relay", two, "register", "--name", "ada").ok()
    assert f"--as ada --relay {two}" in told.out
    assert "--relay URL" in call("register", "--name", "ada").failed(2).err
    assert "--relay URL" in call("--as", "ada", "poll").failed(2).err
    call("--relay", one, "poll").ok()


def test_work_says_that_the_relay_asks_for_another_token(call: Run, own_relay: Relays) -> None:
    url = own_relay("--token", "one")
    call("--relay", url, "--token", "one", "register", "--name", "ada").ok()
    worker = Popen([*COMMAND, "work", "--exec", "true"], stderr=subprocess.PIPE, text=True)
    patience = threading.Timer(40, worker.kill)  # a test that waits for a line in vain fails; it does not hang
    patience.start()
    try:
        assert worker.stderr is not None
        assert any("connected to" in line for line in worker.stderr)
        own_relay.stop(url)
        own_relay.restart(url, "--token", "two")
        assert any("--token or CLAWLINK_TOKEN" in line for line in worker.stderr)
    finally:
        patience.cancel()
        worker.kill()
        worker.communicate()
