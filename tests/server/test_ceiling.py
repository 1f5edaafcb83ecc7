"""Places under the ceiling of connections, connections that make room, and late ones: pure rules."""

from __future__ import annotations

from pathlib import Path

from clawlink.domain.limits import LEAST_BODY_RATE, Limits
from clawlink.server.ceiling import HEAD_SECONDS, IDLE_SECONDS, Ceiling, Full, Seat, ceiling_of


class Connection:
    """A connection that does as it is told."""

    def __init__(self, *, busy: bool = False) -> None:
        self.busy = busy
        self.ended = ""

    def leave_if_idle(self) -> bool:
        self.ended = "" if self.busy else "room"
        return not self.busy

    def give_up_idle(self) -> None:
        self.ended = "idle"

    def give_up_head(self) -> None:
        self.ended = "head"


def seated(ceiling: Ceiling, block: str | None, *, busy: bool = False) -> tuple[Seat, Connection]:
    seat = ceiling.take(block, 0)
    assert isinstance(seat, Seat)
    seat.holder = connection = Connection(busy=busy)
    return seat, connection


def full(ceiling: Ceiling, block: str | None) -> tuple[int, str]:
    refused = ceiling.take(block, 0)
    assert isinstance(refused, Full)
    return refused.limit, refused.flag


def test_a_full_ceiling_refuses_until_a_connection_ends() -> None:
    ceiling = Ceiling(3, 2)
    first, _ = seated(ceiling, "a")
    seated(ceiling, "a")
    assert full(ceiling, "a") == (2, "--max-connections-address")
    last, _ = seated(ceiling, None)
    assert full(ceiling, "b") == full(ceiling, None) == (3, "--max-connections")
    last.leave()
    last.leave()
    assert ceiling.count == 2
    seated(ceiling, "b")
    first.leave()
    seated(ceiling, "a")
    assert ceiling.count == 3


def test_the_connection_that_has_been_idle_longest_makes_room() -> None:
    ceiling = Ceiling(4, 2)
    (a, a_ended), (b, b_ended), (c, c_ended) = seated(ceiling, "x"), seated(ceiling, "x"), seated(ceiling, "y")
    for now, seat in enumerate((c, a, b)):
        seat.idle(now)
    seated(ceiling, "x")  # the address is full, so one of its own goes
    assert (a_ended.ended, b_ended.ended, c_ended.ended) == ("room", "", "")
    seated(ceiling, "z")
    seated(ceiling, "z")  # the relay is full
    assert (b_ended.ended, c_ended.ended) == ("", "room")
    b.busy()
    assert full(ceiling, "y") == (4, "--max-connections")
    b.idle(9)
    seated(ceiling, "y")
    assert b_ended.ended == "room"
    assert ceiling.count == 4


def test_an_idle_connection_with_a_reply_under_way_makes_no_room() -> None:
    ceiling = Ceiling(2, 2)
    (a, a_ended), (b, b_ended) = seated(ceiling, None, busy=True), seated(ceiling, None)
    a.idle(1)
    b.idle(2)
    seated(ceiling, None)
    assert (a_ended.ended, b_ended.ended) == ("", "room")


def test_busy_connections_do_not_hide_an_idle_one() -> None:
    ceiling = Ceiling(900, 900)
    for _ in range(899):
        seat, _ = seated(ceiling, None, busy=True)
        seat.idle(1)
    idle, ended = seated(ceiling, None)
    idle.idle(2)
    assert full(ceiling, None)[0] == 900  # it asks some at a time, and others the next time
    seated(ceiling, None)
    assert ended.ended == "room"


def test_the_time_of_an_idle_connection_begins_anew_with_each_reply() -> None:
    ceiling = Ceiling(9, 9)
    (one, one_ended), (other, other_ended) = seated(ceiling, None), seated(ceiling, None)
    for tenth in range(100):  # as a connection does it: not for each reply
        if tenth / 10 >= one.placed_until:
            one.idle(tenth / 10)
        if tenth == 50:
            other.idle(5)
    for now, told in (
        (5 + IDLE_SECONDS, ("", "")),
        (7 + IDLE_SECONDS, ("", "idle")),
        (9.9 + IDLE_SECONDS, ("", "idle")),
        (11 + IDLE_SECONDS, ("idle", "idle")),
    ):
        assert not ceiling.tend(now)
        assert (one_ended.ended, other_ended.ended) == told, now


def test_late_connections_end() -> None:
    ceiling = Ceiling(9, 9)
    (head, head_ended), (idle, idle_ended), (busy, busy_ended) = (seated(ceiling, "a") for _ in range(3))
    head.awaits_head(0)
    head.awaits_head(HEAD_SECONDS - 1)  # another byte of the same head
    idle.awaits_head(0)
    idle.busy()
    idle.idle(1)
    busy.awaits_head(0)
    busy.busy()
    for now, told in (
        (HEAD_SECONDS - 0.1, ("", "", "")),
        (HEAD_SECONDS, ("head", "", "")),
        (IDLE_SECONDS + 1, ("head", "", "")),
        (IDLE_SECONDS + 2, ("head", "idle", "")),
        (1e9, ("head", "idle", "")),
    ):
        assert not ceiling.tend(now)
        assert (head_ended.ended, idle_ended.ended, busy_ended.ended) == told, now


def test_many_late_connections_end_in_turns() -> None:
    ceiling = Ceiling(999, 999)
    connections = []
    for _ in range(100):
        seat, connection = seated(ceiling, None)
        seat.awaits_head(0)
        connections.append(connection)
    assert ceiling.tend(HEAD_SECONDS)
    assert not ceiling.tend(HEAD_SECONDS)
    assert {connection.ended for connection in connections} == {"head"}


def test_nothing_stays_of_connections_that_have_ended() -> None:
    ceiling = Ceiling(9, 9)
    for state in ("awaits_head", "idle"):
        seat, _ = seated(ceiling, "a")
        getattr(seat, state)(1)
        seat.leave()
        getattr(seat, state)(2)
    assert ceiling.count == 0
    assert not any(table for table in vars(ceiling).values() if isinstance(table, dict))


def test_the_ceiling_stays_below_the_open_files() -> None:
    for connections, of_address, files, most, most_address in (
        (60_000, 15_000, None, 60_000, 15_000),  # Windows
        (60_000, 15_000, 65_536, 60_000, 15_000),
        (60_000, 15_000, 20_000, 18_750, 14_063),
        (60_000, 15_000, 1024, 960, 720),
        (60_000, 15_000, 256, 192, 192),
        (60_000, 15_000, 10, 1, 1),
        (100, 10, 65_536, 100, 10),
        (100, 500, None, 100, 100),
    ):
        got = ceiling_of(connections, of_address, files)
        assert (got.most, got.most_address) == (most, most_address), (connections, of_address, files)


def test_the_pages_have_the_numbers() -> None:
    pages = Path(__file__).parents[2] / "references"
    operations, protocol = (
        " ".join((pages / name).read_text(encoding="utf-8").split()) for name in ("operations.md", "protocol.md")
    )
    for page, words in (
        (operations, f"`--max-connections` ({Limits.max_connections:,})"),
        (operations, f"`--max-connections-address` ({Limits.max_connections_address:,})"),
        (operations, f"| {HEAD_SECONDS:.0f} s, from its first byte"),
        (operations, f"| without a request | {IDLE_SECONDS:.0f} s |"),
        (protocol, f"All of a request's head comes within {HEAD_SECONDS:.0f} s"),
        (protocol, f"A connection without a request ends after {IDLE_SECONDS:.0f} s"),
        (protocol, f"less than {LEAST_BODY_RATE} bytes a second for 60 s"),
    ):
        assert words in page, words
