"""The steps of a task: each returns the task to store next, one version on.

``TRANSITIONS`` alone decides about each step.
"""

from __future__ import annotations

import math

from msgspec.structs import replace

from clawlink.domain.agent import Agent, is_asleep
from clawlink.domain.limits import MAX_HISTORY, MAX_HISTORY_BYTES
from clawlink.domain.pool import is_pool
from clawlink.domain.task import (
    BY_WORKER,
    DELIVERED,
    FINAL,
    IN_PROGRESS,
    INPUT_REQUIRED,
    QUEUED,
    TRANSITIONS,
    Event,
    Task,
    TaskState,
)
from clawlink.domain.wake import Wake, added
from clawlink.errors import LeaseLost, NotAllowed, WrongState


def claim(t: Task, *, by: str, receipt: str, now: float, seconds: float, key_hash: str | None = None) -> Task:
    """Give the task to ``by``, which holds it under ``receipt`` until ``now + seconds`` if nothing lengthens that.

    ``key_hash`` is of the key that it has.
    """
    if t.delivered_at is not None:
        t = _put_back(t, now, None, "the lease has lapsed")
    # A report may have come before the claim, from an agent that was told of the task in another way.
    state = t.state if t.state in (IN_PROGRESS, INPUT_REQUIRED) else _step(t, DELIVERED)
    return replace(
        _with_event(t, Event(now, DELIVERED, by, key_hash=key_hash)),
        version=t.version + 1,
        state=state,
        assignee=by,
        receipt=receipt,
        attempts=t.attempts + 1,
        lease=seconds,
        held_until=now + seconds,
        delivered_at=now,
    )


def loses_at(t: Task, owner: Agent | None, *, stale_after: float) -> float:
    """Return the time at which the owner loses the task without a further sign of life.

    Heartbeats since the claim lengthen a lease, and after the ack any sign of life does. This ends when the owner
    registers again, until its next report: a restarted process does not know its earlier tasks. An owner that left or
    sleeps holds nothing.
    """
    if owner is None or t.delivered_at is None or is_asleep(owner):
        return 0.0
    if t.held_until is None:
        return math.inf
    until = t.held_until
    reported = t.history[-1].at if t.history and t.history[-1].by == t.assignee else 0.0
    if max(t.delivered_at, reported) < owner.resumed_at:
        return until
    if owner.beat_at >= t.delivered_at:
        until = max(until, owner.beat_at + t.lease)
    if t.acked_at is not None:
        until = max(until, owner.last_heartbeat + stale_after)
    return until


def hold(t: Task, until: float) -> Task:
    """Lengthen the owner's lease to ``until``; it is never shortened."""
    if t.held_until is None or t.held_until >= until:
        return t
    return replace(t, version=t.version + 1, held_until=until)


def kept_until(mailbox: str, *, now: float, stale_after: float, for_good: bool) -> float:
    """Return the time until which an agent that acks a task keeps it without a further sign of life.

    ``for_good`` is for clients of ClawLink 1.0.x, which know of no lease. The relay does not take a task back from such
    an agent: the agent would find it in its mailbox again.
    """
    return math.inf if for_good and not is_pool(mailbox) else now + stale_after


def ack(t: Task, *, now: float, until: float) -> Task:
    """Note that the owner has the delivery, and keeps the task until ``until`` (infinite: for good).

    A task that has ended needs no holding.
    """
    until = math.inf if t.state in FINAL else max(t.held_until or 0.0, until)
    if t.state is QUEUED:  # its lease had lapsed, and no other claim came since
        event = Event(now, DELIVERED, t.assignee, key_hash=_key_of(t, t.assignee))
        t = replace(t, state=_step(t, DELIVERED), history=(*t.history, event))
    return replace(
        t,
        version=t.version + 1,
        acked_at=now,
        delivered_at=t.delivered_at or now,
        held_until=None if until == math.inf else until,
    )


def lapse(t: Task, *, now: float, note: str, by: str | None = None) -> Task:
    """Queue the task again. A pool's task then has no owner; any other waits for the name that it was delegated to.

    The receipt of a task that waits for its own name counts until the next claim, because no other agent can have it.
    """
    return replace(_put_back(t, now, by, note), version=t.version + 1)


def release(t: Task, *, now: float) -> Task:
    """Release a claim whose reply never left the relay: it leaves nothing in the history.

    Raises LeaseLost if the owner has reported on the task since, because it then knows the task.
    """
    history = t.history[:-1]
    if t.history[-1].status is not DELIVERED:
        raise LeaseLost(f"task {t.id} was reported on since it was claimed", current=t.state.value)
    return replace(
        t,
        version=t.version + 1,
        state=history[-1].status if history else QUEUED,
        assignee=None if t.pooled else t.assignee,
        receipt=None,
        attempts=t.attempts - 1,
        held_until=None,
        queued_at=now,
        delivered_at=None,
        acked_at=None,
        history=history,
    )


def redrive(t: Task, *, now: float, ends_at: float) -> Task:
    """Queue a task whose delivery was a dead letter."""
    back = _put_back(t, now, t.assignee, "put back from the dead letters")
    return replace(back, version=t.version + 1, receipt=None, expires_at=t.deadline_at or ends_at)


def respond(
    t: Task,
    *,
    by: str,
    receipt: str | None,
    state: TaskState,
    response: bytes,
    now: float,
    ttl: float,
    keep: float,
    progress: float | None = None,
    note: str | None = None,
    content: bytes | None = None,
    key_hash: str | None = None,
) -> Task:
    """Move the task as its owner reports. Only the first final answer counts.

    Without a deadline an open task is kept ``ttl`` seconds from its last report; a finished one is kept ``keep``.
    The answer of an agent that has claimed the task acknowledges it, also after the lease has lapsed.
    Raises LeaseLost for an earlier owner, and for a receipt that is not that of the current claim. Raises NotAllowed
    for any other agent, and WrongState if the table has no such step.
    """
    require_owner(t, by, receipt)
    if t.expires_at <= now and t.state not in FINAL:
        raise WrongState(f"task {t.id} has expired", current=TaskState.EXPIRED.value)
    final = state in FINAL
    held = t.held_until
    if held is not None:
        held = None if final else max(held, now + t.lease)
    delivered_at, acked_at = t.delivered_at, t.acked_at
    if final:
        delivered_at = delivered_at or _last_claim_at(t, by, now)
        acked_at = acked_at or (None if delivered_at is None else now)
    return replace(
        _with_event(t, Event(now, _step(t, state), by, note, progress, None if final else content, key_hash)),
        version=t.version + 1,
        state=state,
        expires_at=now + keep if final else t.deadline_at or now + ttl,
        held_until=held,
        delivered_at=delivered_at,
        acked_at=acked_at,
        started_at=t.started_at or now,
        finished_at=now if final else None,
        progress=t.progress if progress is None else progress,
        note=t.note if note is None and not final else note,
        answer=response if final else None,
    )


def of_answerer(t: Task, agent_id: str) -> Task:
    """Return the task as that of an agent whose answer is in the requester's mailbox already.

    Another agent may have claimed the task since. The facts of that claim are not those of the answer.
    """
    return t if t.assignee == agent_id else replace(t, assignee=agent_id, delivered_at=None, acked_at=None)


def require_owner(t: Task, by: str, receipt: str | None) -> None:
    """Refuse all but the present owner; with a receipt, all but the present claim."""
    if by != t.assignee:
        # Other agents are not told where the task stands. A released claim leaves nothing in the history.
        if any(event.by == by and event.status is DELIVERED for event in t.history):
            raise LeaseLost(
                f"task {t.id} is no longer yours: its lease lapsed and it was taken back; stop your work on it; "
                "if no other agent has it, your next poll brings it again",
                current=t.state.value,
            )
        raise not_yours(t)
    if receipt is not None and receipt != t.receipt:
        raise LeaseLost(
            f"task {t.id} is held under another receipt: it was taken back and handed out again, or this one is wrong",
            field="receipt",
            current=t.state.value,
        )


def not_yours(t: Task) -> NotAllowed:
    """Return the error for an agent that never had the task. Whether another agent has claimed it is not told."""
    pooled, other = "you have no claim on it; a poll claims what waits for you", "it was delegated to another agent"
    why = pooled if t.pooled else other
    return NotAllowed(f"task {t.id} is not yours to answer: {why}", field="from_agent")


def answer(t: Task, *, by: str, content: bytes, now: float, ttl: float, key_hash: str | None = None) -> Task:
    """Let the work go on with the answer of the requester, or of the operator, to the owner's question.

    ``key_hash`` is of the key that it has.
    """
    if t.state is not INPUT_REQUIRED:
        raise WrongState(f"task {t.id} is {t.state.value}: it does not wait for input", current=t.state.value)
    return replace(
        _with_event(t, Event(now, _step(t, IN_PROGRESS), by, content=content, key_hash=key_hash)),
        version=t.version + 1,
        state=IN_PROGRESS,
        expires_at=t.deadline_at or now + ttl,
    )


def woken(t: Task, wake: Wake) -> Task:
    """Note that the assignee's program tried to wake it for the task. The state stays."""
    wakes = added(t.wakes, wake)
    return t if wakes is t.wakes else replace(t, version=t.version + 1, wakes=wakes)


def end(t: Task, state: TaskState, *, by: str | None, now: float, keep: float, note: str | None = None) -> Task:
    """End the task without an answer of its owner: cancelled by its requester, or expired or failed by the relay."""
    return replace(
        _with_event(t, Event(now, _step(t, state), by, note)),
        version=t.version + 1,
        state=state,
        expires_at=now + keep,
        held_until=None,
        finished_at=now,
        note=note,
    )


def _last_claim_at(t: Task, agent_id: str, now: float) -> float | None:
    """Return the time of the agent's last claim, None without any. It is ``now`` if the history no longer has it."""
    claims = (e.at for e in reversed(t.history) if e.status is DELIVERED and e.by == agent_id)
    return next(claims, now if t.dropped_events and t.attempts else None)


def _key_of(t: Task, agent_id: str | None) -> str | None:
    """Return the hash of the agent's key at its last claim of the task, or its last report on it."""
    return next((e.key_hash for e in reversed(t.history) if e.by == agent_id and e.status in BY_WORKER), None)


def _step(t: Task, to: TaskState) -> TaskState:
    if to not in TRANSITIONS[t.state]:
        reason = "only the first final answer counts" if t.state in FINAL else f"it cannot become {to.value} from there"
        raise WrongState(f"task {t.id} is already {t.state.value}; {reason}", current=t.state.value)
    return to


def _put_back(t: Task, now: float, by: str | None, note: str | None) -> Task:
    """Queue the task; its version is the caller's to count."""
    pooled = t.pooled
    event = Event(now, _step(t, QUEUED), by, note)
    return replace(
        _with_event(t, event),
        state=QUEUED,
        assignee=None if pooled else t.assignee,
        receipt=None if pooled else t.receipt,
        held_until=None,
        queued_at=now,
        delivered_at=None,
        acked_at=None,
        started_at=None,
        progress=None,
        note=None,
    )


def _with_event(t: Task, event: Event) -> Task:
    """Add to the history. Where it grows too long the oldest reports are folded away, and then the oldest steps."""
    history = (*t.history, event)
    reported_bytes = t.reported_bytes + _size(event)
    if len(history) <= MAX_HISTORY and reported_bytes <= MAX_HISTORY_BYTES:
        return replace(t, history=history, reported_bytes=reported_bytes)
    kept: list[Event] = []
    excess, dropped_events = len(history) - MAX_HISTORY, t.dropped_events
    for e in history:
        size = _size(e)
        report = e.status in (IN_PROGRESS, INPUT_REQUIRED) and e is not event
        if report and (excess > 0 or (size and reported_bytes > MAX_HISTORY_BYTES)):
            excess, reported_bytes, dropped_events = excess - 1, reported_bytes - size, dropped_events + 1
        else:
            kept.append(e)
    if excess > 0:
        reported_bytes, dropped_events = reported_bytes - sum(map(_size, kept[:excess])), dropped_events + excess
        kept = kept[excess:]
    return replace(t, history=tuple(kept), reported_bytes=reported_bytes, dropped_events=dropped_events)


def _size(event: Event) -> int:
    """Return the number of bytes of the contents and notes."""
    note = 0 if event.note is None else len(event.note.encode("utf-8", "surrogatepass"))
    return note + (0 if event.content is None else len(event.content))
