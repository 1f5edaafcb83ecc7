"""The stated memory of records is near the real one, for every kind, small and with long texts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_the_memory_that_is_told_is_near_the_memory_that_is_taken() -> None:
    assert require_near("tests.store.footprints") >= 12


def require_near(program: str) -> int:
    """See that what the program prints is near 1, and return how many kinds it measures."""
    done = subprocess.run([sys.executable, "-m", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    for name, ratio in found.items():
        assert 0.87 < float(ratio) < 1.7, (name, ratio)
    return len(found)
