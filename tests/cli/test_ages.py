"""Ages are shown in the relay's time, so a client whose clock is wrong shows them right."""

from __future__ import annotations

import time

import pytest

from tests.cli.conftest import Relays, Run

_HOUR = 3600.0


@pytest.mark.parametrize("wrong", [2 * _HOUR, -2 * _HOUR], ids=["ahead", "behind"])
def test_a_client_with_a_wrong_clock_shows_right_ages_and_ends(
    call: Run, own_relay: Relays, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    url = own_relay()
    monkeypatch.setenv("CLAWLINK_RELAY", url)
    for name in ("ann", "bob"):
        call("register", "--name", name).ok()
    call("broadcast", "--content", "before", "--as", "ann").ok()
    real = time.time
    monkeypatch.setattr("clawlink.cli.context.time.time", lambda: real() + wrong)
    task = (
        call("delegate", "--as", "ann", "--to", "bob", "--deadline", "30m", "--json", "--task", "sum")
        .ok()
        .json["message_id"]
    )
    seen = {
        "task": call("task", task, "--as", "ann"),
        "tasks": call("tasks", "--as", "ann"),
        "poll": call("poll", "--as", "bob", "--no-ack"),
        "info": call("info"),
        "knowledge": call("knowledge", "--since", "1h"),
    }
    for name, shown in seen.items():
        text = shown.ok().out
        for ages in ("2 h", "120 min", "150 min", "1 h", "119 min"):
            assert ages not in text, (name, text)
    for name in ("poll", "knowledge"):
        assert "before" in seen[name].out, (name, seen[name].out)
