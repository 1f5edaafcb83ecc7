"""Files for a single reader: their owner while they are read, and the moment they burn."""

from __future__ import annotations

import pytest

from clawlink.domain.limits import PART_HOLD_SECONDS, READ_HOLD_SECONDS
from clawlink.errors import BeingRead
from clawlink.relay.files.read_once import Reading, Readings

NOW = 1_000.0
SIZE = 100


@pytest.fixture
def readings() -> Readings:
    return Readings()


def over(readings: Readings, now: float) -> list[Reading]:
    """Return those that are over."""
    return [reading for reading in readings.all() if reading.over(now)]


def begin(readings: Readings, reader: str, now: float = NOW, revision: int = 1) -> Reading:
    return readings.begin("k", revision, SIZE, reader, now)


def test_nobody_else_may_read_while_a_reply_is_under_way(readings: Readings) -> None:
    begin(readings, "a")
    with pytest.raises(BeingRead) as refused:
        begin(readings, "b", NOW + 1_000)
    assert refused.value.retry_after
    assert (refused.value.retry_after or 0) >= 1


def test_a_reply_that_breaks_off_frees_the_file_and_burns_nothing(readings: Readings) -> None:
    reading = begin(readings, "a")
    reading.end(0, 60, NOW, done=False)
    assert not reading.whole
    assert begin(readings, "b") is not reading


def test_one_that_went_on_after_another_came_between_has_it_all_the_same(readings: Readings) -> None:
    """Else the file would not burn, and a second one could read what the first one has whole."""
    begin(readings, "a").end(0, 60, NOW, done=False)
    begin(readings, "b").end(0, 10, NOW, done=False)
    reading = begin(readings, "a")
    reading.end(60, SIZE, NOW, done=True)
    assert reading.whole
    with pytest.raises(BeingRead):
        begin(readings, "b")


def test_once_all_was_sent_the_file_stays_with_its_reader_and_is_over_after_a_while(readings: Readings) -> None:
    reading = begin(readings, "a")
    reading.end(0, SIZE, NOW, done=True)
    assert reading.whole
    with pytest.raises(BeingRead):
        begin(readings, "b", NOW + READ_HOLD_SECONDS + 1)
    assert over(readings, NOW + READ_HOLD_SECONDS - 1) == []
    assert over(readings, NOW + READ_HOLD_SECONDS) == [reading]


def test_the_reader_may_ask_again_and_is_given_its_time_anew(readings: Readings) -> None:
    begin(readings, "a").end(0, SIZE, NOW, done=True)
    again = begin(readings, "a", NOW + 50)
    assert over(readings, NOW + READ_HOLD_SECONDS) == []
    again.end(0, SIZE, NOW + 55, done=True)
    assert over(readings, NOW + 55 + READ_HOLD_SECONDS) == [again]


def test_parts_in_order_make_a_whole(readings: Readings) -> None:
    for start in range(0, SIZE, 25):
        reading = begin(readings, "a")
        assert not reading.whole
        reading.end(start, start + 25, NOW, done=True)
    assert reading.whole


def test_a_part_out_of_order_does_not_count(readings: Readings) -> None:
    begin(readings, "a").end(0, 25, NOW, done=True)
    reading = begin(readings, "a")
    reading.end(50, SIZE, NOW, done=True)
    assert not reading.whole


def test_between_two_parts_nobody_comes_between_for_a_while(readings: Readings) -> None:
    begin(readings, "a").end(0, 25, NOW, done=True)
    with pytest.raises(BeingRead):
        begin(readings, "b", NOW + PART_HOLD_SECONDS - 1)
    begin(readings, "b", NOW + PART_HOLD_SECONDS)


def test_a_download_that_broke_off_goes_on_where_it_was(readings: Readings) -> None:
    begin(readings, "a").end(0, 60, NOW, done=False)
    reading = begin(readings, "a", NOW + 1)
    reading.end(40, SIZE, NOW + 2, done=True)
    assert reading.whole


def test_one_that_nobody_goes_on_with_is_forgotten(readings: Readings) -> None:
    reading = begin(readings, "a")
    reading.end(0, 60, NOW, done=False)
    assert over(readings, NOW + READ_HOLD_SECONDS - 1) == []
    assert over(readings, NOW + READ_HOLD_SECONDS) == [reading]
    readings.end(reading)
    assert over(readings, NOW + READ_HOLD_SECONDS) == []


def test_a_connection_that_was_reset_has_not_read_it(readings: Readings) -> None:
    reading = begin(readings, "a")
    reading.end(0, SIZE, NOW, done=True)
    reading.lost(NOW + 1, reset=True)
    assert not reading.whole
    assert begin(readings, "b", NOW + 1) is not reading


def test_a_connection_that_was_closed_has_read_it(readings: Readings) -> None:
    reading = readings.begin("k", 1, SIZE, object(), NOW)
    reading.end(0, SIZE, NOW, done=True)
    reading.lost(NOW + 1, reset=False)
    assert over(readings, NOW + 1) == [reading]


def test_an_agent_whose_connection_was_closed_may_ask_again_with_another(readings: Readings) -> None:
    reading = begin(readings, "a")
    reading.end(0, SIZE, NOW, done=True)
    reading.lost(NOW + 1, reset=False)
    assert over(readings, NOW + READ_HOLD_SECONDS - 1) == []
    assert over(readings, NOW + READ_HOLD_SECONDS) == [reading]


def test_a_new_version_is_read_from_the_beginning(readings: Readings) -> None:
    old = begin(readings, "a")
    new = begin(readings, "b", revision=2)
    assert new is not old
    readings.end(old)  # it is no longer there, and takes nothing with it
    assert readings.of("k", "b") is new
    assert readings.of("k", "a") is None


def test_what_was_lost_with_a_reply_that_broke_off_is_not_read_by_reading_a_part_again(readings: Readings) -> None:
    begin(readings, "a").end(0, SIZE, NOW, done=False)  # all had gone out, and little of it arrived
    reading = begin(readings, "a")
    reading.sent(10, 20)
    reading.end(10, 20, NOW, done=True)
    assert not reading.complete
    assert not reading.whole
    reading = begin(readings, "a")
    reading.sent(20, SIZE)
    assert reading.complete
    reading.end(20, SIZE, NOW, done=True)
    assert reading.whole


def test_what_has_gone_out_whole_and_did_not_arrive_was_not_read(readings: Readings) -> None:
    reading = begin(readings, "a")
    reading.sent(0, SIZE)
    assert reading.complete
    reading.end(0, SIZE, NOW, done=False)
    assert not reading.complete
    assert begin(readings, "b") is not reading


def test_one_who_found_an_older_version_does_not_take_the_new_one_from_its_reader(readings: Readings) -> None:
    new = begin(readings, "a", revision=2)
    for reader in ("a", "b"):
        with pytest.raises(BeingRead):
            begin(readings, reader, revision=1)
    assert readings.of("k", "a") is new
