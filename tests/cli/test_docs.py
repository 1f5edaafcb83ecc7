"""The page about the command line and the command line say the same."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from clawlink.cli.exits import MEANING
from clawlink.cli.parser import parser_of
from clawlink.cli.verb import Verb
from clawlink.cli.verbs import core
from clawlink.domain.limits import LIMIT_FIELDS
from clawlink.domain.task import FINAL, TaskState
from clawlink.doors.registry import doors
from tests.tables import each

PAGE = (Path(__file__).parents[2] / "references" / "cli.md").read_text("utf-8")
# Each verb once. Those of doors are in the pages of the doors.
VERBS = tuple(dict.fromkeys(core().values()))
_EVERYWHERE = {"-h", "--help", "--version", "--relay", "--token", "--as", "--ca", "--timeout", "--json"}
_OF_DOORS = {field.metadata["flag"] for door in doors() for field in fields(door.settings)}  # in the pages of the doors
_LIMITS = {field.metadata["flag"] for field in LIMIT_FIELDS}  # these are in the page of the relay's limits


def flags_of(verb: Verb) -> set[str]:
    """Return the flags that a verb has of its own."""
    flags = {flag for flag in parser_of(verb).flags() if flag != "-q"} - _EVERYWHERE
    return flags - _LIMITS - _OF_DOORS if verb.name == "serve" else flags


def require_described(verb: Verb, page: str) -> None:
    """See that a page describes a verb, with the places and flags that it has and no others."""
    found = re.search(rf"\*\*`{verb.typed}(?![\w-])([^`]*)`\*\*(.*?)(?=\n\n|\*\*`)", page, re.DOTALL)
    assert found is not None, f"the page does not describe {verb.typed}"
    described = set(re.findall(r"--[a-z0-9-]+", found[1] + found[2]))
    assert flags_of(verb) <= described
    assert described <= flags_of(verb) | _EVERYWHERE
    for slot in parser_of(verb).slots:
        assert re.search(rf"\b{slot.metavar}\b", found[1]), f"{slot.metavar} has a place"


@each("verb", VERBS, ids=lambda verb: verb.typed)
def test_every_verb_is_described_with_its_flags_and_places(verb: Verb) -> None:
    require_described(verb, PAGE)


def test_every_spelling_stands_in_the_table_of_verbs() -> None:
    section = PAGE.partition("\n## Verbs")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.*?) \|", section, re.MULTILINE))
    assert rows == {
        verb.typed: ", ".join(f"`{one}`" for one in verb.spellings if one != verb.typed)
        for verb in VERBS
        if len(verb.spellings) > 1
    }


def test_what_goes_with_every_verb_is_described() -> None:
    section = PAGE.split("\n## ")[1]
    for flag in _EVERYWHERE:
        assert f"`{flag}" in section or f" {flag}`" in section
    for name in ("RELAY", "TOKEN", "AGENT", "CA", "HOME", "DEBUG", "PARENT_TASK"):
        assert f"CLAWLINK_{name}" in section


def test_every_exit_code_is_described() -> None:
    for code, meaning in MEANING.items():
        assert f"| {code.value} | {meaning}" in PAGE


def test_every_state_and_priority_that_a_flag_takes_is_described() -> None:
    listed = core()["task list"]
    states = set(parser_of(listed).flags()["--status"].choices or ()) - {"open", "final"}
    section = PAGE.partition("**`task list ")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([a-z_]+)`", section)) - {"open", "final"} == states
    assert {state.value for state in TaskState} == states
    failed = PAGE.partition("| 1 | ")[2].partition("\n")[0]
    for state in FINAL - {TaskState.COMPLETED}:
        assert re.search(rf"\b{state.value}\b", failed), state
    words = parser_of(core()["delegate"]).flags()["--priority"].choices or ()
    section = PAGE.partition("**`delegate ")[2].partition("\n**")[0]
    for word in words:
        assert re.search(rf"\b{word}\b", section), word


def test_no_flag_is_invented() -> None:
    known = _EVERYWHERE.union(*map(flags_of, VERBS))
    ours = PAGE.replace("`docker run --init`", "")
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", ours)) <= known
