"""Agents of Agent Link over a restart of a relay with a data folder."""

from __future__ import annotations

import json
import time
from pathlib import Path

from clawlink.doors.agentlink import Settings
from tests.doors.agentlink.conftest import ALL, Sign
from tests.restarting import Restarting


async def test_a_signed_message_that_waited_comes_with_its_proof(tmp_path: Path, sign_in: Sign) -> None:
    config = tmp_path / "relay-config.json"
    config.write_text(json.dumps({"port": 8765, "registered_instances": ALL}), encoding="utf-8")
    doors = {"agentlink": Settings(config=str(config))}
    restarting = Restarting(tmp_path / "data")
    restarting.wall.now = time.time()  # by which other machines sign
    try:
        relay = await restarting.begin(doors=doors)
        c, d = await sign_in(relay, "c", "carol"), await sign_in(relay, "d", "dan")
        await d.socket.close()
        queued = await c.write("d/dan", "before the stop")
        await c.socket.close()
        restarting.wall.now += 5
        relay = await restarting.begin(doors=doors)
        d = await sign_in(relay, "d", "dan", at=restarting.wall.now)
        got = await d.frame()
        assert (got["from"], got["message"], got["message_id"]) == (
            "c/carol",
            "before the stop",
            queued["message_id"],
        )
        assert got["proof"]["signature"]
        await d.ack(got["receipt"])
        await d.put({"type": "ping"})
        assert (await d.frame())["type"] == "pong"
        await d.socket.close()
    finally:
        await restarting.end()
