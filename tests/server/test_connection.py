"""A connection: its requests are answered one after the other, and others have their turn in between."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clawlink.domain.agent import Agent
from tests.conftest import Running
from tests.system.conftest import Dial
from tests.system.raw import request

pytestmark = pytest.mark.both_loops


@pytest.fixture
def store_kind() -> str:
    return "memory"


async def test_others_have_a_turn_between_requests_that_came_together(
    pair: Running, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = 0
    seen: list[int] = []
    read = pair.app.store.get

    async def get(kind: Any, id: str) -> Any:
        if kind is Agent:
            seen.append(turns)
        return await read(kind, id)

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(pair.app.store, "get", get)
    counting = asyncio.create_task(count())
    connection = await dial(pair.url)
    asked = 20
    await connection.send(request("POST", "/heartbeat", b'{"agent_id": "a"}') * asked)
    for _ in range(asked):
        assert (await connection.answer()).status == 200
    counting.cancel()
    assert len(set(seen)) == asked, "each request had a turn of its own"


async def test_a_body_that_the_answer_did_not_wait_for_does_not_end_the_connection(pair: Running, dial: Dial) -> None:
    connection = await dial(pair.url)
    size = 300_000
    await connection.send(request("POST", "/nowhere", Content_Length=str(size)))
    assert (await connection.answer()).status == 404
    for _ in range(3):
        await connection.send(b"x" * (size // 3))
    assert (await connection.ask(request("GET", "/healthz"))).status == 200
