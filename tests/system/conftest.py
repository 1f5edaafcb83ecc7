"""Relays in processes of their own, asked as the in-process ones are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import aiohttp
import pytest

from clawlink.config import ServerConfig
from clawlink.server.app import App
from tests.conftest import RelayProcess, Running, Start
from tests.system.raw import Connection, connect
from tests.waiting import PATIENCE


@dataclass
class Live(Running):
    """A relay in a process of its own, and a session to ask it with."""

    relay: RelayProcess


Starting = Callable[..., Live]


@pytest.fixture
async def start_live(start_relay: Start) -> AsyncIterator[Starting]:
    """Start relays as processes: ``start_live("--max-agents", "5")``. The rate limits are off."""
    sessions: list[aiohttp.ClientSession] = []

    def start(*flags: str) -> Live:
        relay = start_relay("--rate-agent", "0", "--rate-pair", "0", *flags)
        session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=PATIENCE), connector=aiohttp.TCPConnector(limit=0)
        )
        sessions.append(session)
        return Live(relay.url, App(ServerConfig()), session, relay)

    yield start
    for session in sessions:
        await session.close()


Dial = Callable[..., Awaitable[Connection]]


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    """Open connections that are closed when the test ends: ``await dial(relay.url)``."""
    opened: list[Connection] = []

    async def open(url: str, *, receive_buffer: int | None = None) -> Connection:
        opened.append(await connect(url, receive_buffer=receive_buffer))
        return opened[-1]

    yield open
    for connection in opened:
        connection.close()
