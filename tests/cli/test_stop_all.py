"""``stop-all`` and ``resume-all``, as the operator types them, and what the commands of agents say meanwhile."""

from __future__ import annotations

import subprocess

import pytest

from clawlink.client.sync import Client
from tests.cli.conftest import COMMAND, Relays, Run
from tests.processes import Popen


def test_work_stops_and_goes_on(call: Run, own_relay: Relays, monkeypatch: pytest.MonkeyPatch) -> None:
    url = own_relay("--token", "t", "--admin-token", "boss")
    monkeypatch.setenv("CLAWLINK_RELAY", url)
    monkeypatch.setenv("CLAWLINK_TOKEN", "t")
    for name in ("ann", "bob"):
        call("register", "--name", name).ok()
    assert "admin token" in call("stop-all").failed(4).err
    said = call("stop-all", "--admin-token", "boss").ok().out
    assert "clawlink resume-all" in said
    assert "stopped" in call("delegate", "bob", "x", "--as", "ann").failed(3).err
    assert "stopped" in call("poll", "--as", "bob").failed(3).err
    assert "clawlink resume-all" in call("doctor", "--as", "ann").out
    assert "stopped" in call("info").ok().out
    told = call("resume-all", "--admin-token", "boss", "--json").ok().json
    assert (told["status"], told["stopped_at"]) == ("running", None)
    call("delegate", "bob", "x", "--as", "ann").ok()
    assert "was not stopped" in call("resume-all", "--admin-token", "boss").ok().out
    shown = call("audit", "--admin-token", "boss").ok().out
    assert (shown.count("resume_all"), shown.count("stop_all")) == (2, 1)
    assert [row["act"] for row in call("audit", "--admin-token", "boss", "--json").ok().json["entries"]] == [
        "stop_all",
        "stop_all",
        "stop_all",
    ]
    monkeypatch.delenv("CLAWLINK_RELAY")
    said = call("stop-all", "--admin-token", "boss", "--relay", url).ok().out
    assert said.endswith(f"Resume it with: clawlink resume-all --relay {url}\n"), "another relay is the usual one"


def test_who_follows_a_mailbox_waits_for_work_to_go_on(
    call: Run, own_relay: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that polls on and on says why it waits, once, and has the next message when work goes on."""
    url = own_relay("--admin-token", "boss")
    monkeypatch.setenv("CLAWLINK_RELAY", url)
    call("register", "--name", "bob").ok()
    with Client(url, token="boss") as boss:
        boss.stop_all()
        process = Popen(
            [*COMMAND, "poll", "--follow", "--as", "bob"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            assert process.stderr is not None
            assert process.stdout is not None
            assert any("stopped" in line for line in process.stderr)
            boss.resume_all()
            boss.send_as_operator("bob", "go on")
            said = next(line for line in process.stdout if "a person" in line)
            assert '"operator"' in said
        finally:
            process.kill()
            process.communicate()
