"""Shared by the tests of what all doors have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Offer = Callable[..., Path]


@pytest.fixture
def offer(tmp_path: Path) -> Offer:
    """Leave what an installed package leaves that offers a door: ``offer("notes", "notes_door:DOOR", code)``."""
    folder = tmp_path / "site"

    def offer(name: str, entry: str, code: str | None = None) -> Path:
        facts = folder / f"{name}_package-1.0.dist-info"
        facts.mkdir(parents=True)
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-package\nVersion: 1.0\n")
        (facts / "entry_points.txt").write_text(f"[clawlink.doors]\n{name} = {entry}\n")
        if code is not None:
            (folder / f"{entry.partition(':')[0]}.py").write_text(code, "utf-8")
        return folder

    return offer
