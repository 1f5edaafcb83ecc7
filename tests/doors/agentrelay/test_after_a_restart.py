"""Events of AgentRelay over a restart of a relay with a data folder."""

from __future__ import annotations

from pathlib import Path

from tests.doors.agentrelay.test_routes import EVENT, Pair
from tests.restarting import Restarting


async def test_an_event_is_read_completed_and_verified_over_restarts(tmp_path: Path) -> None:
    restarting = Restarting(tmp_path / "data")
    try:
        pair = await Pair(await restarting.begin()).join("a", "b")
        status, sent = await pair.ask("send", "a", to_agent="b", **EVENT)
        assert status == 200
        pair.relay = await restarting.begin()
        status, read = await pair.ask("receive", "b", message=sent["csv_message"])
        assert (status, read["content"], read["meta"]["secret"]) == (200, EVENT["content"], sent["secret"])
        status, done = await pair.ask("cmp", "b", event_id="e1")
        assert status == 200
        pair.relay = await restarting.begin()
        status, found = await pair.ask("verify", "a", message=done["cmp_message"])
        assert (status, found["status"], found["verified"]) == (200, "ok", True)
    finally:
        await restarting.end()
