"""Shared by the tests of the client and of the door that it speaks to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clawlink.agentlink import AgentLink
from tests.conftest import Running, Start
from tests.doors.agentlink.conftest import NEW_C, ServeLink, make, serve_link
from tests.doors.agentlink.test_hostile_relay import play

__all__ = ["make", "play", "relay", "serve_link"]


@pytest.fixture
def store_kind() -> str:
    return "memory"


@pytest.fixture
async def relay(serve_link: ServeLink) -> Running:
    return await serve_link()


@pytest.fixture
def start_link(start_relay: Start, tmp_path: Path) -> Iterator[Callable[[], AgentLink]]:
    """Make a link to a relay in a process of its own, for a test that runs no event loop."""
    links: list[AgentLink] = []

    def start() -> AgentLink:
        path = tmp_path / "relay-config.json"
        path.write_text(json.dumps({"registered_instances": [NEW_C]}), encoding="utf-8")
        relay = start_relay("--agentlink-config", str(path))
        links.append(AgentLink(relay.url, NEW_C["secret"], "c", "carol"))
        return links[-1]

    yield start
    for link in links:
        link.disconnect()
