"""While the operator has stopped all work, no event is sent or handed on, and nothing of one is left behind."""

from __future__ import annotations

from clawlink.doors.agentrelay.rules import KNOWN, Pointer
from clawlink.protocol.operating import StopAll
from tests.conftest import Serve
from tests.doors.agentrelay.test_routes import EVENT, Pair


async def test_no_event_is_sent(serve: Serve) -> None:
    pair = await Pair(await serve()).join("a", "b")
    relay = pair.relay.app.relay
    await relay.stops.switch(StopAll(True))
    for to in ("b", "nobody"):
        status, body = await pair.ask("send", "a", to_agent=to, **EVENT)
        assert (status, body["code"]) == (503, "stopped"), to
    assert (await relay.core.store.usage(Pointer, KNOWN)).count == 0
    await relay.stops.switch(StopAll(False))
    assert (await pair.ask("send", "a", to_agent="b", **EVENT))[0] == 200
