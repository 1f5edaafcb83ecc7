"""Connections that are dropped at any byte: nothing is lost, and an idempotent reader handles each message once."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from tests.conftest import UNPACED, Running, Serve
from tests.effort import size
from tests.server.asks import nothing_due, ok, send
from tests.system.proxy import proxy
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.storm

MESSAGES = size(100, 300, 1000)
CUTS = size(20, 60, 200)
_BROKEN = (aiohttp.ClientError, ConnectionError, asyncio.IncompleteReadError)


@pytest.fixture
async def pair(serve: Serve) -> Running:
    relay = await serve(limits=UNPACED)
    await relay.register("Ann", agent_id="a")
    await relay.register("Bob", agent_id="b")
    for name in ("a", "b"):
        await ok(relay.get(f"/poll/{name}"))
    return relay


async def read_all(relay: Running, url: str, handle: Callable[[dict[str, Any]], bool]) -> None:
    """Read over websockets, handle and ack each message, coming back whenever the connection breaks.

    Until ``handle`` says that it was the last and its ack is answered.
    """
    last: dict[str, Any] | None = None
    while True:
        try:
            async with relay.session.ws_connect(url + "/ws/b?lease=60", autoclose=False) as ws:
                if last is not None:  # the reply may have been lost, and repeating an ack is harmless
                    await ws.send_json(last)
                async for frame in ws:
                    body = frame.json()
                    if body["type"] == "reply":
                        if last is not None and body["id"] == last["id"] and body["reply"]["count"] == 1:
                            return
                        continue
                    if body["type"] == "message":
                        receipts = [body["delivery"]["receipt"]]
                        ack = {"type": "ack", "id": body["message_id"], "receipts": receipts}
                        if handle(body) or (last is not None and last["id"] == ack["id"]):
                            last = ack
                        await ws.send_json(ack)
        except _BROKEN:
            pass
        await until(lambda: not len(relay.app.push))  # what the last connection had is due again, in its place


async def send_all(relay: Running, url: str, contents: list[int]) -> None:
    """Send over websockets, each message until it is answered, with the same idempotency key each time."""
    waiting = list(contents)
    while waiting:
        try:
            async with relay.session.ws_connect(url + "/ws/a", autoclose=False) as ws:
                while waiting:
                    number = waiting[0]
                    await ws.send_json(
                        {
                            "type": "send",
                            "id": number,
                            "to_agent": "b",
                            "content": number,
                            "idempotency_key": f"k{number}",
                        }
                    )
                    async for frame in ws:
                        body = frame.json()
                        if body.get("id") == number:
                            assert body["type"] == "reply", body
                            waiting.pop(0)
                            break
                    else:
                        break
        except _BROKEN:
            pass
        await asyncio.sleep(0)


async def test_messages_through_many_cuts_are_handled_once_each_in_order(pair: Running) -> None:
    chance = random.Random(20261121)
    handled: Counter[int] = Counter()
    order: list[int] = []

    def handle(message: dict[str, Any]) -> bool:
        number = message["content"]
        handled[number] += 1
        if handled[number] == 1:  # an idempotent handler: what it has done, it does not do again
            order.append(number)
        return len(order) == MESSAGES

    # Most connections get somewhere, some break within the handshake or the first frame.
    budgets = itertools.chain(
        (chance.choice((chance.randrange(1, 1500), chance.randrange(1, 10_000))) for _ in range(CUTS)),
        itertools.repeat(None),
    )
    async with proxy(pair.url, lambda: next(budgets)) as between:
        await asyncio.wait_for(
            asyncio.gather(read_all(pair, between.url, handle), send_all(pair, between.url, list(range(MESSAGES)))),
            PATIENCE,
        )
        assert between.cuts >= CUTS - 2  # but for those that ended by themselves
    assert order == list(range(MESSAGES)), "each once, none lost, in the order they were sent"
    await nothing_due(pair, "b")
    stats = pair.app.relay.stats
    assert stats.dead == 0


async def test_at_whatever_byte_a_connection_breaks_the_message_comes(pair: Running) -> None:
    handled: Counter[str] = Counter()

    def handle(message: dict[str, Any]) -> bool:
        handled[message["message_id"]] += 1
        return True

    async with proxy(pair.url, lambda: None) as between:
        await send(pair, "a", "b", "whole")
        await read_all(pair, between.url, handle)
    whole = between.passed
    offsets = range(1, whole, size(19, 7, 1))
    ids = []
    for offset in offsets:
        async with proxy(pair.url, iter((offset, None)).__next__) as between:
            ids.append(await send(pair, "a", "b", offset))
            await asyncio.wait_for(read_all(pair, between.url, handle), PATIENCE)
    assert all(1 <= handled[id] <= 2 for id in ids)
    await nothing_due(pair, "b")
