"""Portals on loopback, and what other people have."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from clawlink.doors.portal.settings import Settings
from tests.conftest import Running, Serve
from tests.doors.portal.old_peer import OldBridge, OldPortal
from tests.ports import free_port
from tests.waiting import PATIENCE, eventually

OWNER = "ap2p_the-key-of-an-owner-for-tests-000000000000"
PASSWORD = "the password"


@dataclass
class Own:
    """A portal in this process."""

    relay: Running
    key: str = OWNER

    @property
    def url(self) -> str:
        return self.relay.url

    async def ask(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, **options: Any
    ) -> tuple[int, Any]:
        """Ask a route as its owner, or with another key; an empty one is none."""
        given = self.key if key is None else key
        headers = {"Authorization": f"Bearer {given}"} if given else {}
        return await self.relay.ask(method, path, json=body, headers=headers, **options)

    async def well(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """Ask a route, which has to answer 200."""
        status, answer = await self.ask(method, path, body, **options)
        assert status == 200, (path, status, answer)
        return answer

    async def contact(self, url: str) -> dict[str, Any]:
        """Return the contact of this address."""
        contacts = (await self.well("GET", "/api/contacts"))["contacts"]
        (found,) = [one for one in contacts if one["portal_url"].rstrip("/") == url.rstrip("/")]
        contact: dict[str, Any] = found
        return contact

    async def befriend(self, url: str, **names: str) -> str:
        """Add a contact, and return the key for it."""
        await self.well("POST", "/api/contacts", {"portal_url": url, **names})
        return str((await self.contact(url))["SHARED_KEY"])

    async def state(self, number: int, *states: str) -> dict[str, Any]:
        """Wait until a message is in one of these states, and return what the portal tells of it."""

        async def ask() -> Any:
            told = await self.well("GET", f"/api/portal/messages/{number}")
            return told if told["state"] in states else None

        told: dict[str, Any] = await eventually(ask)
        return told


Portals = Callable[..., Awaitable[Own]]
Peers = Callable[..., Awaitable[OldPortal]]
Bridges = Callable[..., Awaitable[OldBridge]]


@pytest.fixture
async def portals(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Portals:
    """Start portals: ``await portals(key=..., limits={...}, portal_guests=3)``."""

    async def start(
        *, key: str = OWNER, limits: dict[str, Any] | None = None, token: str = "t", **settings: Any
    ) -> Own:
        monkeypatch.setenv("AGENTP2P_API_KEY", key)
        monkeypatch.setenv("CLAWLINK_PORTAL_PASSWORD", PASSWORD)
        port = free_port()
        settings = {"url": f"http://127.0.0.1:{port}", **settings}
        return Own(await serve(port=port, token=token, limits=limits, doors={"portal": Settings(**settings)}), key)

    return start


@pytest.fixture
async def old_portals() -> AsyncIterator[Peers]:
    """Start portals of Agent P2P: ``await old_portals("0.9")``."""
    started: list[OldPortal] = []

    async def start(release: str, **options: Any) -> OldPortal:
        peer = OldPortal(release)
        started.append(peer)
        await peer.start(**options)
        return peer

    yield start
    for peer in started:
        await peer.stop()


@pytest.fixture
async def bridges(portals: Portals) -> AsyncIterator[Bridges]:
    """Connect bridges of Agent P2P: ``await bridges(portal)``."""
    connected: list[OldBridge] = []
    sessions: list[aiohttp.ClientSession] = []

    async def connect(portal: Own, *, key: str | None = None, acks: bool = True) -> OldBridge:
        sessions.append(aiohttp.ClientSession())
        bridge = OldBridge(acks=acks)
        connected.append(bridge)
        await bridge.connect(sessions[-1], portal.url, key or portal.key)
        return bridge

    yield connect
    for bridge in connected:
        await bridge.close()
    for session in sessions:
        await session.close()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Ask portals in processes of their own."""
    connector = aiohttp.TCPConnector(force_close=True)  # the other end is killed
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session:
        yield session
