"""The size of a test that repeats the same: small in ``make test``, full in ``make torture``."""

from __future__ import annotations

import os

TORTURE = bool(os.environ.get("CLAWLINK_TORTURE"))


def size(usual: int, torture: int) -> int:
    """Return the number of repetitions for this run."""
    return torture if TORTURE else usual
