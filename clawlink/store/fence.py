"""The fence of a lease that relays over one store take turns at: commits behind it count only while the lease is held.

A process that stood still may wake up after its lease, and go on where it was. Its next commit then takes no effect.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple


class Fence(NamedTuple):
    """A lease, and the token of the term in which a relay holds it."""

    lease: str
    token: str


_fence: ContextVar[Fence | None] = ContextVar("fence", default=None)


@contextmanager
def behind(fence: Fence | None) -> Iterator[None]:
    """Put all commits of this block, and of tasks that it begins, behind a fence; None is for none."""
    token = _fence.set(fence)
    try:
        yield
    finally:
        _fence.reset(token)


def current() -> Fence | None:
    """Return the fence of this task; None for none."""
    return _fence.get()
