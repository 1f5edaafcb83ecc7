"""A poll that carries the acks of the poll before."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.conftest import Running, Serve
from tests.server.asks import (
    Got,
    ack,
    claim,
    claim_one,
    delegate,
    nothing_due,
    ok,
    refused,
    send,
    status_of,
    task_of,
    with_key,
)
from tests.system.conftest import Dial
from tests.system.raw import Clock, request
from tests.virtual_time import starved

Until = Callable[[Callable[[], bool]], Awaitable[None]]


async def go_on(relay: Running, **body: Any) -> Any:
    """Poll as ``b`` with a body, and return the reply."""
    return await ok(relay.post("/poll/b", body))


def results(reply: Any) -> list[tuple[str, str]]:
    """Return receipt and status of each result."""
    return [(one["receipt"], one["status"]) for one in reply["results"]]


def as_bytes(**body: Any) -> bytes:
    """Return the request of ``b`` as it is on the wire."""
    return request("POST", "/poll/b", json.dumps(body).encode())


@pytest.mark.both_stores
async def test_each_receipt_has_its_result_and_the_next_messages_come(pair: Running, clock: Clock) -> None:
    first = await send(pair, "a", "b", "first")
    task = await delegate(pair, "a", "b")
    back = await send(pair, "a", "b", "back")
    held = {got.message["message_id"]: got.receipt for got in await claim(pair, "b", 3)}
    fourth = await send(pair, "a", "b", "fourth")
    said: dict[str, Any] = {
        "ack": [held[first], "nobody's", held[task], held[first]],
        "nack": [held[back], held[task]],
        "delay": 30,
    }

    reply = await go_on(pair, **said, wait=20, max=5, lease=60)
    assert results(reply) == [
        *[(held[first], "acked"), ("nobody's", "lease_lost"), (held[task], "acked"), (held[first], "acked")],
        *[(held[back], "nacked"), (held[task], "lease_lost")],
    ]
    assert [one["message_id"] for one in reply["results"]] == [first, "", task, first, back, ""]
    assert all(one["error"] for one in reply["results"] if one["status"] == "lease_lost")
    assert [m["message_id"] for m in reply["messages"]] == [d["message_id"] for d in reply["deliveries"]] == [fourth]
    assert reply["count"] == 1
    assert (await status_of(pair, "a", first))["state"] == "acked"
    assert (await task_of(pair, "a", task))["acked_at"] is not None

    again = await go_on(pair, **said)  # as after a lost reply
    assert [status for _, status in results(again)] == [*["acked", "lease_lost", "acked", "acked"], *["lease_lost"] * 2]
    assert (again["messages"], again["count"]) == ([], 0)
    clock.skip(31)
    returned = await claim_one(pair, "b")
    assert (returned.message["message_id"], returned.attempt) == (back, 2)
    clock.skip(61)
    assert [one.attempt for one in await claim(pair, "b", 2)] == [3, 2]  # leased, and never acked


@pytest.mark.both_stores
async def test_acks_count_before_the_wait_and_whatever_becomes_of_it(
    pair: Running, dial: Dial, until: Until, clock: Clock
) -> None:
    """The client hangs up in both ways, or the agent leaves: acked stays acked, and nothing is leased."""

    async def held(content: str) -> Got:
        await send(pair, "a", "b", content)
        return await claim_one(pair, "b")

    async def acked(got: Got) -> None:
        told = await ok(
            pair.get(f"/messages/{got.message['message_id']}", params={"agent_id": "a", "wait": 30, "until": "acked"})
        )
        assert told["state"] == "acked", got.message

    for how in ("reset", "close"):
        got = await held(how)
        connection = await dial(pair.url)
        await connection.send(as_bytes(ack=[got.receipt], wait=60))
        await acked(got)
        await until(lambda: pair.app.relay.waiting == 1)
        getattr(connection, how)()
        await until(lambda: pair.app.relay.waiting == 0)
        await send(pair, "a", "b", f"after {how}")
        later = await claim_one(pair, "b")
        assert (later.message["content"], later.attempt) == (f"after {how}", 1)
        await ack(pair, "b", later.receipt)

    got = await held("gone at once")
    connection = await dial(pair.url)
    connection.writer.write(as_bytes(ack=[got.receipt], wait=60))
    connection.writer.write_eof()
    await acked(got)

    got = await held("the agent leaves")
    asked = asyncio.create_task(pair.post("/poll/b", {"ack": [got.receipt], "wait": 60}))
    await acked(got)
    await until(lambda: pair.app.relay.waiting == 1)
    await ok(pair.ask("DELETE", "/agents/b"))
    await refused(asked, 404, "unknown_agent")
    assert (await status_of(pair, "a", got.message["message_id"]))["state"] == "acked"


@pytest.mark.both_stores
async def test_a_lost_reply_loses_nothing_and_doubles_nothing(pair: Running, dial: Dial, clock: Clock) -> None:
    """The connection is cut between the acks and the reader: a repeat answers the same, and the lease lapses."""
    await send(pair, "a", "b", "first")
    got = await claim_one(pair, "b")
    second = await send(pair, "a", "b", "second")
    connection = await dial(pair.url)
    await connection.send(as_bytes(ack=[got.receipt], wait=20, lease=60))
    await ok(pair.get(f"/messages/{second}", params={"agent_id": "a", "wait": 30, "until": "delivered"}))
    connection.reset()
    repeat = await go_on(pair, ack=[got.receipt], lease=60)
    assert results(repeat) == [(got.receipt, "acked")]
    clock.skip(61)
    later = repeat["messages"] or [(await claim_one(pair, "b")).message]  # at once, if the reset came before the reply
    assert [m["message_id"] for m in later] == [second]
    await nothing_due(pair, "b")


async def test_a_draining_relay_takes_the_acks_and_answers_at_once(pair: Running, until: Until) -> None:
    await send(pair, "a", "b")
    await send(pair, "a", "b")
    one, two = await claim(pair, "b", 2)
    waiting = asyncio.create_task(go_on(pair, ack=[one.receipt], wait=60))
    await until(lambda: pair.app.relay.waiting == 1)
    await pair.app.relay.drain()
    reply = await asyncio.wait_for(waiting, 10)
    assert (results(reply), reply["count"]) == ([(one.receipt, "acked")], 0)
    reply = await asyncio.wait_for(go_on(pair, ack=[two.receipt], wait=60), 10)
    assert (results(reply), reply["count"]) == ([(two.receipt, "acked")], 0)


@pytest.mark.virtual_time
async def test_the_time_for_the_last_acks_counts_no_steps(pair: Running) -> None:
    """On a loaded machine each step takes long."""
    await send(pair, "a", "b")
    await claim_one(pair, "b")
    async with starved(0.45) as stood:
        await pair.app.relay.drain()
        await pair.app.grace()
        assert pair.app.connections, "the agents may still ack"
        assert len(stood) < 10, "the grace is 2 s"


async def test_without_a_lease_messages_are_held_as_long_as_the_relay_says(serve: Serve, clock: Clock) -> None:
    relay = await serve(clock=clock, limits={"lease": 20})
    for name in ("a", "b"):
        await relay.register(name, agent_id=name)
    await send(relay, "a", "b")
    assert (await go_on(relay))["count"] == 1
    assert (await go_on(relay))["count"] == 0  # the next request proves that the reply was read, and settles nothing
    clock.skip(21)
    assert (await go_on(relay, ack=[], nack=None, wait=None, max=None, lease=None, delay=None))["count"] == 1


async def test_what_is_not_valid_is_refused_and_settles_nothing(pair: Running) -> None:
    await send(pair, "a", "b")
    got = await claim_one(pair, "b")
    wrong: list[tuple[str, Any]] = [
        ("ack", got.receipt),
        ("ack", {}),
        ("nack", [1]),
        ("nack", [None]),
        ("nack", ["r"] * 1001),
        ("nack", ["r" * 513]),
        ("delay", -1),
        ("delay", 86401),
        ("wait", 61),
        ("wait", "soon"),
        ("max", 0),
        ("max", 1001),
        ("max", 1.5),
        ("lease", 4),
        ("lease", 3601),
        ("lease", True),
    ]
    for field, value in wrong:
        body: dict[str, Any] = {"ack": [got.receipt], field: value}
        told = await refused(pair.post("/poll/b", body), 400, "bad_request")
        assert told["field"].split("[")[0] == field, (field, value, told)
    for raw in (b"", b"{", b"\xff"):
        await refused(pair.ask("POST", "/poll/b", data=raw), 400, "bad_json")
    await refused(pair.ask("POST", "/poll/b", data=b"[]"), 400, "bad_request")
    assert (await status_of(pair, "a", got.message["message_id"]))["state"] == "delivered"
    reply = await go_on(pair, ack=[got.receipt, *["r"] * 999], nack=["r"] * 1000)
    assert results(reply)[0] == (got.receipt, "acked")
    assert len(reply["results"]) == 2000


async def test_only_the_agent_itself_and_no_foreign_page_may(pair: Running) -> None:
    key = (await ok(pair.post("/register", {"agent_id": "k", "name": "Kim", "claim": True})))["agent_key"]
    await send(pair, "a", "k")
    got = await claim_one(pair, "k", headers=with_key(key))
    ask = {"ack": [got.receipt]}
    await refused(pair.post("/poll/nobody", ask), 404, "unknown_agent")
    await refused(pair.post("/poll/k", ask), 403, "not_allowed")
    await refused(pair.post("/poll/k", ask, headers=with_key("x" * 40)), 403, "not_allowed")
    foreign = {"Origin": "https://elsewhere.example", **with_key(key)}
    await refused(pair.post("/poll/k", ask, headers=foreign), 403, "not_allowed")
    plain = {"Origin": pair.url, "Content-Type": "text/plain", **with_key(key)}
    await refused(
        pair.ask("POST", "/poll/k", data=json.dumps(ask).encode(), headers=plain), 415, "unsupported_media_type"
    )
    assert results(await go_on(pair, **ask)) == [(got.receipt, "lease_lost")]  # of b, whose message it is not
    assert (await status_of(pair, "a", got.message["message_id"]))["state"] == "delivered"
    reply = await ok(pair.post("/poll/k", ask, headers=with_key(key)))
    assert results(reply) == [(got.receipt, "acked")]
