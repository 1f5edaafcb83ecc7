"""While the operator has stopped all work, a model can settle and report, and is told why it can do no more."""

from __future__ import annotations

from clawlink.protocol.operating import StopAll
from tests.conftest import Running
from tests.doors.mcp.conftest import Connect


async def test_a_model_is_told_why_it_can_do_no_more(pair: Running, connect: Connect) -> None:
    async with connect(pair, "auto", "a") as ann, connect(pair, "auto", "b") as bob:
        await ann.call("relay_delegate", to="b", task="sum")
        (message,) = (await bob.call("relay_inbox"))["messages"]
        await pair.app.relay.stops.switch(StopAll(True))
        for tool, fields in (
            ("relay_delegate", {"to": "b", "task": "sum"}),
            ("relay_tell", {"to": "b", "text": "hello"}),
            ("relay_inbox", {}),
        ):
            assert (await ann.refused(tool, **fields))["code"] == "stopped", tool
        settled = await bob.call("relay_inbox", receipts=[message["receipt"]])
        assert (settled["receipts_taken"], settled["messages"]) == (1, [])
