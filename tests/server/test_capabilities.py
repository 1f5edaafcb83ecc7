"""Work for whoever can do it: a mailbox like any other, shared by the agents that have the capability."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.conftest import UNPACED, Running, Serve
from tests.server.asks import (
    ack,
    claim,
    claim_one,
    delegate,
    load_of,
    nothing_due,
    ok,
    poll,
    pool_task,
    refused,
    respond,
    status_of,
    task_of,
    tasks_of,
)
from tests.system.raw import Clock, connect, request
from tests.tables import each
from tests.waiting import eventually

pytestmark = pytest.mark.both_stores

memory = pytest.mark.parametrize("store_kind", ["memory"])
Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
async def crew(serve: Serve, clock: Clock) -> Running:
    """A relay with a requester ``a``, and workers: p1, p2, p3 know Python, s search, ps both, and n neither."""
    relay = await serve(clock=clock, limits=UNPACED)
    await relay.register("Ann", agent_id="a")
    can = {"p1": ["Python"], "p2": ["python", "x"], "p3": ["PYTHON "], "s": ["search"], "ps": ["Search", "python"]}
    for agent_id, capabilities in {**can, "n": []}.items():
        await relay.register(agent_id, agent_id=agent_id, capabilities=capabilities)
    for agent_id in ("a", *can, "n"):
        await poll(relay, agent_id)
    return relay


async def taken(relay: Running, agent_id: str) -> list[str]:
    """Poll once, and return the tasks that came."""
    reply = await poll(relay, agent_id, lease=60)
    return [m["message_id"] for m in reply["messages"] if m["type"] == "task_delegation"]


# -- who gets it -------------------------------------------------------------------------------------------------------


@each("worker", ["p1", "p2", "p3", "ps"])
@each("capability", ["python", "PYTHON", " Python"])
async def test_any_agent_with_the_capability_gets_it_whatever_the_case(
    crew: Running, worker: str, capability: str
) -> None:
    ask = {"from_agent": "a", "capability": capability, "task": "count", "priority": "high", "context": {"x": 1}}
    reply = await ok(crew.post("/delegate", ask))
    assert (reply["status"], reply["delivery"], reply["recipient"]) == ("delegated", "queued", None)
    for _ in range(3):
        assert await taken(crew, "s") == await taken(crew, "n") == []
    got = await claim_one(crew, worker)
    expected = {
        "type": "task_delegation",
        "message_id": reply["message_id"],
        "from_agent": "a",
        "to_agent": None,
        "task": "count",
        "context": {"x": 1},
        "priority": "high",
        "capability": capability,
    }
    assert {k: got.message[k] for k in expected} == expected
    task = await task_of(crew, "a", reply["message_id"])
    assert (task["assignee"], task["status"], task["capability"]) == (worker, "delivered", capability)
    for other in {"p1", "p2", "p3", "ps", "s", "n"} - {worker}:
        await nothing_due(crew, other)
    await respond(crew, worker, reply["message_id"], 3)
    assert (await claim_one(crew, "a")).message["result"] == 3


async def test_several_capabilities_mean_all_of_them(crew: Running) -> None:
    task_id = await pool_task(crew, "a", ["PYTHON", "search", "python"])
    for other in ("p1", "p2", "p3", "s", "n"):
        await nothing_due(crew, other)
    assert (await claim_one(crew, "ps")).message["message_id"] == task_id
    assert (await task_of(crew, "a", task_id))["capability"] == ["PYTHON", "search", "python"]


async def test_only_the_named_ones_of_those_who_can_may_claim(crew: Running) -> None:
    ask = {"from_agent": "a", "capability": "python", "to_any_of": ["p3", "P2", "s"], "task": "t"}

    async def asked() -> Any:
        status, body = await crew.post("/delegate", ask)
        assert status in (200, 404), body
        return body if status == 200 else None

    reply = await eventually(asked)
    assert reply["pool"]["to_any_of"] == ["p3", "p2", "s"]
    for other in ("p1", "ps", "s", "n"):
        await nothing_due(crew, other)
    got = await claim_one(crew, "p2")
    assert got.message["to_any_of"] == ["p3", "p2", "s"]
    assert (await task_of(crew, "a", reply["message_id"]))["to_any_of"] == ["p3", "p2", "s"]


async def test_several_may_be_named_whatever_they_can(crew: Running) -> None:
    ask = {"from_agent": "a", "to_any_of": ["n", "s"], "task": "t"}
    reply = await ok(crew.post("/delegate", ask))
    for other in ("p1", "ps"):
        await nothing_due(crew, other)
    assert (await claim_one(crew, "n")).message["message_id"] == reply["message_id"]


async def test_one_of_those_named_that_is_not_here_is_404(crew: Running) -> None:
    ask = {"from_agent": "a", "to_any_of": ["p1", "nobody"], "task": "t"}
    body = await refused(crew.post("/delegate", ask), 404, "unknown_agent")
    assert body["field"] == "to_any_of"
    await nothing_due(crew, "p1")


async def test_an_agent_that_registers_anew_is_found_by_what_it_can_do_then(crew: Running) -> None:
    task_id = await pool_task(crew, "a", "rust")
    await nothing_due(crew, "p1")
    await crew.register("p1", agent_id="p1", capabilities=["Rust"])
    assert (await claim_one(crew, "p1")).message["message_id"] == task_id
    await pool_task(crew, "a", "python")
    await nothing_due(crew, "p1")


async def test_only_who_claimed_it_may_answer_or_see_it(crew: Running) -> None:
    task_id = await pool_task(crew, "a")
    for worker in ("p1", "p2"):
        ask = {"from_agent": worker, "message_id": task_id}
        await refused(crew.post("/respond", ask), 403, "not_allowed")
        await refused(crew.get(f"/tasks/{task_id}?agent_id={worker}"), 403, "not_allowed")
        await refused(crew.get(f"/messages/{task_id}?agent_id={worker}"), 403, "not_allowed")
    await claim_one(crew, "p1")
    assert (await task_of(crew, "p1", task_id))["assignee"] == "p1"
    assert (await status_of(crew, "p1", task_id))["delivered_to"] == "p1"
    await refused(crew.post("/respond", {"from_agent": "p2", "message_id": task_id}), 403, "not_allowed")
    await respond(crew, "p1", task_id)


async def test_who_claimed_it_may_delegate_a_part_of_it(crew: Running) -> None:
    """The part names its whole, and carries the chain of both."""
    task_id = await pool_task(crew, "a")
    await claim_one(crew, "p1")
    part = await delegate(crew, "p1", "n", "a part", parent_task=task_id)
    task = await task_of(crew, "p1", part)
    assert (task["parent_task"], task["hops"]) == (task_id, 1)
    assert (await claim_one(crew, "n")).message["chain"] == {
        "parent_task": task_id,
        "hops": 1,
        "agents": ["a", "p1"],
    }


# -- in which order ----------------------------------------------------------------------------------------------------


async def test_urgent_comes_first_and_then_in_order_of_arrival(crew: Running) -> None:
    order = ["low", "normal", "urgent", "high", "normal", "urgent"]
    ids = [await pool_task(crew, "a", priority=priority) for priority in order]
    found: list[str] = []

    async def all_taken() -> bool:
        found.extend(await taken(crew, "p1"))
        return len(found) == len(ids)

    await eventually(all_taken)
    assert sorted(found) == sorted(ids)
    ranked = [ids[n] for n in (2, 5, 3, 1, 4, 0)]
    assert found[0] == ranked[0]


@memory
async def test_urgent_comes_first_over_several_pools_and_the_own_mailbox(crew: Running) -> None:
    wanted = [
        await pool_task(crew, "a", "search", priority="normal"),
        await pool_task(crew, "a", "python", priority="urgent"),
        await delegate(crew, "a", "ps", priority="high"),
        await pool_task(crew, "a", ["python", "search"], priority="high"),
        await delegate(crew, "a", "ps", priority="low"),
        await delegate(crew, "a", "ps", priority="urgent"),
    ]
    by_rank = [wanted[n] for n in (1, 5, 2, 3, 0, 4)]
    found: list[str] = []
    for _ in range(6):
        reply = await poll(crew, "ps", lease=60, max=1)
        found += [m["message_id"] for m in reply["messages"]]
    assert found == by_rank


@memory
async def test_one_poll_takes_at_most_one_so_those_who_poll_share_fairly(crew: Running) -> None:
    ids = [await pool_task(crew, "a", capability) for capability in ("python", "python", ["python"], "Python") * 5]
    shares: Counter[str] = Counter()
    found: list[str] = []
    while len(found) < len(ids):
        for worker in ("p1", "p2", "p3", "ps"):
            got = await taken(crew, worker)
            assert len(got) <= 1
            shares[worker] += len(got)
            found += got
    assert sorted(found) == sorted(ids)
    assert set(shares.values()) == {5}


@memory
async def test_a_pools_task_comes_beside_what_is_in_the_own_mailbox(crew: Running) -> None:
    mine = [await delegate(crew, "a", "p1") for _ in range(3)]
    pooled = [await pool_task(crew, "a") for _ in range(2)]
    assert await taken(crew, "p1") == [*mine, pooled[0]]
    assert await taken(crew, "p1") == [pooled[1]]


@memory
async def test_lower_work_of_a_pool_does_not_crowd_out_what_is_in_the_own_mailbox(crew: Running) -> None:
    mine = [await delegate(crew, "a", "p1") for _ in range(3)]
    await pool_task(crew, "a", priority="low")
    reply = await poll(crew, "p1", lease=60, max=3)
    assert [m["message_id"] for m in reply["messages"]] == mine


async def test_many_who_poll_at_once_never_hold_the_same_task(crew: Running) -> None:
    ids = [await pool_task(crew, "a") for _ in range(30)]
    found: list[str] = []

    async def work(worker: str) -> None:
        while len(found) < len(ids):
            found.extend(await taken(crew, worker))

    await asyncio.wait_for(asyncio.gather(*(work(w) for w in ("p1", "p2", "p3", "ps", "p1", "p2"))), 30)
    assert sorted(found) == sorted(ids)


# -- who is there ------------------------------------------------------------------------------------------------------


@memory
async def test_the_reply_says_how_many_are_online_that_can_do_it(crew: Running, clock: Clock) -> None:
    async def asked(**fields: Any) -> Any:
        return (await ok(crew.post("/delegate", {"from_agent": "a", "task": "t", **fields})))["pool"]

    assert await asked(capability="Python") == {"capability": ["python"], "to_any_of": [], "online": 4}
    assert (await asked(capability=["search", "PYTHON"])) == {
        "capability": ["python", "search"],
        "to_any_of": [],
        "online": 1,
    }
    assert (await asked(to_any_of=["p1", "n"]))["online"] == 2
    assert (await asked(capability="python", to_any_of=["p1", "n"]))["online"] == 1
    assert (await asked(capability="cobol"))["online"] == 0
    clock.skip(121)
    await ok(crew.post("/heartbeat", {"agent_id": "p1"}))
    assert (await asked(capability="python"))["online"] == 1


async def test_with_nobody_there_it_waits_until_one_registers(crew: Running) -> None:
    task_id = await pool_task(crew, "a", "cobol")
    assert (await task_of(crew, "a", task_id))["status"] == "queued"
    await crew.register("Old", agent_id="old", capabilities=["COBOL"])
    assert (await claim_one(crew, "old")).message["message_id"] == task_id


async def test_with_nobody_there_until_its_deadline_it_expires_and_the_requester_is_told(
    crew: Running, clock: Clock
) -> None:
    task_id = await pool_task(crew, "a", "cobol", deadline=60)
    clock.skip(61)
    update = (await claim_one(crew, "a")).message
    assert (update["type"], update["task_id"], update["status"]) == ("task_update", task_id, "expired")
    await crew.register("Old", agent_id="old", capabilities=["COBOL"])
    await nothing_due(crew, "old")


async def test_an_answer_without_a_claim_is_refused_as_that(crew: Running) -> None:
    """It was delegated to no agent. Nobody but the requester is told whether another agent has claimed it."""
    task_id = await pool_task(crew, "a")

    async def refused(by: str) -> str:
        status, reply = await crew.post("/respond", {"from_agent": by, "message_id": task_id, "result": 6})
        assert (status, reply["field"]) == (403, "from_agent")
        return str(reply["error"])

    told = f"task {task_id} is not yours to answer: you have no claim on it; a poll claims what waits for you"
    assert [await refused(by) for by in ("p1", "a")] == [told] * 2
    assert await taken(crew, "p1") == [task_id]
    assert await refused("p2") == told
    await ok(crew.post(f"/tasks/{task_id}/cancel", {"from_agent": "a"}))
    assert await refused("a") == told


async def test_a_task_of_a_pool_cancelled_before_it_was_claimed_is_withdrawn(crew: Running) -> None:
    task_id = await pool_task(crew, "a")
    reply = await ok(crew.post(f"/tasks/{task_id}/cancel", {"from_agent": "a"}))
    assert reply["withdrawn"] is True
    for worker in ("p1", "p2"):
        await nothing_due(crew, worker)


async def test_a_task_of_a_pool_counts_for_whoever_has_it(crew: Running) -> None:
    task_id = await pool_task(crew, "a")
    for worker in ("p1", "p2"):
        assert (await load_of(crew, worker))[1] == 0
    await claim_one(crew, "p1")

    async def counted() -> bool:
        await ok(crew.post("/heartbeat", {"agent_id": "p1"}))  # where indexes lag, the next sign of life puts it right
        return (await load_of(crew, "p1"))[1] == 1

    await eventually(counted)
    assert (await load_of(crew, "p2"))[1] == 0
    await respond(crew, "p1", task_id)

    async def done() -> bool:
        await ok(crew.post("/heartbeat", {"agent_id": "p1"}))
        return (await load_of(crew, "p1"))[1] == 0

    await eventually(done)


# -- who is woken ------------------------------------------------------------------------------------------------------


async def waits(relay: Running, until: Until, agent_id: str, wait: float = 30) -> asyncio.Task[Any]:
    """Start a poll that waits, and return once it does.

    A store in memory answers in the same turn. So a poll that is counted has its place behind those before it.
    """
    before = relay.app.relay.waiting
    polling = asyncio.create_task(poll(relay, agent_id, lease=60, wait=wait))
    await until(lambda: relay.app.relay.waiting == before + 1)
    return polling


@memory
async def test_a_task_wakes_the_one_that_has_waited_longest(crew: Running, until: Until) -> None:
    order = ["p3", "p1", "ps", "p2"]
    polls = [await waits(crew, until, worker) for worker in order]
    for turn, worker in enumerate(order):
        task_id = await pool_task(crew, "a")
        reply = await asyncio.wait_for(polls[turn], 15)
        assert [m["message_id"] for m in reply["messages"]] == [task_id], worker
        assert crew.app.relay.waiting == len(order) - turn - 1


@memory
async def test_a_task_for_any_of_several_wakes_the_one_that_has_waited_longest(crew: Running, until: Until) -> None:
    order = ["s", "p2", "n", "p1"]
    polls = [await waits(crew, until, worker) for worker in order]
    for turn in range(len(order)):
        ask = {"from_agent": "a", "to_any_of": sorted(order), "task": "t"}
        task_id = (await ok(crew.post("/delegate", ask)))["message_id"]
        reply = await asyncio.wait_for(polls[turn], 15)
        assert [m["message_id"] for m in reply["messages"]] == [task_id], order[turn]


@memory
async def test_one_that_polls_again_waits_behind_those_that_waited_already(crew: Running, until: Until) -> None:
    first = await waits(crew, until, "p1")
    second = await waits(crew, until, "p2")
    await pool_task(crew, "a")
    await asyncio.wait_for(first, 15)
    again = await waits(crew, until, "p1")
    task_id = await pool_task(crew, "a")
    reply = await asyncio.wait_for(second, 15)
    assert reply["messages"][0]["message_id"] == task_id
    assert not again.done()
    await pool_task(crew, "a")
    await asyncio.wait_for(again, 15)


async def test_tasks_that_come_at_once_wake_one_each(crew: Running, until: Until) -> None:
    polls = [await waits(crew, until, worker) for worker in ("p1", "p2", "p3", "ps", "n")]
    ids = await asyncio.gather(*(pool_task(crew, "a") for _ in range(4)))
    replies = await asyncio.wait_for(asyncio.gather(*polls[:4]), 30)
    assert sorted(m["message_id"] for reply in replies for m in reply["messages"]) == sorted(ids)
    assert not polls[4].done()
    polls[4].cancel()


async def test_one_that_is_woken_and_gone_passes_the_task_on(crew: Running, until: Until) -> None:
    for _ in range(10):
        connection = await connect(crew.url)
        await connection.send(request("GET", "/poll/p1?wait=30&lease=60"))
        await until(lambda: crew.app.relay.waiting == 1)
        other = await waits(crew, until, "p2", wait=60)
        asking = asyncio.create_task(pool_task(crew, "a"))
        await asyncio.sleep(0)
        connection.reset()
        task_id = await asking

        async def somebodys(id: str = task_id) -> Any:
            return (await task_of(crew, "a", id))["assignee"]

        if await eventually(somebodys) == "p1":  # faster than its own end: it has it for as long as its lease lasts
            await pool_task(crew, "a")
        reply = await asyncio.wait_for(other, 25)
        assert len(reply["messages"]) == 1
        await until(lambda: crew.app.relay.waiting == 0)

        async def none_left() -> bool:
            open = await tasks_of(crew, "a", status="open")
            for task in open:  # that of p1 may be given back at this moment
                if task["assignee"] is None:
                    await crew.post(f"/tasks/{task['task_id']}/cancel", {"from_agent": "a"})
                else:
                    answer = {"from_agent": task["assignee"], "message_id": task["task_id"], "result": "done"}
                    await crew.post("/respond", answer)
            return not open

        await eventually(none_left)


@memory
async def test_a_task_given_back_wakes_another_that_waits(crew: Running, until: Until) -> None:
    task_id = await pool_task(crew, "a")
    got = await claim_one(crew, "p1")
    other = await waits(crew, until, "p2")
    await ok(crew.post("/nack", {"agent_id": "p1", "receipts": [got.receipt]}))
    reply = await asyncio.wait_for(other, 15)
    assert [m["message_id"] for m in reply["messages"]] == [task_id]
    assert reply["deliveries"][0]["attempt"] == 2


@memory
async def test_a_task_given_back_for_later_wakes_another_when_it_is_due(crew: Running, until: Until) -> None:
    task_id = await pool_task(crew, "a")
    got = await claim_one(crew, "p1")
    other = await waits(crew, until, "p2", wait=20)
    await ok(crew.post("/nack", {"agent_id": "p1", "receipts": [got.receipt], "delay": 1}))
    reply = await asyncio.wait_for(other, 30)
    assert [m["message_id"] for m in reply["messages"]] == [task_id]


@memory
async def test_what_it_learns_to_do_while_it_waits_wakes_it(crew: Running, until: Until) -> None:
    waiting = await waits(crew, until, "n", wait=20)
    await crew.register("n", agent_id="n", capabilities=["python"])
    for _ in range(5):  # so that it has looked into what it may take now, and found nothing
        await ok(crew.post("/heartbeat", {"agent_id": "a"}))
    task_id = await pool_task(crew, "a")
    reply = await asyncio.wait_for(waiting, 15)
    assert [m["message_id"] for m in reply["messages"]] == [task_id]


@memory
async def test_a_poll_that_waits_for_work_still_hears_of_its_own_mail(crew: Running, until: Until) -> None:
    waiting = await waits(crew, until, "p1")
    task_id = await delegate(crew, "a", "p1")
    reply = await asyncio.wait_for(waiting, 15)
    assert [m["message_id"] for m in reply["messages"]] == [task_id]


# -- bounds and repeats ------------------------------------------------------------------------------------------------


async def test_a_repeat_under_its_key_is_one_task(crew: Running) -> None:
    ask = {"from_agent": "a", "capability": ["python"], "to_any_of": ["p1", "p2"], "task": "t", "idempotency_key": "k"}
    replies = await asyncio.gather(*(ok(crew.post("/delegate", ask)) for _ in range(5)))
    assert len({reply["message_id"] for reply in replies}) == 1
    for other in ({"capability": ["search"]}, {"to_any_of": ["p2", "p1"]}, {"to_any_of": ["p1"]}, {"task": "u"}):
        await refused(crew.post("/delegate", {**ask, **other}), 409, "key_reused")
    to_one = {k: v for k, v in ask.items() if k not in ("capability", "to_any_of")}
    await refused(crew.post("/delegate", {**to_one, "to_agent": "p1"}), 409, "key_reused")
    got = await claim_one(crew, "p1")
    await nothing_due(crew, "p2")
    assert (await ok(crew.post("/delegate", ask)))["message_id"] == got.message["message_id"]
    await respond(crew, "p1", got.message["message_id"])
    assert (await ok(crew.post("/delegate", ask)))["message_id"] == got.message["message_id"]
    await nothing_due(crew, "p2")


@memory
async def test_a_pool_is_full_as_any_mailbox_is(serve: Serve) -> None:
    relay = await serve(limits={"max_mailbox_messages": 3})
    await relay.register("a", agent_id="a")
    for _ in range(3):
        await pool_task(relay, "a")
    ask = {"from_agent": "a", "capability": "python", "task": "t"}
    body = await refused(relay.post("/delegate", ask), 429, "mailbox_full")
    assert (body["limit"], body["actual"]) == (3, 4)
    await pool_task(relay, "a", "search")


async def test_an_old_poll_claims_from_pools_too(crew: Running) -> None:
    """A client of 1.0.x knows nothing of leases; what it got is its own until it answers or goes silent."""
    task_id = await pool_task(crew, "a")

    async def polled() -> bool:
        return task_id in [m.get("message_id") for m in (await ok(crew.get("/poll/p1")))["messages"]]

    await eventually(polled)

    async def acked() -> bool:
        return (await task_of(crew, "a", task_id))["acked_at"] is not None

    await eventually(acked)
    await nothing_due(crew, "p2")
    await respond(crew, "p1", task_id)


@each(
    ("fields", "field"),
    [
        ({}, "to_agent"),
        ({"to_agent": "p1", "capability": "python"}, None),
        ({"to_agent": "p1", "to_any_of": ["p2"]}, None),
        ({"capability": ""}, "capability"),
        ({"capability": []}, "capability"),
        ({"capability": ["x"] * 17}, "capability"),
        ({"capability": ["x", ""]}, "capability[1]"),
        ({"capability": 5}, "capability"),
        ({"capability": "x" * 129}, "capability"),
        ({"to_any_of": []}, "to_any_of"),
        ({"to_any_of": ["p1"] * 257}, "to_any_of"),
        ({"to_any_of": "p1"}, "to_any_of"),
    ],
)
async def test_to_whom_out_of_range_is_400_and_named(crew: Running, fields: dict[str, Any], field: str | None) -> None:
    body = await refused(crew.post("/delegate", {"from_agent": "a", "task": "t", **fields}), 400, "bad_request")
    if field is not None:
        assert body["field"] == field
    await nothing_due(crew, "p1")


async def test_acks_nacks_and_extends_work_on_a_pools_task(crew: Running, clock: Clock) -> None:
    task_id = await pool_task(crew, "a")
    first = await claim_one(crew, "p1")
    await ok(crew.post("/extend", {"agent_id": "p1", "receipts": [first.receipt], "lease": 600}))
    clock.skip(100)
    for worker in ("p1", "p2", "p3"):
        await ok(crew.post("/heartbeat", {"agent_id": worker}))
    await nothing_due(crew, "p2")
    reply = await ok(crew.post("/nack", {"agent_id": "p1", "receipts": [first.receipt]}))
    assert reply["results"][0]["status"] == "nacked"
    second = await claim_one(crew, "p2")
    assert (second.message["message_id"], second.attempt) == (task_id, 2)
    stolen = await ok(crew.post("/ack", {"agent_id": "p1", "receipts": [second.receipt]}))
    assert stolen["results"][0]["status"] == "lease_lost"
    for _ in range(2):
        reply = await ack(crew, "p2", second.receipt)
        assert reply["results"][0]["status"] == "acked"
    task = await task_of(crew, "a", task_id)
    assert [(e["status"], e["by"]) for e in task["history"]] == [
        ("queued", "a"),
        ("delivered", "p1"),
        ("queued", "p1"),
        ("delivered", "p2"),
    ]
    await respond(crew, "p2", task_id)
    assert len(await claim(crew, "a", 1)) == 1
