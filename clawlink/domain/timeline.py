"""A task as people look at it: the four facts, and the leases under which agents held it."""

from __future__ import annotations

import msgspec

from clawlink.domain.task import DELIVERED, FINAL, QUEUED, Task


class Held(msgspec.Struct, frozen=True, gc=False):
    """The time in which an agent held the task. ``until`` is None while it still does.

    ``ended_by`` is the state that ended the lease, None while it goes on.
    """

    agent: str | None
    since: float
    until: float | None = None
    ended_by: str | None = None


class Facts(msgspec.Struct, frozen=True, gc=False):
    """Four facts about a task; none stands for another. None where the fact is not there.

    The task is stored once. It is delivered and acknowledged under the present claim, or under the claim that led to
    its answer. It is answered by its assignee: an end by the requester or by the relay is no answer.
    """

    stored_at: float
    delivered_at: float | None
    acknowledged_at: float | None
    answered_at: float | None


def facts(task: Task) -> Facts:
    """Return the facts of a task."""
    answered = task.finished_at if task.answer is not None else None
    return Facts(task.created_at, task.delivered_at, task.acked_at, answered)


def last_lease(task: Task) -> Held | None:
    """Return the last lease of a task that no agent holds, and whose assignee has not answered it since.

    The task waits again, or it has ended so. None if no agent ever held it, or one does.
    """
    return None if task.delivered_at is not None else next(reversed(leases(task)), None)


def leases(task: Task) -> list[Held]:
    """Return the leases of a task as its history tells them, in order. A history that was folded tells the latest."""
    found: list[Held] = []
    held: Held | None = None
    for event in task.history:
        if event.status is not DELIVERED and event.status is not QUEUED and event.status not in FINAL:
            continue
        if held is not None:
            found.append(Held(held.agent, held.since, event.at, event.status.value))
            held = None
        if event.status is DELIVERED:
            held = Held(event.by, event.at)
    if held is not None:
        found.append(held)
    return found
