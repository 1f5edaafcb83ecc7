"""A task as people look at it: the four facts stay apart, and each lease has its agent, its time and its end."""

from __future__ import annotations

from msgspec.structs import replace

from clawlink.domain import task_steps as rules
from clawlink.domain.task import ANSWERS, Event, Task, TaskState
from clawlink.domain.timeline import Facts, Held, facts, last_lease, leases
from tests.domain.test_task import NOW, ack, claim, lapse, queued, report
from tests.tables import each

LAPSED = lapse(ack(claim(queued(), now=NOW + 1), now=NOW + 2), now=NOW + 5)
FOLDED = replace(LAPSED, history=LAPSED.history[1:], dropped_events=1)
POOLED = lapse(claim(queued(pooled=True), by="eve", now=NOW + 1), now=NOW + 5)
GIVEN_BACK = lapse(claim(queued(), now=NOW + 1), now=NOW + 5, by="mia")


def test_the_four_facts_stay_apart() -> None:
    t = queued()
    assert facts(t) == Facts(NOW, None, None, None)
    t = claim(t, now=NOW + 1)
    assert facts(t) == Facts(NOW, NOW + 1, None, None)
    t = rules.ack(t, now=NOW + 2, until=NOW + 90)
    assert facts(t) == Facts(NOW, NOW + 1, NOW + 2, None)
    done = report(t, TaskState.COMPLETED, now=NOW + 3)
    assert facts(done) == Facts(NOW, NOW + 1, NOW + 2, NOW + 3)


@each(
    ("t", "delivered", "acked"),
    [
        (queued(), None, None),  # it was read in another way: no poll brought it
        (report(queued(), now=NOW + 3), None, None),
        (claim(queued(), now=NOW + 1), 1, 9),
        (ack(claim(queued(), now=NOW + 1), now=NOW + 2), 1, 2),
        (LAPSED, 1, 9),
        (report(LAPSED, now=NOW + 6), 1, 9),
        (GIVEN_BACK, 1, 9),
        (rules.redrive(lapse(LAPSED, now=NOW + 6), now=NOW + 7, ends_at=NOW + 60), 1, 9),
        (claim(LAPSED, now=NOW + 7), 7, 9),
        (rules.release(claim(LAPSED, now=NOW + 7), now=NOW + 8), 1, 9),
        (ack(LAPSED, now=NOW + 7), 7, 7),
        (FOLDED, 9, 9),
        (rules.of_answerer(POOLED, "eve"), 1, 9),
        (rules.of_answerer(claim(POOLED, by="mia", now=NOW + 6), "eve"), 1, 9),
        (rules.of_answerer(claim(POOLED, by="mia", now=NOW + 6), "mia"), 6, 9),
    ],
)
def test_an_answer_proves_that_the_claim_before_it_was_delivered_and_acknowledged(
    t: Task, delivered: float | None, acked: float | None
) -> None:
    def since(seconds: float | None) -> float | None:
        return None if seconds is None else NOW + seconds

    for state in ANSWERS:
        done = report(t, state, by=t.assignee or "", now=NOW + 9)
        assert facts(done) == Facts(NOW, since(delivered), since(acked), NOW + 9), state
        assert last_lease(done) is None, state


@each(
    "t",
    [
        LAPSED,
        report(LAPSED, now=NOW + 6),
        GIVEN_BACK,
        rules.end(LAPSED, TaskState.CANCELLED, by=None, now=NOW + 6, keep=60),
    ],
)
def test_a_task_that_was_taken_back_is_not_delivered_and_tells_its_last_lease(t: Task) -> None:
    assert facts(t) == Facts(NOW, None, None, None)
    assert last_lease(t) == Held("mia", NOW + 1, NOW + 5, "queued")


@each("t", [queued(), claim(queued()), claim(LAPSED), ack(LAPSED)])
def test_a_task_that_is_held_or_never_was_has_no_last_lease(t: Task) -> None:
    assert last_lease(t) is None


def test_an_end_by_the_relay_or_the_requester_is_no_answer() -> None:
    for state in (TaskState.CANCELLED, TaskState.EXPIRED, TaskState.RETURNED):
        ended = rules.end(claim(queued()), state, by=None, now=NOW + 9, keep=60)
        assert (ended.finished_at, facts(ended).answered_at) == (NOW + 9, None), state


def test_each_lease_has_its_agent_its_time_and_what_ended_it() -> None:
    t = claim(queued(pooled=True), by="eve", now=NOW + 1)
    assert leases(t) == [Held("eve", NOW + 1)]
    t = rules.lapse(report(t, now=NOW + 2, by="eve"), now=NOW + 5, note="silent")
    assert leases(t) == [Held("eve", NOW + 1, NOW + 5, "queued")]
    t = report(claim(t, by="mia", now=NOW + 6), TaskState.COMPLETED, now=NOW + 8, by="mia")
    assert leases(t) == [Held("eve", NOW + 1, NOW + 5, "queued"), Held("mia", NOW + 6, NOW + 8, "completed")]


def test_a_folded_history_tells_the_leases_that_it_still_has() -> None:
    t = replace(queued(), history=(Event(NOW + 4, TaskState.QUEUED, None), Event(NOW + 5, TaskState.DELIVERED, "mia")))
    assert leases(t) == [Held("mia", NOW + 5)]
    assert leases(queued()) == []
