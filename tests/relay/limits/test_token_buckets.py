"""Token buckets: what may come at once, and how fast after that."""

from __future__ import annotations

import gc
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawlink.relay.limits.token_buckets import Buckets
from tests.tables import each

NOW = 1_000.0


def with_tokens(tokens: float, *, rate: float, burst: float) -> Buckets:
    """Return buckets of which one, ``a``, has these tokens now."""
    buckets = Buckets(rate, burst)
    buckets.take("a", NOW, burst - tokens)
    return buckets


def test_a_bucket_that_was_never_used_is_full() -> None:
    assert Buckets(10, 50).left("a", NOW) == 50


@each(("after", "tokens"), [(0.0, 3.0), (0.5, 8.0), (4.7, 50.0), (4.8, 50.0), (1e9, 50.0)])
def test_a_bucket_fills_at_its_rate_and_never_overflows(after: float, tokens: float) -> None:
    assert with_tokens(3.0, rate=10, burst=50).left("a", NOW + after) == pytest.approx(tokens)


def test_a_clock_that_goes_back_takes_nothing_out() -> None:
    assert with_tokens(3.0, rate=10, burst=50).left("a", NOW - 60) == 3


@each("tokens", [0, 1, 3])
def test_a_bucket_fills_again_after_a_clock_that_went_back(tokens: int) -> None:
    buckets = with_tokens(tokens, rate=10, burst=50)
    earlier = NOW - 3600
    for _ in range(tokens):
        buckets.take("a", earlier)
    assert buckets.filled("a", earlier).tokens == 0
    assert buckets.filled("a", earlier + 1).tokens == 10


@each(("tokens", "wait"), [(1.0, 0.0), (7.0, 0.0), (0.0, 0.1), (0.75, 0.025), (-1.0, 0.2)])
def test_a_sender_waits_until_there_is_a_token(tokens: float, wait: float) -> None:
    assert with_tokens(tokens, rate=10, burst=50).wait("a", NOW) == pytest.approx(wait)


@given(
    gaps=st.lists(st.floats(0, 3), max_size=60),
    rate=st.sampled_from([0.5, 1.0, 5.0]),
    burst=st.integers(1, 8),
)
def test_however_they_come_no_more_pass_than_the_burst_and_what_the_rate_adds(
    gaps: list[float], rate: float, burst: int
) -> None:
    buckets = Buckets(rate, burst)
    now, passed = NOW, 0
    for gap in gaps:
        now += gap
        if not buckets.wait("a", now):
            buckets.take("a", now)
            passed += 1
    assert passed <= burst + (now - NOW) * rate + 1e-6


@given(tokens=st.floats(0, 0.999), rate=st.floats(0.1, 100))
def test_whoever_waits_as_long_as_it_is_told_passes(tokens: float, rate: float) -> None:
    buckets = with_tokens(tokens, rate=rate, burst=5)
    assert buckets.left("a", NOW + buckets.wait("a", NOW)) >= 1 - 1e-6


def test_buckets_that_are_forgotten_are_let_go_a_few_at_a_time() -> None:
    """To free those of a hundred thousand addresses at once holds the event loop."""
    buckets, count = Buckets(10, 50), 5000
    gc.disable()
    try:
        most, before = 0, sys.getallocatedblocks()
        for number in range(4 * count):
            buckets.take(f"address {number}", NOW + 6 * (number // count))
            blocks = sys.getallocatedblocks()
            most, before = max(most, before - blocks), blocks
    finally:
        gc.enable()
    assert most < count // 10
    assert buckets.left(f"address {4 * count - 1}", NOW + 18) == 49
    assert buckets.left("address 0", NOW + 18) == 50
