"""Relays that serve Agent Link, and clients of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from clawlink.agentlink import AgentLink
from clawlink.doors.agentlink import Settings
from clawlink.doors.agentlink.server.door import AgentLinkServer
from clawlink.relay.mailbox import consumer
from tests.conftest import Running, Serve
from tests.doors.agentlink.old_client import OldClient
from tests.doors.agentlink.signed_client import SignedClient
from tests.waiting import eventually

Entry = dict[str, Any]
ServeLink = Callable[..., Awaitable[Running]]
Connect = Callable[..., Awaitable[Any]]
Dial = Callable[..., Awaitable[OldClient]]
Joined = Callable[..., Awaitable[OldClient]]
DialNew = Callable[..., Awaitable[SignedClient]]
Sign = Callable[..., Awaitable[SignedClient]]
Make = Callable[..., AgentLink]

SECONDS = 60.0

OLD_A: Entry = {
    "instance_id": "a",
    "name": "Ann's machine",
    "public_key": "pk",
    "secret": "secret of a",
    "legacy": True,
}
OLD_B: Entry = {
    "instance_id": "b",
    "name": "Bob's machine",
    "public_key": "pk",
    "secret": "secret of b",
    "legacy": True,
}
NEW_C: Entry = {"instance_id": "c", "secret": "secret of c"}
NEW_D: Entry = {"instance_id": "d", "secret": "secret of d"}
ALL = [OLD_A, OLD_B, NEW_C, NEW_D]
SECRETS = {entry["instance_id"]: entry["secret"] for entry in ALL}


@pytest.fixture(params=["memory", "faulty"])
def store_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name the store: the default one, and one that gives no more than it must."""
    kind: str = request.param
    if kind == "faulty":  # where an index may be late, looking again is what finds a message, and is not to take long
        monkeypatch.setattr(consumer, "_WAIT_SECONDS", 0.1)
    return kind


@pytest.fixture
def serve_link(serve: Serve, tmp_path: Path) -> ServeLink:
    """Start a relay with these instances: ``await serve_link([OLD_A], no_store=True)``; without a list, with all."""

    async def start(
        entries: list[Entry] | None = None, *, secret: str | None = None, no_store: bool = False, **options: Any
    ) -> Running:
        path = tmp_path / "relay-config.json"
        file = {"port": 8765, "secret": secret, "registered_instances": ALL if entries is None else entries}
        path.write_text(json.dumps(file), encoding="utf-8")
        return await serve(doors={"agentlink": Settings(config=str(path), no_store=no_store)}, **options)

    return start


@pytest.fixture
async def connect(serve: Serve) -> AsyncIterator[Connect]:
    """Open websockets that are closed when the test ends, before its relays are stopped."""
    sockets = []

    async def open(relay: Running, **options: Any) -> Any:
        sockets.append(await relay.session.ws_connect(relay.url + "/agentlink", **options))
        return sockets[-1]

    yield open
    for socket in sockets:
        with contextlib.suppress(ConnectionError):
            await socket.close()


@pytest.fixture
async def dial(connect: Connect) -> Dial:
    """Open a connection as the old client does: ``await dial(relay, "a")``."""

    async def open(relay: Running, instance_id: str, *, secret: str | None = None, **options: Any) -> OldClient:
        socket = await connect(relay, **options)
        return OldClient(socket, instance_id, SECRETS.get(instance_id, "") if secret is None else secret)

    return open


@pytest.fixture
async def join(dial: Dial) -> Joined:
    """Open a connection as the old client does, and register it."""

    async def open(relay: Running, instance_id: str, *, at: float | None = None, **options: Any) -> OldClient:
        client = await dial(relay, instance_id, **options)
        assert (await client.register(at=at))["type"] == "registered"
        return client

    return open


@pytest.fixture
async def dial_new(connect: Connect) -> DialNew:
    """Open a connection of the new form: ``await dial_new(relay, "c")``."""

    async def open(relay: Running, instance_id: str, *, secret: str | None = None, **options: Any) -> SignedClient:
        return SignedClient(await connect(relay, **options), instance_id, secret or SECRETS[instance_id])

    return open


@pytest.fixture
async def sign_in(dial_new: DialNew) -> Sign:
    """Open a connection of the new form, and register it: ``await sign_in(relay, "c", "carol")``."""

    async def open(
        relay: Running, instance_id: str, agent_id: str, *, at: float | None = None, **options: Any
    ) -> SignedClient:
        client = await dial_new(relay, instance_id, **options)
        answer = await client.join(agent_id, at=at)
        assert answer["type"] == "registered", answer
        return client

    return open


def door_of(relay: Running) -> AgentLinkServer:
    """Return the open door of a relay."""
    door = relay.app.doors["agentlink"]
    assert isinstance(door, AgentLinkServer)
    return door


async def hang_up(relay: Running, client: OldClient) -> None:
    """Close the only connection of an instance, and return once the relay has let go of it.

    Until then its agent shows signs of life.
    """
    await client.socket.close()
    door = door_of(relay)

    async def gone() -> bool:
        return not (door.routing.of(client.instance_id) or door._leaving)

    await eventually(gone)


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Make links that are disconnected when the test ends: ``make(relay, "c", "carol")``."""
    links: list[AgentLink] = []

    def link(relay: Running, instance_id: str, agent_id: str, **options: Any) -> AgentLink:
        links.append(AgentLink(relay.url, SECRETS[instance_id], instance_id, agent_id, **options))
        return links[-1]

    yield link
    for made in links:
        await made.disconnect()
