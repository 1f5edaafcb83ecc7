"""The folders of programs, as their own variables move them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from clawlink.client.hooks.rules import HOSTS
from clawlink.client.programs.places import Place
from clawlink.client.programs.programs import PROGRAMS

ABSENT = ("", "  ")


@pytest.mark.skipif(sys.platform == "win32", reason="the paths of the table are those of Unix")
def test_variables_move_what_their_program_keeps_there() -> None:
    home = Path("/home/ann")
    for program, variables, path, moved in (
        ("claude", {"CLAUDE_CONFIG_DIR": "/c"}, ".claude/settings.json", "/c/settings.json"),
        ("claude", {"CLAUDE_CONFIG_DIR": "/c"}, ".claude.json", "/c/.claude.json"),
        ("claude", {"CLAUDE_CONFIG_DIR": "/c"}, ".claude/skills/clawlink/SKILL.md", "/c/skills/clawlink/SKILL.md"),
        ("codex", {"CODEX_HOME": "/c/"}, ".codex/config.toml", "/c/config.toml"),
        ("codex", {"CODEX_HOME": "/c"}, ".codex", "/c"),
        ("codex", {"CODEX_HOME": "/c"}, ".agents/skills", "/home/ann/.agents/skills"),
        ("gemini", {"GEMINI_CLI_HOME": "/g"}, ".gemini/settings.json", "/g/.gemini/settings.json"),
        ("gemini", {"GEMINI_CLI_HOME": "/g"}, ".agents/skills", "/g/.agents/skills"),
        ("opencode", {"XDG_CONFIG_HOME": "/x"}, ".config/opencode/opencode.json", "/x/opencode/opencode.json"),
        ("opencode", {"OPENCODE_CONFIG_DIR": "/x"}, ".config/opencode/o.json", "/home/ann/.config/opencode/o.json"),
        ("openclaw", {"OPENCLAW_STATE_DIR": "/s"}, ".openclaw/openclaw.json", "/s/openclaw.json"),
        ("openclaw", {"OPENCLAW_STATE_DIR": "/s"}, ".openclaw/extensions/x", "/s/extensions/x"),
        ("openclaw", {"OPENCLAW_CONFIG_PATH": "/s/c.json"}, ".openclaw/openclaw.json", "/s/c.json"),
        ("openclaw", {"OPENCLAW_CONFIG_PATH": "/s/c.json"}, ".openclaw/skills/x", "/s/skills/x"),
        (
            "openclaw",
            {"OPENCLAW_CONFIG_PATH": "/s/c.json"},
            ".openclaw/extensions/x",
            "/home/ann/.openclaw/extensions/x",
        ),
        ("openclaw", {"OPENCLAW_HOME": "/o"}, ".openclaw/openclaw.json", "/o/.openclaw/openclaw.json"),
        ("openclaw", {"OPENCLAW_HOME": "/o", "OPENCLAW_STATE_DIR": "/s"}, ".openclaw/skills/x", "/s/skills/x"),
        ("openclaw", {"OPENCLAW_STATE_DIR": "undefined"}, ".openclaw/skills/x", "/home/ann/.openclaw/skills/x"),
        ("openclaw", {"OPENCLAW_PROFILE": "work"}, ".openclaw/openclaw.json", "/home/ann/.openclaw/openclaw.json"),
        ("cursor", {"CURSOR_CONFIG_DIR": "/c"}, ".cursor/mcp.json", "/home/ann/.cursor/mcp.json"),
    ):
        assert Place(home, environ=variables).of(program, path) == Path(moved), (program, variables, path)
        assert Place(home, project=True, environ=variables).of(program, path) == home / path, (program, path)
        for absent in ABSENT:
            none = dict.fromkeys(variables, absent)
            assert Place(home, environ=none).of(program, path) == home / path, (program, path)


def test_a_name_that_only_begins_alike_is_not_moved() -> None:
    place = Place(Path("/home/ann"), environ={"CODEX_HOME": "/c"})
    assert place.of("codex", ".codex-other/x") == Path("/home/ann/.codex-other/x")


def test_hooks_keep_each_variable_that_moves_settings() -> None:
    root, moved = Path("/home/ann"), "/moved"
    for program in PROGRAMS.values():
        for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "GEMINI_CLI_HOME", "XDG_CONFIG_HOME", "OPENCLAW_STATE_DIR"):
            files = program.files(Place(root, environ={name: moved}))
            if files != program.files(Place(root)):
                assert name in HOSTS[program.name].variables, program.name
