"""Coding agents of npm, kept under .cache. ``python -m tests.programs.fetch NAME...`` gets some, or all of them.

They are large: 100 to 700 MB each. ``make test`` leaves the tests of those out that are not there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.browser.programs import run_quietly
from tests.mcp_programs import NODE

CACHE = Path(__file__).parents[2] / ".cache" / "agents"
PACKAGES = {
    "claude": "@anthropic-ai/claude-code@2.1.332",
    "codex": "@openai/codex@0.171.0",
    "gemini": "@google/gemini-cli@0.61.0",
    "opencode": "opencode-ai@1.18.33",
    "openclaw": "openclaw@2026.9.6",
}


def path(name: str) -> Path:
    """Return the command of a program."""
    return CACHE / name / "node_modules" / ".bin" / name


def fetch(name: str) -> None:
    """Get a program. Raises SubprocessError and OSError."""
    folder = CACHE / name
    folder.mkdir(parents=True, exist_ok=True)
    npm = shutil.which("npm")
    if npm is None:
        raise OSError("npm is not found")
    words = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), PACKAGES[name]]
    run_quietly(words, env={**os.environ, "PATH": search_path()})


def search_path() -> str:
    """Return the search path with a Node.js of ours, where that is there: OpenClaw wants 24.16 or newer."""
    own = [str(NODE.parent)] if NODE.exists() else []
    return os.pathsep.join((*own, os.environ.get("PATH", "")))


def main(names: Sequence[str]) -> int:
    """Get what can be had. What cannot is one line and no failure."""
    for name in names or PACKAGES:
        if not path(name).exists():
            try:
                fetch(name)
            except (OSError, subprocess.SubprocessError) as error:
                print(f"will be left out: tests/programs for {name} ({error})", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
