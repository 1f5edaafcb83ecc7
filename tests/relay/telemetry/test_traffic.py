"""The traffic of the last hour: what the counters gained, in the minute in which it was seen."""

from __future__ import annotations

from clawlink.relay.telemetry.stats import Stats
from clawlink.relay.telemetry.traffic import MINUTES, Minute, Traffic

START = 60 * 1000


def test_each_minute_has_what_happened_in_it_and_an_hour_is_kept() -> None:
    now, stats = float(START), Stats()
    traffic = Traffic(lambda: now, stats)
    stats.tasks_delegated, stats.tasks_answered, stats.answers_failed = 5, 3, 1
    assert traffic.minutes() == [Minute(1000, 5, 2, 1)]
    now += 125
    stats.tasks_expired, stats.tasks_failed, stats.tasks_returned = 1, 1, 1
    assert traffic.minutes() == [Minute(1000, 5, 2, 1), Minute(1001), Minute(1002, 0, 0, 3)]
    now += 60 * 500
    stats.tasks_delegated += 1
    kept = traffic.minutes()
    assert (len(kept), kept[0], kept[-1]) == (MINUTES, Minute(1502 - MINUTES + 1), Minute(1502, 1))


def test_a_clock_that_stands_or_goes_back_loses_nothing() -> None:
    now, stats = float(START), Stats()
    traffic = Traffic(lambda: now, stats)
    now -= 600
    stats.tasks_delegated = 2
    assert traffic.minutes() == [Minute(1000, 2)]
