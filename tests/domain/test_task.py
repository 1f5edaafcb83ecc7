"""Task rules: the transition table, who owns a task and until when, and what each step leaves behind."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from clawlink.domain import delivery_steps, task_steps
from clawlink.domain import task as rules
from clawlink.domain.agent import Agent, beaten, seen
from clawlink.domain.delivery import Delivery, by_claimant, by_lender
from clawlink.domain.limits import MAX_HISTORY, MAX_HISTORY_BYTES
from clawlink.domain.pool import pool_for
from clawlink.domain.record import SETTLED
from clawlink.domain.task import ANSWERS, FINAL, OPEN, TRANSITIONS, Event, Task, TaskState
from clawlink.errors import LeaseLost, NotAllowed, WrongState
from tests.tables import each

QUEUED, DELIVERED, IN_PROGRESS, INPUT_REQUIRED = (
    TaskState.QUEUED,
    TaskState.DELIVERED,
    TaskState.IN_PROGRESS,
    TaskState.INPUT_REQUIRED,
)
COMPLETED, CANCELLED, EXPIRED = TaskState.COMPLETED, TaskState.CANCELLED, TaskState.EXPIRED

NOW = 1_000.0
TTL = 500.0
KEEP = 60.0
LEASE = 30.0
STALE = 120.0
POOL = pool_for(["go"], []).id
MIA = Agent(
    id="mia",
    version=1,
    name="mia",
    capabilities=("go",),
    machine="",
    description="",
    registered_at=NOW - 100,
    last_heartbeat=NOW,
    resumed_at=NOW - 100,
)


def queued(*, pooled: bool = False, deadline: float | None = None) -> Task:
    """Return a task that nobody has claimed."""
    mailbox, assignee = (POOL, None) if pooled else ("mia", "mia")
    ends = NOW + TTL if deadline is None else deadline
    return Task("t1", 1, mailbox, "otto", assignee, b"please", NOW, ends, deadline, queued_at=NOW)


def claim(t: Task, *, by: str = "mia", receipt: str = "r1", now: float = NOW) -> Task:
    return task_steps.claim(t, by=by, receipt=receipt, now=now, seconds=LEASE)


def report(
    t: Task,
    state: TaskState = IN_PROGRESS,
    *,
    by: str = "mia",
    receipt: str | None = None,
    now: float = NOW + 10,
    progress: float | None = None,
    note: str | None = None,
    content: bytes | None = None,
) -> Task:
    return task_steps.respond(
        t,
        by=by,
        receipt=receipt,
        state=state,
        response=b"answer",
        now=now,
        ttl=TTL,
        keep=KEEP,
        progress=progress,
        note=note,
        content=content,
    )


def end(t: Task, state: TaskState = CANCELLED, *, note: str | None = None) -> Task:
    return task_steps.end(t, state, by="otto", now=NOW + 10, keep=KEEP, note=note)


def lapse(t: Task, *, now: float = NOW + 40, note: str = "the lease has lapsed", by: str | None = None) -> Task:
    return task_steps.lapse(t, now=now, note=note, by=by)


def ack(t: Task, *, now: float = NOW + 1, until: float = NOW + STALE) -> Task:
    return task_steps.ack(t, now=now, until=until)


def at(state: TaskState, *, pooled: bool = False) -> Task:
    """Return a task that got to ``state``, by a claim if that is where a claim leads."""
    t = queued(pooled=pooled)
    if state is QUEUED:
        return t
    held = claim(t)
    if state is DELIVERED:
        return held
    return end(held, state) if state in FINAL - ANSWERS else report(held, state)


# -- the table -----------------------------------------------------------------------------------------------------

ALLOWED = [(old, new) for old in TaskState for new in TaskState if new in TRANSITIONS[old]]
REFUSED = [(old, new) for old in TaskState for new in TaskState if new not in TRANSITIONS[old]]
Move = Callable[[Task, TaskState], Task]


def moves_to(state: TaskState) -> list[Move]:
    """Return every function that leads to a state."""
    if state is QUEUED:
        return [lambda t, _: lapse(t), lambda t, _: task_steps.redrive(t, now=NOW + 40, ends_at=NOW + TTL)]
    if state is DELIVERED:
        return [lambda t, _: claim(t, receipt="r2", now=NOW + 40), lambda t, _: ack(t)]
    if state in FINAL - ANSWERS:
        return [end]
    return [report, end] if state in ANSWERS else [report]


@each(("old", "new", "move"), [(old, new, move) for old, new in ALLOWED for move in moves_to(new)])
def test_a_step_of_the_table_is_taken(old: TaskState, new: TaskState, move: Move) -> None:
    task = at(old)
    moved = move(task, new)
    assert (moved.state, moved.version) == (new, task.version + 1)


@each(
    ("old", "new", "move"),
    [(old, new, move) for old, new in REFUSED if old in FINAL and new is not DELIVERED for move in moves_to(new)],
)
def test_a_step_that_is_not_in_the_table_is_refused_and_says_where_the_task_is(
    old: TaskState, new: TaskState, move: Move
) -> None:
    with pytest.raises(WrongState) as refused:
        move(at(old), new)
    assert refused.value.current == old.value


@each("old", sorted(FINAL))
@each("fetched", [True, False])
def test_a_task_at_its_end_is_handed_out_no_more(old: TaskState, fetched: bool) -> None:
    task = at(old) if fetched else report(queued(), old) if old in ANSWERS else end(queued(), old)
    with pytest.raises(WrongState) as refused:
        claim(task, receipt="r2", now=NOW + 40)
    assert refused.value.current == old.value


@each(("old", "new"), [(old, new) for old, new in REFUSED if old not in FINAL and (old, new) != (QUEUED, QUEUED)])
def test_open_tasks_are_handed_out_from_the_queue_alone(old: TaskState, new: TaskState) -> None:
    """A claim of what was fetched queues it first; nothing else leads back to ``delivered``."""
    assert new is DELIVERED
    again = claim(at(old), receipt="r2", now=NOW + 40)
    assert [event.status for event in again.history[-2:]] == [QUEUED, DELIVERED]
    assert QUEUED in TRANSITIONS[old]


def test_the_table_covers_every_state_and_nothing_leads_out_of_a_final_one() -> None:
    assert set(TRANSITIONS) == set(TaskState)
    assert {state for state, following in TRANSITIONS.items() if not following} == FINAL
    assert set(OPEN) == set(TaskState) - FINAL


def test_every_open_state_leads_to_every_final_one() -> None:
    assert all(TRANSITIONS[state] >= FINAL for state in OPEN)


# -- claim ---------------------------------------------------------------------------------------------------------


def test_a_claim_gives_the_task_an_owner_a_receipt_and_a_lease() -> None:
    t = claim(queued(pooled=True), now=NOW + 5)
    assert (t.assignee, t.receipt, t.attempts, t.delivered_at) == ("mia", "r1", 1, NOW + 5)
    assert (t.lease, t.held_until) == (LEASE, NOW + 5 + LEASE)
    assert t.history == (Event(NOW + 5, DELIVERED, "mia"),)


def test_a_claim_of_what_lapsed_queues_it_first_and_both_are_told() -> None:
    t = claim(report(claim(queued(pooled=True))), by="eve", receipt="r2", now=NOW + 50)
    assert (t.state, t.assignee, t.receipt, t.attempts) == (DELIVERED, "eve", "r2", 2)
    assert (t.started_at, t.acked_at, t.queued_at, t.delivered_at) == (None, None, NOW + 50, NOW + 50)
    assert [(event.status, event.by) for event in t.history] == [
        (DELIVERED, "mia"),
        (IN_PROGRESS, "mia"),
        (QUEUED, None),
        (DELIVERED, "eve"),
    ]


@each("state", [IN_PROGRESS, INPUT_REQUIRED])
def test_what_was_reported_before_the_claim_stands(state: TaskState) -> None:
    t = claim(report(queued(), state, now=NOW + 1), now=NOW + 2)
    assert (t.state, t.assignee, t.attempts, t.started_at) == (state, "mia", 1, NOW + 1)


# -- until when an owner keeps it ----------------------------------------------------------------------------------


def until(t: Task, owner: Agent | None) -> float:
    return task_steps.loses_at(t, owner, stale_after=STALE)


def test_a_lease_ends_when_it_was_said_to() -> None:
    assert until(claim(queued()), MIA) == NOW + LEASE


def test_nobody_keeps_what_was_not_claimed_and_one_that_left_keeps_nothing() -> None:
    assert until(queued(), MIA) == 0
    assert until(claim(queued()), None) == 0
    assert until(ack(claim(queued()), until=math.inf), None) == 0


def test_a_heartbeat_since_the_claim_lengthens_the_lease_by_its_own_length() -> None:
    assert until(claim(queued()), beaten(MIA, NOW + 20)) == NOW + 20 + LEASE
    assert until(claim(queued()), beaten(MIA, NOW)) == NOW + LEASE


def test_a_heartbeat_from_before_the_claim_says_nothing_of_it() -> None:
    t = claim(queued(), now=NOW + 50)
    assert until(t, beaten(MIA, NOW + 49)) == NOW + 50 + LEASE
    assert until(replace(t, held_until=NOW + 51), beaten(MIA, NOW + 49)) == NOW + 51
    assert until(replace(t, held_until=NOW + 51), beaten(MIA, NOW + 50)) == NOW + 50 + LEASE, "one at its very moment"


def test_another_sign_of_life_says_nothing_of_what_was_not_acknowledged() -> None:
    assert until(claim(queued()), seen(MIA, NOW + 29)) == NOW + LEASE


def test_a_process_that_was_restarted_knows_nothing_of_what_it_held() -> None:
    restarted = replace(beaten(MIA, NOW + 25), resumed_at=NOW + 20)
    assert until(claim(queued()), restarted) == NOW + LEASE


def test_one_that_registered_before_the_claim_keeps_it_by_heartbeats() -> None:
    restarted = replace(beaten(MIA, NOW + 25), resumed_at=NOW)
    assert until(claim(queued()), restarted) == NOW + 25 + LEASE


def test_after_the_ack_any_sign_of_life_keeps_it_until_the_owner_is_stale() -> None:
    t = ack(claim(queued()), now=NOW + 1, until=NOW + 1 + STALE)
    assert until(t, seen(MIA, NOW + 100)) == NOW + 100 + STALE
    assert until(t, MIA) == NOW + 1 + STALE


def test_a_silent_owner_keeps_what_it_acked_as_long_as_its_lease_at_least() -> None:
    t = replace(ack(claim(queued()), until=NOW + STALE), held_until=NOW + 3_000)
    assert until(t, MIA) == NOW + 3_000


def test_what_is_held_for_good_is_held_for_ever() -> None:
    assert until(ack(claim(queued()), until=math.inf), MIA) == math.inf


@each(
    ("mailbox", "for_good", "kept"),
    [("mia", False, NOW + STALE), ("mia", True, math.inf), (POOL, False, NOW + STALE), (POOL, True, NOW + STALE)],
)
def test_an_old_client_keeps_for_good_what_was_delegated_to_it_by_name(
    mailbox: str, for_good: bool, kept: float
) -> None:
    assert task_steps.kept_until(mailbox, now=NOW, stale_after=STALE, for_good=for_good) == kept


def test_a_hold_is_lengthened_and_never_shortened() -> None:
    t = claim(queued())
    longer = task_steps.hold(t, NOW + 60)
    assert (longer.held_until, longer.version) == (NOW + 60, 3)
    assert task_steps.hold(longer, NOW + 60) is longer
    assert task_steps.hold(longer, NOW + 59) is longer


def test_what_is_held_by_nobody_or_for_good_has_no_hold_to_lengthen() -> None:
    for t in (queued(), ack(claim(queued()), until=math.inf)):
        assert task_steps.hold(t, NOW + 99) is t


# -- ack -----------------------------------------------------------------------------------------------------------


def test_an_ack_is_noted_and_keeps_the_task() -> None:
    t = ack(claim(queued()), now=NOW + 5, until=NOW + 5 + STALE)
    assert (t.state, t.acked_at, t.held_until, t.delivered_at) == (DELIVERED, NOW + 5, NOW + 5 + STALE, NOW)


def test_an_ack_never_shortens_the_hold() -> None:
    assert ack(claim(queued()), until=NOW + 2).held_until == NOW + LEASE


def test_an_ack_for_good_ends_the_lease() -> None:
    t = ack(claim(queued()), until=math.inf)
    assert (t.held_until, t.ends_at) == (None, t.expires_at)


def test_an_ack_after_the_lease_had_lapsed_takes_the_task_up_again() -> None:
    t = ack(lapse(claim(queued())), now=NOW + 45, until=NOW + 45 + STALE)
    assert (t.state, t.delivered_at, t.held_until) == (DELIVERED, NOW + 45, NOW + 45 + STALE)
    assert [event.status for event in t.history] == [DELIVERED, QUEUED, DELIVERED]
    assert t.attempts == 1


def test_an_ack_after_a_report_leaves_the_state() -> None:
    assert ack(report(claim(queued()))).state is IN_PROGRESS


@each("final", sorted(FINAL))
def test_an_ack_after_the_end_is_noted_and_nobody_holds_what_has_ended(final: TaskState) -> None:
    done = at(final)
    acked = ack(done, now=NOW + 20, until=NOW + 20 + STALE)
    assert (acked.state, acked.acked_at, acked.held_until, acked.ends_at) == (final, NOW + 20, None, done.expires_at)


# -- lapse, release, redrive ---------------------------------------------------------------------------------------


def test_what_lapses_in_a_pool_has_no_owner_and_no_receipt() -> None:
    t = lapse(report(claim(queued(pooled=True))), note="gone")
    assert (t.state, t.assignee, t.receipt, t.held_until, t.queued_at) == (QUEUED, None, None, None, NOW + 40)
    assert (t.delivered_at, t.acked_at, t.started_at, t.attempts) == (None, None, None, 1)
    assert t.history[-1] == Event(NOW + 40, QUEUED, None, "gone")


def test_what_lapses_of_a_name_waits_for_that_name_and_its_receipt_counts_until_the_next_claim() -> None:
    t = lapse(claim(queued()))
    assert (t.state, t.assignee, t.receipt) == (QUEUED, "mia", "r1")
    assert report(t, COMPLETED, receipt="r1", now=NOW + 50).state is COMPLETED
    with pytest.raises(LeaseLost):
        report(claim(t, receipt="r2", now=NOW + 45), COMPLETED, receipt="r1", now=NOW + 50)


def test_what_is_queued_already_may_lapse_again_and_says_why() -> None:
    t = lapse(lapse(claim(queued())), note="buried", by="mia")
    assert (t.state, t.history[-1].note, t.history[-1].by) == (QUEUED, "buried", "mia")


@each("pooled", [True, False])
def test_a_claim_that_is_released_was_never_made(pooled: bool) -> None:
    before = queued(pooled=pooled)
    t = task_steps.release(claim(before), now=NOW + 1)
    assert t == replace(before, version=3, lease=LEASE, queued_at=NOW + 1)


@each("state", [IN_PROGRESS, INPUT_REQUIRED])
def test_what_was_reported_before_a_claim_stands_when_that_is_released(state: TaskState) -> None:
    before = report(queued(), state, content=b"42")
    released = task_steps.release(claim(before, now=NOW + 15), now=NOW + 20)
    assert released == replace(before, version=4, lease=LEASE, queued_at=NOW + 20)


@each("state", [IN_PROGRESS, INPUT_REQUIRED])
@each("pooled", [True, False])
def test_a_claim_that_was_reported_on_is_not_released(state: TaskState, pooled: bool) -> None:
    with pytest.raises(LeaseLost) as refused:
        task_steps.release(report(claim(queued(pooled=pooled)), state), now=NOW + 20)
    assert refused.value.current == state.value


def test_what_a_released_claim_took_over_is_queued_again_with_all_that_was_reported() -> None:
    lost = report(claim(queued(pooled=True)), note="half")
    t = task_steps.release(claim(lost, by="eve", receipt="r2", now=NOW + 50), now=NOW + 51)
    assert (t.state, t.assignee, t.receipt, t.attempts) == (QUEUED, None, None, 1)
    assert [(event.status, event.by) for event in t.history] == [
        (DELIVERED, "mia"),
        (IN_PROGRESS, "mia"),
        (QUEUED, None),
    ]


@each(("deadline", "expires"), [(None, NOW + 900), (NOW + 800, NOW + 800)])
def test_a_dead_letter_that_is_put_back_is_queued_and_has_its_deadline_or_a_new_time(
    deadline: float | None, expires: float
) -> None:
    t = task_steps.redrive(lapse(claim(queued(deadline=deadline))), now=NOW + 100, ends_at=NOW + 900)
    assert (t.state, t.assignee, t.receipt, t.expires_at) == (QUEUED, "mia", None, expires)
    assert t.history[-1].by == "mia"
    assert t.history[-1].note is not None


# -- respond -------------------------------------------------------------------------------------------------------


@each("by", ["otto", "eve", ""])
@each("state", list(TaskState))
def test_only_the_assignee_moves_a_task(state: TaskState, by: str) -> None:
    with pytest.raises(NotAllowed) as refused:
        report(at(state), COMPLETED, by=by)
    assert refused.value.field == "from_agent"


def test_nobody_moves_what_waits_in_a_pool_unclaimed() -> None:
    with pytest.raises(NotAllowed):
        report(queued(pooled=True))


@each("receipt", [None, "r1", "r2"])
@each("taken_over", [True, False])
def test_one_that_held_it_before_has_lost_it_whatever_it_shows(receipt: str | None, taken_over: bool) -> None:
    t = lapse(claim(queued(pooled=True)))
    t = claim(t, by="eve", receipt="r2", now=NOW + 45) if taken_over else t
    with pytest.raises(LeaseLost) as refused:
        report(t, COMPLETED, receipt=receipt, now=NOW + 50)
    assert refused.value.current == t.state.value
    assert refused.value.message.endswith("; if no other agent has it, your next poll brings it again")


@each("receipt", ["r1", "", "r3"])
def test_the_owner_with_another_receipt_than_that_of_its_claim_has_lost_it(receipt: str) -> None:
    t = claim(lapse(claim(queued(pooled=True))), receipt="r2", now=NOW + 45)
    with pytest.raises(LeaseLost) as refused:
        report(t, receipt=receipt, now=NOW + 50)
    assert (refused.value.field, refused.value.current) == ("receipt", "delivered")


@each("receipt", [None, "r2"])
def test_the_owner_with_its_receipt_or_without_one_is_heard(receipt: str | None) -> None:
    t = claim(lapse(claim(queued(pooled=True))), receipt="r2", now=NOW + 45)
    assert report(t, receipt=receipt, now=NOW + 50).state is IN_PROGRESS


def test_an_answer_after_the_lease_lapsed_counts_while_nobody_else_has_the_task() -> None:
    assert report(claim(queued(pooled=True)), COMPLETED, receipt="r1", now=NOW + LEASE + 100).state is COMPLETED


@each("state", sorted({IN_PROGRESS, INPUT_REQUIRED} | ANSWERS))
def test_a_task_whose_time_is_over_is_expired_whether_or_not_somebody_has_looked(state: TaskState) -> None:
    with pytest.raises(WrongState) as refused:
        report(claim(queued()), state, now=NOW + TTL)
    assert refused.value.current == "expired"
    assert report(claim(queued()), state, now=NOW + TTL - 0.01).state is state


def test_a_finished_task_whose_time_is_over_is_finished() -> None:
    with pytest.raises(WrongState) as refused:
        report(at(COMPLETED), now=NOW + 9_999)
    assert refused.value.current == "completed"


@each("final", sorted(ANSWERS))
def test_a_final_answer_is_kept_with_its_time_for_as_long_as_settled_records_are(final: TaskState) -> None:
    done = report(claim(queued()), final, progress=100, note="well", content=b"unused")
    assert (done.answer, done.ends_at, done.finished_at) == (b"answer", NOW + 70, NOW + 10)
    assert (done.held_until, done.started_at, done.progress, done.note) == (None, NOW + 10, 100, "well")
    assert done.history[-1] == Event(NOW + 10, final, "mia", "well", 100)


@each("state", [IN_PROGRESS, INPUT_REQUIRED])
def test_a_report_is_no_answer_and_keeps_the_task_open_for_longer(state: TaskState) -> None:
    open_ = report(claim(queued()), state, content=b'"which?"')
    assert (open_.answer, open_.expires_at, open_.finished_at) == (None, NOW + 510, None)
    assert open_.history[-1].content == b'"which?"'


def test_no_report_moves_a_deadline() -> None:
    assert report(claim(queued(deadline=NOW + 77))).expires_at == NOW + 77


def test_a_report_lengthens_the_lease_and_never_shortens_it() -> None:
    t = claim(queued())
    assert report(t, now=NOW + 10).held_until == NOW + 10 + LEASE
    assert report(task_steps.hold(t, NOW + 400), now=NOW + 10).held_until == NOW + 400


def test_a_report_on_what_nobody_holds_or_for_good_makes_no_lease() -> None:
    assert report(queued()).held_until is None
    assert report(ack(claim(queued()), until=math.inf)).held_until is None


def test_work_starts_at_the_first_report_and_later_ones_keep_what_they_do_not_say() -> None:
    first = report(claim(queued()), now=NOW + 5, progress=40, note="half")
    second = report(first, INPUT_REQUIRED, now=NOW + 9)
    assert (second.started_at, second.progress, second.note) == (NOW + 5, 40, "half")
    third = report(second, now=NOW + 12, progress=0, note="")
    assert (third.started_at, third.progress, third.note) == (NOW + 5, 0, "")


# -- answer, end ---------------------------------------------------------------------------------------------------


def answer(t: Task, now: float = NOW + 20) -> Task:
    return task_steps.answer(t, by="otto", content=b'"both"', now=now, ttl=TTL)


@each(("deadline", "expires"), [(None, NOW + 520), (NOW + 80, NOW + 80)])
def test_what_the_requester_answers_lets_the_work_go_on(deadline: float | None, expires: float) -> None:
    t = answer(report(claim(queued(deadline=deadline)), INPUT_REQUIRED))
    assert (t.state, t.expires_at, t.version) == (IN_PROGRESS, expires, 4)
    assert t.history[-1] == Event(NOW + 20, IN_PROGRESS, "otto", content=b'"both"')


def test_an_agent_that_never_had_the_task_is_not_told_where_it_stands_whatever_receipt_it_shows() -> None:
    released = claim(task_steps.release(claim(queued(pooled=True)), now=NOW + 1), by="w2", receipt="r2")
    for by, receipt in (("eve", None), ("eve", "junk"), ("eve", "r2"), ("mia", "r1"), ("mia", None)):
        with pytest.raises(NotAllowed) as refused:
            task_steps.require_owner(released, by, receipt)
        assert refused.value.current is None, (by, receipt)
        assert released.state.value not in refused.value.message, (by, receipt)


@each("state", sorted(set(TaskState) - {INPUT_REQUIRED}))
def test_nobody_answers_what_was_not_asked(state: TaskState) -> None:
    with pytest.raises(WrongState) as refused:
        answer(at(state))
    assert refused.value.current == state.value


@each("state", sorted(FINAL))
@each("note", [None, "never mind"])
def test_a_task_that_is_ended_has_no_answer_no_hold_and_is_kept_a_while(state: TaskState, note: str | None) -> None:
    t = task_steps.end(report(claim(queued()), note="half"), state, by=None, now=NOW + 15, keep=KEEP, note=note)
    assert (t.state, t.answer, t.held_until, t.finished_at, t.expires_at) == (state, None, None, NOW + 15, NOW + 75)
    assert t.note == note
    assert t.history[-1] == Event(NOW + 15, state, None, note)


# -- history -------------------------------------------------------------------------------------------------------


def steps_of(t: Task) -> list[tuple[TaskState, str | None]]:
    return [(event.status, event.by) for event in t.history if event.status not in (IN_PROGRESS, INPUT_REQUIRED)]


def test_a_history_that_is_not_too_long_keeps_everything() -> None:
    t = claim(queued())
    for n in range(MAX_HISTORY - 1):
        t = report(t, now=NOW + n, note=str(n))
    assert (len(t.history), t.dropped_events) == (MAX_HISTORY, 0)


def test_of_too_many_reports_the_oldest_are_counted_only_and_steps_of_ownership_stay() -> None:
    t = lapse(report(claim(queued(pooled=True)), note="lost"), note="gone")
    t = claim(t, by="eve", receipt="r2", now=NOW + 45)
    for n in range(3 * MAX_HISTORY):
        t = report(t, (IN_PROGRESS, INPUT_REQUIRED)[n % 2], by="eve", now=NOW + 50 + n, note=str(n))
    assert len(t.history) == MAX_HISTORY
    assert t.dropped_events + len(t.history) == 4 + 3 * MAX_HISTORY
    assert steps_of(t) == [(DELIVERED, "mia"), (QUEUED, None), (DELIVERED, "eve")]
    assert t.history[-1].note == str(3 * MAX_HISTORY - 1)
    assert "lost" not in {event.note for event in t.history}


def test_of_reports_that_say_too_much_the_oldest_are_counted_only() -> None:
    t = claim(queued())
    big = MAX_HISTORY_BYTES // 4
    for n in range(10):
        t = report(t, now=NOW + n, note=str(n), content=b"x" * big)
        t = report(t, now=NOW + n, note=f"{n} silent")
    assert (
        t.reported_bytes
        == sum(len(event.content or b"") + len(event.note or "") for event in t.history)
        <= MAX_HISTORY_BYTES
    )
    assert [event.note for event in t.history if event.content] == ["7", "8", "9"]
    assert t.dropped_events + len(t.history) == 21


def test_one_report_that_says_more_than_all_may_is_kept_while_it_is_the_newest() -> None:
    t = report(claim(queued()), content=b"x")
    t = report(t, content=b"x" * (MAX_HISTORY_BYTES + 1))
    assert (t.dropped_events, t.reported_bytes) == (1, MAX_HISTORY_BYTES + 1)
    t = report(t, note="after")
    assert (t.dropped_events, t.reported_bytes, [event.note for event in t.history]) == (
        2,
        len("after"),
        [None, "after"],
    )


def test_what_the_requester_answered_is_folded_like_a_report() -> None:
    t = claim(queued())
    for n in range(MAX_HISTORY):
        t = answer(report(t, INPUT_REQUIRED, now=NOW + n), now=NOW + n)
    assert (len(t.history), t.dropped_events) == (MAX_HISTORY, MAX_HISTORY + 1)


def test_of_steps_of_ownership_too_the_oldest_are_folded_once_there_is_nothing_else() -> None:
    t = queued(pooled=True)
    for n in range(MAX_HISTORY):
        t = lapse(claim(t, receipt=str(n), now=NOW + n), now=NOW + n)
    assert (len(t.history), t.dropped_events) == (MAX_HISTORY, MAX_HISTORY)
    assert (t.history[0].at, t.history[-1].at) == (NOW + MAX_HISTORY / 2, NOW + MAX_HISTORY - 1)


def test_notes_count_as_what_is_said() -> None:
    t = claim(queued())
    for n in range(MAX_HISTORY - 1):
        t = report(t, now=NOW + n, note="\U0001f600" * 1000)
    assert t.weight - len(t.body) == t.reported_bytes == sum(4 * len(event.note or "") for event in t.history)
    assert t.reported_bytes <= MAX_HISTORY_BYTES


def test_a_task_that_another_of_the_name_has_is_found_by_the_mailbox_it_is_from() -> None:
    assert by_lender("mia") in claim(queued(), by="mia's heir").index_keys
    assert by_lender("mia") not in claim(queued()).index_keys
    assert not any(key.startswith(by_lender("")) for key in claim(queued(pooled=True), by="mia").index_keys)


# -- where a task is found -----------------------------------------------------------------------------------------


@each("state", list(TaskState))
def test_an_open_task_is_found_by_who_has_it_and_a_finished_one_by_how_it_ended(state: TaskState) -> None:
    asked = {rules.by_requester("otto", state), rules.in_state(state)}
    expected = asked | ({SETTLED, rules.by_assignee("mia", state)} if state in FINAL else {rules.by_owner("mia")})
    pooled = expected if state in FINAL else {*expected, by_claimant("mia")}
    assert set(at(state, pooled=True).index_keys) == (asked | {rules.by_owner(POOL)} if state is QUEUED else pooled)
    assert set(at(state).index_keys) == expected


def test_a_task_that_ended_before_anybody_had_it_is_found_by_who_asked() -> None:
    t = end(queued(pooled=True))
    assert set(t.index_keys) == {SETTLED, rules.by_requester("otto", CANCELLED), rules.in_state(CANCELLED)}


def test_no_key_of_a_task_is_an_agents_id_but_its_owners() -> None:
    keys = {key for state in TaskState for key in (*at(state).index_keys, *at(state, pooled=True).index_keys)}
    assert {key for key in keys if not key.startswith(" ")} == {"mia"}


def test_every_state_has_keys_of_its_own() -> None:
    keys = [
        key(agent, state) for key in (rules.by_requester, rules.by_assignee) for agent in "ab" for state in TaskState
    ]
    assert len(set(keys)) == len(keys)


def test_a_task_lives_in_the_mailbox_it_was_put_into_whoever_has_it() -> None:
    assert (queued().partition_key, queued().pooled) == ("mia", False)
    t = claim(queued(pooled=True))
    assert (t.partition_key, t.pooled) == (POOL, True)


def test_a_task_weighs_what_was_asked_reported_and_answered() -> None:
    assert queued().weight == len(b"please")
    t = report(claim(queued()), content=b"12345")
    assert t.weight == len(b"please") + 5
    assert report(t, COMPLETED).weight == len(b"please") + 5 + len(b"answer")


def test_somebody_looks_at_a_task_when_its_time_or_its_owners_is_over() -> None:
    assert queued().ends_at == NOW + TTL
    assert claim(queued()).ends_at == NOW + LEASE
    assert claim(queued(deadline=NOW + 5)).ends_at == NOW + 5
    assert lapse(claim(queued())).ends_at == NOW + TTL


# -- a task that is its delivery -----------------------------------------------------------------------------------


def delivery(*, pooled: bool = False, deadline: float | None = None) -> Delivery:
    ends = NOW + TTL if deadline is None else deadline
    mailbox = POOL if pooled else "mia"
    return Delivery("t1", 1, mailbox, "otto", 0, b"please", NOW, NOW, ends, is_task=True, deadline_at=deadline)


def leased(d: Delivery, *, by: str = "mia", now: float = NOW) -> Delivery:
    return delivery_steps.lease_task(d, by=by, receipt="r1", now=now, seconds=LEASE, alone=True)


@each("pooled", [True, False])
@each("deadline", [None, NOW + 77])
def test_a_delivery_nobody_claimed_is_a_queued_task(pooled: bool, deadline: float | None) -> None:
    t = rules.task_from_delivery(delivery(pooled=pooled, deadline=deadline))
    assert t == replace(queued(pooled=pooled, deadline=deadline), version=0, earlier=1)


@each("pooled", [True, False])
def test_a_leased_delivery_is_a_claimed_task(pooled: bool) -> None:
    d = leased(delivery(pooled=pooled), now=NOW + 5)
    assert rules.task_from_delivery(d) == replace(claim(queued(pooled=pooled), now=NOW + 5), version=0, earlier=2)


@each("pooled", [True, False])
def test_a_delivery_that_was_acked_is_a_task_its_owner_keeps(pooled: bool) -> None:
    d = delivery_steps.ack_task(leased(delivery(pooled=pooled)), receipt="r1", now=NOW + 1, until=NOW + 1 + STALE)
    expected = ack(claim(queued(pooled=pooled)), now=NOW + 1, until=NOW + 1 + STALE)
    assert rules.task_from_delivery(d) == replace(expected, version=0, earlier=3)


def test_a_delivery_that_was_acked_for_good_is_a_task_held_for_ever() -> None:
    d = delivery_steps.ack_task(leased(delivery()), receipt="r1", now=NOW + 1, until=math.inf)
    assert rules.task_from_delivery(d) == replace(ack(claim(queued()), until=math.inf), version=0, earlier=3)
    assert d.ends_at == rules.task_from_delivery(d).ends_at == NOW + TTL


@each("pooled", [True, False])
def test_a_delivery_whose_lease_was_released_is_a_queued_task_again(pooled: bool) -> None:
    d = delivery_steps.release(leased(delivery(pooled=pooled)), receipt="r1", now=NOW + 1)
    assert rules.task_from_delivery(d) == replace(queued(pooled=pooled), version=0, earlier=3)


def test_a_task_and_the_delivery_that_is_all_there_is_of_it_are_found_alike() -> None:
    for d in (delivery(), delivery(pooled=True), leased(delivery()), leased(delivery(pooled=True))):
        assert set(d.index_keys) == set(rules.task_from_delivery(d).index_keys)
        assert d.ends_at == rules.task_from_delivery(d).ends_at


def test_a_later_bearer_of_an_id_is_no_party_of_a_task() -> None:
    def agent(id: str, key: str | None, since: float) -> Agent:
        return replace(MIA, id=id, key_hash=key, registered_at=NOW + since)

    asked = replace(queued(), requester_key="k1")
    for who, expected in (
        (agent("otto", "k1", -9), True),
        (agent("otto", "k1", 99), True),
        (agent("otto", "k9", 99), False),
        (agent("otto", None, 99), False),
        (agent("otto", "k9", -9), True),  # it was given another key, and never left
    ):
        assert rules.is_requester(asked, who) is rules.is_party(asked, who) is expected, who
    assert rules.is_requester(replace(asked, requester_key=None), agent("otto", "k9", 99))

    def done(t: Task) -> Task:
        return task_steps.respond(
            task_steps.claim(t, by="mia", receipt="r", now=NOW + 1, seconds=LEASE, key_hash="k1"),
            by="mia",
            receipt="r",
            state=COMPLETED,
            response=b"{}",
            now=NOW + 9,
            ttl=TTL,
            keep=KEEP,
            key_hash="k1",
        )

    lapsed = task_steps.lapse(
        task_steps.claim(queued(pooled=True), by="mia", receipt="r", now=NOW, seconds=9, key_hash="k1"),
        now=NOW + 9,
        note="",
    )
    unread = task_steps.end(queued(), TaskState.RETURNED, by=None, now=NOW + 9, keep=KEEP)
    stranger, back = agent("mia", "k9", 99), agent("mia", "k1", 99)
    for t, came_back, there in (
        (done(queued()), True, True),
        (done(queued(pooled=True)), True, True),
        (lapsed, True, True),
        (unread, False, True),  # it was never told of it
        (task_steps.end(queued(pooled=True), CANCELLED, by="otto", now=NOW + 9, keep=KEEP), False, False),
    ):
        assert not rules.is_worker(t, stranger), t
        assert not rules.is_worker(t, replace(stranger, key_hash=None)), t
        assert rules.is_worker(t, back) is came_back, t
        assert rules.is_worker(t, agent("mia", "k1", -9)) is there, t
    assert rules.is_worker(queued(), stranger), "nobody but its heir takes an id whose tasks wait for it"


def test_a_task_keeps_the_keys_of_its_parties() -> None:
    d = Delivery("t1", 1, POOL, "otto", 1, b"{}", NOW, NOW, NOW + TTL, is_task=True, sender_key="k1")
    d = delivery_steps.lease_task(d, by="mia", receipt="r", now=NOW, seconds=9, alone=True, key_hash="k2")
    t = rules.task_from_delivery(d)
    assert (t.requester_key, [e.key_hash for e in t.history]) == ("k1", ["k2"])
    late = task_steps.ack(replace(t, state=QUEUED, delivered_at=None), now=NOW + 1, until=NOW + 9)
    assert [e.key_hash for e in late.history] == ["k2", "k2"]
