"""The size of a test that repeats the same: small in ``make test``, larger in ``make test-long``, full in torture."""

from __future__ import annotations

import os

TORTURE = bool(os.environ.get("CLAWLINK_TORTURE"))
LONG = TORTURE or bool(os.environ.get("CLAWLINK_TEST_LONG"))


def size(usual: int, long: int, torture: int | None = None) -> int:
    """Return the number of repetitions for this run. Without a number of its own, torture repeats as long does."""
    if TORTURE and torture is not None:
        return torture
    return long if LONG else usual
