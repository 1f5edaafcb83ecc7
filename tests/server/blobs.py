"""How the suites about files as they are talk to a relay: bytes as body, facts as headers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import random
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from urllib.parse import quote

from multidict import CIMultiDictProxy
from yarl import URL

from tests.conftest import Running
from tests.waiting import eventually


class Told(NamedTuple):
    """A reply: its status, its headers, its bytes."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def path(key: str, query: str = "", *, of: str = "blobs") -> str:
    """Return a file's address: its key percent-encoded as one piece."""
    return f"/{of}/{quote(key, safe='')}" + (f"?{query}" if query else "")


async def ask(relay: Running, method: str, address: str, data: Any = None, **headers: str) -> Told:
    """Send any request. Header names are given with underscores: ``If_Match='"1"'``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = URL(relay.url + address, encoded=True)
    body = io.BytesIO(data) if isinstance(data, bytes) else data  # aiohttp warns of megabytes as they are
    async with relay.session.request(method, url, data=body, headers=named) as response:
        return Told(response.status, response.headers, await response.read())


async def put(relay: Running, key: str, data: Any = b"c", agent: str = "a", **headers: str) -> Told:
    """Write a file, whatever becomes of it."""
    return await ask(relay, "PUT", path(key), data, **{"ClawLink_Agent": agent, **headers})


async def saved(relay: Running, key: str, data: Any = b"c", agent: str = "a", **headers: str) -> int:
    """Write a file, which must succeed, and return its version."""
    told = await put(relay, key, data, agent, **headers)
    assert told.status in (200, 201), told
    version = int(told.json["version"])
    assert (told.status == 201) == (version == 1)
    assert told.headers["ETag"] == f'"{version}"'
    assert told.json["file_key"] == key
    if isinstance(data, bytes):
        assert told.json == {
            "status": "saved",
            "version": version,
            "file_key": key,
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "readers": None,
        }
    return version


async def get(relay: Running, key: str, query: str = "", **headers: str) -> Told:
    """Read a file, whatever becomes of it."""
    return await ask(relay, "GET", path(key, query), **headers)


async def content(relay: Running, key: str, query: str = "") -> bytes:
    """Return a file's bytes, which must be there and be what its digest says."""
    told = await get(relay, key, query)
    assert told.status == 200, told
    assert told.headers["Repr-Digest"] == f"sha-256=:{base64.b64encode(hashlib.sha256(told.body).digest()).decode()}:"
    assert int(told.headers["Content-Length"]) == len(told.body)
    return told.body


async def history(relay: Running, key: str, query: str = "") -> Any:
    """Return the list of a file's versions."""
    told = await get(relay, key, "versions" + ("&" + query if query else ""))
    assert told.status == 200, told
    return told.json


async def versions(relay: Running, key: str) -> list[int]:
    """Return which versions of a file are kept, the newest first."""
    return [one["version"] for one in (await history(relay, key))["versions"]]


def refused(told: Told, status: int, code: str, field: str | None = None) -> Any:
    """Return the JSON of a refusal that must have this status, code and field, and a sentence."""
    body = told.json
    assert (told.status, body["code"], body.get("field")) == (status, code, field), told
    assert len(body["error"]) > 8
    return body


def used(relay: Running) -> int:
    """Return how many bytes all contents together take."""
    return relay.app.relay.file_quota.used


async def settles_at(relay: Running, size: int) -> None:
    """Check that all contents together come to take this many bytes: abandoned ones are freed in a moment."""

    async def there() -> bool:
        return used(relay) == size

    await eventually(there)


async def chunks(data: bytes, step: int) -> AsyncIterator[bytes]:
    """Give a body in parts, so that its length is not said beforehand."""
    for at in range(0, len(data), step):
        await asyncio.sleep(0)
        yield data[at : at + step]


def digest(data: bytes, *, old: bool = False) -> str:
    """Return what Content-Digest says of a body, or what Digest did."""
    text = base64.b64encode(hashlib.sha256(data).digest()).decode()
    return f"sha-256={text}" if old else f"sha-256=:{text}:"


def some(size: int, seed: int = 1) -> bytes:
    """Return bytes of every kind."""
    return random.Random(seed).randbytes(size)
