"""Shared by the suites of the routes. A promise of the relay is tested on both stores: ``both_stores`` marks it."""

from __future__ import annotations

import pytest

from tests.conftest import UNPACED, Running, Serve, both_stores
from tests.system.conftest import dial as dial
from tests.system.raw import Clock


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of exact counts, which an index may be late to give, asks for ``memory`` alone."""
    both_stores(metafunc)


@pytest.fixture
def clock() -> Clock:
    """A clock that can be put forward."""
    return Clock()


@pytest.fixture
async def relay(serve: Serve, clock: Clock) -> Running:
    """A relay without agents."""
    return await serve(clock=clock)


@pytest.fixture
async def pair(relay: Running) -> Running:
    """A relay with two agents: ``a``, who is Ann, and ``b``, who is Bob."""
    return await _with_two(relay)


@pytest.fixture
async def unpaced_pair(serve: Serve, clock: Clock) -> Running:
    """As ``pair``, and either may send as fast as it can."""
    return await _with_two(await serve(clock=clock, limits=UNPACED))


async def _with_two(relay: Running) -> Running:
    await relay.register("Ann", agent_id="a")
    await relay.register("Bob", agent_id="b")
    return relay
