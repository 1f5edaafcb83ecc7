"""Two relays of one mesh: clients ask at either. One relay posts to webhooks and speaks with remote agents."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest

from clawlink.doors.a2a.rules.states import COMPLETED, SUBMITTED, WORKING
from tests import valkey
from tests.conftest import UNPACED, Running
from tests.doors.a2a.conftest import Rest, ServeA2A, message
from tests.doors.a2a.sdk_server import remote_agent
from tests.doors.a2a.test_door import claim, respond, worker
from tests.doors.a2a.test_push import Hook
from tests.doors.a2a.test_remotes import Asker, add
from tests.waiting import eventually, until

pytestmark = pytest.mark.skipif(valkey.program() is None, reason="it needs a Valkey server")
_names = count()


async def pair(serve_a2a: ServeA2A, **settings: Any) -> tuple[Running, Running]:
    name = f"a2a{next(_names)}"
    settings.setdefault("limits", UNPACED)
    return await serve_a2a(mesh=name, **settings), await serve_a2a(mesh=name, **settings)


async def facts(relay: Running) -> dict[str, int]:
    found: dict[str, int] = (await relay.get("/"))[1]["doors"]["a2a"]
    return found


async def test_a_client_may_ask_at_either_relay(serve_a2a: ServeA2A) -> None:
    leads, other = await pair(serve_a2a, private_webhooks=True)
    assert (leads.app.relay.leads, other.app.relay.leads) == (True, False)
    here, there = Rest(leads, "/a2a/bob"), Rest(other, "/a2a/bob")
    await worker(here)
    async with Hook().open() as hook, Hook().open() as deleted:
        config = {"returnImmediately": True, "taskPushNotificationConfig": {"url": hook.url}}
        status, answer = await there.post("/message:send", {"message": message(), "configuration": config})
        assert status == 200, answer
        id = answer["task"]["id"]
        await there.post(f"/tasks/{id}/pushNotificationConfigs", {"url": deleted.url, "id": "d"})
        await until(lambda: hook.told() == deleted.told() == ["SUBMITTED"])
        assert [(await facts(relay))["webhooks"] for relay in (leads, other)] == [2, 0]
        assert await there.delete(f"/tasks/{id}/pushNotificationConfigs/d") == (200, {})
        async with (
            here.stream("GET", f"/tasks/{id}:subscribe") as one,
            there.stream("GET", f"/tasks/{id}:subscribe") as two,
        ):
            for following in (one, two):
                assert (await following())["task"]["status"]["state"] == SUBMITTED
            await claim(there)
            for following in (one, two):
                assert (await following())["statusUpdate"]["status"]["state"] == WORKING
            await until(lambda: hook.told()[-1] == "WORKING")
            # The relay that leads ends, and the other goes on: the webhook gets the task as it is first.
            await leads.app.relay.drain()
            assert await one() is None
            await leads.app.stop()
            assert leads.app.mesh is not None
            await leads.app.mesh.close()
            await until(lambda: other.app.relay.leads)
            await until(lambda: hook.told()[-2:] == ["WORKING", "WORKING"])
            await respond(there, id, "done")
            assert "artifactUpdate" in await two()
            assert (await two())["statusUpdate"]["status"]["state"] == COMPLETED
        await until(lambda: hook.told()[-1] == "COMPLETED")
        assert deleted.told() == ["SUBMITTED"], "it was deleted at the other relay"
        _, listed = await there.get("/tasks")
        assert [task["id"] for task in listed["tasks"]] == [id]


async def test_one_relay_speaks_with_remote_agents(serve_a2a: ServeA2A, tmp_path: Path) -> None:
    file = tmp_path / "agents.json"
    async with remote_agent("JSONRPC") as remote:
        await add(file, remote.url)
        leads, other = await pair(serve_a2a, agents=str(file))
        assert [(await facts(relay))["remote_agents"] for relay in (leads, other)] == [1, 0]
        asker = Asker(other)
        await other.register("al", agent_id="al")
        id = await asker.delegate("wait", to_agent="poet")
        await asker.task(id, "in_progress")
        await leads.app.relay.drain()
        await leads.app.stop()
        assert leads.app.mesh is not None
        await leads.app.mesh.close()

        async def taken_over() -> bool:
            return (await facts(other))["errands"] == 1

        await eventually(taken_over)
        remote.executor.go.set()
        assert (await asker.task(id, "completed"))["result"] == "done: wait"
        assert len(remote.executor.heard) == 1, "the message went once"
