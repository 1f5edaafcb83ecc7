"""Tables, states, errors and live lines at the widths that terminals have."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawlink.cli import main, render, tasks
from clawlink.cli.output import Output
from clawlink.cli.tables import GAP, layout
from clawlink.errors import BadRequest

HEAD = ("name", "id", "can do", "machine", "status", "load")
LEAST = ("machine", "load", "id")
ROWS = [
    ("ada", "0123456789abcdef", "python, review, translation", "builder-1", "online", "12 messages, 3 tasks"),
    ("grace", "fedcba9876543210", "-", "laptop", "stale: last seen 119 min ago", "0 messages, 0 tasks"),
]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def xterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def plain(text: str) -> str:
    """Return the text without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def shown_at(columns: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the lines of the table of agents on a terminal of that width."""
    monkeypatch.setenv("COLUMNS", str(columns))
    terminal = Terminal()
    Output(terminal).table(HEAD, ROWS, whole="id", least=LEAST)
    lines = plain(terminal.getvalue()).splitlines()
    assert all(len(line) <= columns for line in lines if not line.startswith("No room")), columns
    return [line.rstrip() for line in lines]


def test_ids_are_cut_before_columns_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    head = ("task", "state", "age", "owner", "what")
    for last, ids in (("b" * 24, {"aaaaaaaa", "bbbbbbbb"}), ("a" * 9 + "c" * 15, {"aaaaaaaaaa", "aaaaaaaaac"})):
        rows = [(id, "completed", "5 min", "you", "review") for id in ("a" * 24, last)]
        for columns, shown in ((80, {"a" * 24, last}), (50, ids)):
            monkeypatch.setenv("COLUMNS", str(columns))
            terminal = Terminal()
            Output(terminal).table(head, rows, whole="task", least=("age", "owner"), begins=8)
            lines = plain(terminal.getvalue()).splitlines()
            assert lines[0].split() == list(head), columns
            assert {line.split()[0] for line in lines[2:]} == shown, columns


def test_a_list_of_tasks_keeps_the_owner_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        ("a" * 24, "in_progress, 40 %", "5 min", "you", '"counter", online', '"count the lines of all files"'),
        ("b" * 24, "completed", "119 min", '"alice"', "you", '"sum it"'),
    ]
    for columns, titles in (
        (80, [*tasks.HEAD]),
        (60, ["task", "state", "age", "owner", "what"]),
        (50, ["task", "state", "owner", "what"]),
    ):
        monkeypatch.setenv("COLUMNS", str(columns))
        terminal = Terminal()
        Output(terminal).table(tasks.HEAD, rows, whole="task", least=tasks.LEAST, begins=8)
        lines = plain(terminal.getvalue()).splitlines()
        assert re.split(" {2,}", lines[0].strip()) == titles, columns
        assert all(len(line) <= columns for line in lines if not line.startswith("No room")), columns


def test_the_table_of_agents_at_the_widths_that_terminals_have(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns, titles, left_out in (
        (140, "name id can do machine status load", ""),
        (80, "name id can do status", "machine, load"),
        (60, "name can do status", "id, machine, load"),
    ):
        lines = shown_at(columns, monkeypatch)
        assert " ".join(lines[0].split()) == titles, columns
        told = " ".join(lines).partition("No room here for: ")[2].partition(".")[0]
        assert told == left_out, columns
    shown_at(20, monkeypatch)
    for columns in (60, 80):
        lines = shown_at(columns, monkeypatch)
        words = set(" ".join(lines).replace(",", " ").split())
        assert ("0123456789abcdef" in words) is (columns == 80)
        assert {"ada", "grace", "python", "review", "translation", "stale:", "119"} <= words, (columns, lines)


CELLS = st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Mn"]), max_size=30), min_size=3)


@given(st.lists(CELLS.map(lambda cells: cells[:3]), min_size=1, max_size=4), st.integers(1, 90))
def test_a_layout_never_takes_more_than_there_is(rows: list[list[str]], room: int) -> None:
    found = layout(("one", "two", "three"), rows, room, least=("two", "three"))
    assert set(found.columns) | {("one", "two", "three").index(title) for title in found.left_out} == {0, 1, 2}
    assert 0 in found.columns
    total = sum(found.columns.values()) + GAP * (len(found.columns) - 1)
    assert total <= max(room, 1) or all(width == 1 for width in found.columns.values())


def test_a_table_that_fits_is_left_as_it_is() -> None:
    rows = [("a" * 10, "b c d"), ("a", "b")]
    assert layout(("x", "y"), rows, 80, least=("y",)).columns == {0: 10, 1: 5}
    assert layout(("x", "y"), rows, 18, least=("y",)).columns == {0: 10, 1: 5}
    assert layout(("x", "y"), rows, 17, least=("y",)) == ({0: 10}, ["y"])
    assert layout(("x", "y"), rows, 17).columns == {0: 9, 1: 5}
    assert layout(("x", "y"), rows, 17, whole="x").columns == {0: 10, 1: 4}


def test_the_table_of_programs_breaks_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (60, 80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr("sys.stdout", stream := Terminal())
        assert main.main(["connect"]) == 0
        lines = plain(stream.getvalue()).splitlines()
        assert {"opencode", "OpenClaw", "installed", "wakeable"} <= set(" ".join(lines).split()), (columns, lines)
        assert all(len(line.rstrip()) <= columns for line in lines if not line.startswith("No room")), lines


def test_help_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (60, 80):
        monkeypatch.setenv("COLUMNS", str(columns))
        shown = {}
        for stream in (io.StringIO(), Terminal()):
            monkeypatch.setattr("sys.stdout", stream)
            assert main.main(["--help"]) == 0
            shown[stream.isatty()] = plain(stream.getvalue())
        listed = shown[True].partition("Begin with")[2]
        assert max(map(len, listed.splitlines())) <= columns
        assert listed.split() == shown[False].partition("Begin with")[2].split()


def test_lines_are_wrapped_at_words() -> None:
    assert render.wrapped("one two three", 8) == ["one two ", "three"]
    assert render.wrapped("one two", 3) == ["one", " ", "two"]
    assert render.wrapped("unbreakable x", 5) == ["unbre", "akabl", "e x"]
    assert render.wrapped("日本 語", 4) == ["日本", " 語"]


def test_states_and_errors_have_colours_unless_nobody_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    green, red = "\x1b[32m", "\x1b[1;31m"
    for no_color, terminal in ((None, Terminal()), ("1", Terminal()), (None, io.StringIO())):
        if no_color is None:
            monkeypatch.delenv("NO_COLOR", raising=False)
        else:
            monkeypatch.setenv("NO_COLOR", no_color)
        coloured = no_color is None and terminal.isatty()
        out = Output(terminal)
        out.table(HEAD, ROWS)
        assert (f"{green}online" in terminal.getvalue()) is coloured
        out.stands("task 0123", "failed, dead letter")
        assert (f"{red}failed, dead letter" in terminal.getvalue()) is coloured
        monkeypatch.setattr("sys.stderr", terminal)
        main.report(BadRequest("no \x1b[31m"), as_json=False)
        assert (f"{red}clawlink:" in terminal.getvalue()) is coloured
        assert plain(terminal.getvalue()).splitlines()[-1] == "clawlink: no ␛[31m"
        assert not re.findall(r"\x1b\[[0-9;]*3[0-7]m", terminal.getvalue()) or coloured


def test_every_state_has_a_colour() -> None:
    from clawlink.cli.task.list import _STATES

    for state in (*_STATES, "online", "stale: last seen 3 min ago", "in_progress, 40 %", "stored", "acked", "dead"):
        assert (render.state_style(state) is None) is (state in ("open", "final")), state
    assert render.state_style("anything else") is None
