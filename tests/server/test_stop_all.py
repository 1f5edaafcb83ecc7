"""Stop all over HTTP: who may, what it says, and that it outlives the process and holds on every relay of a mesh."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clawlink.config import ServerConfig
from clawlink.protocol import operating, requests
from clawlink.server.app import App
from clawlink.store.sqlite.folder import DataFolder
from tests.conftest import Running, Serve
from tests.server import sockets
from tests.server.asks import claim_one, delegate, ok, poll, refused, respond, send, with_key
from tests.waiting import eventually

BOSS = {"Authorization": "Bearer boss"}


async def pair(relay: Running) -> None:
    for name in ("a", "b"):
        await relay.register(name, agent_id=name, subscriptions=[])


def switch(relay: Running, stopped: bool, **options: Any) -> Any:
    return relay.post("/admin/stop", {"stopped": stopped}, **options)


@pytest.mark.both_loops
async def test_work_waits_and_answers_go_on_over_http_and_websockets(serve: Serve) -> None:
    relay = await serve(admin_token="boss")
    await pair(relay)
    await delegate(relay, "a", "b")
    held = await claim_one(relay, "b")
    async with sockets.websocket(relay, "b", lease=60) as socket:
        stopped = await ok(switch(relay, True, headers=BOSS))
        assert (stopped["status"], stopped["lasted"]) == ("stopped", None)
        for path, body in (
            ("/delegate", {"from_agent": "a", "to_agent": "b", "task": "t"}),
            ("/delegate", {"from_agent": "a", "capability": "c", "task": "t"}),
            ("/send", {"from_agent": "a", "to_agent": "b", "content": "t"}),
            ("/broadcast", {"from_agent": "a", "content": "t"}),
            ("/poll/b", {}),
        ):
            async with relay.session.post(relay.url + path, json=body) as response:
                assert response.status == 503, path
                assert int(response.headers["Retry-After"]) > 0
                assert (await response.json())["code"] == "stopped"
        await refused(relay.get("/poll/b?wait=20"), 503, "stopped")
        await socket.say("send", id=1, from_agent="b", to_agent="a", content="t")
        assert (await socket.answer(1))["code"] == "stopped"
        told = await ok(relay.post("/poll/b", {"ack": [held.receipt]}))
        assert [one["status"] for one in told["results"]] == ["acked"]
        assert told["count"] == 0
        await respond(relay, "b", held.message["message_id"])
        assert (await ok(relay.post("/heartbeat", {"agent_id": "b"})))["status"] == "ok"
        async with relay.session.get(relay.url + "/metrics") as metrics:
            assert "\nclawlink_stopped 1\n" in await metrics.text()
        shown = [await ok(relay.get(path)) for path in ("/", "/discover", "/admin/overview")]
        assert [one["stopped_at"] for one in shown] == [stopped["stopped_at"]] * 3
        assert [(await ok(relay.get(path)))["stopped"] for path in ("/healthz", "/readyz")] == [True, True]
        assert (await ok(switch(relay, True, headers=BOSS)))["stopped_at"] == stopped["stopped_at"]
        resumed = await ok(switch(relay, False, headers=BOSS))
        assert (resumed["status"], resumed["stopped_at"]) == ("running", None)
        assert resumed["lasted"] > 0
        await send(relay, "a", "b", "after")
        assert (await socket.message())["content"] == "after"
    assert (await ok(relay.get("/")))["stopped_at"] is None
    assert "stopped_at" not in await ok(relay.get("/discover"))
    acts = [(e["act"], e["target"], e["by"]) for e in (await ok(relay.get("/admin/audit")))["entries"]]
    assert acts == [
        ("stop_all", "running", "token"),
        ("stop_all", "stopped", "token"),
        ("stop_all", "stopped", "token"),
    ]


async def test_no_agent_and_no_relay_token_reaches_the_switch(serve: Serve) -> None:
    relay = await serve(token="t", admin_token="boss")
    status, joined = await relay.post("/register", {"name": "a", "claim": True}, headers={"Authorization": "Bearer t"})
    assert status == 200
    with_token = {"Authorization": "Bearer t", **with_key(joined["agent_key"])}
    local = await serve(admin_token="boss")
    for stopped in (True, False):
        await refused(switch(relay, stopped, headers=with_token), 403, "not_allowed")
        await refused(
            switch(relay, stopped, headers=with_key(joined["agent_key"])),
            401,
            "not_authenticated",
        )
        await refused(switch(local, stopped, headers=with_key("k")), 403, "not_allowed")
        await refused(switch(local, stopped, headers={"Authorization": "Bearer k"}), 403, "not_allowed")
        await refused(
            switch(local, stopped, headers={"Sec-Fetch-Site": "same-origin"}),
            403,
            "not_allowed",
        )
    assert (await ok(switch(local, True)))["status"] == "stopped"  # as `clawlink kick` may there
    assert (await ok(switch(local, False)))["status"] == "running"


async def test_it_outlives_the_process_and_leases_keep_what_was_left(tmp_path: Path) -> None:
    """The relay stops, is restarted twice with time in between, and goes on."""
    now = [1_000_000.0]
    config = replace(ServerConfig(port=0))

    async def during(*calls: Any) -> None:
        data = DataFolder(str(tmp_path / "data"), sync="normal")
        app = App(config, data=data, clock=lambda: now[0])
        await app.start(close_seconds=0.1)
        try:
            for call in calls:
                await call(app)
        finally:
            await app.stop()
            data.close()

    taken: list[str] = []

    async def begin(app: App) -> None:
        agents = app.relay.agents
        for id in ("a", "b"):
            await agents.register(requests.Register(agent_id=id, name=id), machine="here", agent_key=None)
        a, b = [await agents.acting(id, None, field="agent_id") for id in ("a", "b")]
        ask = requests.Delegate(from_agent="a", to_agent="b", task="t", deadline=100)
        taken.append((await app.relay.submission.delegate(a, ask)).message_id)
        await app.relay.claims.claim(b, limit=1, wait=0.0, lease=50.0)
        now[0] += 10
        await app.relay.stops.switch(operating.StopAll(True))

    async def stands(app: App) -> None:
        assert app.relay.stopped
        await app.relay.janitor.sweep()
        a = await app.relay.agents.acting("a", None, field="agent_id")
        assert (await app.relay.task_views.get(a, taken[0], requests.TaskQuery())).status == "delivered"

    async def goes_on(app: App) -> None:
        await app.relay.stops.switch(operating.StopAll(False))
        assert app.relay.clock() == 1_000_010.0

    async def lapses(app: App) -> None:
        now[0] += 39
        await stands_running(app, "delivered")
        now[0] += 60
        await stands_running(app, "expired")

    async def stands_running(app: App, status: str) -> None:
        assert not app.relay.stopped
        await app.relay.janitor.sweep()
        a = await app.relay.agents.acting("a", None, field="agent_id")
        assert (await app.relay.task_views.get(a, taken[0], requests.TaskQuery())).status == status

    await during(begin)
    now[0] += 5000
    await during(stands)
    now[0] += 5000
    await during(stands, goes_on)
    await during(lapses)


async def test_it_holds_on_every_relay_of_a_mesh(serve: Serve) -> None:
    one, two = await serve(mesh="stops"), await serve(mesh="stops")
    await pair(one)
    await send(one, "a", "b")
    await ok(switch(one, True))

    async def stopped() -> bool:
        return bool((await ok(two.get("/healthz")))["stopped"])

    await eventually(stopped)
    await refused(two.get("/poll/b"), 503, "stopped")
    three = await serve(mesh="stops")
    await refused(three.get("/poll/b"), 503, "stopped")
    await ok(switch(two, False))

    async def runs() -> bool:
        return not (await ok(one.get("/healthz")))["stopped"]

    await eventually(runs)
    assert (await poll(one, "b", wait=5))["count"] == 1
