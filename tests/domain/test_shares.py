"""Fair shares: a lone user gets most of a limit, and whoever uses less than the others still gets in."""

from __future__ import annotations

from collections import Counter
from random import Random

from clawlink.domain.shares import Level, Share, Used, used_up

LIMIT = 10_000


class Filled:
    """A limit that is filled piece by piece, by agents of addresses."""

    def __init__(self, limit: int = LIMIT, percent: int = 90) -> None:
        self.limit = limit
        self.percent = percent
        self.agents: Counter[tuple[str | None, str]] = Counter()

    def of(self, address: str | None) -> int:
        return sum(count for (where, _), count in self.agents.items() if where == address)

    def add(self, address: str | None, agent: str, size: int = 1) -> Share | None:
        """Add a piece if it may come; return the share that it would pass."""
        used = Used(self.agents.total(), None if address is None else self.of(address), self.agents[address, agent])
        assert used.by_all <= self.limit
        over = used_up(self.limit, used, size, self.percent)
        if over is None and used.by_all + size <= self.limit:
            self.agents[address, agent] += size
        return over

    def fill(self, address: str | None, agent: str, size: int = 1) -> int:
        """Add pieces until one is refused; return how much the agent has."""
        for _ in range(2 * self.limit):
            before = self.agents[address, agent]
            if self.add(address, agent, size) is not None or self.agents[address, agent] == before:
                break
        return self.agents[address, agent]


def test_a_lone_agent_reaches_the_documented_part_of_a_limit() -> None:
    for address, part in (("here", 0.81), (None, 0.9)):
        for size in (1, 100):
            assert abs(Filled().fill(address, "a", size) / LIMIT - part) < 0.02, (address, size)


def test_a_lone_address_reaches_nine_tenths() -> None:
    filled = Filled()
    for agent in map(str, range(50)):
        filled.fill("here", agent)
    assert abs(filled.of("here") / LIMIT - 0.9) < 0.001


def test_a_small_limit_is_of_use_to_one() -> None:
    for limit, most in ((1, 1), (2, 2), (9, 9), (10, 9), (20, 17)):
        assert Filled(limit).fill("here", "a") == most, limit


def test_one_piece_may_come_from_whoever_holds_nothing() -> None:
    filled = Filled(1000)
    assert filled.add("here", "a", 990) is None
    assert filled.agents.total() == 990
    assert filled.add("here", "b", 5) is not None  # its address has more than its share
    assert filled.add("other", "c", 10) is None
    assert filled.agents.total() == 1000


def test_a_newcomer_of_another_address_gets_in_after_a_greedy_one() -> None:
    filled = Filled()
    for puppet in map(str, range(100)):
        filled.fill("greedy", puppet)
    assert filled.add("other", "honest") is None
    assert filled.fill("other", "honest") > LIMIT // 13
    over = filled.add("greedy", "one more")
    assert over is not None
    assert over.level is Level.ADDRESS
    assert over.used == filled.of("greedy") >= over.most


def test_a_newcomer_of_the_same_address_gets_in_after_a_greedy_agent() -> None:
    for address in ("here", None):
        filled = Filled()
        had = filled.fill(address, "greedy")
        over = filled.add(address, "greedy")
        assert over is not None
        assert (over.level, over.used) == (Level.AGENT, had), address
        assert filled.add(address, "honest") is None
        assert filled.fill(address, "honest") > LIMIT // 16, address


def test_ten_agents_of_one_machine_are_not_in_each_others_way_until_its_share_is_full() -> None:
    filled = Filled()
    for _ in range(LIMIT // 10 * 3 // 4):
        for agent in map(str, range(10)):
            assert filled.add("here", agent) is None
    assert filled.of("here") == LIMIT * 3 // 4


def test_greedy_addresses_share_alike_and_leave_the_rest() -> None:
    for count in (2, 3, 10):
        filled = Filled()
        for piece in range(LIMIT):
            for n in range(count):
                filled.add(str(n), f"{n}.{piece % 20}")
        for n in range(count):
            assert abs(filled.of(str(n)) - 9 * LIMIT / (9 * count + 1)) < 50, (count, n)


def test_whoever_uses_less_is_never_refused_before_one_who_uses_more() -> None:
    random = Random(11)
    for _ in range(300):
        filled = Filled(random.choice([5, 20, 200]))
        for _ in range(random.randrange(300)):
            filled.add(random.choice(["x", "y", "z"]), random.choice("abc"))
        total = filled.agents.total()
        refused = [a for a in "xyz" if used_up(filled.limit, Used(total, filled.of(a), 0), 1, filled.percent)]
        let_in = [a for a in "xyz" if a not in refused]
        assert all(filled.of(a) > filled.of(b) for a in refused for b in let_in)


def test_hundred_percent_leaves_the_limit_alone() -> None:
    filled = Filled(100, percent=100)
    assert filled.fill("here", "a") == 100
    assert filled.fill("there", "b") == 0
