"""A message on its way, waited for in a thread."""

from __future__ import annotations

from concurrent.futures import TimeoutError as FutureTimeout

import pytest

from clawlink.doors.agentlink.client.sent import Sent


def test_a_wait_that_is_over_raises_the_timeout_error_of_the_language() -> None:
    sent = Sent("d/dan", "hello")
    for wait in (sent.result, sent.receipt().result):
        with pytest.raises(TimeoutError, match=r"still to come after 0\.01 s"):
            wait(0.01)
    assert not sent.stored.done(), "the message goes on"


def test_a_failure_reaches_the_caller_as_it_is() -> None:
    for failure in (ValueError("refused"), FutureTimeout("of its own")):
        sent = Sent("d/dan", "hello")
        sent.fail(failure)
        for wait in (sent.result, sent.receipt().result):
            with pytest.raises(type(failure)) as caught:
                wait(1)
            assert caught.value is failure
