"""While the operator has stopped all work, no task comes in by A2A; tasks can be read and cancelled."""

from __future__ import annotations

from clawlink.protocol.operating import StopAll
from tests.doors.a2a.conftest import Rest, ServeA2A, message


async def test_no_task_comes_in(serve_a2a: ServeA2A) -> None:
    relay = await serve_a2a()
    await relay.register("Ann", agent_id="ann")
    client = Rest(relay, "/a2a/ann")
    task = await client.send()
    await relay.app.relay.stops.switch(StopAll(True))
    status, answer = await client.post("/message:send", {"message": message("more", "m-2")})
    assert status == 503, answer
    assert "stopped" in answer["error"]["message"]
    assert (await client.rpc("SendMessage", {"message": message("more", "m-3")}))["error"]
    assert (await client.get(f"/tasks/{task['id']}"))[0] == 200
    status, answer = await client.post(f"/tasks/{task['id']}:cancel")
    assert (status, answer["status"]["state"]) == (200, "TASK_STATE_CANCELED")
