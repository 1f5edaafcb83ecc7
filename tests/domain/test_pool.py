"""Pools: who may claim from which, and how they find each other."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from clawlink.domain import pool as rules
from clawlink.domain.agent import Agent
from clawlink.domain.pool import POOLS, Pool, pool_for, waiting_for
from tests.tables import each

MIA = Agent(
    id="m1",
    version=1,
    name="Mia",
    capabilities=("Python", "search"),
    machine="",
    description="",
    registered_at=0.0,
    last_heartbeat=0.0,
)


@each(
    ("capabilities", "any_of", "may"),
    [
        (["python"], [], True),
        (["PYTHON "], [], True),
        (["python", "Search"], [], True),
        (["python", "go"], [], False),
        (["pytho"], [], False),
        (["go"], ["m1"], False),
        (["python"], ["m1", "e1"], True),
        (["python"], ["e1"], False),
        ([], ["m1"], True),
        ([], ["M1"], False),
        ([], ["e1"], False),
    ],
)
def test_whoever_has_all_that_a_pool_asks_for_may_claim_from_it(
    capabilities: list[str], any_of: list[str], may: bool
) -> None:
    assert rules.eligible(pool_for(capabilities, any_of), MIA) is may


def test_no_agent_claims_from_a_pool_of_an_agent_that_is_leaving() -> None:
    pool = waiting_for("gone", "Mia", left=MIA)
    assert not rules.eligible(pool, MIA)
    assert rules.eligible(replace(pool, left=None), MIA)


@each(("name", "may"), [("Mia", True), (" mIA", True), ("m1", False), ("Otto", False)])
def test_what_was_left_for_a_name_is_for_whoever_has_it_next(name: str, may: bool) -> None:
    assert rules.eligible(waiting_for("gone", name), MIA) is may


def test_what_was_left_for_a_name_stays_in_its_mailbox() -> None:
    pool = waiting_for("gone", "Mia")
    assert (pool.id, pool.partition_key) == ("gone", "gone")
    assert not rules.is_pool(pool.id)


def test_one_pool_has_one_mailbox_however_it_is_asked_for() -> None:
    one = pool_for(["Python", "search"], ["m1", "e1"])
    assert pool_for(["SEARCH", " python", "python"], ["e1", "m1", "m1"]) == one
    assert (one.capabilities, one.any_of) == (("python", "search"), ("e1", "m1"))


_DIFFERENT: list[tuple[list[str], list[str]]] = [
    (["a"], []),
    ([], ["a"]),
    (["a", "b"], []),
    (["a"], ["b"]),
    ([], ["a", "b"]),
    ([], ["A"]),
    (["b"], []),
    (["ab"], []),
    (["a b"], []),
    (["\udcff"], []),
]


def test_two_pools_never_share_a_mailbox() -> None:
    pools = [pool_for(*asked) for asked in _DIFFERENT]
    assert len({pool.id for pool in pools}) == len(pools)


def test_the_mailbox_of_a_pool_is_told_from_that_of_any_agent() -> None:
    assert all(rules.is_pool(pool_for(*asked).id) for asked in _DIFFERENT)
    assert not any(map(rules.is_pool, ["mia", "pool", "pool x", " mia", "", "registered"]))


def test_a_pool_is_new_until_work_is_put_there() -> None:
    pool = pool_for(["go"], [])
    assert (pool.version, pool.used_at) == (0, 0)
    used = pool.used(1_000.0)
    assert (used.version, used.used_at, used.id) == (1, 1_000.0, pool.id)
    assert used.used(1_001.0).version == 2


def test_a_pool_is_listed_weighs_nothing_and_never_ends_by_itself() -> None:
    pool = pool_for(["go"], [])
    assert POOLS in pool.index_keys
    assert (pool.weight, pool.ends_at, pool.partition_key) == (0, None, pool.id)


words = st.sampled_from(["Python", "go", "search", "SQL", "m1", "e1"])


@given(
    capabilities=st.lists(words, max_size=3),
    any_of=st.lists(st.sampled_from(["m1", "e1", "o1"]), max_size=3),
    has=st.lists(words, max_size=4, unique_by=str.casefold),
    id=st.sampled_from(["m1", "e1", "o1"]),
    name=st.sampled_from(["Mia", "python", "m1"]),
    waits=st.booleans(),
)
def test_every_agent_that_may_claim_from_a_pool_finds_it_under_one_of_its_keys(
    capabilities: list[str], any_of: list[str], has: list[str], id: str, name: str, waits: bool
) -> None:
    agent = replace(MIA, id=id, name=name, capabilities=tuple(has))
    pools: list[Pool] = [waiting_for("gone", "MIA")] if waits else []
    if capabilities or any_of:
        pools.append(pool_for(capabilities, any_of))
    for pool in pools:
        assert len(set(pool.index_keys)) == len(pool.index_keys)
        assert set(pool.anchors) <= set(pool.index_keys)
        if rules.eligible(pool, agent):
            assert set(pool.anchors) & set(rules.keys_of(agent))


@each(
    ("pool", "found_by"),
    [
        (pool_for(["Python", "search"], []), {"capabilities": ("python",)}),
        (pool_for(["python"], ["m1"]), {"id": "m1", "capabilities": ()}),
        (waiting_for("gone", "Mia"), {"name": "MIA", "capabilities": ()}),
    ],
    ids=["capability", "member", "name"],
)
def test_a_pool_is_found_by_one_thing_that_it_asks_for(pool: Pool, found_by: dict[str, Any]) -> None:
    stranger = replace(MIA, id="s1", name="stranger", capabilities=("cooking",))
    assert not set(pool.anchors) & set(rules.keys_of(stranger))
    assert set(pool.anchors) & set(rules.keys_of(replace(stranger, **found_by)))


def test_what_an_agent_is_called_is_never_taken_for_what_it_can_or_is() -> None:
    keys = rules.keys_of(replace(MIA, id="x", name="x", capabilities=("x",)))
    assert len(set(keys)) == 3


def test_a_pool_for_claimed_agents_knows_them_by_their_keys() -> None:
    key, other = "a" * 64, "b" * 64
    mixed = pool_for(["go"], ["m1", "e1"], {"m1": key, "e1": None})
    for pool, id, has, may in (
        (mixed, "m1", key, True),
        (mixed, "m1", other, False),
        (mixed, "m1", None, False),
        (mixed, "e1", None, True),
        (mixed, "e1", other, True),  # it may have claimed a key since
        (mixed, "o1", key, False),
        (pool_for(["go"], ["m1"], {"m1": None}), "m1", key, True),
    ):
        agent = replace(MIA, id=id, key_hash=has, capabilities=("go",))
        assert rules.eligible(pool, agent) is may, (pool.id, id, has)
    assert rules.is_pool(mixed.id)
    assert pool_for(["go"], ["m1"], {"m1": None}) == pool_for(["go"], ["m1"])
    assert mixed.footprint > pool_for(["go"], ["m1", "e1"]).footprint
