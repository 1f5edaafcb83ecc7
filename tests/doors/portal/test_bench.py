"""The measurements of the portal run, and tell what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from clawlink.doors.portal import DOOR
from clawlink.doors.portal.bench import scenarios

_PART_BYTES = 256 * 1024


def test_a_short_run_of_each_measurement_has_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenarios, "MESSAGES", 2)
    monkeypatch.setattr(scenarios, "UPLOADS", 1)
    monkeypatch.setattr(scenarios, "TURNS", 1)
    assert set(DOOR.scenarios) == set(scenarios.SCENARIOS)
    said: list[str] = []
    rows = [
        *scenarios.messages(str(tmp_path / "m"), say=said.append),
        *scenarios.uploads(str(tmp_path / "u"), say=said.append),
    ]
    monkeypatch.setattr(scenarios, "PART_BYTES", _PART_BYTES)  # a file of one part may be smaller than a part
    rows += scenarios.files(str(tmp_path / "f"), say=said.append, size=_PART_BYTES)
    assert {row.unit for row in rows} >= {"ms", "MB/s"}
    assert all(row.value >= 0 for row in rows)
    assert len(said) == 5
