"""The instructions for an agent with a portal: both languages say the same, and each command in them exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import clawlink.doors.portal
from clawlink.cli.main import main
from clawlink.doors.portal.cli.actions import ACTIONS
from clawlink.doors.portal.cli.skill import LANGUAGES
from clawlink.doors.portal.rules.wake_texts import turn_of

ROOT = Path(clawlink.doors.portal.__file__).parent


def test_both_languages_have_the_same_commands_texts_and_codes() -> None:
    english, chinese = ((ROOT / name).read_text("utf-8") for name in LANGUAGES.values())
    for pattern in (r"clawlink (?:portal )?[a-z-]+", r"--[a-z-]+", r"^\| (\d) \|", r"^#+ ", r"^\| `(\[.*?\])"):
        one, other = (re.findall(pattern, text, re.MULTILINE) for text in (english, chinese))
        assert sorted(one) == sorted(other), pattern
    for text in (english, chinese):
        used = set(re.findall(r"clawlink portal ([a-z-]+)", text))
        assert used <= ACTIONS.keys(), used - ACTIONS.keys()


def test_the_texts_that_it_names_are_those_of_the_bridge() -> None:
    skill = (ROOT / LANGUAGES["en"]).read_text("utf-8")
    heads: dict[str, dict[str, Any]] = {
        "[主人消息]": {"type": "owner_message", "content": "x", "message_id": 1},
        "[Agent P2P] 新消息来自 NAME(Agent): ": {"type": "new_message", "from_name": "NAME", "content": "x"},
        "[Agent P2P] 新留言: ": {"type": "new_guest_message", "content": "x", "message_id": 1},
        "[Agent P2P] 系统通知: ": {"type": "notice", "content": "x"},
    }
    for head, frame in heads.items():
        turn = turn_of(frame)
        assert turn is not None
        assert turn.text.startswith(head)
        assert head in skill, head


def test_it_is_printed_and_installed(clawlink_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["portal", "skill", "--language", "zh"]) == 0
    assert "主人的门户" in capsys.readouterr().out
    target = tmp_path / "clawlink-portal" / "SKILL.md"
    for language, word in (("en", "The portal of your owner"), ("zh", "主人的门户")):
        assert main(["portal", "skill", str(tmp_path), "--language", language]) == 0
        assert word in target.read_text("utf-8")
    target.write_text("mine")
    assert main(["portal", "skill", str(tmp_path)]) == 7
    assert target.read_text() == "mine"
