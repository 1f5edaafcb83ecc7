"""The door is reached through the proxies of references/operations.md."""

from __future__ import annotations

import aiohttp
import pytest

from tests.proxy.conftest import authority, behind, session
from tests.websockets import connected

__all__ = ["authority", "behind", "session"]


@pytest.fixture
def door_flags() -> tuple[str, ...]:
    return ("--agentlink-self-register",)


async def test_the_door_is_reached(session: aiohttp.ClientSession) -> None:
    async with connected(session, "/agentlink") as socket:
        await socket.send(type="message", content="not registered")
        assert "register" in (await socket.frame())["message"]
