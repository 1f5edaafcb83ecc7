"""Shells that are not installed are named, and only a machine of CI installs them unasked."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests import shells

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the packages are those of Debian")


def test_what_is_missing_is_one_line_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "called"
    apt = tmp_path / "apt-get"
    apt.write_text(f'#!/bin/sh\necho "$*" >> {log}\necho noise\ntest "$6" = update || exit 100\n')
    apt.chmod(0o755)
    here = {"bash": "/bin/bash", "apt-get": str(apt)}
    monkeypatch.setattr(shutil, "which", here.get)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert shells.left_out() == "completion in zsh and fish, not installed here (see tests/shells.py)"
    for user, ci, calls in ((1000, "true", 0), (0, "", 0), (0, "true", 2)):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        monkeypatch.setenv("CI", ci)
        assert shells.main() == 0
        said = capfd.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1), said
        assert "left out: completion in zsh and fish" in said.err
        assert (log.read_text().count("\n") if log.exists() else 0) == calls
    assert log.read_text().splitlines()[1].endswith(" zsh fish")
    here.update(zsh="/bin/zsh", fish="/bin/fish")
    assert shells.left_out() is None
    assert shells.main() == 0
    assert capfd.readouterr().err == ""
