"""Token buckets: what may come at once, and how fast after that."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawlink.relay.limits import token_buckets as rate
from clawlink.relay.limits.token_buckets import Bucket
from tests.tables import each

NOW = 1_000.0


def test_a_bucket_that_was_never_used_is_full() -> None:
    assert rate.refilled(None, now=NOW, rate=10, burst=50) == 50


@each(("after", "tokens"), [(0.0, 3.0), (0.5, 8.0), (4.7, 50.0), (4.8, 50.0), (1e9, 50.0)])
def test_a_bucket_fills_at_its_rate_and_never_overflows(after: float, tokens: float) -> None:
    assert rate.refilled(Bucket(3.0, NOW), now=NOW + after, rate=10, burst=50) == pytest.approx(tokens)


def test_a_clock_that_goes_back_takes_nothing_out() -> None:
    assert rate.refilled(Bucket(3.0, NOW), now=NOW - 60, rate=10, burst=50) == 3


@each(("tokens", "wait"), [(1.0, 0.0), (7.0, 0.0), (0.0, 0.1), (0.75, 0.025), (-1.0, 0.2)])
def test_one_waits_until_there_is_a_token(tokens: float, wait: float) -> None:
    assert rate.wait_for_one(tokens, rate=10) == pytest.approx(wait)


@given(
    gaps=st.lists(st.floats(0, 3), max_size=60),
    rate_=st.sampled_from([0.5, 1.0, 5.0]),
    burst=st.integers(1, 8),
)
def test_however_they_come_no_more_pass_than_the_burst_and_what_the_rate_adds(
    gaps: list[float], rate_: float, burst: int
) -> None:
    bucket: Bucket | None = None
    now, passed = NOW, 0
    for gap in gaps:
        now += gap
        tokens = rate.refilled(bucket, now=now, rate=rate_, burst=burst)
        if not rate.wait_for_one(tokens, rate=rate_):
            bucket = Bucket(tokens - 1, now)
            passed += 1
    assert passed <= burst + (now - NOW) * rate_ + 1e-6


@given(tokens=st.floats(0, 0.999), rate_=st.floats(0.1, 100))
def test_whoever_waits_as_long_as_it_is_told_passes(tokens: float, rate_: float) -> None:
    wait = rate.wait_for_one(tokens, rate=rate_)
    assert rate.refilled(Bucket(tokens, NOW), now=NOW + wait, rate=rate_, burst=5) >= 1 - 1e-6
