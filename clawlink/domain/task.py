"""Tasks: work with an owner, from the delegation to its one final answer.

A new task is its delivery and has no record of its own: ``task_from_delivery`` reads it from there. The first report,
or the first time that the task is taken back, makes the record, at the same partition. ``TRANSITIONS`` alone decides
about each step.

The agent that fetched a task holds it under a lease. Reports lengthen the lease, and so do the owner's heartbeats.
After the ack of the delivery any sign of life does so, until the owner is stale. When the lease lapses the task is
queued again: for the next agent of its pool, or for the name that it was delegated to. Each claim has a new receipt, so
the receipt of a late answer shows that its agent has lost the task.
"""

from __future__ import annotations

import math
from enum import Enum

import msgspec
from msgspec.structs import replace

from clawlink.domain.agent import Agent, is_same
from clawlink.domain.delivery import Delivery, by_claimant, by_lender
from clawlink.domain.pool import is_pool
from clawlink.domain.record import SETTLED
from clawlink.domain.shares import Origin, holder
from clawlink.domain.wake import Wake
from clawlink.errors import BadRequest


class TaskState(str, Enum):
    """The state of a task. The last six are final.

    A task is ``RETURNED`` to its requester if its assignee has left and did not come back. No agent works on it; the
    requester may delegate it again.
    """

    QUEUED = "queued"
    DELIVERED = "delivered"
    IN_PROGRESS = "in_progress"
    INPUT_REQUIRED = "input_required"
    COMPLETED = "completed"
    FAILED = "failed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    RETURNED = "returned"


# Looking a member up in its class costs more than all else that a hot comparison does.
QUEUED, DELIVERED, IN_PROGRESS, INPUT_REQUIRED = (
    TaskState.QUEUED,
    TaskState.DELIVERED,
    TaskState.IN_PROGRESS,
    TaskState.INPUT_REQUIRED,
)
ANSWERS = frozenset({TaskState.COMPLETED, TaskState.FAILED, TaskState.REJECTED})
FAILURES = frozenset({TaskState.FAILED, TaskState.REJECTED})
FINAL = ANSWERS | {TaskState.CANCELLED, TaskState.EXPIRED, TaskState.RETURNED}
OPEN = (INPUT_REQUIRED, IN_PROGRESS, DELIVERED, QUEUED)
# The steps that the worker takes. They tell its key.
BY_WORKER = frozenset({DELIVERED, IN_PROGRESS, INPUT_REQUIRED}) | ANSWERS

_REPORTED = frozenset({IN_PROGRESS, INPUT_REQUIRED}) | FINAL
TRANSITIONS: dict[TaskState, frozenset[TaskState]] = {
    QUEUED: _REPORTED | {DELIVERED, QUEUED},  # to itself: into the dead letters, and out of them again
    DELIVERED: _REPORTED | {QUEUED},
    IN_PROGRESS: _REPORTED | {QUEUED},
    INPUT_REQUIRED: _REPORTED | {QUEUED},
    **{state: frozenset() for state in FINAL},
}


# The statuses that an assignee may report, and the words of clients of 1.0.x for them.
REPORTABLE = (IN_PROGRESS, INPUT_REQUIRED, TaskState.COMPLETED, TaskState.FAILED, TaskState.REJECTED)
_WORDS = {
    **{state.value: state for state in REPORTABLE},
    **dict.fromkeys(("done", "ok", "success", "succeeded", "finished", "finish", "complete"), TaskState.COMPLETED),
    **dict.fromkeys(("error", "failure", "fail"), TaskState.FAILED),
}


def reported_as(status: str, *, free: bool) -> tuple[TaskState, str]:
    """Return the state for a response's status, and the status that the requester reads.

    ``free`` allows any word, as in ClawLink 1.0.x: a word for no known end is a report. Raises BadRequest.
    """
    state = _WORDS.get(status.strip().lower().replace(" ", "_").replace("-", "_")) if free else None
    if state is None and any(status == known.value for known in REPORTABLE):
        state = TaskState(status)
    if state is not None:
        return state, state.value
    if free:
        return IN_PROGRESS, status
    known = ", ".join(state.value for state in REPORTABLE)
    raise BadRequest(
        f"status is one of {known}; other words are taken from agents without a key, and without a receipt",
        field="status",
    )


# The bytes of a task beside its texts, and of each event of its history, measured.
_RECORD_BYTES = 328
_EVENT_BYTES = 208


class Event(msgspec.Struct, frozen=True, gc=False):
    """A step of a task, or a report on it. ``by`` is None for the relay; ``content`` is encoded JSON.

    ``key_hash`` is the hash of the key of the agent that claimed the task or reported on it, None without a key.
    """

    at: float
    status: TaskState
    by: str | None
    note: str | None = None
    progress: float | None = None
    content: bytes | None = None
    key_hash: str | None = None


class Task(msgspec.Struct, frozen=True, gc=False):
    """The record of a task, for the facts that its delivery does not have.

    Its partition is the mailbox it was put into, its id the message's. ``body`` is the encoded delegation, ``answer``
    the encoded final response. ``held_until`` is the end of the owner's lease if nothing lengthens it, None for never.
    A sign of life lengthens it by ``lease`` seconds. ``expires_at`` is the end of an open task, and the time when a
    final one may be forgotten. ``reported_bytes`` are the bytes of contents and notes in ``history``.
    ``dropped_events`` counts the entries without room there. ``earlier`` are the versions before this record was made.
    ``address`` is the requester's, and ``requester_key`` the hash of its key. Times are seconds since the epoch.
    """

    id: str
    version: int
    mailbox: str
    requester: str
    assignee: str | None
    body: bytes
    created_at: float
    expires_at: float
    deadline_at: float | None = None
    state: TaskState = QUEUED
    receipt: str | None = None
    attempts: int = 0
    lease: float = 0.0
    held_until: float | None = None
    queued_at: float = 0.0
    delivered_at: float | None = None
    acked_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    progress: float | None = None
    note: str | None = None
    answer: bytes | None = None
    history: tuple[Event, ...] = ()
    reported_bytes: int = 0
    dropped_events: int = 0
    earlier: int = 0
    address: str | None = None
    requester_key: str | None = None
    wakes: tuple[Wake, ...] = ()

    @property
    def partition_key(self) -> str:
        return self.mailbox

    @property
    def origin(self) -> Origin:
        """The address and the agent that it counts for."""
        return Origin(self.address, holder(self.requester, self.requester_key))

    @property
    def index_keys(self) -> tuple[str, ...]:
        """The keys by which requester and assignee find the task, and by which open tasks are counted."""
        state, assignee = self.state, self.assignee
        asked, of_all = by_requester(self.requester, state), in_state(state)
        if self.finished_at is None:
            if assignee is None or assignee == self.mailbox:
                return (self.mailbox, asked, of_all)
            if self.pooled:
                return (assignee, asked, of_all, by_claimant(assignee))
            return (assignee, asked, of_all, by_lender(self.mailbox))
        if assignee is None:
            return (SETTLED, asked, of_all)
        return (SETTLED, asked, of_all, by_assignee(assignee, state))

    @property
    def weight(self) -> int:
        return len(self.body) + self.reported_bytes + (0 if self.answer is None else len(self.answer))

    @property
    def footprint(self) -> int:
        size = _RECORD_BYTES + self.weight + _EVENT_BYTES * len(self.history)
        return size + sum(wake.footprint for wake in self.wakes) if self.wakes else size

    @property
    def ends_at(self) -> float:
        held_until = self.held_until
        return self.expires_at if held_until is None or held_until > self.expires_at else held_until

    @property
    def pooled(self) -> bool:
        """Return True if the task was delegated to a pool, not to an agent."""
        return is_pool(self.mailbox)


def by_owner(agent_id: str) -> str:
    """Return the index key of an agent's or a pool's open tasks: the id itself, which needs nothing made for it.

    Deliveries that are all there is of a task are found under the same key.
    """
    return agent_id


def by_requester(agent_id: str, state: TaskState) -> str:
    """Return the index key of an agent's delegated tasks in a state, for tasks and deliveries alike."""
    return " asked " + state._value_ + " " + agent_id


def in_state(state: TaskState) -> str:
    """Return the index key of all tasks in a state, for the operator: of tasks and deliveries alike."""
    return " tasks " + state._value_


def by_assignee(agent_id: str, state: TaskState) -> str:
    """Return the index key of an assignee's ended tasks in a state; open ones are found ``by_owner``."""
    return " given " + state._value_ + " " + agent_id


def merge_of(task_id: str) -> str:
    """Return the merge key of unread news of a task's progress."""
    return "report:" + task_id


def task_from_delivery(d: Delivery) -> Task:
    """Read a task from the delivery that is all there is of it. It is not stored so: its version is 0."""
    task = Task(
        d.id,
        0,
        d.mailbox,
        d.sender,
        None if is_pool(d.mailbox) else d.mailbox,
        d.body,
        d.stored_at,
        d.expires_at,
        d.deadline_at,
        queued_at=d.stored_at,
        earlier=d.version,
        address=d.address,
        requester_key=d.sender_key,
        wakes=d.wakes,
    )
    if not d.attempts or d.delivered_at is None:
        return task
    by = d.holder or d.mailbox
    return replace(
        task,
        assignee=by,
        state=DELIVERED,
        receipt=d.receipt,
        attempts=d.attempts,
        lease=d.lease,
        held_until=None if d.visible_at == math.inf else d.visible_at,
        delivered_at=d.delivered_at,
        acked_at=d.settled_at,
        history=(Event(d.delivered_at, DELIVERED, by, key_hash=d.reader_key),),
    )


# -- parties -----------------------------------------------------------------------------------------------------------


def is_requester(t: Task, agent: Agent) -> bool:
    """Return True if the agent asked for the task, and is no later bearer of its requester's id."""
    return is_same(agent, t.requester, t.requester_key, t.created_at)


def is_worker(t: Task, agent: Agent) -> bool:
    """Return True if the agent is or was the task's assignee, and not only an earlier agent with its id.

    Only the same agent can take an id whose open tasks wait for it.
    """
    if agent.id in (t.assignee, None if t.pooled else t.mailbox) and (
        t.finished_at is None or (not t.pooled and agent.registered_at <= t.finished_at)
    ):
        return True
    return any(e.status in BY_WORKER and is_same(agent, e.by or "", e.key_hash, e.at) for e in t.history)


def is_party(t: Task, agent: Agent) -> bool:
    """Return True if the agent asked for the task, or it is the agent's to do, or was."""
    return is_requester(t, agent) or is_worker(t, agent)
