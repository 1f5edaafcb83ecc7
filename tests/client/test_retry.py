"""Whether and when a request is sent again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clawlink import errors
from clawlink.client.retry import Backoff
from clawlink.errors import ClawLinkError, all_errors
from tests.tables import each

PASSING = [
    errors.RelayUnreachable,
    errors.Unavailable,
    errors.Draining,
    errors.NotActive,
    errors.StoreUnavailable,
    errors.InternalError,
    errors.BodyTimeout,
    errors.RateLimited,
]
SHOWN = [error for error in all_errors() if error.__module__ == "clawlink.errors"]


@each("kind", SHOWN, ids=lambda kind: kind.code)
def test_only_failures_that_pass_by_themselves_are_worth_another_try(kind: type[ClawLinkError]) -> None:
    pause = Backoff().pause(kind("x"), attempt=1, repeatable=True, random=1.0)
    assert (pause is not None) == (kind in PASSING)


@each("kind", PASSING, ids=lambda kind: kind.code)
def test_what_is_not_safe_to_repeat_never_is(kind: type[ClawLinkError]) -> None:
    assert Backoff().pause(kind("x"), attempt=1, repeatable=False, random=0.5) is None


def test_the_pause_doubles_up_to_its_most_and_ends_after_the_last_try() -> None:
    patient = Backoff(tries=6, first=1.0, most=5.0)
    error = errors.RelayUnreachable("x")
    pauses = [patient.pause(error, attempt=n, repeatable=True, random=1.0) for n in range(1, 7)]
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0, None]
    waits_long = Backoff(tries=1_000_000, first=0.2, most=5.0)
    assert waits_long.pause(error, attempt=999_999, repeatable=True, random=1.0) == 5.0


def test_one_try_is_no_retry() -> None:
    assert Backoff(tries=1).pause(errors.RelayUnreachable("x"), attempt=1, repeatable=True, random=1.0) is None


def test_retry_after_lengthens_the_pause_but_not_beyond_its_most() -> None:
    patient = Backoff(first=0.1, most=5.0)
    for told, pause in [(0.01, 0.1), (2.0, 2.0), (3600.0, 5.0)]:
        error = errors.Draining("x", retry_after=told)
        assert patient.pause(error, attempt=1, repeatable=True, random=1.0) == pause


def test_who_was_too_fast_waits_as_long_as_it_is_told_and_not_half_of_it() -> None:
    error = errors.RateLimited("x", retry_after=0.8)
    assert Backoff().pause(error, attempt=1, repeatable=True, random=0.0) == 0.8


@given(
    attempt=st.integers(1, 2000),
    random=st.floats(0, 1),
    told=st.none() | st.floats(0, 1e9),
    first=st.floats(0.001, 10),
    most=st.floats(0.001, 100),
)
def test_a_pause_is_never_longer_than_its_most_nor_shorter_than_half_its_share(
    attempt: int, random: float, told: float | None, first: float, most: float
) -> None:
    patient = Backoff(tries=10_000, first=first, most=most)
    error = errors.Draining("x", retry_after=told)
    pause = patient.pause(error, attempt=min(attempt, 1000), repeatable=True, random=random)
    assert pause is not None
    assert min(first, most) / 2 <= pause <= most
