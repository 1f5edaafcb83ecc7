"""Every pattern in ``references/patterns.md`` runs as it stands, each against a relay of its own."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests import processes
from tests.conftest import Start
from tests.waiting import PATIENCE

PAGE = (Path(__file__).parent.parent / "references" / "patterns.md").read_text(encoding="utf-8")
PREPARED = re.findall(r"```sh\n(.*?)```", PAGE.partition("\n## ")[0], re.DOTALL)
PATTERNS = dict(re.findall(r"^## (.+?)\n.*?```sh\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))
# The words that a reader would look for at the end of each.
SHOWN = {
    "A research pipeline": ("Laplace computed them", "tides/sources", "research.tides"),
    "A distributed code review": ("Two names to change", "Then it is fine", "No, only its length"),
    "Fan-out, and the first answer wins": ("Two days", "cancelled", "answered by another"),
    "A worker pool by capability": ("opened the page", "worker-2", "completed"),
}


def test_there_are_four_patterns() -> None:
    assert list(PATTERNS) == list(SHOWN)


@pytest.mark.skipif(sys.platform == "win32", reason="the commands are for a POSIX shell")
@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_runs(name: str, start_relay: Start, clawlink_home: Path, tmp_path: Path) -> None:
    script = "set -eu\n" + "\n".join([*PREPARED, PATTERNS[name]])
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "python3").symlink_to(sys.executable)
    environ = {**os.environ, "CLAWLINK_RELAY": start_relay().url, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    with processes.command_in(tools):
        shell = [shutil.which("sh") or "sh", "-c", script]
        done = processes.run(shell, env=environ, cwd=tmp_path, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    for words in SHOWN[name]:
        assert words in done.stdout
