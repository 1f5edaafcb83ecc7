"""Delivery rules: who holds a message, until when, and what ends it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from msgspec.structs import replace

from clawlink.domain import delivery as rules
from clawlink.domain import delivery_steps
from clawlink.domain.delivery import AttemptEnd, Delivery, State
from clawlink.domain.message import Priority
from clawlink.domain.record import SETTLED
from clawlink.domain.wake import Wake
from clawlink.errors import LeaseLost
from tests.domain.agents import agent
from tests.tables import each

NOW = 1_000.0
TTL = 500.0
KEEP = 60.0
SETTLED_STATES = [State.ACKED, State.EXPIRED, State.DEAD]


def fresh(merge: str | None = None) -> Delivery:
    return Delivery("d1", 1, "mia", "otto", rules.sort_key(2, 7), b"hello", NOW, NOW, NOW + TTL, merge=merge)


def leased(d: Delivery | None = None, *, receipt: str = "r1", now: float = NOW, seconds: float = 30.0) -> Delivery:
    return delivery_steps.lease(d or fresh(), receipt=receipt, now=now, seconds=seconds, max_attempts=5, keep=KEEP)


def settled(state: State) -> Delivery:
    if state is State.ACKED:
        return delivery_steps.ack(leased(), receipt="r1", now=NOW, keep=KEEP)
    return (delivery_steps.expire if state is State.EXPIRED else delivery_steps.bury)(leased(), now=NOW, keep=KEEP)


# -- due -----------------------------------------------------------------------------------------------------------


@each(("now", "is_due"), [(NOW - 0.001, False), (NOW, True), (NOW + 1, True)])
def test_a_pending_message_is_due_once_its_time_has_come(now: float, is_due: bool) -> None:
    assert rules.due(fresh(), now) is is_due


@each("state", SETTLED_STATES)
def test_a_settled_message_is_never_due(state: State) -> None:
    assert not rules.due(settled(state), NOW + 10_000)


def test_a_leased_message_is_due_again_once_its_lease_lapses() -> None:
    d = leased(seconds=30)
    assert not rules.due(d, NOW + 29.9)
    assert rules.due(d, NOW + 30)


# -- lease ---------------------------------------------------------------------------------------------------------


def test_a_lease_counts_the_attempt_and_hides_the_message_until_it_ends() -> None:
    d = leased(seconds=30)
    assert (d.attempts, d.receipt, d.visible_at, d.delivered_at) == (1, "r1", NOW + 30, NOW)
    assert d.version == 2
    assert d.state is State.PENDING


def test_two_consumers_cannot_lease_one_message_at_once() -> None:
    with pytest.raises(LeaseLost):
        leased(leased(), receipt="r2", now=NOW + 29)


@each(
    ("d", "receipt", "now", "held"),
    [
        (leased(seconds=30), "r1", NOW, True),
        (leased(seconds=30), "r1", NOW + 29.9, True),
        (leased(seconds=30), "r1", NOW + 30, False),
        (leased(seconds=30), "another", NOW, False),
        (fresh(), "r1", NOW - 1, False),
        *((settled(state), "r1", NOW, False) for state in SETTLED_STATES),
    ],
)
def test_a_message_is_held_under_its_receipt_until_its_lease_lapses(
    d: Delivery, receipt: str, now: float, held: bool
) -> None:
    assert rules.held(d, receipt, now) is held


@each("state", SETTLED_STATES)
def test_a_settled_message_cannot_be_leased(state: State) -> None:
    with pytest.raises(LeaseLost):
        leased(settled(state), now=NOW + 10_000)


def test_a_lapsed_lease_is_leased_anew_under_another_receipt() -> None:
    d = leased(leased(), receipt="r2", now=NOW + 30)
    assert (d.attempts, d.receipt) == (2, "r2")


def test_a_message_past_its_time_to_live_expires_instead_of_being_handed_out() -> None:
    d = leased(now=NOW + TTL)
    assert d.state is State.EXPIRED
    assert (d.attempts, d.receipt, d.delivered_at) == (0, None, None)
    assert d.ends_at == NOW + TTL + KEEP


def test_a_message_handed_out_max_attempts_times_is_buried_at_the_next() -> None:
    d = fresh()
    for turn in range(3):
        d = delivery_steps.lease(d, receipt=f"r{turn}", now=NOW + turn, seconds=1, max_attempts=3, keep=KEEP)
        assert d.state is State.PENDING
    dead = delivery_steps.lease(d, receipt="r3", now=NOW + 3, seconds=1, max_attempts=3, keep=KEEP)
    assert dead.state is State.DEAD
    assert (dead.attempts, dead.receipt, dead.settled_at, dead.ends_at) == (3, None, NOW + 3, NOW + 3 + KEEP)


def test_a_message_past_its_time_and_out_of_attempts_expires() -> None:
    worn = replace(fresh(), attempts=5)
    assert leased(worn, now=NOW + TTL).state is State.EXPIRED


def test_a_message_lives_at_least_as_long_as_its_lease() -> None:
    assert leased(now=NOW + TTL - 1, seconds=100).ends_at == NOW + TTL + 99
    assert leased(seconds=1).ends_at == NOW + TTL


# -- ack -----------------------------------------------------------------------------------------------------------


def test_ack_settles_for_good_and_keeps_the_record_a_while() -> None:
    d = delivery_steps.ack(leased(), receipt="r1", now=NOW + 1, keep=KEEP)
    assert (d.state, d.settled_at, d.ends_at, d.version) == (State.ACKED, NOW + 1, NOW + 1 + KEEP, 3)


def test_a_repeated_ack_changes_nothing() -> None:
    d = delivery_steps.ack(leased(), receipt="r1", now=NOW + 1, keep=KEEP)
    assert delivery_steps.ack(d, receipt="r1", now=NOW + 50, keep=KEEP) is d


def test_a_lapsed_lease_still_counts_while_nobody_else_has_claimed_the_message() -> None:
    assert delivery_steps.ack(leased(seconds=5), receipt="r1", now=NOW + 400, keep=KEEP).state is State.ACKED


Settle = Callable[[Delivery, str], Delivery]
SETTLERS: list[Settle] = [
    lambda d, receipt: delivery_steps.ack(d, receipt=receipt, now=NOW, keep=KEEP),
    lambda d, receipt: delivery_steps.nack(d, receipt=receipt, now=NOW, delay=0),
    lambda d, receipt: delivery_steps.release(d, receipt=receipt, now=NOW),
    lambda d, receipt: delivery_steps.extend(d, receipt=receipt, now=NOW, seconds=60),
]
SETTLER_NAMES = ["ack", "nack", "release", "extend"]


@each("settle", SETTLERS, ids=SETTLER_NAMES)
def test_a_receipt_of_an_earlier_lease_is_refused(settle: Settle) -> None:
    again = leased(leased(), receipt="r2", now=NOW + 30)
    with pytest.raises(LeaseLost) as refused:
        settle(again, "r1")
    assert refused.value.current == "pending"


@each("settle", SETTLERS, ids=SETTLER_NAMES)
def test_a_message_nobody_leased_accepts_no_receipt(settle: Settle) -> None:
    with pytest.raises(LeaseLost):
        settle(fresh(), "r1")


@each("settle", SETTLERS, ids=SETTLER_NAMES)
@each("give_back", SETTLERS[1:3], ids=SETTLER_NAMES[1:3])
def test_a_message_given_back_accepts_its_old_receipt_no_more(give_back: Settle, settle: Settle) -> None:
    with pytest.raises(LeaseLost):
        settle(give_back(leased(), "r1"), "r1")


@each("settle", SETTLERS, ids=SETTLER_NAMES)
@each("state", [State.EXPIRED, State.DEAD])
def test_the_receipt_of_a_message_settled_without_it_is_refused_and_says_how_it_ended(
    state: State, settle: Settle
) -> None:
    with pytest.raises(LeaseLost) as refused:
        settle(settled(state), "r1")
    assert refused.value.current == state.value


@each("settle", SETTLERS[1:], ids=SETTLER_NAMES[1:])
def test_an_acked_message_cannot_be_given_back_or_held_longer(settle: Settle) -> None:
    with pytest.raises(LeaseLost) as refused:
        settle(settled(State.ACKED), "r1")
    assert refused.value.current == "acked"


def test_an_acked_message_refuses_another_receipt() -> None:
    with pytest.raises(LeaseLost):
        delivery_steps.ack(settled(State.ACKED), receipt="r2", now=NOW, keep=KEEP)


# -- nack, release, extend -----------------------------------------------------------------------------------------


def test_nack_gives_back_after_the_delay_and_the_attempt_counts() -> None:
    d = delivery_steps.nack(leased(), receipt="r1", now=NOW + 2, delay=10)
    assert (d.state, d.attempts, d.receipt, d.visible_at) == (State.PENDING, 1, None, NOW + 12)
    assert d.delivered_at == NOW


def test_release_gives_back_at_once_and_the_attempt_does_not_count() -> None:
    d = delivery_steps.release(leased(), receipt="r1", now=NOW + 2)
    assert (d.state, d.attempts, d.receipt, d.visible_at) == (State.PENDING, 0, None, NOW + 2)


def test_a_message_released_before_anybody_saw_it_was_never_delivered() -> None:
    assert delivery_steps.release(leased(), receipt="r1", now=NOW + 2).delivered_at is None


def test_a_message_released_after_an_earlier_delivery_stays_delivered() -> None:
    d = leased(leased(), receipt="r2", now=NOW + 30)
    assert delivery_steps.release(d, receipt="r2", now=NOW + 31).delivered_at is not None


def test_extend_counts_from_now() -> None:
    assert delivery_steps.extend(leased(seconds=30), receipt="r1", now=NOW + 20, seconds=30).visible_at == NOW + 50


def test_extend_never_shortens_a_lease() -> None:
    assert delivery_steps.extend(leased(seconds=30), receipt="r1", now=NOW + 1, seconds=5).visible_at == NOW + 30


def test_an_extended_message_outlives_its_lease() -> None:
    d = delivery_steps.extend(leased(), receipt="r1", now=NOW + 1, seconds=2 * TTL)
    assert d.ends_at == d.visible_at == NOW + 1 + 2 * TTL


def test_extending_a_lapsed_lease_that_nobody_took_over_holds_it_again() -> None:
    d = delivery_steps.extend(leased(seconds=5), receipt="r1", now=NOW + 10, seconds=5)
    assert not rules.due(d, NOW + 14)


# -- bury, redrive, expire -----------------------------------------------------------------------------------------


def test_redrive_puts_a_dead_letter_back_at_its_old_place_with_all_its_attempts() -> None:
    dead = settled(State.DEAD)
    d = delivery_steps.redrive(dead, now=NOW + 100, ttl=TTL)
    assert (d.state, d.attempts, d.visible_at, d.ends_at) == (State.PENDING, 0, NOW + 100, NOW + 100 + TTL)
    assert d.sort_key == dead.sort_key
    assert d.settled_at is None
    assert rules.due(d, NOW + 100)


def test_a_dead_letter_says_that_a_lease_lapsed_only_if_there_was_one() -> None:
    assert delivery_steps.bury(leased(), now=NOW, keep=KEEP).ended is AttemptEnd.LAPSED
    for unread in (fresh(), delivery_steps.release(leased(), receipt="r1", now=NOW)):
        assert delivery_steps.bury(unread, now=NOW, keep=KEEP).ended is None
    back = delivery_steps.nack(leased(), receipt="r1", now=NOW, delay=0)
    assert delivery_steps.bury(back, now=NOW, keep=KEEP).ended is AttemptEnd.GIVEN_BACK


def test_a_task_that_is_put_back_keeps_its_deadline() -> None:
    dead = replace(settled(State.DEAD), is_task=True, has_record=True, deadline_at=NOW + 300)
    assert delivery_steps.redrive(dead, now=NOW + 100, ttl=TTL).expires_at == NOW + 300


@each("d", [fresh(), leased(), settled(State.ACKED), settled(State.EXPIRED)])
def test_only_a_dead_letter_is_put_back(d: Delivery) -> None:
    with pytest.raises(LeaseLost) as refused:
        delivery_steps.redrive(d, now=NOW, ttl=TTL)
    assert refused.value.current == d.state.value


@each("d", [fresh(), leased(), settled(State.DEAD)])
def test_expire_settles_and_takes_the_lease_away(d: Delivery) -> None:
    gone = delivery_steps.expire(d, now=NOW + 3, keep=KEEP)
    assert (gone.state, gone.receipt, gone.settled_at, gone.ends_at) == (State.EXPIRED, None, NOW + 3, NOW + 3 + KEEP)


def test_a_message_expires_with_its_time_to_live_and_not_before_its_lease() -> None:
    assert fresh().expires_at == NOW + TTL
    assert leased(now=NOW + TTL - 1, seconds=100).expires_at > NOW + TTL + 98


# -- tasks ---------------------------------------------------------------------------------------------------------


def a_task(mailbox: str = "mia") -> Delivery:
    return replace(fresh(), mailbox=mailbox, is_task=True)


def leased_task(
    d: Delivery | None = None, *, by: str = "mia", receipt: str = "r1", now: float = NOW, alone: bool = True
) -> Delivery:
    return delivery_steps.lease_task(d or a_task(), by=by, receipt=receipt, now=now, seconds=30, alone=alone)


def acked_task(d: Delivery | None = None, *, until: float = NOW + 120) -> Delivery:
    return delivery_steps.ack_task(d or leased_task(), receipt="r1", now=NOW + 1, until=until)


def test_a_task_is_leased_to_who_asked_and_never_lives_longer_for_it() -> None:
    d = leased_task(now=NOW + TTL - 1)
    assert (d.attempts, d.receipt, d.visible_at, d.delivered_at) == (1, "r1", NOW + TTL + 29, NOW + TTL - 1)
    assert (d.version, d.lease, d.expires_at, d.state) == (2, 30, NOW + TTL, State.PENDING)


@each(("mailbox", "by", "holder"), [("mia", "mia", None), (" pool 1", "mia", "mia")])
def test_whose_mailbox_it_is_need_not_be_said_and_anyone_else_is(mailbox: str, by: str, holder: str | None) -> None:
    assert leased_task(a_task(mailbox), by=by).holder == holder


@each("alone", [True, False])
def test_a_lease_says_whether_the_delivery_is_all_there_is_of_the_task(alone: bool) -> None:
    assert leased_task(alone=alone).has_record is not alone


def test_a_task_that_was_acked_stays_with_its_holder_until_then() -> None:
    d = acked_task(until=NOW + 120)
    assert (d.state, d.settled_at, d.visible_at, d.receipt, d.version) == (State.ACKED, NOW + 1, NOW + 120, "r1", 3)
    assert d.expires_at == NOW + TTL
    assert not rules.due(d, NOW + 9_999)


def test_an_ack_never_shortens_a_hold_on_a_task() -> None:
    assert acked_task(until=NOW + 2).visible_at == NOW + 30


def test_a_repeated_ack_of_a_task_changes_nothing() -> None:
    d = acked_task()
    assert delivery_steps.ack_task(d, receipt="r1", now=NOW + 50, until=NOW + 999) is d


@each("d", [a_task(), leased_task(receipt="r2"), acked_task(leased_task())])
def test_a_task_is_not_acked_under_another_receipt_than_its_claims(d: Delivery) -> None:
    with pytest.raises(LeaseLost):
        delivery_steps.ack_task(d, receipt="r3", now=NOW, until=NOW + 120)


@each("d", [leased_task(), acked_task(until=NOW + 20)], ids=["leased", "acked"])
def test_a_hold_on_a_task_is_lengthened_also_after_the_ack_and_never_shortened(d: Delivery) -> None:
    longer = delivery_steps.extend_task(d, receipt="r1", now=NOW + 10, seconds=60)
    assert (longer.visible_at, longer.version, longer.state) == (NOW + 70, d.version + 1, d.state)
    assert delivery_steps.extend_task(d, receipt="r1", now=NOW + 10, seconds=5).visible_at == NOW + 30


def test_to_hold_a_task_longer_does_not_move_its_end() -> None:
    assert delivery_steps.extend_task(leased_task(), receipt="r1", now=NOW + 1, seconds=2 * TTL).expires_at == NOW + TTL


@each("d", [a_task(), leased_task(receipt="r2"), acked_task(leased_task())])
def test_nobody_holds_a_task_longer_under_another_receipt(d: Delivery) -> None:
    with pytest.raises(LeaseLost):
        delivery_steps.extend_task(d, receipt="r3", now=NOW, seconds=60)


def test_a_task_whose_lease_was_released_has_no_holder() -> None:
    d = delivery_steps.release(leased_task(a_task(" pool 1")), receipt="r1", now=NOW + 2)
    assert (d.holder, d.receipt, d.attempts, d.delivered_at, d.visible_at) == (None, None, 0, None, NOW + 2)


def test_a_task_stays_with_a_holder_that_shows_signs_of_life_and_for_no_shorter_than_before() -> None:
    d = delivery_steps.postpone(leased_task(), NOW + 90)
    assert (d.visible_at, d.receipt, d.version) == (NOW + 90, "r1", 3)
    assert delivery_steps.postpone(d, NOW + 10).visible_at == NOW + 90


def test_a_delivery_goes_on_beside_the_record_with_the_times_of_that() -> None:
    d = delivery_steps.beside_record(leased_task(), NOW + 70, expires_at=NOW + 900)
    assert (d.has_record, d.visible_at, d.expires_at, d.receipt, d.version) == (True, NOW + 70, NOW + 900, "r1", 3)


def test_a_delivery_that_has_just_changed_gets_its_record_in_the_same_step() -> None:
    changed = delivery_steps.nack(leased_task(a_task(" pool 1")), receipt="r1", now=NOW, delay=0)
    d = delivery_steps.with_record(changed)
    assert (d.has_record, d.holder, d.version) == (True, None, changed.version)


@each("d", [leased_task(), acked_task(leased_task(a_task(" pool 1")))], ids=["leased", "acked"])
@each("keep_receipt", [True, False])
def test_a_task_that_is_taken_back_is_due_at_once_at_its_old_place(d: Delivery, keep_receipt: bool) -> None:
    back = delivery_steps.take_back(d, now=NOW + 40, keep_receipt=keep_receipt)
    assert (back.state, back.visible_at, back.settled_at, back.holder) == (State.PENDING, NOW + 40, None, None)
    assert (back.receipt, back.has_record, back.attempts) == ("r1" if keep_receipt else None, True, 1)
    assert (back.sort_key, back.version) == (d.sort_key, d.version + 1)
    assert rules.due(back, NOW + 40)


@each(
    ("d", "ends_at"),
    [
        (a_task(), NOW + TTL),
        (leased_task(), NOW + 30),
        (leased_task(now=NOW + TTL - 1), NOW + TTL),
        (acked_task(until=NOW + 120), NOW + 120),
        (leased_task(alone=False), NOW + TTL),
        (leased(), NOW + TTL),
    ],
    ids=["queued", "leased", "leased beyond its time", "acked", "beside a record", "no task"],
)
def test_somebody_looks_at_a_task_without_a_record_when_its_holders_time_is_over(d: Delivery, ends_at: float) -> None:
    assert d.ends_at == ends_at


# -- answered ------------------------------------------------------------------------------------------------------


def test_the_first_answer_to_a_message_is_the_one_that_counts() -> None:
    d = delivery_steps.answered(leased(), now=NOW + 3)
    assert (d.answered_at, d.version) == (NOW + 3, 3)
    assert delivery_steps.answered(d, now=NOW + 9) is d


# -- supersede -----------------------------------------------------------------------------------------------------


def test_an_unread_notice_is_replaced_at_its_place() -> None:
    unread = fresh(merge="file:a")
    newer = delivery_steps.supersede(unread, b"news", now=NOW + 9, ttl=TTL)
    assert newer is not None
    assert (newer.id, newer.sort_key, newer.body, newer.version) == (unread.id, unread.sort_key, b"news", 2)
    assert newer.ends_at == NOW + 9 + TTL
    assert rules.due(newer, NOW + 9)


@each(
    "d",
    [
        fresh(),
        leased(fresh(merge="file:a")),
        delivery_steps.nack(leased(fresh(merge="file:a")), receipt="r1", now=NOW, delay=0),
        delivery_steps.ack(leased(fresh(merge="file:a")), receipt="r1", now=NOW, keep=KEEP),
        delivery_steps.expire(fresh(merge="file:a"), now=NOW, keep=KEEP),
        delivery_steps.bury(fresh(merge="file:a"), now=NOW, keep=KEEP),
    ],
    ids=["no notice", "being read", "read once", "acked", "expired", "dead"],
)
def test_what_has_been_read_or_is_no_notice_is_not_replaced(d: Delivery) -> None:
    assert delivery_steps.supersede(d, b"news", now=NOW, ttl=TTL) is None


def test_a_notice_whose_lease_was_released_is_unread_again() -> None:
    d = delivery_steps.release(leased(fresh(merge="file:a")), receipt="r1", now=NOW)
    assert delivery_steps.supersede(d, b"news", now=NOW, ttl=TTL) is not None


# -- where a delivery is found -------------------------------------------------------------------------------------


@each(
    ("d", "keys"),
    [
        (fresh(), ()),
        (leased(), ()),
        (fresh(merge="file:a"), (rules.by_merge("mia", "file:a"),)),
        (leased(fresh(merge="file:a")), ()),
        (settled(State.ACKED), (SETTLED,)),
        (settled(State.EXPIRED), (SETTLED,)),
        (settled(State.DEAD), (rules.by_dead("mia"), rules.ALL_DEAD)),
        (a_task(), ("mia", " asked queued otto", " tasks queued")),
        (leased_task(), ("mia", " asked delivered otto", " tasks delivered")),
        (acked_task(), ("mia", " asked delivered otto", " tasks delivered")),
        (
            leased_task(a_task(" pool 1"), by="eve"),
            ("eve", " asked delivered otto", " tasks delivered", " claimed eve"),
        ),
        (
            delivery_steps.release(leased_task(a_task(" pool 1")), receipt="r1", now=NOW),
            (" pool 1", " asked queued otto", " tasks queued"),
        ),
        (leased_task(alone=False), ()),
        (delivery_steps.take_back(acked_task(), now=NOW, keep_receipt=True), ()),
        (
            delivery_steps.with_record(delivery_steps.bury(leased_task(), now=NOW, keep=KEEP)),
            (rules.by_dead("mia"), rules.ALL_DEAD),
        ),
    ],
    ids=[
        "fresh",
        "leased",
        "unread notice",
        "notice being read",
        "acked",
        "expired",
        "dead",
        "queued task",
        "leased task",
        "acked task",
        "leased from a pool",
        "released in a pool",
        "leased beside a record",
        "taken back",
        "dead beside a record",
    ],
)
def test_a_delivery_is_found_by_what_it_is_at_present(d: Delivery, keys: tuple[str, ...]) -> None:
    assert d.index_keys == keys


def test_a_mailbox_and_a_notice_cannot_be_named_so_that_two_keys_run_together() -> None:
    assert rules.by_merge("a", "b:c") != rules.by_merge("a:b", "c")


def test_a_delivery_lives_in_its_mailbox_and_weighs_its_body() -> None:
    assert (fresh().partition_key, fresh().weight) == ("mia", 5)


def test_each_mailbox_has_a_copy_of_its_own_and_a_repeat_makes_the_same() -> None:
    ids = [rules.copy_id("b1", mailbox) for mailbox in ("otto", "mia")]
    assert len(set(ids)) == 2
    assert ids == [rules.copy_id("b1", "otto"), rules.copy_id("b1", "mia")]


@each(
    ("id", "message"),
    [("d1", "d1"), (rules.copy_id("b1", "mia"), "b1"), (rules.copy_id("b1", "otto"), "b1:otto")],
    ids=["its own", "copy", "copy for another mailbox"],
)
def test_a_delivery_knows_the_message_it_carries(id: str, message: str) -> None:
    assert rules.message_id(replace(fresh(), id=id)) == message


# -- rank ----------------------------------------------------------------------------------------------------------


def test_the_later_urgent_message_goes_before_the_earlier_normal_one() -> None:
    levels = sorted(priority.level for priority in Priority)
    assert len(levels) == 4
    far = (2**51 - 1, 2**51, 2**51 + 31, 2**60)
    for arrival in far:
        for level, lower in pairwise(levels):
            assert rules.sort_key(level, arrival) < rules.sort_key(lower, 0), (level, arrival)
        assert rules.sort_key(levels[-1], arrival) < 2**53, arrival


def test_within_one_priority_the_earlier_goes_first() -> None:
    for arrival in (1, 1_796_000_000_000_000, 2**51 - 2):  # the second is in 2026, the last in May 2041
        assert rules.sort_key(2, arrival) < rules.sort_key(2, arrival + 1), arrival


def test_a_later_bearer_of_an_id_neither_sent_nor_read_a_message() -> None:
    sent = replace(fresh(), sender_key="k1")
    read = delivery_steps.lease(sent, receipt="r", now=NOW + 1, seconds=30, max_attempts=5, keep=KEEP, key_hash="k2")
    by_other = replace(read, holder="eve")
    for who, d, sender, reader in (
        (agent("otto", "k1", NOW - 9), sent, True, False),
        (agent("otto", "k1", NOW + 9), sent, True, False),
        (agent("otto", "k9", NOW + 9), sent, False, False),
        (agent("otto", None, NOW + 9), sent, False, False),
        (agent("mia", "k2", NOW - 9), sent, False, True),
        (agent("mia", "k2", NOW + 9), sent, False, False),  # it was not there when the message came, and never read it
        (agent("mia", "k2", NOW + 9), read, False, True),
        (agent("mia", "k9", NOW + 9), read, False, False),
        (agent("mia", None, NOW + 9), read, False, False),
        (agent("eve", "k2", NOW + 9), by_other, False, True),
        (agent("eve", "k9", NOW + 9), by_other, False, False),
    ):
        assert (rules.is_sender(d, who), rules.is_reader(d, who)) == (sender, reader), (who, d)


# -- places --------------------------------------------------------------------------------------------------------


def test_a_change_that_moves_nothing_leaves_all_that_a_store_counts_as_it_was() -> None:
    notice, task = fresh(merge="m"), a_task()
    held = leased()
    changes = [
        (fresh(), held),
        (fresh(), leased(seconds=TTL + 1)),
        (held, delivery_steps.extend(held, receipt="r1", now=NOW, seconds=60)),
        (held, delivery_steps.release(held, receipt="r1", now=NOW)),
        (held, delivery_steps.nack(held, receipt="r1", now=NOW, delay=5)),
        (held, delivery_steps.woken(held, Wake(NOW, "a", "started", None, None))),
        *((held, settled(state)) for state in SETTLED_STATES),
        (notice, leased(notice)),
        (notice, delivery_steps.supersede(notice, b"later news", now=NOW, ttl=TTL)),
        (task, leased_task()),
        (leased_task(), acked_task()),
    ]
    stay = []
    for old, new in changes:
        assert new is not None
        stay.append(rules.stays_in_place(old, new))
        if stay[-1]:
            assert (old.index_keys, old.ends_at) == (new.index_keys, new.ends_at)
            assert (old.footprint, old.weight, old.origin) == (new.footprint, new.weight, new.origin)
    assert stay == [True, False, True, True, True, *[False] * (len(changes) - 5)]
