"""Fair shares: a lone user gets most of a limit, and whoever uses less than the others gets in, also at its end."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from clawlink.domain.shares import Level, Share, Used, bound, part, used_up

LIMIT = 10_000


class Filled:
    """A limit that is filled piece by piece, by agents of addresses."""

    def __init__(self, limit: int = LIMIT, percent: int = 90) -> None:
        self.limit = limit
        self.percent = percent
        self.agents: Counter[tuple[str | None, str]] = Counter()

    @property
    def total(self) -> int:
        return self.agents.total()

    def of(self, address: str | None) -> int:
        return sum(count for (where, _), count in self.agents.items() if where == address)

    def used(self, address: str | None, agent: str) -> Used:
        return Used(self.total, self.of(address), self.agents[address, agent], address is not None)

    def add(self, address: str | None, agent: str, size: int = 1) -> Share | None:
        """Add a piece if it may come; return the share that it would pass."""
        over = used_up(self.limit, self.used(address, agent), size, self.percent)
        if over is None:
            self.agents[address, agent] += size
        return over

    def fill(self, address: str | None, agent: str, size: int = 1) -> int:
        """Add pieces until one is refused; return how much the agent has."""
        while self.add(address, agent, size) is None:
            pass
        return self.agents[address, agent]


def test_a_lone_agent_reaches_the_documented_part_of_a_limit() -> None:
    for address, most in (("here", 0.709), (None, 0.788)):
        for size in (1, 100):
            assert abs(Filled().fill(address, "a", size) / LIMIT - most) < 0.02, (address, size)


def test_a_lone_address_never_holds_more_than_nine_tenths() -> None:
    for address, most in (("here", 0.9), (None, 1.0)):
        filled = Filled()
        for agent in map(str, range(600)):
            filled.fill(address, agent)
        assert filled.of(address) == most * LIMIT, address


def test_a_small_limit_is_of_use_to_one() -> None:
    for limit, most in ((1, 1), (2, 2), (7, 7), (8, 7), (10, 8), (20, 15)):
        assert Filled(limit).fill("here", "a") == most, limit


def test_one_piece_of_any_size_may_come_from_a_holder_of_nothing_while_it_fits() -> None:
    filled = Filled(1000)
    assert filled.add("here", "a", 790) is None
    assert filled.add("here", "b", 1) is None
    assert filled.add("here", "c", 5) is not None  # more than 1/500 of the last eighth of what its address may have
    assert filled.add("other", "d", 210) is not None
    assert filled.add("other", "d", 209) is None
    assert filled.add("late", "e", 3) is not None
    assert filled.add("late", "e", 2) is None  # 1/500 of the limit
    assert filled.total == 1002


def test_newcomers_get_their_part_of_a_limit_that_others_have_filled() -> None:
    for addresses, puppets in ((1, 1), (1, 100), (5, 1), (5, 40), (20, 10), (50, 3), (400, 1)):
        filled = Filled()
        for address in range(addresses):
            for puppet in range(puppets):
                filled.fill(f"bad{address}", f"{puppet}")
        assert filled.total >= 0.7 * LIMIT
        assert filled.total <= LIMIT + addresses * LIMIT // 500, (addresses, puppets)
        before = filled.total
        assert filled.fill("good", "honest") >= LIMIT // 500 * 0.7, (addresses, puppets)
        assert filled.add("good", "fellow") is None, (addresses, puppets)
        over = filled.add("bad0", "0")
        assert over is not None
        assert over.level is not Level.ALL
        assert before >= 0.99 * LIMIT or addresses < 5


def test_all_together_never_hold_more_than_twice_the_limit() -> None:
    full = bound(LIMIT)
    assert used_up(LIMIT, Used(full - 1, 0, 0), 1, 90) is None
    assert used_up(LIMIT, Used(full, 0, 0), 1, 90) == Share(Level.ALL, full, full)
    assert used_up(LIMIT, Used(full - 1, 0, 0), 1, 90, most_of_all=full - 1) == Share(Level.ALL, full - 1, full - 1)


def test_an_agent_gets_in_although_fellows_have_filled_the_share_of_their_address() -> None:
    for address in ("here", None):
        for puppets in (1, 2, 10, 100, 300):
            filled = Filled()
            for puppet in range(puppets):
                filled.fill(address, f"{puppet}")
            assert filled.fill(address, "honest") >= 3, (address, puppets)


def test_ten_agents_of_one_machine_are_not_in_each_others_way_until_its_share_is_full() -> None:
    filled = Filled()
    for _ in range(LIMIT * 7 // 100):
        for agent in map(str, range(10)):
            assert filled.add("here", agent) is None
    assert filled.of("here") == LIMIT * 7 // 10


def test_greedy_addresses_share_alike() -> None:
    for count in (2, 3, 10):
        filled = Filled()
        for piece in range(LIMIT):
            for n in range(count):
                filled.add(str(n), f"{n}.{piece % 20}")
        for n in range(count):
            assert 0.9 < filled.of(str(n)) / (LIMIT * 9 / (9 * count + 1)) < 1.01, (count, n)


def test_whoever_uses_less_is_never_refused_before_one_who_uses_more() -> None:
    random = Random(11)
    for _ in range(300):
        filled = Filled(random.choice([5, 20, 200]))
        for _ in range(random.randrange(300)):
            filled.add(random.choice(["x", "y", "z"]), random.choice("abc"))
        for a in "xyz":
            for b in "xyz":
                if filled.of(a) < filled.of(b) and used_up(filled.limit, filled.used(a, "new"), 1, 90) is not None:
                    over = used_up(filled.limit, filled.used(b, "new"), 1, 90)
                    assert over is not None, (a, b, filled.agents)


_STEP = st.tuples(st.integers(0, 7), st.integers(0, 3), st.integers(1, 40), st.booleans())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(_STEP, max_size=120),
    st.sampled_from([1, 3, 10, 100, 1000, 5000]),
    st.sampled_from([1, 10, 50, 90, 99]),
    st.booleans(),
)
@example([(a, b, 40, True) for a in range(8) for b in range(4) for _ in range(4)], 100, 99, False)
def test_however_holders_come_and_go(
    steps: list[tuple[int, int, int, bool]], limit: int, percent: int, some_unknown: bool
) -> None:
    """Every arrival fills what it may; every departure takes all of one agent, so that shares grow again."""
    filled = Filled(limit, percent)
    ever: set[str | None] = set()
    for number, name, size, comes in steps:
        address = None if some_unknown and not number else f"{number}"
        agent = f"{name}"
        if not comes:
            filled.agents.pop((address, agent), None)
            continue
        ever.add(address)
        for piece in (size, 1):
            while filled.add(address, agent, piece) is None:
                pass
        assert filled.total <= bound(limit)
        assert filled.total <= limit + len(ever) * -(-limit // 500)
        used = filled.used(address, agent)
        whole = part(limit, used.by_all - used.by_address, percent if used.known else 100, limit)
        alone = part(limit, 0, percent if used.known else 100, limit)
        assert used.by_address <= max(alone, *(size for *_, size, _ in steps))
        if filled.total < bound(limit):  # it has all that it may have
            mine = part(whole - whole // 8, used.by_address - used.by_agent, percent, whole // 8)
            assert used.by_agent >= mine or used.by_address >= whole
            newcomer = filled.used("newcomer", "honest")
            assert used_up(limit, newcomer, 1, percent) is None
            room = min(part(limit, filled.total, percent, limit), bound(limit) - filled.total)
            theirs = part(room - room // 8, 0, percent, room // 8)
            assert used_up(limit, newcomer, theirs, percent) is None
