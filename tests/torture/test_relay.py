"""A short run of the storms over whole relays that ``make torture`` goes on with."""

from __future__ import annotations

import json
import sys

import pytest

from tests.effort import size
from tests.processes import run


@pytest.mark.storm
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets the files of another process not grow")
def test_every_task_is_answered_once_though_relays_agents_network_and_clock_fail() -> None:
    cases = size(1, 4)
    command = [sys.executable, "-m", "tests.torture.relay", "--cases", str(cases), "--events", "5", "--on", "data"]
    ended = run(command, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    account = json.loads(ended.stdout)
    assert (account["next"], account["lost"]) == (cases, 0)
    assert account["accepted"] == account["answered"] > 0
    assert account["relays killed"] > 0
