"""The folders of programs: below the home folder, or where a program's own variables say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

# By program: what is below the home folder, the variable that moves it, and where it is below that. The first that is
# set counts. Each was tried with Claude Code 2.1.332, Codex 0.171, Gemini CLI 0.61, opencode 1.18 and OpenClaw 2026.9.
_MOVES: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "claude": ((".claude.json", "CLAUDE_CONFIG_DIR", ".claude.json"), (".claude", "CLAUDE_CONFIG_DIR", "")),
    "codex": ((".codex", "CODEX_HOME", ""),),
    "gemini": ((".gemini", "GEMINI_CLI_HOME", ".gemini"), (".agents", "GEMINI_CLI_HOME", ".agents")),
    "opencode": ((".config/opencode", "XDG_CONFIG_HOME", "opencode"),),
    "openclaw": (
        (".openclaw/openclaw.json", "OPENCLAW_CONFIG_PATH", ""),
        (".openclaw", "OPENCLAW_STATE_DIR", ""),
        (".openclaw/skills", "OPENCLAW_CONFIG_PATH", "../skills"),
        (".openclaw", "OPENCLAW_HOME", ".openclaw"),
    ),
}
# OpenClaw takes these words for no value.
_NO_VALUES = ("undefined", "null")


class Place(NamedTuple):
    """The home folder of an account, or with ``project`` the folder of a project, which no variable moves."""

    root: Path
    project: bool = False
    environ: Mapping[str, str] = {}

    def of(self, program: str, path: str) -> Path:
        """Return a path of a program, which is given as it is below the root."""
        for beginning, variable, below in () if self.project else _MOVES.get(program, ()):
            if path == beginning or path.startswith(f"{beginning}/"):
                value = self.environ.get(variable, "").strip()
                if value and not (program == "openclaw" and value in _NO_VALUES):
                    folder = os.path.expanduser(value) if program == "openclaw" else value
                    return Path(os.path.abspath(os.path.join(folder, below, path[len(beginning) :].lstrip("/"))))
        return self.root / path
