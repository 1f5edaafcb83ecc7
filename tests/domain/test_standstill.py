"""Relay time stands still during stops, and each instant is shown at the steady time at which it was or will be."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from clawlink.domain.standstill import MAX_PAST, Standstill, arrival, relay_time, resumed, shown, stopped

START = 1_000_000.0


@given(st.lists(st.integers(1, 500), min_size=1, max_size=12))
def test_relay_time_counts_all_but_the_stops(seconds: list[int]) -> None:
    """Run and stop in turn. Instants of the runs are shown as they were, and a lease keeps what was left of it."""
    record, steady, ran = Standstill(), START, 0
    facts: list[tuple[float, float]] = []
    for running, length in zip(itertools.cycle((True, False)), seconds, strict=False):
        before = relay_time(record, steady)
        until = before + 60
        steady += length
        if running:
            ran += length
            facts.append((relay_time(record, steady), steady))
            record = stopped(record, steady)
            assert shown(record, facts[-1][0], steady + 5) == steady, "a fact of a stop is shown at its beginning"
        else:
            assert relay_time(record, steady) == before
            assert shown(record, until, steady) == steady + 60
            record = resumed(record, steady)
            assert shown(record, until, steady) == steady + 60
        assert relay_time(record, steady) == START + ran
    for at, was in facts:
        assert shown(record, at, steady) == was


def test_a_repeated_stop_and_a_resume_without_a_stop_change_nothing() -> None:
    none = Standstill()
    assert resumed(none, START) is none
    once = stopped(none, START)
    assert stopped(once, START + 9) is once
    over = resumed(once, START + 10)
    assert (over.version, over.since, over.lag) == (2, None, 10)
    assert resumed(over, START + 11) is over


def test_a_clock_that_went_back_makes_no_stop_negative() -> None:
    back = resumed(stopped(Standstill(), START), START - 5)
    assert back.lag == 0
    assert relay_time(stopped(Standstill(), START), START - 5) == START - 5


def test_the_oldest_of_many_stops_count_as_one() -> None:
    record, steady = Standstill(), START
    for _ in range(MAX_PAST + 20):
        record = resumed(stopped(record, steady), steady + 1)
        steady += 2
    assert len(record.past) == MAX_PAST
    assert record.lag == MAX_PAST + 20
    assert relay_time(record, steady) == START + MAX_PAST + 20


def test_facts_keep_their_order_around_stops_that_count_as_one() -> None:
    record, steady = Standstill(), START
    for _ in range(MAX_PAST + 1):
        record = resumed(stopped(record, steady), steady + 1)
        steady += 2
    between, after = START + 0.5, START + 1.5  # the first two stops, which count as one
    assert shown(record, between, steady) <= START + 2, "not later than the beginning of the second"
    assert shown(record, after, steady) == START + 3.5


def test_agents_that_register_in_a_stop_come_after_its_facts_one_after_the_other() -> None:
    for start in (0.0, START, 1.8e9):  # of tests, and of today
        record = stopped(Standstill(), start)
        facts = relay_time(record, start)
        times = [arrival(record, start + seconds) for seconds in (0, 0.1, 1, 60, 3600, 86_400)]
        assert facts < times[0] <= times[1] < times[2] < times[3] < times[4] < times[5] <= facts + 1
        record = resumed(record, start + 86_400)
        assert arrival(record, start + 86_410) == facts + 10
