"""``stop-all`` and ``resume-all``, as the operator types them, and what the commands of agents say meanwhile."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Relays, Run


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
    assert "goes on" in call("resume-all", "--admin-token", "boss").ok().out
    assert [row["act"] for row in call("audit", "--admin-token", "boss", "--json").ok().json["entries"]] == [
        "stop_all",
        "stop_all",
        "stop_all",
    ]
