"""Files for a single reader: their owner while they are read, and the moment they burn."""

from __future__ import annotations

import pytest

from clawlink.domain.limits import PART_HOLD_SECONDS, READ_HOLD_SECONDS
from clawlink.errors import BeingRead
from clawlink.relay.files.read_once import Reading, ReadOnce

NOW = 1_000.0
SIZE = 100


@pytest.fixture
def read_once() -> ReadOnce:
    return ReadOnce()


def over(read_once: ReadOnce, now: float) -> list[Reading]:
    """Return those that are over."""
    return [reading for reading in read_once.all() if reading.over(now)]


def begin(read_once: ReadOnce, reader: str, now: float = NOW, revision: int = 1) -> Reading:
    return read_once.begin("k", revision, SIZE, reader, now)


def test_nobody_else_may_read_while_a_reply_is_under_way(read_once: ReadOnce) -> None:
    begin(read_once, "a")
    with pytest.raises(BeingRead) as refused:
        begin(read_once, "b", NOW + 1_000)
    assert refused.value.retry_after
    assert (refused.value.retry_after or 0) >= 1


def test_a_reply_that_breaks_off_frees_the_file_and_burns_nothing(read_once: ReadOnce) -> None:
    reading = begin(read_once, "a")
    reading.reply_ended(0, 60, NOW, done=False)
    assert not reading.all_read
    assert begin(read_once, "b") is not reading


def test_one_that_went_on_after_another_came_between_has_it_all_the_same(read_once: ReadOnce) -> None:
    """Else the file would not burn, and a second one could read what the first one has whole."""
    begin(read_once, "a").reply_ended(0, 60, NOW, done=False)
    begin(read_once, "b").reply_ended(0, 10, NOW, done=False)
    reading = begin(read_once, "a")
    reading.reply_ended(60, SIZE, NOW, done=True)
    assert reading.all_read
    with pytest.raises(BeingRead):
        begin(read_once, "b")


def test_once_all_was_sent_the_file_stays_with_its_reader_and_is_over_after_a_while(read_once: ReadOnce) -> None:
    reading = begin(read_once, "a")
    reading.reply_ended(0, SIZE, NOW, done=True)
    assert reading.all_read
    with pytest.raises(BeingRead):
        begin(read_once, "b", NOW + READ_HOLD_SECONDS + 1)
    assert over(read_once, NOW + READ_HOLD_SECONDS - 1) == []
    assert over(read_once, NOW + READ_HOLD_SECONDS) == [reading]


def test_the_reader_may_ask_again_and_is_given_its_time_anew(read_once: ReadOnce) -> None:
    begin(read_once, "a").reply_ended(0, SIZE, NOW, done=True)
    again = begin(read_once, "a", NOW + 50)
    assert over(read_once, NOW + READ_HOLD_SECONDS) == []
    again.reply_ended(0, SIZE, NOW + 55, done=True)
    assert over(read_once, NOW + 55 + READ_HOLD_SECONDS) == [again]


def test_parts_in_order_make_a_whole(read_once: ReadOnce) -> None:
    for start in range(0, SIZE, 25):
        reading = begin(read_once, "a")
        assert not reading.all_read
        reading.reply_ended(start, start + 25, NOW, done=True)
    assert reading.all_read


def test_a_part_out_of_order_does_not_count(read_once: ReadOnce) -> None:
    begin(read_once, "a").reply_ended(0, 25, NOW, done=True)
    reading = begin(read_once, "a")
    reading.reply_ended(50, SIZE, NOW, done=True)
    assert not reading.all_read


def test_between_two_parts_nobody_comes_between_for_a_while(read_once: ReadOnce) -> None:
    begin(read_once, "a").reply_ended(0, 25, NOW, done=True)
    with pytest.raises(BeingRead):
        begin(read_once, "b", NOW + PART_HOLD_SECONDS - 1)
    begin(read_once, "b", NOW + PART_HOLD_SECONDS)


def test_a_download_that_broke_off_goes_on_where_it_was(read_once: ReadOnce) -> None:
    begin(read_once, "a").reply_ended(0, 60, NOW, done=False)
    reading = begin(read_once, "a", NOW + 1)
    reading.reply_ended(40, SIZE, NOW + 2, done=True)
    assert reading.all_read


def test_one_that_nobody_goes_on_with_is_forgotten(read_once: ReadOnce) -> None:
    reading = begin(read_once, "a")
    reading.reply_ended(0, 60, NOW, done=False)
    assert over(read_once, NOW + READ_HOLD_SECONDS - 1) == []
    assert over(read_once, NOW + READ_HOLD_SECONDS) == [reading]
    read_once.end(reading)
    assert over(read_once, NOW + READ_HOLD_SECONDS) == []


def test_a_connection_that_was_reset_has_not_read_it(read_once: ReadOnce) -> None:
    reading = begin(read_once, "a")
    reading.reply_ended(0, SIZE, NOW, done=True)
    reading.connection_ended(NOW + 1, reset=True)
    assert not reading.all_read
    assert begin(read_once, "b", NOW + 1) is not reading


def test_a_connection_that_was_closed_has_read_it(read_once: ReadOnce) -> None:
    reading = read_once.begin("k", 1, SIZE, object(), NOW)
    reading.reply_ended(0, SIZE, NOW, done=True)
    reading.connection_ended(NOW + 1, reset=False)
    assert over(read_once, NOW + 1) == [reading]


def test_an_agent_whose_connection_was_closed_may_ask_again_with_another(read_once: ReadOnce) -> None:
    reading = begin(read_once, "a")
    reading.reply_ended(0, SIZE, NOW, done=True)
    reading.connection_ended(NOW + 1, reset=False)
    assert over(read_once, NOW + READ_HOLD_SECONDS - 1) == []
    assert over(read_once, NOW + READ_HOLD_SECONDS) == [reading]


def test_a_new_version_is_read_from_the_beginning(read_once: ReadOnce) -> None:
    old = begin(read_once, "a")
    new = begin(read_once, "b", revision=2)
    assert new is not old
    read_once.end(old)  # it is no longer there, and takes nothing with it
    assert read_once.of("k", "b") is new
    assert read_once.of("k", "a") is None


def test_what_was_lost_with_a_reply_that_broke_off_is_not_read_by_reading_a_part_again(read_once: ReadOnce) -> None:
    begin(read_once, "a").reply_ended(0, SIZE, NOW, done=False)  # all had gone out, and little of it arrived
    reading = begin(read_once, "a")
    reading.reply_sent(10, 20)
    reading.reply_ended(10, 20, NOW, done=True)
    assert not reading.all_sent
    assert not reading.all_read
    reading = begin(read_once, "a")
    reading.reply_sent(20, SIZE)
    assert reading.all_sent
    reading.reply_ended(20, SIZE, NOW, done=True)
    assert reading.all_read


def test_what_has_gone_out_whole_and_did_not_arrive_was_not_read(read_once: ReadOnce) -> None:
    reading = begin(read_once, "a")
    reading.reply_sent(0, SIZE)
    assert reading.all_sent
    reading.reply_ended(0, SIZE, NOW, done=False)
    assert not reading.all_sent
    assert begin(read_once, "b") is not reading


def test_one_who_found_an_older_version_does_not_take_the_new_one_from_its_reader(read_once: ReadOnce) -> None:
    new = begin(read_once, "a", revision=2)
    for reader in ("a", "b"):
        with pytest.raises(BeingRead):
            begin(read_once, reader, revision=1)
    assert read_once.of("k", "a") is new
