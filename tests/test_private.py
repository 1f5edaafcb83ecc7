"""Files for their owner only are written in one step, and a failure leaves nothing but what was there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from clawlink import private


def test_a_private_file_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"
    for data in (b"first, and longer", b"second"):
        private.write(path, data)
        assert path.read_bytes() == data
        assert sys.platform == "win32" or path.stat().st_mode & 0o777 == 0o600
    private.fill(private.room(tmp_path, 4096), path, b"third")

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(OSError, match="disk is full"):
                private.write(path, b"fourth")
        assert [(left.name, left.read_bytes()) for left in tmp_path.iterdir()] == [("secret", b"third")], step
