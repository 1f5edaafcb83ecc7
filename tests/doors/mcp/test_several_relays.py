"""``/mcp`` of two relays over one Valkey server: a client may go from one to the other at any time."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import Serve
from tests.doors.mcp.conftest import ERAS, Connect
from tests.doors.mcp.test_tasks_extension import ask, delegated, get
from tests.system.test_relays import pair as two
from tests.valkey import program

pytestmark = pytest.mark.skipif(program() is None, reason="there is no server for --store")


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_goes_on_at_another_relay(serve: Serve, connect: Connect, era: str) -> None:
    one, other = await two(serve)
    key = (await one.post("/register", {"name": "Ann", "agent_id": "a", "claim": True}))[1]["agent_key"]
    await other.register("Bob", agent_id="b")
    bearer = {"Authorization": f"Bearer {key}"}
    async with connect(one, era, **bearer) as ann, connect(other, era, **bearer) as moved:
        given = await ann.call("relay_delegate", task="t", to="b")
        assert (await moved.call("relay_tasks", task_id=given["task_id"]))["state"] == "queued"
        async with connect(other, era, "b") as bob:
            waiting = asyncio.create_task(ann.call("relay_tasks", task_id=given["task_id"], wait_seconds=20))
            (work,) = (await bob.call("relay_inbox", wait_seconds=20))["messages"]
            await bob.call("relay_report", task_id=work["message_id"], status="completed", text="4")
            assert (await waiting)["untrusted"]["result"] == "4"
            (answer,) = (await moved.call("relay_inbox", wait_seconds=20))["messages"]
        async with connect(one, era, "b") as bob:  # receipts count at each relay
            told = await bob.call("relay_inbox", receipts=[work["receipt"]])
            assert told["receipts_taken"] == 1
        assert answer["type"] == "task_response"
        assert [str(r.uri) for r in (await moved.client.list_resources()).resources] == []


async def test_a_task_of_the_extension_is_followed_at_another_relay(serve: Serve) -> None:
    one, other = await two(serve)
    await one.register("Ann", agent_id="a")
    await other.register("Bob", agent_id="b")
    task_id = await delegated(one)
    assert (await get(other, task_id))["status"] == "working"
    assert (await ask(other, "a", "tasks/cancel", taskId=task_id))[0] == 200
    assert (await get(one, task_id))["status"] == "cancelled"
