"""Wakes of a message: the last ones are kept, and a repeated request adds none."""

from __future__ import annotations

from clawlink.domain import delivery as rules
from clawlink.domain import delivery_steps
from clawlink.domain.limits import MAX_WAKES
from clawlink.domain.task import task_from_delivery
from clawlink.domain.task_steps import woken
from clawlink.domain.wake import Wake, added
from tests.store.footprints import delivery


def test_the_last_wakes_are_kept_and_a_repeat_by_key_adds_none() -> None:
    wakes: tuple[Wake, ...] = ()
    for n in range(MAX_WAKES + 3):
        wakes = added(wakes, Wake(float(n), "claude", "failed", key=str(n)))
    assert [wake.at for wake in wakes] == [float(n) for n in range(3, MAX_WAKES + 3)]
    assert added(wakes, Wake(99.0, "claude", "failed", key="5")) is wakes
    assert added(wakes, Wake(99.0, "claude", "failed"))[-1].at == 99.0


def test_a_wake_changes_nothing_else_and_counts_in_the_footprint() -> None:
    new = delivery(1, is_task=True)
    wake = Wake(new.stored_at + 5, "openclaw", "started", "accepted", "k")
    told = delivery_steps.woken(new, wake)
    assert (told.version, told.wakes) == (2, (wake,))
    assert (told.attempts, told.visible_at, told.expires_at) == (new.attempts, new.visible_at, new.expires_at)
    assert told.footprint == new.footprint + wake.footprint
    assert delivery_steps.woken(told, wake) is told
    task = task_from_delivery(told)
    assert task.wakes == (wake,)
    again = woken(task, Wake(new.stored_at + 9, "codex", "given_up"))
    assert (again.version, again.state, len(again.wakes)) == (task.version + 1, task.state, 2)
    assert again.footprint == task.footprint + again.wakes[1].footprint


def test_what_a_claim_would_expire_or_bury_is_not_handed_out() -> None:
    new = delivery(1)
    assert rules.hands_out(new, new.stored_at, max_attempts=5)
    assert not rules.hands_out(new, new.expires_at, max_attempts=5)
    assert not rules.hands_out(new, new.stored_at, max_attempts=0)
    assert not rules.hands_out(new, new.visible_at - 1, max_attempts=5)
