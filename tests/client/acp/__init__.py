"""Tests of the client of the Agent Client Protocol."""

from __future__ import annotations

from typing import Any

from clawlink.domain.chain import first
from clawlink.domain.message import Priority, TaskDelegation


def delegated(task: Any, **fields: Any) -> TaskDelegation:
    """Return a task as it is delegated to a worker."""
    whole = {"context": {}, "from_name": "ann", **fields}
    return TaskDelegation(
        message_id="m",
        from_agent="a",
        to_agent="b",
        task=task,
        priority=Priority.NORMAL,
        timestamp="2026-01-01T00:00:00Z",
        queued_at="2026-01-01T00:00:00Z",
        chain=first("a"),
        **whole,
    )
