"""Lists of tasks: mine as requester and as assignee, by state, the newest first, page by page."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Running
from tests.server.asks import (
    ack,
    claim,
    claim_one,
    delegate,
    ok,
    pool_task,
    refused,
    respond,
    tasks_of,
)
from tests.tables import each
from tests.waiting import eventually

memory = pytest.mark.parametrize("store_kind", ["memory"])

STATES = ["input_required", "in_progress", "delivered", "queued", "completed", "failed", "rejected", "cancelled"]
OPEN = {"queued", "delivered", "in_progress", "input_required"}


async def one_in(relay: Running, state: str, requester: str = "a", assignee: str = "b") -> str:
    """Bring a task into a state, and return its id."""
    task_id = await delegate(relay, requester, assignee, state)
    if state == "delivered":

        async def fetched() -> bool:
            reply = await ok(relay.get(f"/poll/{assignee}?lease=60"))
            return task_id in [m.get("message_id") for m in reply["messages"]]

        await eventually(fetched)
    elif state == "cancelled":
        await ok(relay.post(f"/tasks/{task_id}/cancel", {"from_agent": requester}))
    elif state != "queued":
        await respond(relay, assignee, task_id, status=state)
    return task_id


async def exactly(relay: Running, asker: str, expected: list[str], **query: Any) -> None:
    """Wait until the list has just these, in this order: an index may lag."""

    async def same() -> bool:
        return [t["task_id"] for t in await tasks_of(relay, asker, **query)] == expected

    await eventually(same)


async def test_a_list_has_what_the_asker_asked_for_and_what_it_was_given(pair: Running) -> None:
    await pair.register("Cyd", agent_id="c")
    mine = await delegate(pair, "a", "b")
    given = await delegate(pair, "b", "a")
    await delegate(pair, "b", "c")
    for _ in range(3):
        assert {t["task_id"] for t in await tasks_of(pair, "a")} <= {mine, given}

    async def both() -> bool:
        return {t["task_id"] for t in await tasks_of(pair, "a")} == {mine, given}

    await eventually(both)
    await exactly(pair, "a", [mine], requester="a")
    await exactly(pair, "a", [given], assignee="a")
    await exactly(pair, "a", [mine], assignee="b")
    await exactly(pair, "a", [given], requester="b")
    await exactly(pair, "a", [], assignee="c")


async def test_a_listed_task_reads_as_a_task_asked_for_alone(pair: Running) -> None:
    task_id = await delegate(pair, "a", "b", context={"x": [1]}, deadline=60)
    await respond(pair, "b", task_id, "so far", status="in_progress", progress=5)
    await exactly(pair, "a", [task_id])
    (listed,) = await tasks_of(pair, "a")
    alone = await ok(pair.get(f"/tasks/{task_id}?agent_id=a"))
    for task in (listed, alone):
        task["owner"]["age"] = None
    assert listed == alone


@memory
async def test_tasks_are_filtered_by_state(pair: Running) -> None:
    ids = {state: await one_in(pair, state) for state in STATES}
    for asker in "ab":
        for state in STATES:
            assert [t["task_id"] for t in await tasks_of(pair, asker, status=state)] == [ids[state]]
        for status, states in (("open", OPEN), ("final", set(STATES) - OPEN)):
            found = await tasks_of(pair, asker, status=status)
            assert {t["status"] for t in found} == states
            assert len(found) == len(states)
        assert sorted(t["task_id"] for t in await tasks_of(pair, asker)) == sorted(ids.values())
        assert await tasks_of(pair, asker, status="expired") == []


@each("state", ["queued", "in_progress", "completed", "cancelled"])
async def test_the_newest_come_first_within_a_state(pair: Running, state: str) -> None:
    ids = [await one_in(pair, state) for _ in range(7)]
    await exactly(pair, "a", ids[::-1], status=state)
    await exactly(pair, "b", ids[::-1], status=state)


@memory
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_pages_follow_each_other_and_nothing_is_left_out_or_twice(pair: Running, limit: int) -> None:
    ids = [await one_in(pair, state) for _ in range(3) for state in STATES]
    for asker in "ab":
        found = [t["task_id"] for t in await tasks_of(pair, asker, limit=limit)]
        assert sorted(found) == sorted(ids)
    reply = await ok(pair.get("/tasks", params={"agent_id": "a", "limit": limit}))
    assert reply["count"] <= limit


@memory
async def test_a_task_that_an_agent_gave_itself_is_listed_once(pair: Running) -> None:
    task_id = await delegate(pair, "a", "a")
    for state in ("queued", "in_progress", "completed"):
        if state != "queued":
            await respond(pair, "a", task_id, status=state)
        assert [t["task_id"] for t in await tasks_of(pair, "a")] == [task_id], state
        assert [t["task_id"] for t in await tasks_of(pair, "a", status=state)] == [task_id]
        assert [t["task_id"] for t in await tasks_of(pair, "a", requester="a", assignee="a")] == [task_id]


@memory
async def test_a_task_of_a_pool_is_listed_for_its_requester_and_for_whoever_claimed_it(pair: Running) -> None:
    for agent_id in "bc":
        await pair.register(agent_id.upper() + "x", agent_id=agent_id, capabilities=["python"])
    task_id = await pool_task(pair, "a")
    assert [t["task_id"] for t in await tasks_of(pair, "a", status="queued")] == [task_id]
    assert await tasks_of(pair, "b") == []
    await claim_one(pair, "b")
    assert [(t["task_id"], t["assignee"]) for t in await tasks_of(pair, "b", assignee="b")] == [(task_id, "b")]
    assert await tasks_of(pair, "c") == []
    await respond(pair, "b", task_id)
    assert [t["task_id"] for t in await tasks_of(pair, "b", status="completed")] == [task_id]
    assert await tasks_of(pair, "c") == []


async def test_only_parties_list_a_task(pair: Running) -> None:
    await pair.register("Eve", agent_id="e")
    await delegate(pair, "a", "b")
    done = await delegate(pair, "a", "b")
    await respond(pair, "b", done)
    for query in ({}, {"requester": "a"}, {"assignee": "b"}, {"status": "completed"}):
        for _ in range(3):
            assert await tasks_of(pair, "e", **query) == []
    await refused(pair.get("/tasks?agent_id=e&requester=a&assignee=b"), 403, "not_allowed")


async def test_who_asks_may_be_named_by_the_role_or_in_the_header(pair: Running) -> None:
    task_id = await delegate(pair, "a", "b")

    async def found(path: str, **headers: str) -> bool:
        reply = await ok(pair.get(path, headers={k.replace("_", "-"): v for k, v in headers.items()}))
        return [t["task_id"] for t in reply["tasks"]] == [task_id]

    await eventually(lambda: found("/tasks?requester=a"))
    await eventually(lambda: found("/tasks?assignee=b"))
    await eventually(lambda: found("/tasks", ClawLink_Agent="b"))
    body = await refused(pair.get("/tasks"), 400, "bad_request")
    assert body["field"] == "agent_id"


async def test_the_header_says_who_asks_whatever_the_filter_names(pair: Running) -> None:
    """A claimed requester's key is needed to ask as it, not to ask for one's own tasks that came from it."""
    claimed = await ok(pair.post("/register", {"agent_id": "k", "claim": True}))
    headers = {"ClawLink-Agent-Key": claimed["agent_key"]}
    task_id = await delegate(pair, "k", "b", headers=headers)

    async def found() -> bool:
        reply = await ok(pair.get("/tasks?requester=k", headers={"ClawLink-Agent": "b"}))
        return [t["task_id"] for t in reply["tasks"]] == [task_id]

    await eventually(found)
    await refused(pair.get("/tasks?requester=k"), 403, "not_allowed")


@each(
    ("query", "field"),
    [("status=done", "status"), ("limit=0", "limit"), ("limit=1001", "limit"), ("requester=", "requester")],
)
async def test_a_filter_out_of_range_is_400_and_named(pair: Running, query: str, field: str) -> None:
    body = await refused(pair.get(f"/tasks?agent_id=a&{query}"), 400, "bad_request")
    assert body["field"] == field


@memory
async def test_a_place_to_go_on_that_nobody_gave_is_no_failure(pair: Running) -> None:
    await delegate(pair, "a", "b")
    for after in ("x", "1.y", "999.1", "-1.0", "\u0661.1", "0.", "." * 500):
        await ok(pair.get("/tasks", params={"agent_id": "a", "after": after}))


@memory
async def test_a_list_goes_on_while_tasks_change_state(unpaced_pair: Running) -> None:
    """Tasks that do not change meanwhile are neither left out nor given twice."""
    relay = unpaced_pair
    stay = [await delegate(relay, "a", "b") for _ in range(30)]
    move = [await delegate(relay, "a", "b") for _ in range(30)]
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = await ok(relay.get("/tasks", params={"agent_id": "a", "limit": 4, **after}))
        seen += [t["task_id"] for t in page["tasks"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
        if move:
            await respond(relay, "b", move.pop())
    assert {id: seen.count(id) for id in stay} == dict.fromkeys(stay, 1)


@memory
async def test_fifty_claimed_and_acked_tasks_are_all_there(unpaced_pair: Running) -> None:
    relay = unpaced_pair
    ids = [await delegate(relay, "a", "b") for _ in range(50)]
    got = await claim(relay, "b", 50)
    await ack(relay, "b", *(g.receipt for g in got[:25]))
    assert [t["task_id"] for t in await tasks_of(relay, "a", status="delivered", limit=7)] == ids[::-1]
    assert [t["task_id"] for t in await tasks_of(relay, "b", status="delivered", limit=7)] == ids[::-1]
