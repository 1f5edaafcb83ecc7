"""An agent owns the task that it fetched while it is there; then another gets it, and late answers are refused."""

from __future__ import annotations

import asyncio
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
    metrics,
    nothing_due,
    ok,
    poll,
    pool_task,
    refused,
    respond,
    send,
    status_of,
    task_of,
    with_key,
)
from tests.system.raw import Clock
from tests.virtual_time import pass_time, stand_still
from tests.waiting import eventually

pytestmark = [pytest.mark.both_stores, pytest.mark.durable]

memory = pytest.mark.parametrize("store_kind", ["memory"])
Until = Callable[[Callable[[], bool]], Awaitable[None]]
LEASE = 60.0
STALE = 120.0


@pytest.fixture
async def crew(serve: Serve, clock: Clock) -> Running:
    """A relay with a requester ``a`` and three that know Python: ``w1``, ``w2``, ``w3``."""
    relay = await serve(clock=clock)
    await relay.register("Ann", agent_id="a")
    for worker in ("w1", "w2", "w3"):
        await relay.register(worker.upper(), agent_id=worker, capabilities=["python"])
    for agent_id in ("a", "w1", "w2"):
        await poll(relay, agent_id)
    return relay


async def beat(relay: Running, agent_id: str) -> None:
    """Show a sign of life."""
    await ok(relay.post("/heartbeat", {"agent_id": agent_id}))


async def looked(relay: Running, clock: Clock, task_id: str, status: str, asker: str = "a") -> Any:
    """Wait until the task stands there, and return it."""

    async def there() -> Any:
        task = await task_of(relay, asker, task_id)
        return task if task["status"] == status else None

    return await eventually(there)


def steps(task: Any) -> list[tuple[str, str | None]]:
    return [(event["status"], event["by"]) for event in task["history"]]


async def lost(relay: Running, agent_id: str, task_id: str, **fields: Any) -> None:
    """Check that an agent's late report and late answer are refused."""
    for status in ("in_progress", "input_required", "completed", "failed", "rejected"):
        ask = {"from_agent": agent_id, "message_id": task_id, "result": "late", "status": status, **fields}
        await refused(relay.post("/respond", ask), 409, "lease_lost")


# -- of a pool ---------------------------------------------------------------------------------------------------------


@pytest.mark.shared
async def test_a_lease_that_lapses_gives_the_task_to_the_next_with_what_was_reported(
    crew: Running, clock: Clock
) -> None:
    task_id = await pool_task(crew, "a")
    first = await claim_one(crew, "w1", lease=LEASE)
    await respond(crew, "w1", task_id, {"part": 1}, status="in_progress", progress=30, note="a third")
    clock.skip(LEASE - 1)
    await nothing_due(crew, "w2")
    clock.skip(2)
    reply = await eventually(lambda: some(crew, "w2"))
    ((message,), (held,)) = reply["messages"], reply["deliveries"]
    assert (message["message_id"], held["attempt"]) == (task_id, 2)
    reported = [(e["status"], e["by"], e["progress"], e["note"], e["content"]) for e in held["reported"]]
    assert reported[:2] == [
        ("delivered", "w1", None, None, None),
        ("in_progress", "w1", 30, "a third", {"part": 1}),
    ]
    await lost(crew, "w1", task_id)
    await lost(crew, "w1", task_id, receipt=first.receipt)
    await respond(crew, "w2", task_id, "done", receipt=held["receipt"])
    task = await task_of(crew, "a", task_id)
    assert (task["status"], task["result"], task["assignee"], task["attempts"]) == ("completed", "done", "w2", 2)
    assert steps(task) == [
        ("queued", "a"),
        ("delivered", "w1"),
        ("in_progress", "w1"),
        ("queued", None),
        ("delivered", "w2"),
        ("completed", "w2"),
    ]
    assert "lapsed" in task["history"][3]["note"]
    await lost(crew, "w1", task_id)  # it never was w1's to end, not even now


async def some(relay: Running, agent_id: str) -> Any:
    """Poll once, and return the reply if it has work."""
    reply = await poll(relay, agent_id, lease=LEASE)
    return reply if any(m["type"] == "task_delegation" for m in reply["messages"]) else None


@memory
async def test_the_relay_counts_takeovers(crew: Running, clock: Clock) -> None:
    task_id = await pool_task(crew, "a")
    for worker in ("w1", "w2", "w2", "w3"):
        await claim_one(crew, worker, lease=LEASE)
        clock.skip(LEASE + 1)
    assert (await metrics(crew))["takeovers_total"] == 2  # from w1 to w2, and from w2 to w3
    assert (await ok(crew.get("/")))["takeovers"] == 2
    task = await task_of(crew, "a", task_id)
    assert [by for status, by in steps(task) if status == "delivered"] == ["w1", "w2", "w2", "w3"]


async def test_an_owner_that_acked_and_goes_stale_loses_the_task(crew: Running, clock: Clock) -> None:
    task_id = await pool_task(crew, "a")
    got = await claim_one(crew, "w1", lease=LEASE)
    await ack(crew, "w1", got.receipt)
    clock.skip(STALE - 1)
    await beat(crew, "a")
    await nothing_due(crew, "w2")
    assert (await task_of(crew, "a", task_id))["assignee"] == "w1"
    clock.skip(2)
    again = await claim_one(crew, "w2")
    assert (again.message["message_id"], again.attempt) == (task_id, 2)
    await lost(crew, "w1", task_id)
    late = await ok(crew.post("/ack", {"agent_id": "w1", "receipts": [got.receipt]}))
    assert late["results"][0]["status"] == "lease_lost"


@pytest.mark.shared
async def test_an_owner_that_acked_and_shows_any_sign_of_life_keeps_the_task(crew: Running, clock: Clock) -> None:
    task_id = await pool_task(crew, "a")
    got = await claim_one(crew, "w1", lease=LEASE)
    await ack(crew, "w1", got.receipt)
    for turn in range(6):
        clock.skip(STALE - 10)
        if turn % 2:
            await beat(crew, "w1")
        else:
            await poll(crew, "w1", lease=LEASE)
        await nothing_due(crew, "w2")
    await respond(crew, "w1", task_id)


@memory
@pytest.mark.virtual_time
async def test_a_standstill_of_the_relay_is_no_silence_of_its_agents(serve: Serve) -> None:
    relay = await serve()
    for agent_id in ("a", "w1"):
        await relay.register(agent_id, agent_id=agent_id, capabilities=["python"])
    task_id = await pool_task(relay, "a")
    await ack(relay, "w1", (await claim_one(relay, "w1", lease=5)).receipt)
    await pass_time(STALE - 20)
    stand_still(2 * STALE)
    await pass_time(2)
    assert (await task_of(relay, "a", task_id))["status"] == "delivered"
    found = await ok(relay.get("/discover"))
    assert "w1" in {agent["agent_id"] for agent in found["agents"]}
    await pass_time(20)  # it is silent for long enough after all
    assert (await task_of(relay, "a", task_id))["status"] == "queued"


async def test_an_owner_that_leaves_loses_the_task_at_once(crew: Running) -> None:
    task_id = await pool_task(crew, "a")
    await claim_one(crew, "w1", lease=3600)
    await respond(crew, "w1", task_id, "so far", status="in_progress")
    await ok(crew.ask("DELETE", "/agents/w1"))
    again = await claim_one(crew, "w2")
    assert (again.message["message_id"], again.attempt) == (task_id, 2)
    task = await task_of(crew, "a", task_id)
    assert steps(task)[-2:] == [("queued", None), ("delivered", "w2")]
    assert "left" in task["history"][-2]["note"]
    await crew.register("W1", agent_id="w1", capabilities=["python"])
    await lost(crew, "w1", task_id)
    await respond(crew, "w2", task_id)


@memory
@pytest.mark.both_loops
async def test_a_lapse_wakes_one_that_waits(crew: Running, clock: Clock, until: Until) -> None:
    task_id = await pool_task(crew, "a")
    await claim_one(crew, "w1", lease=LEASE)
    waiting = asyncio.create_task(poll(crew, "w2", lease=LEASE, wait=30))
    await until(lambda: crew.app.relay.waiting == 1)
    clock.skip(LEASE + 1)
    reply = await asyncio.wait_for(waiting, 15)
    assert [m["message_id"] for m in reply["messages"]] == [task_id]


@memory
@pytest.mark.parametrize("acked", [False, True])
@pytest.mark.both_loops
async def test_leaving_wakes_one_that_waits(crew: Running, until: Until, acked: bool) -> None:
    task_id = await pool_task(crew, "a")
    got = await claim_one(crew, "w1", lease=LEASE)
    if acked:
        await ack(crew, "w1", got.receipt)
    waiting = asyncio.create_task(poll(crew, "w2", lease=LEASE, wait=30))
    await until(lambda: crew.app.relay.waiting == 1)
    await ok(crew.ask("DELETE", "/agents/w1"))
    reply = await asyncio.wait_for(waiting, 15)
    assert [m["message_id"] for m in reply["messages"] if m["type"] == "task_delegation"] == [task_id]


# -- what holds it -----------------------------------------------------------------------------------------------------


async def test_heartbeats_lengthen_the_lease_by_what_was_asked_for(crew: Running, clock: Clock) -> None:
    task_id = await pool_task(crew, "a")
    await claim_one(crew, "w1", lease=LEASE)
    for _ in range(5):
        clock.skip(LEASE - 5)
        await beat(crew, "w1")
        await nothing_due(crew, "w2")
    clock.skip(LEASE + 1)
    assert (await claim_one(crew, "w2")).message["message_id"] == task_id


async def test_reports_lengthen_the_lease_by_what_was_asked_for(crew: Running, clock: Clock) -> None:
    task_id = await pool_task(crew, "a")
    await claim_one(crew, "w1", lease=LEASE)
    for n in range(5):
        clock.skip(LEASE - 5)
        await respond(crew, "w1", task_id, None, status="in_progress", progress=n)
        await nothing_due(crew, "w2")
    clock.skip(LEASE + 1)
    assert (await claim_one(crew, "w2")).message["message_id"] == task_id


@pytest.mark.parametrize("acked", [False, True])
async def test_an_extend_lengthens_it_also_after_the_ack(crew: Running, clock: Clock, acked: bool) -> None:
    task_id = await pool_task(crew, "a")
    got = await claim_one(crew, "w1", lease=LEASE)
    if acked:
        await ack(crew, "w1", got.receipt)
    reply = await ok(crew.post("/extend", {"agent_id": "w1", "receipts": [got.receipt], "lease": 3600}))
    assert reply["results"][0]["status"] == "extended"
    clock.skip(3500)
    await nothing_due(crew, "w2")
    clock.skip(101)
    assert (await claim_one(crew, "w2")).message["message_id"] == task_id


async def test_other_signs_of_life_before_the_ack_do_not_hold_it(crew: Running, clock: Clock) -> None:
    """A consumer that crashed between poll and ack may well poll again: it knows nothing of what it got before."""
    task_id = await pool_task(crew, "a")
    await claim_one(crew, "w1", lease=LEASE)
    clock.skip(LEASE - 1)
    await send(crew, "w1", "a")
    await nothing_due(crew, "w1")
    clock.skip(2)
    assert (await claim_one(crew, "w2")).message["message_id"] == task_id


async def test_heartbeats_of_an_agent_that_registered_anew_do_not_hold_it(crew: Running, clock: Clock) -> None:
    task_id = await pool_task(crew, "a")
    await claim_one(crew, "w1", lease=LEASE)
    clock.skip(10)
    await crew.register("W1", agent_id="w1", capabilities=["python"])
    for _ in range(3):
        clock.skip(LEASE / 4)
        await beat(crew, "w1")
    clock.skip(LEASE / 4)
    await beat(crew, "w1")
    again = await claim_one(crew, "w2")
    assert (again.message["message_id"], again.attempt) == (task_id, 2)


async def test_heartbeats_after_it_registered_anew_and_claimed_again_do_hold_it(crew: Running, clock: Clock) -> None:
    task_id = await pool_task(crew, "a")
    await claim_one(crew, "w1", lease=LEASE)
    await crew.register("W1", agent_id="w1", capabilities=["python"])
    clock.skip(LEASE + 1)
    assert (await claim_one(crew, "w1", lease=LEASE)).attempt == 2
    for _ in range(3):
        clock.skip(LEASE - 5)
        await beat(crew, "w1")
        await nothing_due(crew, "w2")
    await respond(crew, "w1", task_id)


async def test_busy_and_dead_are_told_apart(crew: Running, clock: Clock) -> None:
    """Two workers took a task each. One works on and says so; the other is dead. The requester sees which is which."""
    busy, dead = await pool_task(crew, "a"), await pool_task(crew, "a")
    held = {}
    for worker in ("w1", "w2"):
        held[(await claim_one(crew, worker, lease=LEASE)).message["message_id"]] = worker
    for _ in range(5):
        clock.skip(LEASE / 2)
        await beat(crew, held[busy])
        await beat(crew, "a")
    task = await task_of(crew, "a", busy)
    assert (task["status"], task["owner"]["status"], task["owner"]["agent_id"]) == ("delivered", "online", held[busy])
    assert task["owner"]["age"] <= 1
    task = await looked(crew, clock, dead, "queued")
    assert (task["owner"], task["assignee"]) == (None, None)
    assert (await claim_one(crew, "w3")).message["message_id"] == dead


@memory
async def test_an_old_poll_without_a_lease_keeps_its_task(crew: Running, clock: Clock) -> None:
    """It cannot say how long it needs, and it would find the task in its mailbox again: so it keeps what is its own."""
    task_id = await delegate(crew, "a", "w1")
    reply = await poll(crew, "w1")
    assert [m["message_id"] for m in reply["messages"]] == [task_id]

    async def acked() -> bool:
        return (await task_of(crew, "a", task_id))["acked_at"] is not None

    await eventually(acked)
    clock.skip(20 * 3600)
    for agent_id in ("a", "w1"):
        await beat(crew, agent_id)
    assert (await poll(crew, "w1"))["messages"] == []
    assert (await task_of(crew, "a", task_id))["status"] == "delivered"
    await nothing_due(crew, "a")
    await respond(crew, "w1", task_id, "at last")
    assert (await claim_one(crew, "a")).message["result"] == "at last"


@memory
async def test_what_an_old_poll_keeps_needs_no_longer_lease_and_is_given_none(crew: Running, clock: Clock) -> None:
    task_id = await delegate(crew, "a", "w1")
    (held,) = (await poll(crew, "w1"))["deliveries"]

    async def acked() -> bool:
        return (await task_of(crew, "a", task_id))["acked_at"] is not None

    await eventually(acked)
    ask = {"agent_id": "w1", "receipts": [held["receipt"]], "lease": LEASE}
    (extended,) = (await ok(crew.post("/extend", ask)))["results"]
    assert (extended["status"], extended["message_id"]) == ("extended", task_id)
    assert extended["lease_expires_at"] is None
    clock.skip(20 * 3600)
    await beat(crew, "w1")
    assert (await poll(crew, "w1"))["messages"] == []
    await respond(crew, "w1", task_id)


# -- of a name ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("acked", [False, True])
async def test_a_task_of_one_that_goes_stale_waits_for_it_and_the_requester_is_told(
    crew: Running, clock: Clock, acked: bool
) -> None:
    task_id = await delegate(crew, "a", "w1")
    got = await claim_one(crew, "w1", lease=LEASE)
    if acked:
        await ack(crew, "w1", got.receipt)
    clock.skip(STALE + 1)
    await beat(crew, "a")
    update = (await claim_one(crew, "a")).message
    assert (update["type"], update["task_id"], update["status"], update["by"]) == (
        *("task_update", task_id, "queued"),
        None,
    )
    assert "W1" in update["note"]

    async def queued() -> bool:  # the news is stored first, so that no crash loses it
        return bool((await task_of(crew, "a", task_id))["status"] == "queued")

    await eventually(queued)
    task = await task_of(crew, "a", task_id)
    assert (task["assignee"], task["owner"]["status"]) == ("w1", "stale")
    await nothing_due(crew, "w2")
    again = await claim_one(crew, "w1", lease=LEASE)
    assert (again.message["message_id"], again.attempt) == (task_id, 2)
    ask = {"from_agent": "w1", "message_id": task_id, "receipt": got.receipt}
    await refused(crew.post("/respond", ask), 409, "lease_lost")
    await respond(crew, "w1", task_id, receipt=again.receipt)


async def test_a_lapse_of_one_that_is_there_comes_back_to_it_and_nobody_is_told(crew: Running, clock: Clock) -> None:
    task_id = await delegate(crew, "a", "w1")
    first = await claim_one(crew, "w1", lease=LEASE)
    clock.skip(LEASE - 1)
    await poll(crew, "w1", lease=LEASE)
    clock.skip(2)
    second = await claim_one(crew, "w1", lease=LEASE)
    assert (second.message["message_id"], second.attempt) == (task_id, 2)
    await nothing_due(crew, "a")
    ask = {"from_agent": "w1", "message_id": task_id, "receipt": first.receipt}
    body = await refused(crew.post("/respond", ask), 409, "lease_lost")
    assert body["field"] == "receipt"
    await respond(crew, "w1", task_id)


async def left(relay: Running, agent_id: str) -> Any:
    return await ok(relay.ask("DELETE", f"/agents/{agent_id}"))


@pytest.mark.parametrize("how", ["queued", "delivered", "acked", "in_progress"])
async def test_a_task_of_one_that_leaves_waits_for_the_next_of_its_name(crew: Running, how: str) -> None:
    task_id = await delegate(crew, "a", "w1")
    if how != "queued":
        got = await claim_one(crew, "w1", lease=3600)
        if how == "acked":
            await ack(crew, "w1", got.receipt)
        elif how == "in_progress":
            await respond(crew, "w1", task_id, "so far", status="in_progress")
            report = await claim_one(crew, "a")
            await ack(crew, "a", report.receipt)
    await left(crew, "w1")
    update = (await claim_one(crew, "a")).message
    assert (update["type"], update["task_id"], update["status"]) == ("task_update", task_id, "queued")
    assert "left" in update["note"]
    for other in ("w2", "w3"):
        await nothing_due(crew, other)
    await crew.register("w1", agent_id="new")
    again = await claim_one(crew, "new")
    assert (again.message["message_id"], again.attempt) == (task_id, 1 if how == "queued" else 2)
    task = await task_of(crew, "new", task_id)
    assert task["assignee"] == "new"
    await respond(crew, "new", task_id, "taken over", receipt=again.receipt)
    task = await task_of(crew, "a", task_id)
    assert (task["status"], task["result"], task["assignee"]) == ("completed", "taken over", "new")


async def test_one_that_comes_back_under_its_id_and_name_finds_its_tasks(crew: Running) -> None:
    ids = [await delegate(crew, "a", "w1"), await delegate(crew, "a", "w1")]
    await claim(crew, "w1", 1, max=1)
    await left(crew, "w1")
    await crew.register("W1", agent_id="w1")
    got = await claim(crew, "w1", 2)
    assert sorted(g.message["message_id"] for g in got) == sorted(ids)


async def test_what_waits_for_a_name_may_pass_through_several_of_that_name(crew: Running, clock: Clock) -> None:
    task_id = await delegate(crew, "a", "w1")
    await left(crew, "w1")
    for turn, agent_id in enumerate(("x1", "x2", "x3"), 1):
        await crew.register("w1", agent_id=agent_id)
        got = await claim_one(crew, agent_id, lease=LEASE)
        assert (got.message["message_id"], got.attempt) == (task_id, turn)
        await left(crew, agent_id)
    await crew.register("w1", agent_id="x4")
    await claim_one(crew, "x4")

    async def is_free() -> bool:
        """Return True once nothing waits at x3 for the agent that has left it. A store may note that late."""
        return (await crew.post("/register", {"name": "Another", "agent_id": "x3"}))[0] == 200

    await eventually(is_free)
    await lost(crew, "x3", task_id)
    await respond(crew, "x4", task_id)


async def test_a_task_that_waits_for_a_name_is_not_read_by_another_name(crew: Running) -> None:
    await delegate(crew, "a", "w1", "for w1's eyes")
    await left(crew, "w1")
    await crew.register("Mallory", agent_id="m")
    await nothing_due(crew, "m")


async def test_mail_of_a_live_agent_is_not_read_by_the_next_of_a_name_it_once_had(crew: Running) -> None:
    """While a task waits in a mailbox for a name, the agent there may be renamed; its mail then is nobody else's."""
    await delegate(crew, "a", "w1")
    await left(crew, "w1")
    await refused(crew.post("/register", {"agent_id": "w1", "name": "Victoria"}), 409, "name_taken")
    claimed = await ok(crew.post("/register", {"agent_id": "w1", "name": "W1", "claim": True}))
    headers = with_key(claimed["agent_key"])
    await ok(crew.post("/register", {"agent_id": "w1", "name": "Victoria"}, headers=headers))
    # The id w1 is taken, so no stranger takes it for a name; a waiting task of that name is for nobody else either.
    await refused(crew.post("/register", {"agent_id": "mallory", "name": "W1"}), 409, "name_taken")
    await crew.register("Mallory", agent_id="mallory")
    secret = await send(crew, "a", "w1", "for Victoria only")
    for _ in range(5):
        reply = await poll(crew, "mallory", lease=LEASE)
        assert secret not in [m.get("message_id") for m in reply["messages"]]
    got = [g.message.get("content") for g in await eventually(lambda: hers(crew, headers))]
    assert "for Victoria only" in got


async def hers(relay: Running, headers: dict[str, str]) -> list[Got]:
    reply = await poll(relay, "w1", headers=headers, lease=LEASE)
    found = [
        Got(m, held["receipt"], held["attempt"], held["lease_expires_at"])
        for m, held in zip(reply["messages"], reply["deliveries"], strict=True)
    ]
    return found if any(g.message["type"] == "message" for g in found) else []


@memory
async def test_a_forgotten_agents_tasks_wait_for_its_name_too(serve: Serve, clock: Clock) -> None:
    relay = await serve(clock=clock, limits={"forget_after": 1000})
    await relay.register("Ann", agent_id="a")
    await relay.register("Bob", agent_id="b")
    await poll(relay, "a")
    task_id = await delegate(relay, "a", "b")
    assert len((await poll(relay, "b"))["messages"]) == 1  # an old poll: it keeps the task while it is registered

    async def forgotten() -> bool:
        await beat(relay, "a")
        return bool((await relay.post("/heartbeat", {"agent_id": "b"}))[1]["status"] == "unknown_agent")

    async def acked() -> bool:
        return (await task_of(relay, "a", task_id))["acked_at"] is not None

    await eventually(acked)
    clock.skip(1001)

    async def waits() -> bool:
        return bool((await task_of(relay, "a", task_id))["status"] == "queued")

    await eventually(waits)
    assert await forgotten()
    await relay.register("Bob", agent_id="b2")
    assert (await claim_one(relay, "b2")).message["message_id"] == task_id


# -- fencing -----------------------------------------------------------------------------------------------------------


@pytest.mark.shared
async def test_the_old_owner_loses_even_if_it_claims_again_with_its_old_receipt(crew: Running, clock: Clock) -> None:
    """The receipt it held then is no proof of the claim it has now: a part of it may have been asleep all the while."""
    task_id = await pool_task(crew, "a")
    first = await claim_one(crew, "w1", lease=LEASE)
    clock.skip(LEASE + 1)
    await claim_one(crew, "w2", lease=LEASE)
    clock.skip(LEASE + 1)
    third = await claim_one(crew, "w1", lease=LEASE)
    assert third.attempt == 3
    await lost(crew, "w1", task_id, receipt=first.receipt)
    await respond(crew, "w1", task_id, receipt=third.receipt)


async def test_a_lapsed_lease_counts_while_nobody_else_has_the_task(crew: Running, clock: Clock) -> None:
    """Named, it is its own still; of a pool, it is nobody's as soon as the relay has looked."""
    task_id = await delegate(crew, "a", "w1")
    got = await claim_one(crew, "w1", lease=LEASE)
    clock.skip(LEASE + 30)
    await respond(crew, "w1", task_id, "a little late", receipt=got.receipt)
    assert (await task_of(crew, "a", task_id))["status"] == "completed"
    await nothing_due(crew, "w1")


async def test_a_made_up_receipt_is_refused(crew: Running) -> None:
    task_id = await pool_task(crew, "a")
    await claim_one(crew, "w1")
    for receipt in ("", "x", f"0000-{task_id}", "-" * 100):
        await lost(crew, "w1", task_id, receipt=receipt)


async def test_the_right_receipt_of_the_wrong_agent_is_refused(crew: Running) -> None:
    task_id = await pool_task(crew, "a")
    got = await claim_one(crew, "w1")
    for other in ("w2", "a"):
        ask = {"from_agent": other, "message_id": task_id, "receipt": got.receipt}
        await refused(crew.post("/respond", ask), 403, "not_allowed")


@pytest.mark.parametrize("report", [{}, {"progress": 10}, {"result": "begun"}, {"note": "begun"}])
async def test_the_next_owner_may_report_in_the_same_words(crew: Running, clock: Clock, report: dict[str, Any]) -> None:
    """Two workers of one kind say the same when they begin; both are heard."""
    task_id = await pool_task(crew, "a")
    for worker in ("w1", "w2"):
        await claim_one(crew, worker, lease=LEASE)
        ask = {"from_agent": worker, "message_id": task_id, "status": "in_progress", **report}
        assert (await ok(crew.post("/respond", ask)))["task_status"] == "in_progress"
        told = await claim_one(crew, "a")
        assert told.message["from_agent"] == worker
        await ack(crew, "a", told.receipt)
        clock.skip(LEASE + 1)
        await beat(crew, "a")
    task = await task_of(crew, "a", task_id)
    assert [by for status, by in steps(task) if status == "in_progress"] == ["w1", "w2"]


# -- out of attempts ---------------------------------------------------------------------------------------------------


async def hand_out(relay: Running, clock: Clock, agents: list[str]) -> None:
    """Have each of these claim the task and let its lease lapse."""
    for agent_id in agents:
        await claim_one(relay, agent_id, lease=LEASE)
        clock.skip(LEASE + 1)


async def test_a_task_of_a_pool_fails_after_too_many_attempts_and_the_requester_is_told(
    serve: Serve, clock: Clock
) -> None:
    relay = await serve(clock=clock, limits={"max_attempts": 3})
    await relay.register("a", agent_id="a")
    for worker in ("w1", "w2"):
        await relay.register(worker, agent_id=worker, capabilities=["python"])
    await poll(relay, "a")
    await poll(relay, "w1")
    task_id = await pool_task(relay, "a")
    await hand_out(relay, clock, ["w1", "w2", "w1"])
    await nothing_due(relay, "w2")
    task = await looked(relay, clock, task_id, "failed")
    assert (task["attempts"], task["finished_at"] is not None) == (3, True)
    assert "3 times" in task["note"]
    update = (await claim_one(relay, "a")).message
    assert (update["type"], update["task_id"], update["status"]) == ("task_update", task_id, "failed")
    await nothing_due(relay, "w2")
    ask = {"from_agent": "w1", "message_id": task_id}
    status, body = await relay.post("/respond", ask)
    assert (status, body["code"] in ("wrong_state", "lease_lost")) == (409, True)


async def test_a_task_of_a_name_becomes_a_dead_letter_that_can_be_put_back(serve: Serve, clock: Clock) -> None:
    relay = await serve(clock=clock, limits={"max_attempts": 2})
    await relay.register("a", agent_id="a")
    await relay.register("b", agent_id="b")
    await poll(relay, "a")
    task_id = await delegate(relay, "a", "b")
    await hand_out(relay, clock, ["b", "b"])
    await nothing_due(relay, "b")

    async def dead() -> Any:
        return (await ok(relay.get("/dead-letters/b")))["dead_letters"]

    (letter,) = await eventually(dead)
    assert (letter["message_id"], letter["attempts"]) == (task_id, 2)
    update = (await claim_one(relay, "a")).message
    assert (update["type"], update["task_id"]) == ("task_update", task_id)
    assert "dead letters" in update["note"]
    told = await status_of(relay, "a", task_id)
    assert (told["state"], told["dead_at"] is not None) == ("dead", True)
    reply = await ok(relay.post("/redrive", {"agent_id": "b"}))
    assert reply["message_ids"] == [task_id]
    again = await claim_one(relay, "b")
    assert again.message["message_id"] == task_id
    await respond(relay, "b", task_id, receipt=again.receipt)
    assert (await task_of(relay, "a", task_id))["status"] == "completed"


async def test_a_dead_letter_can_still_be_answered(serve: Serve, clock: Clock) -> None:
    relay = await serve(clock=clock, limits={"max_attempts": 1})
    await relay.register("a", agent_id="a")
    await relay.register("b", agent_id="b")
    task_id = await delegate(relay, "a", "b")
    await hand_out(relay, clock, ["b"])
    await nothing_due(relay, "b")
    await respond(relay, "b", task_id, "after all")
    assert (await task_of(relay, "a", task_id))["status"] == "completed"

    async def gone() -> bool:
        return bool((await ok(relay.get("/dead-letters/b")))["count"] == 0)

    await eventually(gone)


async def test_an_owner_that_reports_is_never_out_of_attempts(serve: Serve, clock: Clock) -> None:
    relay = await serve(clock=clock, limits={"max_attempts": 1})
    await relay.register("a", agent_id="a")
    await relay.register("b", agent_id="b", capabilities=["python"])
    task_id = await pool_task(relay, "a")
    await claim_one(relay, "b", lease=LEASE)
    for n in range(10):
        clock.skip(LEASE - 5)
        await respond(relay, "b", task_id, None, status="in_progress", progress=n)
    await respond(relay, "b", task_id)


# -- questions that were asked before ----------------------------------------------------------------------------------


async def test_a_question_of_a_lost_owner_is_the_next_ones_to_read_and_to_ask_again(
    crew: Running, clock: Clock
) -> None:
    task_id = await pool_task(crew, "a")
    await claim_one(crew, "w1", lease=LEASE)
    await respond(crew, "w1", task_id, "which?", status="input_required")
    clock.skip(LEASE + 1)
    await beat(crew, "a")
    reply = await eventually(lambda: some(crew, "w2"))
    assert ("input_required", "which?") in [(e["status"], e["content"]) for e in reply["deliveries"][0]["reported"]]
    ask = {"from_agent": "a", "content": "this"}
    body = await refused(crew.post(f"/tasks/{task_id}/answer", ask), 409, "wrong_state")
    assert body["current"] == "delivered"
    await respond(crew, "w2", task_id, "which?", status="input_required")
    answered = await ok(crew.post(f"/tasks/{task_id}/answer", ask))
    assert answered["recipient"]["agent_id"] == "w2"
    told = [g.message for g in await claim(crew, "w2", 1)]
    assert [m["content"] for m in told] == ["this"]
    await nothing_due(crew, "w1")


async def test_what_the_lost_one_reported_does_not_come_again_to_the_one_that_lost_it(
    crew: Running, clock: Clock
) -> None:
    """Claimed for the first time a task has nothing behind it; the one that takes it back sees its own reports."""
    task_id = await pool_task(crew, "a")
    reply = await eventually(lambda: some(crew, "w1"))
    assert not reply["deliveries"][0]["reported"]
    await respond(crew, "w1", task_id, "mine", status="in_progress")
    clock.skip(LEASE + 1)
    reply = await eventually(lambda: some(crew, "w1"))
    assert [(e["by"], e["content"]) for e in reply["deliveries"][0]["reported"] if e["content"]] == [("w1", "mine")]


@pytest.mark.shared
async def test_a_task_waits_for_the_key_of_an_agent_that_left_and_is_then_returned_once(
    serve: Serve, clock: Clock
) -> None:
    relay = await serve(clock=clock, limits={"return_after": 600.0})
    await relay.register("Ann", agent_id="a")
    kim = {"agent_id": "k", "name": "Kim", "claim": True}
    key = with_key((await ok(relay.post("/register", kim)))["agent_key"])
    task_id = await delegate(relay, "a", "k")
    assert len((await poll(relay, "k", lease=LEASE, headers=key))["messages"]) == 1, "it works on the task"
    await ok(relay.ask("DELETE", "/agents/k", headers=key))
    await relay.register("Kim", agent_id="stranger")
    await nothing_due(relay, "stranger")
    await ok(relay.ask("DELETE", "/agents/stranger"))
    clock.skip(500)
    assert (await task_of(relay, "a", task_id))["status"] == "queued"
    clock.skip(101)
    await looked(relay, clock, task_id, "returned")
    messages = (await poll(relay, "a"))["messages"]
    assert [one["status"] for one in messages if one["type"] == "task_update"].count("returned") == 1
    await ok(relay.post("/register", kim, headers=key))
    assert (await poll(relay, "k", headers=key))["messages"] == []
    answer = {"from_agent": "k", "message_id": task_id, "result": "late"}
    await refused(relay.post("/respond", answer, headers=key), 409, "wrong_state")
