"""The memory of used frames is enough, and bounded."""

from __future__ import annotations

import pytest

from clawlink.doors.agentlink.server.nonces import Nonces
from clawlink.errors import NotAllowed, RateLimited

START = 1_000_000.0


@pytest.fixture
def nonces() -> Nonces:
    return Nonces(tolerance=30, since=START, max_of_one=1000, max_of_all=2500)


def test_a_nonce_counts_once(nonces: Nonces) -> None:
    nonces.use("a", "n", signed_at=START + 1, now=START + 1)
    with pytest.raises(NotAllowed, match="used before"):
        nonces.use("a", "n", signed_at=START + 1, now=START + 1)
    nonces.use("b", "n", signed_at=START + 1, now=START + 1)
    nonces.use("a", "m", signed_at=START + 1, now=START + 1)


def test_it_is_remembered_until_its_time_alone_keeps_it_out(nonces: Nonces) -> None:
    signed_at = START + 100.9
    nonces.use("a", "n", signed_at=signed_at, now=signed_at - 30)
    for later in range(-30, 31):
        with pytest.raises(NotAllowed, match="used before"):
            nonces.use("a", "n", signed_at=signed_at, now=signed_at + later)
    with pytest.raises(NotAllowed, match="set the clock"):
        nonces.use("a", "n", signed_at=signed_at, now=signed_at + 30.1)


def test_nothing_of_before_the_start_is_taken(nonces: Nonces) -> None:
    with pytest.raises(NotAllowed, match="started"):
        nonces.use("a", "n", signed_at=START - 0.1, now=START + 1)


def test_a_clock_that_is_set_back_brings_nothing_back(nonces: Nonces) -> None:
    nonces.use("a", "n", signed_at=START + 10, now=START + 10)
    nonces.use("a", "m", signed_at=START + 100, now=START + 100)
    assert len(nonces) == 1
    with pytest.raises(NotAllowed, match="set back"):
        nonces.use("a", "n", signed_at=START + 10, now=START + 10)


def test_a_flood_of_nonces_stays_bounded(nonces: Nonces) -> None:
    """A hundred a second for a thousand seconds: those of a minute at most are held, and never more than allowed."""
    taken = refused = 0
    for count in range(100_000):
        now = START + count / 100
        try:
            nonces.use(f"owner {count % 4}", str(count), signed_at=now, now=now)
            taken += 1
        except RateLimited:
            refused += 1
        assert len(nonces) <= 2500
    assert taken + refused == 100_000
    assert taken > 50_000  # room comes back as time passes


def test_one_owner_cannot_take_the_room_of_others(nonces: Nonces) -> None:
    for count in range(1000):
        nonces.use("greedy", str(count), signed_at=START, now=START)
    with pytest.raises(RateLimited):
        nonces.use("greedy", "more", signed_at=START, now=START)
    nonces.use("modest", "one", signed_at=START, now=START)


def test_what_was_refused_for_want_of_room_may_come_again(nonces: Nonces) -> None:
    for count in range(1000):
        nonces.use("a", str(count), signed_at=START, now=START)
    with pytest.raises(RateLimited):
        nonces.use("a", "late", signed_at=START + 20, now=START + 20)
    nonces.use("a", "late", signed_at=START + 20, now=START + 32)


def test_owners_without_nonces_are_forgotten(nonces: Nonces) -> None:
    for count in range(2000):
        nonces.use(f"owner {count}", "n", signed_at=START + count, now=START + count)
    assert len(nonces) <= 62
