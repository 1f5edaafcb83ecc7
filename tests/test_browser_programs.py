"""CI gets the programs for the tests of pages quietly, without a question, and only where it may."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.browser import programs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the programs are those of Linux")


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a machine without Chromium and npm, whose apt-get writes down how it is called."""
    log = tmp_path / "called"
    apt = tmp_path / "bin" / "apt-get"
    apt.parent.mkdir()
    apt.write_text(
        f'#!/bin/sh\necho "$DEBIAN_FRONTEND $*" >> {log}\necho noise\nread line && echo "asked" >> {log}\n'
        'test "$6" = update || { echo "E: no such package" >&2; exit 100; }\n'
    )
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{apt.parent}:/bin")
    monkeypatch.setattr(programs, "CHROMIUM", tmp_path / "chromium")
    monkeypatch.setattr(programs, "HEADLESS_SHELL", tmp_path / "chromium-headless-shell")
    monkeypatch.setattr(programs, "TUS_SCRIPT", tmp_path / "tus.min.js")
    monkeypatch.setattr(shutil, "which", lambda name: str(apt) if name == "apt-get" else None)
    return log


def test_apt_runs_as_root_of_ci_alone(
    called: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for user, ci in ((1000, "true"), (0, ""), (0, "false")):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        monkeypatch.setenv("CI", ci)
        assert programs.main() == 0
        assert not called.exists(), (user, ci)
        said = capfd.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1), (user, ci, said)
        assert "left out" in said.err


def test_apt_updates_first_asks_nothing_and_its_failure_is_one_line(
    called: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("CI", "true")
    assert programs.main() == 0
    update, install, instead = called.read_text().splitlines()
    assert update.startswith("noninteractive -qq ")
    assert update.endswith(" update")
    assert install.endswith(" --yes --no-install-recommends chromium-headless-shell")
    assert instead.endswith(" --yes --no-install-recommends chromium"), "the shell has no package"
    said = capfd.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1), said
    assert "E: no such package" in said.err


def test_the_headless_shell_is_taken_and_the_whole_chromium_where_it_alone_is_there(called: Path) -> None:
    whole, shell = programs.CHROMIUM, programs.HEADLESS_SHELL
    for there, page, window in (((whole,), whole, whole), ((whole, shell), shell, whole), ((shell,), shell, shell)):
        for path in there:
            path.touch()
        assert (programs.chromium(), programs.chromium(whole=True)) == (page, window)
        assert "is not there" not in (programs.no_browser() or "")
        for path in there:
            path.unlink()
    assert "is not there" in (programs.no_browser() or "")
