"""New work that goes in circles or comes too fast is refused, and says so; answers and acks never are."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from tests.conftest import Running, Serve
from tests.server.asks import (
    ack,
    claim_one,
    delegate,
    metrics,
    ok,
    poll,
    pool_task,
    refused,
    respond,
    send,
)
from tests.system.raw import Clock
from tests.tables import each

pytestmark = pytest.mark.both_stores

memory = pytest.mark.parametrize("store_kind", ["memory"])
RING = "abc"
ALLOWED = 9  # of three agents in a ring, each step three times


@pytest.fixture
async def ring(relay: Running) -> Running:
    """A relay with agents ``a``, ``b`` and ``c``, and two others, ``x`` and ``y``; all with the default limits."""
    for agent_id in (*RING, "x", "y"):
        await relay.register(f"{agent_id} agent", agent_id=agent_id, capabilities=["python"])
    return relay


def after(agent_id: str) -> str:
    return RING[(RING.index(agent_id) + 1) % len(RING)]


async def go_round(relay: Running, kind: str) -> tuple[list[str], Any]:
    """Pass work on until the relay refuses; return the ids of what was stored, and the refusal."""
    cause: str | None = None
    sender = "a"
    stored: list[str] = []
    for _ in range(50):
        if kind == "send":
            path, ask = "/send", {"content": 1, "in_reply_to": cause}
        elif kind == "delegate":
            path, ask = "/delegate", {"task": "t", "parent_task": cause}
        else:
            path, ask = "/send", {"content": 1, "parent_task": cause}
        status, body = await relay.post(path, {"from_agent": sender, "to_agent": after(sender), **ask})
        if status != 200:
            assert status == 429, body
            return stored, body
        cause = body["message_id"]
        stored.append(cause)
        sender = after(sender)
    raise AssertionError("nobody stopped it")


@each("kind", ["send", "delegate"])
async def test_three_in_a_ring_are_stopped_at_the_stated_message(ring: Running, kind: str) -> None:
    stored, body = await go_round(ring, kind)
    assert len(stored) == ALLOWED
    assert (body["code"], body["limit"], body["actual"]) == ("loop_stopped", 3, 4)
    assert body["current"] == [*RING * 3, "a", "b"]
    assert "a -> b -> c -> a" in body["error"]
    assert "retry_after" not in body  # waiting does not help


async def test_others_go_on_while_a_ring_is_stopped_and_so_may_its_members(ring: Running) -> None:
    await go_round(ring, "send")
    await send(ring, "x", "y")
    await send(ring, "a", "b")  # it names nothing it follows from: it is a beginning
    task_id = await delegate(ring, "b", "c")
    await delegate(ring, "c", "a", parent_task=task_id)


async def test_another_answer_to_the_last_message_is_stopped_too(ring: Running) -> None:
    stored, _ = await go_round(ring, "send")
    for ask in (
        {"to_agent": "b", "content": "in other words", "in_reply_to": stored[-1]},
        {"to_agent": "b", "content": "under another thread", "in_reply_to": stored[-1], "thread": "new"},
    ):
        await refused(ring.post("/send", {"from_agent": "a", **ask}), 429, "loop_stopped")
    await ok(ring.post("/send", {"from_agent": "a", "to_agent": "x", "content": 1, "in_reply_to": stored[-1]}))


@each("pool", [{"capability": "python"}, {"to_any_of": ["b", "c"]}])
async def test_work_of_pools_is_counted_by_whom_it_passes_through(ring: Running, pool: dict[str, Any]) -> None:
    """Nobody is named to whom it goes, but everybody who wrote in it: it ends at the bound of hops at the latest."""
    task_id = await pool_task(ring, "a", "python")
    hops = 0
    holder = "b"
    while True:
        got = await claim_one(ring, holder, max=1)
        assert got.message["chain"]["hops"] == hops
        ask = {"from_agent": holder, "task": "t", "parent_task": got.message["message_id"], **pool}
        status, body = await ring.post("/delegate", ask)
        if status == 429:
            break
        hops += 1
        holder = "c" if holder == "b" else "b"
    assert body["code"] == "loop_stopped"
    assert 4 <= hops <= 16
    assert task_id


async def test_a_line_longer_than_sixteen_hops_is_stopped(relay: Running) -> None:
    line = [f"n{n:02}" for n in range(20)]
    for agent_id in line:
        await relay.register(agent_id, agent_id=agent_id)
    cause = await delegate(relay, line[0], line[1])
    for hop in range(1, 17):
        cause = await delegate(relay, line[hop], line[hop + 1], parent_task=cause)
    ask = {"from_agent": line[17], "to_agent": line[18], "task": "t", "parent_task": cause}
    body = await refused(relay.post("/delegate", ask), 429, "loop_stopped")
    assert (body["limit"], body["actual"], body["current"]) == (16, 17, line[:19])


async def test_the_chain_goes_with_every_message(ring: Running) -> None:
    task_id = await delegate(ring, "a", "b")
    assert (await claim_one(ring, "b", max=1)).message["chain"] == {"parent_task": None, "hops": 0, "agents": ["a"]}
    id = await send(ring, "b", "c", parent_task=task_id)
    got = await claim_one(ring, "c", max=1)
    assert got.message["message_id"] == id
    assert got.message["chain"] == {"parent_task": task_id, "hops": 1, "agents": ["a", "b"]}
    await send(ring, "c", "x", in_reply_to=id)
    assert (await claim_one(ring, "x", max=1)).message["chain"] == {
        "parent_task": task_id,
        "hops": 2,
        "agents": ["a", "b", "c"],
    }
    await ok(ring.post("/broadcast", {"from_agent": "b", "content": "c", "parent_task": task_id}))
    assert (await claim_one(ring, "y", max=1)).message["chain"] == {
        "parent_task": task_id,
        "hops": 1,
        "agents": ["a", "b"],
    }


async def test_broadcasts_that_answer_broadcasts_end_too(ring: Running) -> None:
    """A broadcast that is answered by name is a cause like any other."""
    told = (await ok(ring.post("/broadcast", {"from_agent": "a", "content": "c"})))["message_id"]
    cause = told
    for sender, to in ("ba", "ab", "ba", "ab", "ba"):
        cause = await send(ring, sender, to, in_reply_to=cause)
    ask = {"from_agent": "a", "to_agent": "b", "content": 1, "in_reply_to": cause}
    await refused(ring.post("/send", ask), 429, "loop_stopped")


async def test_an_unknown_cause_is_a_beginning_and_an_unknown_parent_is_404(ring: Running) -> None:
    id = await send(ring, "a", "b", in_reply_to="long ago")
    got = await claim_one(ring, "b", max=1)
    assert (got.message["message_id"], got.message["chain"]["hops"]) == (id, 0)
    for path, more in (("/send", {"content": 1}), ("/delegate", {"task": "t"})):
        ask = {"from_agent": "a", "to_agent": "b", "parent_task": "long ago", **more}
        body = await refused(ring.post(path, ask), 404, "unknown_task")
        assert body["field"] == "parent_task"
    ask = {"from_agent": "a", "content": "c", "parent_task": id}
    await refused(ring.post("/broadcast", ask), 404, "unknown_task")


# -- rates -------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def slow(serve: Serve, clock: Clock) -> Running:
    """A relay where the clock stands still, an agent may send 5 at once and 1 a second, and 3 to one other."""
    clock.stop()
    limits = {"rate_agent": 1, "burst_agent": 5, "rate_pair": 1, "burst_pair": 3}
    relay = await serve(clock=clock, limits=limits)
    for agent_id in (*RING, "x", "y"):
        await relay.register(f"{agent_id} agent", agent_id=agent_id)
    return relay


async def many(relay: Running, count: int, sender: str = "a", to: str = "b") -> list[int]:
    asks = [{"from_agent": sender, "to_agent": to, "content": n} for n in range(count)]
    return [(await relay.post("/send", ask))[0] for ask in asks]


async def test_who_is_too_fast_is_told_when_to_come_back(slow: Running, clock: Clock) -> None:
    assert await many(slow, 3) == [200] * 3
    ask = {"from_agent": "a", "to_agent": "b", "content": 1}
    async with slow.session.post(slow.url + "/send", json=ask) as response:
        body = await response.json()
        assert (response.status, body["code"]) == (429, "rate_limited")
        assert int(response.headers["Retry-After"]) >= 1
    assert (body["limit"], body["retry_after"], body["current"]) == (1, 1, ["a", "b"])
    clock.skip(body["retry_after"])
    await ok(slow.post("/send", ask))


async def test_all_kinds_of_new_work_count_and_nothing_else_does(slow: Running, clock: Clock) -> None:
    task_id = await delegate(slow, "x", "a")
    got = await claim_one(slow, "a")
    for path, ask in (
        ("/send", {"to_agent": "b", "content": 1}),
        ("/delegate", {"to_agent": "c", "task": "t"}),
        ("/delegate", {"capability": "python", "task": "t"}),
        ("/broadcast", {"content": "c"}),
        ("/send", {"to_agent": "y", "content": 1}),
    ):
        await ok(slow.post(path, {"from_agent": "a", **ask}))
    for path, ask in (
        ("/send", {"to_agent": "b", "content": 1}),
        ("/delegate", {"to_agent": "c", "task": "t"}),
        ("/delegate", {"capability": "python", "task": "t"}),
        ("/broadcast", {"content": "c"}),
    ):
        body = await refused(slow.post(path, {"from_agent": "a", **ask}), 429, "rate_limited")
        assert body["current"] == ["a"]
    for n in range(20):
        await respond(slow, "a", task_id, n, status="in_progress")
        await ack(slow, "a", got.receipt)
        await ok(slow.post("/heartbeat", {"agent_id": "a"}))
        await poll(slow, "a", lease=60)
        await ok(slow.post("/files", {"file_key": "k", "content": str(n), "agent_id": "a"}))
    await respond(slow, "a", task_id)


async def test_answers_and_cancels_of_a_requester_never_count(slow: Running) -> None:
    tasks = [await delegate(slow, "a", "b") for _ in range(3)]
    assert await many(slow, 1) == [429]
    for task_id in tasks:
        await respond(slow, "b", task_id, "which?", status="input_required")
        await ok(slow.post(f"/tasks/{task_id}/answer", {"from_agent": "a", "content": "this"}))
        await ok(slow.post(f"/tasks/{task_id}/cancel", {"from_agent": "a"}))


async def test_a_repeat_under_its_key_does_not_count(slow: Running) -> None:
    for path, ask in (
        ("/send", {"to_agent": "b", "content": 1}),
        ("/delegate", {"to_agent": "b", "task": "t"}),
        ("/delegate", {"capability": "python", "task": "t"}),
        ("/broadcast", {"content": "c"}),
    ):
        for _ in range(5):
            await ok(slow.post(path, {"from_agent": "a", "idempotency_key": path + str(ask), **ask}))
    assert await many(slow, 2, to="c") == [200, 429]


async def test_refused_work_does_not_count_against_the_next(slow: Running, clock: Clock) -> None:
    assert await many(slow, 10) == [200] * 3 + [429] * 7
    assert await many(slow, 3, to="c") == [200, 200, 429]  # of five at once, three went to b
    clock.skip(1)
    assert await many(slow, 2) == [200, 429]


async def test_one_that_floods_does_not_slow_the_others(slow: Running) -> None:
    await many(slow, 50)
    assert await many(slow, 3, "x", "y") == [200] * 3
    assert await many(slow, 3, "b", "a") == [200] * 3


async def test_a_crowd_at_once_is_held_to_the_same(slow: Running) -> None:
    asks = [{"from_agent": "a", "to_agent": "bcxy"[n % 4], "content": n} for n in range(40)]
    replies = await asyncio.gather(*(slow.post("/send", ask) for ask in asks))
    assert sorted({status for status, _ in replies}) == [200, 429]
    assert sum(status == 200 for status, _ in replies) == 5


# -- what the operator sees --------------------------------------------------------------------------------------------


@memory
async def test_the_operator_sees_what_was_stopped(slow: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "clawlink.relay"):
        await many(slow, 6)
        cause = await send(slow, "b", "c")
        for sender, to in ("cb", "bc", "cb", "bc", "cb"):
            cause = await send(slow, sender, to, in_reply_to=cause)
        ask = {"from_agent": "b", "to_agent": "c", "content": "a secret", "in_reply_to": cause}
        status, body = await slow.post("/send", ask)
    assert (status, body["code"]) == (429, "loop_stopped")
    lines = [(r.getMessage(), r.__dict__["code"], r.__dict__["agents"]) for r in caplog.records if "code" in vars(r)]
    stops = [line for line in lines if line[0] == "new work stopped"]
    assert [(code, agents) for _, code, agents in stops] == [
        ("rate_limited", ["a", "b"]),  # once, although it was refused three times in a row
        ("loop_stopped", [*"bcbcbcbc"]),
    ]
    assert "secret" not in caplog.text
    info = await ok(slow.get("/"))
    assert (info["rate_limited"], info["loops_stopped"]) == (3, 1)
    shown = [(stop["code"], stop["agents"]) for stop in info["recent_stops"]]
    assert shown == [("rate_limited", ["a", "b"]), ("loop_stopped", [*"bcbcbcbc"])]
    assert all(stop["at"].endswith("+00:00") for stop in info["recent_stops"])
    counted = await metrics(slow)
    assert (counted["rate_limited_total"], counted["loops_stopped_total"]) == (3, 1)
    assert json.dumps(info)


@memory
async def test_only_the_last_stops_are_remembered(slow: Running, clock: Clock) -> None:
    for turn in range(20):
        sender, to = RING[turn % 3], RING[(turn + 1) % 3]
        clock.skip(10)
        await many(slow, 4, sender, to)
    assert len((await ok(slow.get("/")))["recent_stops"]) == 10
