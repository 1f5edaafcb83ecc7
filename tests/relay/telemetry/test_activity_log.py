"""Lines that come too fast: the first of each second pass, and the others are counted once."""

from __future__ import annotations

from clawlink.relay.telemetry.activity_log import Flood


def test_a_second_has_so_many_lines_and_the_rest_are_counted_when_it_is_over() -> None:
    flood = Flood(20)
    assert [flood.passes(100.0 + n / 1000) for n in range(332)] == [True] * 20 + [False] * 312
    assert flood.left_out(100.9) == 0
    assert flood.left_out(101.0) == 312
    assert flood.left_out(101.0) == 0
    assert flood.passes(101.0)


def test_a_clock_that_goes_back_begins_a_second() -> None:
    flood = Flood(1)
    assert [flood.passes(100.0), flood.passes(100.0), flood.passes(40.0)] == [True, False, True]
    assert flood.left_out(30.0) == 1
