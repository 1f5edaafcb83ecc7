"""Pauses double up to a limit, and are spread over half to all of their length."""

from __future__ import annotations

from clawlink.domain.backoff import backoff, spread


def test_a_pause_doubles_after_each_failure_up_to_the_limit() -> None:
    assert [backoff(failed, first=0.5, most=30.0) for failed in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert [backoff(failed, first=0.5, most=1.5) for failed in (1, 2, 3)] == [0.5, 1.0, 1.5]
    assert backoff(1, first=5.0, most=2.0) == 2.0, "the limit holds for the first pause too"


def test_a_pause_stays_at_the_limit_however_long_an_outage_lasts() -> None:
    for failed in (61, 1_025, 10**9):
        assert backoff(failed, first=0.001, most=30.0) == 30.0, failed


def test_pauses_are_spread_over_half_to_all_of_their_length() -> None:
    assert [spread(8.0, random) for random in (0.0, 0.5, 1.0)] == [4.0, 6.0, 8.0]
