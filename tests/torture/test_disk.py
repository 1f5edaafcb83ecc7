"""A short run of the kills and losses of power that ``make torture`` goes on with."""

from __future__ import annotations

import json
import sys

import pytest

from tests.effort import size
from tests.processes import run
from tests.torture.operations import can_watch


@pytest.mark.storm
@pytest.mark.skipif(not can_watch(), reason="only Linux, with an open SQLite, lets operations of the disk be watched")
def test_nothing_answered_is_lost_by_a_kill_or_a_loss_of_power_at_any_operation() -> None:
    cases = size(30, 1000)
    ended = run([sys.executable, "-m", "tests.torture.disk", "--cases", str(cases)], text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    account = json.loads(ended.stdout)
    assert (account["next"], account["lost"]) == (cases, 0)
    assert account["killed, --sync full"] > 0
    assert account["power lost, some unsynced left, --sync full"] > 0
