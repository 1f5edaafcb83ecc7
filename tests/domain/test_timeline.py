"""A task as people look at it: the four facts stay apart, and each lease has its agent, its time and its end."""

from __future__ import annotations

from msgspec.structs import replace

from clawlink.domain import task_steps as rules
from clawlink.domain.task import Event, TaskState
from clawlink.domain.timeline import Facts, Held, facts, leases
from tests.domain.test_task import NOW, claim, queued, report


def test_the_four_facts_stay_apart() -> None:
    t = queued()
    assert facts(t) == Facts(NOW, None, None, None)
    t = claim(t, now=NOW + 1)
    assert facts(t) == Facts(NOW, NOW + 1, None, None)
    t = rules.ack(t, now=NOW + 2, until=NOW + 90)
    assert facts(t) == Facts(NOW, NOW + 1, NOW + 2, None)
    done = report(t, TaskState.COMPLETED, now=NOW + 3)
    assert facts(done) == Facts(NOW, NOW + 1, NOW + 2, NOW + 3)


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
