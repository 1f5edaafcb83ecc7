"""The states of tasks in A2A, and the words that all of the mapping uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
UrlOf = Callable[[str], str]
"""Returns the address of a shared file, by its key."""

SUBMITTED, WORKING = "TASK_STATE_SUBMITTED", "TASK_STATE_WORKING"
INPUT_REQUIRED, AUTH_REQUIRED = "TASK_STATE_INPUT_REQUIRED", "TASK_STATE_AUTH_REQUIRED"
COMPLETED, FAILED = "TASK_STATE_COMPLETED", "TASK_STATE_FAILED"
CANCELED, REJECTED = "TASK_STATE_CANCELED", "TASK_STATE_REJECTED"
STATES = {
    "queued": SUBMITTED,
    "delivered": WORKING,
    "in_progress": WORKING,
    "input_required": INPUT_REQUIRED,
    "completed": COMPLETED,
    "failed": FAILED,
    "rejected": REJECTED,
    "cancelled": CANCELED,
    "expired": FAILED,
    "returned": FAILED,
}
"""The A2A state for each state of ClawLink. A worker can make AUTH_REQUIRED of ``input_required``; see ``Said``."""

FINAL = frozenset({COMPLETED, FAILED, CANCELED, REJECTED})
INTERRUPTED = frozenset({INPUT_REQUIRED, AUTH_REQUIRED})
FILE = "clawlink-file:"
"""The beginning of a part's ``url`` that names a shared file. Clients get an address in its place."""
RESULT = "result"
"""The id of the artifact that a worker's plain result becomes."""
MAX_REASON = 500
"""The characters of a worker's reason that an error tells."""
FILES = "files"
"""The id of the artifact with the files that a worker attached to its final answer."""
AGENT, POOL = "agent ", "pool "
"""The beginnings of ``to``: before the id of an agent, and before a capability."""


def stamp(at: str) -> str:
    """Write a time of the relay as A2A does: UTC with milliseconds and ``Z``."""
    return at.removesuffix("+00:00") + "Z"
