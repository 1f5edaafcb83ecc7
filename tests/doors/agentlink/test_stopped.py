"""While the operator has stopped all work, no message comes in, and none goes out before it is resumed."""

from __future__ import annotations

from clawlink.protocol.operating import StopAll
from tests.doors.agentlink.conftest import Joined, ServeLink
from tests.doors.agentlink.test_http import old_send


async def test_messages_wait_until_work_goes_on(serve_link: ServeLink, join: Joined) -> None:
    relay = await serve_link()
    a = await join(relay, "a")
    await a.send("ann", "b/bob", "before")
    assert (await a.frame())["type"] == "queued"
    await relay.app.relay.stops.switch(StopAll(True))
    b = await join(relay, "b")
    await b.put({"type": "ping"})
    assert (await b.frame())["type"] == "pong"  # the message of before would have come first
    await a.send("ann", "b/bob", "meanwhile")
    assert "stopped" in (await a.next("error"))["message"]
    status, body = await relay.post("/api/v1/send", old_send("a/ann", "b/bob", "meanwhile"))
    assert (status, body["code"]) == (503, "stopped")
    await relay.app.relay.stops.switch(StopAll(False))
    assert (await b.next("message"))["message"] == "before"
