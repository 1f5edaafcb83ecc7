"""Broadcasts: their record, and when they are done."""

from __future__ import annotations

from clawlink.domain.broadcast import Broadcast
from clawlink.domain.record import SETTLED

TOLD = Broadcast("b1", 1, "mia", b"news", ("otto", "eve"), 1_000.0, 2_000.0)


def test_a_broadcast_is_not_done_before_every_recipient_was_tried() -> None:
    assert TOLD.refused is None


def test_a_broadcast_that_is_done_tells_how_many_had_no_room() -> None:
    assert (TOLD.done(0).refused, TOLD.done(2).refused, TOLD.done(2).version) == (0, 2, 2)


def test_a_broadcast_is_its_own_home_and_weighs_what_it_keeps() -> None:
    assert TOLD.home == "broadcast:b1"
    assert TOLD.index_keys == (SETTLED,)
    assert TOLD.weight == len(b"news") + len("otto") + len("eve")
