"""How far a transfer is, where someone watches; and nothing of it where nobody does."""

from __future__ import annotations

import io
import re
from argparse import Namespace

import pytest

from clawlink.cli.context import Context
from clawlink.cli.files import bar, tell_broken_off
from clawlink.errors import RelayUnreachable
from tests.tables import each


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def context(err: io.StringIO, *, json: bool = False) -> Context:
    return Context(Namespace(json=json, timeout=None), out=io.StringIO(), err=err)


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "140")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@each("total", [10_000_000, None])
def test_on_a_terminal_it_shows_how_far_it_is_how_fast_and_how_long_it_takes(total: int | None) -> None:
    err = Terminal()
    with bar(context(err), "evil\x1b[2J[red]") as moved:
        assert moved is not None
        moved(0, total)
        moved(5_000_000, total)
    shown = err.getvalue()
    assert '"evil␛[2J[red]"' in shown
    assert "4.8" in shown
    if total is not None:
        assert "9.5 MiB" in shown
    assert "/s" in shown or "?" in shown


@pytest.mark.parametrize("columns", [60, 80])
def test_on_a_narrow_terminal_the_name_gives_way_and_not_the_bar(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    err = Terminal()
    with bar(context(err), "a-key-of-a-file-that-has-a-name-much-too-long") as moved:
        assert moved is not None
        moved(0, 10_000_000)
        moved(5_000_000, 10_000_000)
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", err.getvalue()).replace("\r", "\n").rstrip().splitlines()[-1]
    assert len(last) <= columns
    assert '"a-key' in last
    assert ("…" in last) is (columns == 60)
    assert last.count("━") + last.count("╸") + last.count("╺") == 10, last
    assert "4.8/9.5 MiB" in last


def test_what_is_small_is_over_before_it_would_be_seen() -> None:
    err = Terminal()
    with bar(context(err), "k") as moved:
        assert moved is not None
        moved(0, 1000)
        moved(1000, 1000)
    assert err.getvalue() == ""


@each(("err", "json"), [(io.StringIO(), False), (Terminal(), True)], ids=["pipe", "json"])
def test_where_nobody_watches_there_is_none(err: io.StringIO, json: bool) -> None:
    with bar(context(err, json=json), "k") as moved:
        assert moved is None
    assert err.getvalue() == ""


def test_that_it_stands_still_is_said_and_that_it_goes_on() -> None:
    err = io.StringIO()
    tell_broken_off(context(err), RelayUnreachable("no relay answers at x; is it running?"))
    tell_broken_off(context(err), None)
    assert err.getvalue() == "clawlink: no relay answers at x; trying to go on for up to 60 s\nclawlink: it goes on\n"


def test_how_far_and_how_fast_are_in_the_same_units() -> None:
    err = Terminal()
    clock = iter(range(1000))
    with bar(context(err), "k") as moved:
        assert moved is not None
        moved(0, 1 << 30)
        for number in range(1, 40):
            next(clock)
            moved(number << 20, 1 << 30)
    shown = err.getvalue()
    assert re.search(r"[\d.e+]+ [KMG]iB/s", shown)
    assert not re.search(r"[kMG]B/s", shown)
