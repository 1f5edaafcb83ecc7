"""Links against a real relay, each with a folder of its own for who it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from clawlink import Link
from clawlink.client.sync import Client
from clawlink.domain.limits import Limits
from tests.client.proxy import Proxy
from tests.client.restartable import Restartable

MakeLink = Callable[..., Link]


@pytest.fixture
def restartable() -> Iterator[Restartable]:
    """A relay of the test's own, without limits of pace, and patient with what is handed out again and again."""
    relay = Restartable(Limits(rate_agent=0, rate_pair=0, max_attempts=1000))
    yield relay
    relay.close()


@pytest.fixture
def proxy(restartable: Restartable) -> Iterator[Proxy]:
    """A proxy before the relay."""
    made = Proxy(restartable.url)
    yield made
    made.close()


@pytest.fixture
def make_link(restartable: Restartable, tmp_path: Path) -> MakeLink:
    """Make a link that is not running yet: ``make_link("worker", concurrency=2)``."""

    def make(name: str, **options: Any) -> Link:
        return Link(name, **{"relay": restartable.url, "identities": tmp_path / "identities", **options})

    return make


@pytest.fixture
def running() -> Iterator[Callable[[Link], Link]]:
    """Run links in threads until the test ends: ``running(link)``."""
    with ExitStack() as stack:
        yield stack.enter_context


@pytest.fixture
def boss(restartable: Restartable) -> Iterator[Client]:
    """An agent that delegates and looks on, by plain calls."""
    with Client(restartable.url) as client:
        client.register("boss", subscriptions=[])
        yield client
