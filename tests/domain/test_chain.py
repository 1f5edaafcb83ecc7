"""Chains: how long one piece of work may lead to another, and when agents go in circles."""

from __future__ import annotations

from itertools import cycle, islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawlink.domain import chain as rules
from clawlink.domain.chain import Chain
from clawlink.errors import LoopStopped
from tests.tables import each

HOPS = 16
CYCLES = 3


def follow(cause: Chain, sender: str, to: str | None, *, hops: int = HOPS, cycles: int = CYCLES) -> Chain:
    return rules.follow(cause, task="t", sender=sender, to=to, max_hops=hops, max_cycles=cycles)


def walk(agents: list[str], *, hops: int = HOPS, cycles: int = CYCLES) -> tuple[int, LoopStopped]:
    """Let each agent pass the work to the next, for ever; return how many messages went through, and why no more."""
    chain = rules.first(agents[0])
    path = cycle([*agents[1:], agents[0]])
    sender = next(path)
    for sent in range(1, 1_000):
        to = next(path)
        try:
            chain = follow(chain, sender, to, hops=hops, cycles=cycles)
        except LoopStopped as stopped:
            return sent, stopped
        sender = to
    raise AssertionError("nobody stopped them")


def test_what_follows_from_nothing_is_no_hop_and_names_its_author() -> None:
    assert rules.first("a") == Chain(None, 0, ("a",))


def test_what_follows_names_the_task_and_all_before_it() -> None:
    chain = follow(follow(rules.first("a"), "b", "c"), "c", "d")
    assert chain == Chain("t", 2, ("a", "b", "c"))


def test_a_chain_of_different_agents_goes_as_far_as_the_hops_and_no_further() -> None:
    agents = [f"agent{n}" for n in range(40)]
    sent, stopped = walk(agents)
    assert sent == HOPS + 1  # the first message is no hop
    assert (stopped.limit, stopped.actual) == (HOPS, HOPS + 1)
    assert stopped.current == agents[: HOPS + 3]


@each("hops", [0, 1, 5])
def test_how_far_a_chain_goes_is_a_setting(hops: int) -> None:
    assert walk([f"agent{n}" for n in range(40)], hops=hops)[0] == hops + 1


@each("size", [1, 2, 3, 4, 5])
def test_agents_that_go_in_a_circle_of_any_size_are_stopped_when_a_step_comes_once_too_often(size: int) -> None:
    agents = [f"agent{n}" for n in range(size)]
    sent, stopped = walk(agents, hops=1_000)
    assert sent == CYCLES * size
    assert (stopped.limit, stopped.actual) == (CYCLES, CYCLES + 1)
    path: list[str] = stopped.current
    assert path == list(islice(cycle(agents), CYCLES * size + 2))
    steps = list(pairwise(path))
    assert steps.count(steps[-1]) == CYCLES + 1


@each("cycles", [1, 2, 7])
def test_how_often_they_may_go_round_is_a_setting(cycles: int) -> None:
    assert walk(["a", "b"], hops=1_000, cycles=cycles)[0] == 2 * cycles


@each(("hops", "cycles"), [(2, 100), (100, 1)])
def test_whoever_is_stopped_is_told_the_whole_chain_and_what_to_do(hops: int, cycles: int) -> None:
    _, stopped = walk(["ann", "bob", "cy"], hops=hops, cycles=cycles)
    assert " -> ".join(stopped.current) in stopped.message
    assert "ann -> bob -> cy" in stopped.message
    assert "let a person decide" in stopped.message
    assert not stopped.retryable


def test_what_goes_to_nobody_in_particular_is_counted_by_who_wrote_it() -> None:
    chain = rules.first("a")
    for _ in range(CYCLES):
        chain = follow(chain, "a", None)
    with pytest.raises(LoopStopped) as stopped:
        follow(chain, "a", None)
    assert stopped.value.current == ["a"] * (CYCLES + 2)


def test_two_agents_that_each_ask_many_others_go_in_no_circle() -> None:
    chain = rules.first("a")
    for n in range(6):
        chain = follow(chain, f"helper{n}", "a")
        chain = follow(chain, "a", f"helper{n + 1}")
    assert chain.hops == 12


@given(st.lists(st.sampled_from("abcde"), min_size=2, max_size=40))
def test_no_chain_that_was_let_through_is_too_long_or_repeats_a_step_too_often(agents: list[str]) -> None:
    chain = rules.first(agents[0])
    for sender, to in pairwise(agents[1:]):
        try:
            chain = follow(chain, sender, to)
        except LoopStopped:
            break
    assert chain.hops <= HOPS
    assert chain.hops == len(chain.agents) - 1
    steps = list(pairwise(chain.agents))
    assert all(steps.count(step) <= CYCLES for step in steps)
