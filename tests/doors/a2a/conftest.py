"""Relays that serve A2A, and clients of the official SDK."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from a2a.client import ClientConfig, ClientFactory
from a2a.client.client import Client
from a2a.utils.constants import TransportProtocol

from clawlink.doors.a2a import Settings
from clawlink.doors.a2a.wire.clients import add_client
from tests.conftest import Running, Serve

ServeA2A = Callable[..., Awaitable[Running]]
BINDINGS = (TransportProtocol.JSONRPC, TransportProtocol.HTTP_JSON)
VERSION = {"A2A-Version": "1.0"}


@pytest.fixture
def serve_a2a(serve: Serve) -> ServeA2A:
    """Start a relay that serves A2A: ``await serve_a2a(private_webhooks=True)``."""

    async def start(
        *, token: str | None = None, limits: dict[str, Any] | None = None, mesh: str | None = None, **settings: Any
    ) -> Running:
        shared = {} if mesh is None else {"mesh": mesh}
        return await serve(token=token, limits=limits, doors={"a2a": Settings(on=True, **settings)}, **shared)

    return start


@contextlib.asynccontextmanager
async def sdk(
    relay: Running, agent: str, binding: TransportProtocol, *, streaming: bool = False, token: str | None = None
) -> AsyncIterator[Client]:
    """Give the official client of an agent, from its card, over one binding."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:
        config = ClientConfig(
            httpx_client=http, streaming=streaming, supported_protocol_bindings=[binding], use_client_preference=True
        )
        async with await ClientFactory(config).create_from_url(f"{relay.url}/a2a/{agent}") as client:
            yield client


def message(text: str = "hi", id: str = "m-1", **fields: Any) -> dict[str, Any]:
    """Return a message as JSON."""
    return {"messageId": id, "role": "ROLE_USER", "parts": [{"text": text}], **fields}


class Rest:
    """A client of an agent, in JSON."""

    def __init__(self, relay: Running, path: str, token: str | None = None) -> None:
        self.relay = relay
        self.path = path
        self.headers = VERSION | ({} if token is None else {"Authorization": f"Bearer {token}"})

    async def get(self, path: str, **query: str) -> tuple[int, Any]:
        """GET below the agent's address."""
        return await self.relay.get(self.path + path, headers=self.headers, params=query)

    async def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """POST below the agent's address."""
        return await self.relay.post(self.path + path, body, headers=self.headers | headers)

    async def post_large(self, path: str, body: Any) -> tuple[int, Any]:
        """POST a large body, in parts."""
        data = io.BytesIO(json.dumps(body).encode())
        headers = self.headers | {"Content-Type": "application/json"}
        return await self.relay.ask("POST", self.path + path, data=data, headers=headers)

    async def delete(self, path: str) -> tuple[int, Any]:
        """DELETE below the agent's address."""
        return await self.relay.ask("DELETE", self.path + path, headers=self.headers)

    async def send(self, text: str = "hi", *, wait: bool = False, **fields: Any) -> dict[str, Any]:
        """Send a message; return the task, at once unless ``wait``."""
        body = {"message": message(text, **fields), "configuration": {"returnImmediately": not wait}}
        status, answer = await self.post("/message:send", body)
        assert status == 200, answer
        task: dict[str, Any] = answer["task"]
        return task

    async def rpc(self, method: str, params: Any = None) -> Any:
        """Call a method by JSON-RPC; return the answer."""
        body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        status, answer = await self.post("", body)
        assert (status, answer["id"]) == (200, 7), answer
        return answer

    @contextlib.asynccontextmanager
    async def stream(self, method: str, path: str, body: Any = None) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
        """Open a stream; give what returns its next event, None at the end."""
        async with self.relay.session.request(
            method, self.relay.url + self.path + path, json=body, headers=self.headers
        ) as response:
            assert response.content_type == "text/event-stream", await response.text()

            async def following() -> Any:
                async for line in response.content:
                    if line.startswith(b"data: "):
                        return json.loads(line[6:])
                return None

            yield following


def reason(answer: Any) -> str:
    """Return the reason of an error, in either binding."""
    error = answer["error"]
    info = (error.get("data") or error["details"])[0]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    said: str = info["reason"]
    return said


def client_of(file: Path, name: str) -> str:
    """Add a client to a file; return its credential."""
    return add_client(file, name, at="2026-05-13T06:51:00+00:00")
