"""The delay of answers to wrong tokens: pure."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

from clawlink.domain.auth_throttle import (
    FIRST_SECONDS,
    FREE,
    MOST_HELD,
    MOST_HELD_ADDRESS,
    MOST_SECONDS,
    PAUSE_SECONDS,
    AuthThrottle,
)

PAGE = Path(__file__).parents[2] / "references" / "operations.md"


def test_the_delay_grows_and_falls() -> None:
    throttle = AuthThrottle()
    assert [throttle.delay("a", 0) for _ in range(FREE)] == [0.0] * FREE
    assert [throttle.delay("a", 0) for _ in range(8)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert throttle.delay("b", 0) == 0, "another address"
    assert [throttle.delay("a", 1e6) for _ in range(FREE + 1)] == [0.0] * FREE + [0.05], "long after"
    for _ in range(1000):
        assert throttle.delay("a", 1e6) <= MOST_SECONDS
    late = 1e6 + 7 * PAUSE_SECONDS
    assert throttle.delay("a", late) == 0.05, "a pause each takes one away, however many came"
    assert throttle.delay("a", late + 2 * PAUSE_SECONDS) == 0


def test_a_guess_now_and_then_never_waits() -> None:
    throttle = AuthThrottle()
    assert {throttle.delay("a", turn * PAUSE_SECONDS) for turn in range(1000)} == {0.0}


def test_answers_that_wait_are_few() -> None:
    throttle = AuthThrottle()
    with ExitStack() as stack:
        for address in range(MOST_HELD // MOST_HELD_ADDRESS):
            for _ in range(MOST_HELD_ADDRESS):
                assert throttle.may_hold(str(address))
                stack.enter_context(throttle.hold(str(address)))
            assert not throttle.may_hold(str(address))
        assert not throttle.may_hold("another")
    assert throttle.held == 0
    assert throttle.may_hold("0")


def test_only_the_latest_addresses_are_known() -> None:
    throttle = AuthThrottle()
    for number in range(5000):
        throttle.delay(str(number), 0)
        throttle.delay("always", 0)
    assert len(throttle) == 1024
    assert throttle.delay("always", 0) == MOST_SECONDS
    assert throttle.delay("0", 0) == 0


def test_the_page_has_the_numbers() -> None:
    chapter = PAGE.read_text(encoding="utf-8").partition("## Wrong tokens\n")[2].partition("\n## ")[0]
    told = [float(number) for number in re.findall(r"[0-9.]*[0-9]", chapter.replace("(401)", ""))]
    assert told == [FREE, FIRST_SECONDS, MOST_SECONDS, PAUSE_SECONDS, MOST_HELD_ADDRESS, MOST_HELD]
