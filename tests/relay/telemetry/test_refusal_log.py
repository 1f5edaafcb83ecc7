"""The log gets a line a minute for each cause, with a count, from a table of bounded size."""

from __future__ import annotations

from clawlink.relay.telemetry.refusal_log import Tally


def test_the_first_event_has_a_line_and_the_others_a_count_a_minute_later() -> None:
    tally = Tally("others")
    assert [tally.note("a", now) for now in range(5)] == ["a", None, None, None, None]
    assert tally.note("b", 30) == "b"
    assert tally.due(59.9) == []
    assert tally.due(60) == [("a", 4)]
    assert tally.note("a", 61) is None
    assert tally.due(119.9) == []
    assert tally.due(120) == [("a", 1)]
    assert tally.due(180) == []
    assert len(tally) == 0
    assert tally.note("a", 181) == "a"


def test_ten_thousand_events_are_one_line_a_minute() -> None:
    tally = Tally("others")
    lines = 0
    for event in range(10_000):
        now = event * 0.06  # ten minutes
        lines += tally.note("a", now) is not None
        lines += len(tally.due(now))
    assert lines == 10


def test_causes_beyond_the_size_of_the_table_share_one_line() -> None:
    tally = Tally("others", most=3)
    assert [tally.note(cause, 0) for cause in "abcdef"] == ["a", "b", "c", "others", None, None]
    assert len(tally) == 4
    assert tally.due(60) == [("others", 2)]
    assert tally.note("d", 60) == "d"
