"""The help of ``clawlink portal``: of all actions, and of one alone."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from clawlink.cli.main import main
from clawlink.cli.parser import parse
from clawlink.doors.portal.cli.actions import ACTIONS

PAGE = (Path(__file__).parents[4] / "references" / "portal.md").read_text("utf-8")


def test_the_help_of_an_action_has_its_words_flags_and_example_alone(capsys: pytest.CaptureFixture[str]) -> None:
    for name, action in ACTIONS.items():
        for words in (["portal", name, "--help"], ["portal", "--help", name]):
            assert main(words) == 0
            told = capsys.readouterr().out
            assert told.startswith(f"usage: clawlink portal {name} {action.usage}".rstrip()), told
            assert " ".join(action.help.split()) in " ".join(told.split())
        example = f"portal {name} {action.example}".rstrip()
        assert told.endswith(f"example:\n  clawlink {example}\n"), told
        _, args = parse(shlex.split(example))
        assert (args.action, action.least <= len(args.words) <= action.most) == (name, True), example
        typed = set(re.findall(r"(?<![\w-])--[a-z-]+", action.example))
        assert typed <= set(re.findall(r"^  (--[a-z-]+)", told, re.MULTILINE)), example
    for name, has, has_not in (
        ("chat", "--after", "--attach"),
        ("say", "--attach", "--after"),
        ("import", "--at URL", "--key KEY"),
        ("setup", "--domain", "--at URL"),
    ):
        assert main(["portal", name, "--help"]) == 0
        told = capsys.readouterr().out
        assert (has in told, has_not in told, f"{name}:" in told) == (True, False, False), told


def test_the_help_of_all_lists_each_action(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["portal", "--help"]) == 0
    told = capsys.readouterr().out
    for name, action in ACTIONS.items():
        assert re.search(rf"^  {re.escape(f'{name} {action.usage}'.strip())} +{re.escape(action.help)}$", told, re.M)
    section = PAGE.partition("\n## Command line")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z-]+)(?: [^`]*)?`", " ".join(section.split())))
    assert not set(ACTIONS) - named, set(ACTIONS) - named


def test_a_mistyped_action_is_told_the_one_that_is_meant(capsys: pytest.CaptureFixture[str]) -> None:
    for typed, meant in (
        ("caht", "; did you mean: clawlink portal chat"),
        ("xyz", ""),
        ("forgat", ""),
    ):
        for more in ([], ["--help"]):
            assert main(["portal", typed, *more]) == 2
            said = f"clawlink: there is no action '{typed}'{meant}; see: clawlink portal --help\n"
            assert capsys.readouterr().err == said
