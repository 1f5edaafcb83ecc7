"""Tasks: what was asked of whom, and whether it is answered.

The table below is the only place that decides which step is allowed.
"""

from __future__ import annotations

from enum import Enum

import msgspec
from msgspec.structs import replace

from clawlink.domain.record import SETTLED
from clawlink.errors import NotAllowed, WrongState


class TaskState(str, Enum):
    """Where a task stands. ``DELIVERED`` is read from its delivery while nobody has answered."""

    QUEUED = "queued"
    DELIVERED = "delivered"
    IN_PROGRESS = "in_progress"
    INPUT_REQUIRED = "input_required"
    COMPLETED = "completed"
    FAILED = "failed"
    REJECTED = "rejected"


FINAL = frozenset({TaskState.COMPLETED, TaskState.FAILED, TaskState.REJECTED})

_REPORTS = frozenset({TaskState.IN_PROGRESS, TaskState.INPUT_REQUIRED}) | FINAL
TRANSITIONS: dict[TaskState, frozenset[TaskState]] = {
    TaskState.QUEUED: _REPORTS,
    TaskState.IN_PROGRESS: _REPORTS,
    TaskState.INPUT_REQUIRED: _REPORTS,
    TaskState.COMPLETED: frozenset(),
    TaskState.FAILED: frozenset(),
    TaskState.REJECTED: frozenset(),
}


class Task(msgspec.Struct, frozen=True, gc=False):
    """The record of a delegation. Its home is the assignee's mailbox; its id is the delegation's message id.

    ``body`` is the encoded delegation; ``answer`` is the encoded final response once there is one, and tells its time.
    While nobody has reported on it, a task lasts as long as its delivery, and ``ends_at`` is None; see ``outlive``.
    Times are seconds since the epoch.
    """

    id: str
    version: int
    requester: str
    assignee: str
    body: bytes
    ends_at: float | None = None
    state: TaskState = TaskState.QUEUED
    answer: bytes | None = None

    @property
    def home(self) -> str:
        return self.assignee

    @property
    def index_keys(self) -> tuple[str, ...]:
        return (SETTLED,) if self.state in FINAL else (by_assignee(self.assignee),)

    @property
    def weight(self) -> int:
        return len(self.body) + (0 if self.answer is None else len(self.answer))


def by_assignee(agent_id: str) -> str:
    """Return the index key of an agent's open tasks: the id itself, which needs nothing made or hashed for it."""
    return agent_id


def outlive(t: Task, *, now: float, ttl: float) -> Task:
    """Let a task go on for ``ttl`` seconds on its own, as the delivery that brought it is forgotten."""
    return replace(t, version=t.version + 1, ends_at=now + ttl)


def respond(t: Task, *, by: str, state: TaskState, response: bytes, now: float, ttl: float, keep: float) -> Task:
    """Move the task as its assignee reports. The first final answer is the only one.

    An open task is kept ``ttl`` seconds from its last report, a finished one ``keep`` seconds.
    Raises NotAllowed for anyone but the assignee and WrongState where the table has no such step.
    """
    if by != t.assignee:
        raise NotAllowed(f"task {t.id} is not yours to answer: it was delegated to someone else", field="from_agent")
    if state not in TRANSITIONS[t.state]:
        raise WrongState(
            f"task {t.id} is already {t.state.value}; only the first final answer counts", current=t.state.value
        )
    final = state in FINAL
    return replace(
        t,
        version=t.version + 1,
        state=state,
        answer=response if final else None,
        ends_at=now + (keep if final else ttl),
    )
