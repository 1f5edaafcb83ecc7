"""The bench of the door measures each thing that it says. No test asserts how fast anything is."""

from __future__ import annotations

import subprocess

import pytest

from clawlink.doors.a2a import DOOR
from clawlink.doors.a2a.bench import scenarios
from tests.processes import Popen


def test_messages_and_streams_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", Popen)
    for name, value in (("PAIRS", 2), ("SECONDS", 0.2), ("ROUNDS", 1), ("EVENTS", 5)):
        monkeypatch.setattr(scenarios, name, value)
    said: list[str] = []
    rows = DOOR.measure("a2a", "", say=said.append)
    assert [row.unit for row in rows if "processor" not in row.what] == ["a second", "a second", "ratio", "ms", "ms"]
    assert all(row.value > 0 for row in rows if "processor" not in row.what), rows
    assert len(said) == 2
