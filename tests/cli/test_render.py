"""Texts of others are shown so that they can do no harm, and lose nothing else."""

from __future__ import annotations

import json

from hypothesis import example, given
from hypothesis import strategies as st

from clawlink.cli import render
from clawlink.domain.terminal import cell
from tests.domain.test_terminal import acts
from tests.tables import each


def test_a_name_cannot_pass_for_more_than_a_name() -> None:
    assert render.named('eve" (1234), online', "5678") == '"eve\\" (1234), online" (5678)'


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_harmless_json_reads_as_the_same_value(text: str) -> None:
    encoded = json.dumps({"a": text}, ensure_ascii=False).encode()
    safe = render.harmless_json(encoded)
    assert json.loads(safe) == {"a": text}
    assert not [c for c in acts(safe.decode()) if c != "\x7f"]


@each(
    ("seconds", "said"),
    [(-5, "0 s"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (172800, "2 days")],
)
def test_durations_are_rough(seconds: float, said: str) -> None:
    assert render.duration(seconds) == said


def test_times_that_are_none() -> None:
    assert render.epoch("2026-05-13T06:51:00+00:00") == 1778655060
    assert render.epoch("2026-05-13T06:51:00Z") == 1778655060
    assert render.epoch("yesterday") is None
    assert render.ago(None, 0) == "-"
    assert render.ago("2026-05-13T06:51:00+00:00", 1778655070) == "10 s ago"


def test_presence_tells_since_when() -> None:
    assert render.presence("online", 0, 1000) == "online"
    assert render.presence("stale", 0, 300) == "stale: last seen 5 min ago"


def test_columns_line_up_whatever_the_script() -> None:
    assert render.columns([["a", "b"], ["日本", "c"], ["e\u0301", "d"]]) == ["a     b", "日本  c", "e\u0301     d"]


@example(" 0000\x80\u0af2", 13)
@example(" 1234567\u6f22", 8)
@given(st.text(max_size=80), st.integers(4, 20))
def test_wrapping_loses_nothing_and_keeps_within(text: str, columns: int) -> None:
    line = cell(text)
    pieces = render.wrapped(line, columns)
    assert "".join(pieces) == line
    assert all(render.width(piece) <= columns for piece in pieces)


def test_sizes_and_counts() -> None:
    assert [render.size(n) for n in (0, 1023, 1024, 1 << 20, 3 << 29)] == [
        "0 bytes",
        "1023 bytes",
        "1 KiB",
        "1 MiB",
        "1.5 GiB",
    ]
    assert [render.plural(n, "mailbox", "mailboxes") for n in (0, 1, 2)] == ["0 mailboxes", "1 mailbox", "2 mailboxes"]
    assert render.plural(2, "task") == "2 tasks"
