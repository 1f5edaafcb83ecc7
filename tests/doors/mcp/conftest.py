"""Shared by the tests of the door for MCP: a relay with two agents, and the official SDK as the client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import Running, Serve

if TYPE_CHECKING:
    from mcp.client.client import Client

ERAS = ("legacy", "auto")
"""The official client's words for the era with ``initialize``, and for the newest that both sides know."""


class Model:
    """A client of MCP, as a model's program uses it. ``mail`` is what the last result told of messages that wait."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.mail: dict[str, Any] = {}

    async def call(self, tool: str, **arguments: Any) -> Any:
        """Call a tool that must not fail, and return its result."""
        return self._read(await self.client.call_tool(tool, arguments), failed=False)

    async def refused(self, tool: str, **arguments: Any) -> Any:
        """Call a tool that must fail, and return its result."""
        return self._read(await self.client.call_tool(tool, arguments), failed=True)

    def _read(self, result: Any, *, failed: bool) -> Any:
        block, *mail = result.content
        assert bool(result.is_error) == failed, block.text
        self.mail = json.loads(mail[0].text) if mail else {}
        return json.loads(block.text)


Connect = Callable[..., AbstractAsyncContextManager[Model]]


@pytest.fixture
def connect() -> Connect:
    """Connect the official client: ``async with connect(relay, era, "a") as model``."""
    import httpx2  # with the client a second of imports, which only the process of these tests needs
    from mcp.client.client import Client
    from mcp.client.streamable_http import streamable_http_client

    @asynccontextmanager
    async def connect(relay: Running, era: str, agent_id: str = "", **headers: str) -> AsyncIterator[Model]:
        given = {**({"ClawLink-Agent": agent_id} if agent_id else {}), **headers}
        async with httpx2.AsyncClient(headers=given, timeout=60, verify=False, trust_env=False) as http:
            transport = streamable_http_client(relay.url + "/mcp", http_client=http)
            async with Client(transport, mode=era) as client:
                yield Model(client)

    return connect


@pytest.fixture
async def pair(serve: Serve) -> Running:
    """A relay with two agents: ``a``, who is Ann, and ``b``, who is Bob and writes code."""
    relay = await serve()
    await relay.register("Ann", agent_id="a")
    await relay.register("Bob", agent_id="b", capabilities=["code"])
    return relay
