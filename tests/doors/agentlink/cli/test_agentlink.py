"""``clawlink agentlink`` and ``clawlink instance``: setting up both sides, and being an agent of Agent Link."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clawlink.agentlink import AgentLink
from tests.cli.conftest import COMMAND, Relays, Run
from tests.waiting import PATIENCE

POSIX = sys.platform != "win32"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Where the relay's operator keeps the instances."""
    return tmp_path / "relay-config.json"


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_an_instance_is_added_with_a_secret_of_its_own(call: Run, config: Path, tmp_path: Path) -> None:
    done = call("instance", "add", "home", "--config", str(config), "--name", "At home").ok()
    (entry,) = json.loads(config.read_text())["registered_instances"]
    assert entry["instance_id"] == "home"
    assert len(entry["secret"]) >= 40
    assert entry["secret"] in done.out
    if POSIX:
        assert mode(config) == 0o600
    second = call("instance", "add", "work", "--config", str(config), "--json", "--legacy", "--agents", "a, b").ok()
    entries = json.loads(config.read_text())["registered_instances"]
    assert [e["instance_id"] for e in entries] == ["home", "work"]
    assert entries[1]["secret"] == second.json["secret"] != entry["secret"]
    listed = call("instance", "list", "--config", str(config)).ok()
    assert "as old clients" in listed.out
    assert "clawlink agentlink setup" in done.out
    old = call("instance", "add", "old", "--config", str(tmp_path / "other.json"), "--legacy").ok()
    assert "agentlink setup" not in old.out
    assert "ws://RELAY:9077/agentlink" in old.out
    assert entry["secret"] not in listed.out
    assert call("instance", "list", "--config", str(config), "--json").ok().json["count"] == 2


def test_no_suggestion_overwrites_one(call: Run) -> None:
    assert "did you mean" not in call("instance", "add", "x", "--replac").failed(2).err


def test_one_that_is_there_is_not_overwritten_by_accident(call: Run, config: Path) -> None:
    file = {"port": 8765, "secret": "of all", "future": 1, "registered_instances": [{"instance_id": "home", "x": 2}]}
    config.write_text(json.dumps(file))
    call("instance", "add", "HOME", "--config", str(config)).failed(7)
    assert json.loads(config.read_text()) == file
    call("instance", "add", "work", "--config", str(config), "--secret", "-", stdin=b"mine\n").ok()
    assert json.loads(config.read_text()) == {
        **file,
        "registered_instances": [{"instance_id": "home", "x": 2}, {"instance_id": "work", "secret": "mine"}],
    }
    call("instance", "add", "home", "--config", str(config), "--replace").ok()
    assert len(json.loads(config.read_text())["registered_instances"]) == 2


@pytest.mark.parametrize(
    ("args", "code"), [(("add",), 2), (("add", "a/b"), 2), (("add", "a:b"), 2), (("list",), 1), (("remove",), 2)]
)
def test_what_makes_no_sense_is_told(call: Run, config: Path, args: tuple[str, ...], code: int) -> None:
    call("instance", *args, "--config", str(config)).failed(code)
    assert not config.exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"registered_instances": [{}]}', '{"registered_instances": 1}'])
def test_a_file_that_is_none_is_told_with_its_name(call: Run, config: Path, content: str) -> None:
    config.write_text(content)
    assert str(config) in call("instance", "list", "--config", str(config)).failed(1).err
    assert str(config) in call("serve", "--agentlink-config", str(config)).failed(2).err


def test_a_machine_is_set_up_and_tested(call: Run, config: Path, account: Path, own_relay: Relays) -> None:
    secret = call("instance", "add", "home", "--config", str(config), "--json").ok().json["secret"]
    url = own_relay("--agentlink-config", str(config))
    done = call(
        *("agentlink", "setup", "--relay-url", url, "--instance-id", "home", "--agent-id", "ann", "--secret", "-"),
        stdin=secret.encode() + b"\n",
    ).ok()
    path = account / ".clawlink" / "agent-link-config.json"
    assert str(path) in done.out
    assert secret not in done.out
    assert "--relay-url URL,URL names several relays" in done.out
    assert json.loads(path.read_text()) == {
        "auto_reconnect": True,
        "relay_url": url,
        "secret": secret,
        "instance_id": "home",
        "agent_id": "ann",
    }
    if POSIX:
        assert mode(path) == 0o600
    assert "home/ann works" in call("agentlink", "--test").ok().out
    assert call("agentlink", "--test", "--agent-id", "other", "--json").ok().json["address"] == "home/other"
    given = ("--relay-url", url, "--instance-id", "home", "--agent-id", "ann")
    assert call("agentlink", "--test", *given, "--secret", secret).ok()
    wrong = call("agentlink", "--test", *given, "--secret", "wrong").failed(4).err
    assert "Invalid signature: the secret given with --secret is not the one that the relay has for" in wrong
    path.write_text(json.dumps({**json.loads(path.read_text()), "secret": "wrong"}))
    assert f"the secret in {path} is not the one" in " ".join(call("agentlink", "--test").failed(4).err.split())
    path.write_text(json.dumps({**json.loads(path.read_text()), "secret": secret}))
    stranger = call("agentlink", "--test", "--instance-id", "stranger").failed(4).err
    assert "Instance not registered: the relay knows no instance 'stranger'" in stranger
    assert "clawlink instance add stranger" in stranger
    call("agentlink", "--test", *given, "--secret", secret, "--relay-url", "ws://127.0.0.1:1").failed(3)
    call("agentlink", "setup", "--agent-id", "new").ok()
    assert json.loads(path.read_text())["agent_id"] == "new"


def test_without_a_configuration_it_says_how_to_make_one(call: Run) -> None:
    assert "clawlink agentlink setup" in call("agentlink", "--test").failed(2).err
    assert "--secret" in call("agentlink", "setup", "--relay-url", "ws://h").failed(2).err


def test_set_up_without_an_instance_makes_one_up(call: Run, account: Path, config: Path, own_relay: Relays) -> None:
    done = call("agentlink", "setup", "--relay-url", "ws://h/agentlink", "--secret", "of-ours").ok()
    path = account / ".clawlink" / "agent-link-config.json"
    made_up = json.loads(path.read_text())["instance_id"]
    assert f"clawlink instance add {made_up} --secret -" in " ".join(done.out.split())
    call("agentlink", "setup", "--agent-id", "ann").ok()
    assert json.loads(path.read_text())["instance_id"] == made_up
    call("instance", "add", made_up, "--config", str(config), "--secret", "-", stdin=b"of-ours\n").ok()
    url = own_relay("--agentlink-config", str(config))
    assert call("agentlink", "setup", "--relay-url", url, "--json").ok().json["instance_id"] == made_up
    assert call("agentlink", "--test", "--json").ok().json["address"] == f"{made_up}/ann"


@pytest.mark.skipif(not POSIX, reason="Ctrl-C is sent as a signal")
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_what_comes_is_shown_and_acked(config: Path, call: Run, own_relay: Relays, flags: tuple[str, ...]) -> None:
    made = call("instance", "add", "home", "--config", str(config), "--json", "--agents", "ann").ok()
    secret = made.json["secret"]
    url = own_relay("--agentlink-config", str(config))
    command = [*COMMAND, "agentlink", "--relay-url", url, "--instance-id", "home", "--agent-id", "ann", *flags]
    listener = subprocess.Popen(
        [*command, "--secret", secret],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert listener.stdout is not None
    assert listener.stderr is not None
    if not flags:
        assert "home/ann is connected" in listener.stdout.readline()
    with AgentLink(url, secret, "home", "bob") as link:
        sent = link.send("home/ann", "hello \x1b[31mred")
        shown = listener.stdout.readline()
        assert shown, listener.stderr.read()
        if flags:
            assert json.loads(shown)["message"] == "hello \x1b[31mred"
        else:
            assert "from home/bob" in shown
            assert listener.stdout.readline().endswith("hello ␛[31mred\n")
        assert sent.receipt().result(10)
    listener.send_signal(signal.SIGINT)
    assert listener.wait(PATIENCE) == 130
    assert listener.stderr.read() == ""
    listener.stdout.close()
    listener.stderr.close()
