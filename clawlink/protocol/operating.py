"""The requests and replies of acts of the operator."""

from __future__ import annotations

from msgspec import Struct


class StopAll(Struct, frozen=True, gc=False):
    """Stop all work, or let it go on."""

    stopped: bool


class Standing(Struct, frozen=True):
    """Whether all work is ``stopped`` or ``running``, since when it is stopped, and the seconds of the last stop."""

    status: str
    stopped_at: str | None
    server_time: str
    lasted: float | None = None
