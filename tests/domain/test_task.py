"""Task rules: the transition table, both ways, and what each step leaves behind."""

from __future__ import annotations

import pytest

from clawlink.domain import task as rules
from clawlink.domain.record import SETTLED
from clawlink.domain.task import FINAL, TRANSITIONS, Task, TaskState
from clawlink.errors import NotAllowed, WrongState

NOW = 1_000.0
STORED = sorted(TRANSITIONS)


def at(state: TaskState) -> Task:
    """Return a task that got to ``state``."""
    fresh = Task("t1", 1, "otto", "mia", b"please")
    return fresh if state is TaskState.QUEUED else move(fresh, state)


def move(task: Task, state: TaskState, *, by: str = "mia", now: float = NOW + 10) -> Task:
    return rules.respond(task, by=by, state=state, response=b"answer", now=now, ttl=500, keep=60)


ALLOWED = [(old, new) for old in STORED for new in sorted(TRANSITIONS[old])]
REFUSED = [(old, new) for old in STORED for new in TaskState if new not in TRANSITIONS[old]]


@pytest.mark.parametrize(("old", "new"), ALLOWED)
def test_a_step_of_the_table_is_taken(old: TaskState, new: TaskState) -> None:
    task = at(old)
    moved = move(task, new)
    assert (moved.state, moved.version) == (new, task.version + 1)


@pytest.mark.parametrize(("old", "new"), REFUSED)
def test_a_step_that_is_not_in_the_table_is_refused_and_says_where_the_task_is(old: TaskState, new: TaskState) -> None:
    with pytest.raises(WrongState) as refused:
        move(at(old), new)
    assert refused.value.current == old.value


def test_the_table_covers_every_state_but_the_one_that_is_read_from_the_delivery() -> None:
    assert set(TaskState) - set(TRANSITIONS) == {TaskState.DELIVERED}


def test_nothing_leads_out_of_a_final_state_and_something_out_of_every_other() -> None:
    assert {state for state, following in TRANSITIONS.items() if not following} == FINAL


def test_no_report_brings_a_task_back_to_the_queue() -> None:
    assert not any({TaskState.QUEUED, TaskState.DELIVERED} & following for following in TRANSITIONS.values())


@pytest.mark.parametrize("by", ["otto", "eve", ""])
@pytest.mark.parametrize("old", STORED)
def test_only_the_assignee_moves_a_task(old: TaskState, by: str) -> None:
    with pytest.raises(NotAllowed):
        move(at(old), TaskState.COMPLETED, by=by)


@pytest.mark.parametrize("final", sorted(FINAL))
def test_a_final_answer_is_kept_with_its_time_for_as_long_as_settled_records_are(final: TaskState) -> None:
    done = move(at(TaskState.QUEUED), final)
    assert (done.answer, done.ends_at) == (b"answer", NOW + 70)


@pytest.mark.parametrize("report", [TaskState.IN_PROGRESS, TaskState.INPUT_REQUIRED])
def test_a_report_is_no_answer_and_keeps_the_task_open_for_longer(report: TaskState) -> None:
    open_ = move(at(TaskState.QUEUED), report)
    assert (open_.answer, open_.ends_at) == (None, NOW + 510)


def test_a_later_report_keeps_the_task_open_from_then_on() -> None:
    first = move(at(TaskState.QUEUED), TaskState.IN_PROGRESS, now=NOW + 1)
    assert move(first, TaskState.INPUT_REQUIRED, now=NOW + 100).ends_at == NOW + 600


@pytest.mark.parametrize("state", STORED)
def test_an_open_task_is_found_by_its_assignee_and_a_finished_one_among_the_settled(state: TaskState) -> None:
    assert at(state).index_keys == ((SETTLED,) if state in FINAL else (rules.by_assignee("mia"),))


def test_a_task_lives_with_its_assignee_and_weighs_what_was_asked_and_answered() -> None:
    assert at(TaskState.QUEUED).home == "mia"
    assert at(TaskState.QUEUED).weight == len(b"please")
    assert at(TaskState.COMPLETED).weight == len(b"please") + len(b"answer")


def test_a_task_nobody_has_reported_on_lasts_as_long_as_its_delivery() -> None:
    assert at(TaskState.QUEUED).ends_at is None


def test_a_task_outlives_its_delivery_by_a_time_of_its_own() -> None:
    alone = rules.outlive(at(TaskState.QUEUED), now=NOW + 5, ttl=500)
    assert (alone.state, alone.ends_at, alone.version) == (TaskState.QUEUED, NOW + 505, 2)
