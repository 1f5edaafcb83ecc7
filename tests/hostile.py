"""Requests of attackers: a good one, with each of its values replaced by each of many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**63, 1e308, "", "\x00", "x" * 3000, "\u202e", [], [None], {}, {"": None}, [[[]]]),
    *({"text": "a", "raw": "a"}, {"url": "http://127.0.0.1/"}, "/../", "%00", "\n"),
)


def variants(good: Any, values: Sequence[Any]) -> Iterator[Any]:
    """Give a value with each part of it, and itself, replaced by each of the values."""
    yield from values
    items = good.items() if isinstance(good, dict) else enumerate(good) if isinstance(good, list) else ()
    for name, inner in items:
        for changed in variants(inner, values):
            copy = list(good) if isinstance(good, list) else dict(good)
            copy[name] = changed
            yield copy
