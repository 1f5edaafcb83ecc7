"""While the operator has stopped all work, a portal takes no message and posts none; afterwards each arrives once."""

from __future__ import annotations

import pytest

from clawlink.doors.portal.server import outbox
from clawlink.protocol.operating import StopAll
from tests.doors.portal.conftest import Portals
from tests.doors.portal.test_messages import pair, send


async def test_messages_wait_until_work_goes_on(portals: Portals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(outbox, "MOST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(outbox, "STOPPED_SECONDS", 0.05)
    a, b = await pair(portals)
    ours, theirs = a.relay.app.relay, b.relay.app.relay
    await theirs.stops.switch(StopAll(True))
    number = await send(a, b.url, "hello")  # which a tries to post again and again
    knock = {"content": "knock"}
    status, answer = await b.ask("POST", "/api/guest/leave-message", knock, key="")
    assert (status, answer["code"]) == (503, "stopped")
    await ours.stops.switch(StopAll(True))
    status, answer = await a.ask("POST", "/api/portal/send", {"to": b.url, "content": "more"})
    assert (status, answer["code"]) == (503, "stopped")
    await theirs.stops.switch(StopAll(False))
    knocked = (await b.well("POST", "/api/guest/leave-message", knock, key=""))["message_id"]
    assert knocked
    assert (await a.state(number, "queued", "sending"))["id"] == number
    await ours.stops.switch(StopAll(False))
    await a.state(number, "sent")
    received = await b.well("GET", "/api/messages", params={"contact_portal": a.url})
    assert [one["content"] for one in received["messages"]] == ["hello"]
