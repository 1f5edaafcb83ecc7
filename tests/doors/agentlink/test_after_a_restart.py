"""Agents of Agent Link over a restart of a relay with a data folder."""

from __future__ import annotations

import json
import time
from pathlib import Path

from clawlink.doors.agentlink import Settings
from tests.doors.agentlink.conftest import ALL, DialNew, Joined, Sign
from tests.doors.agentlink.test_several_relays import reads
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


async def test_instances_that_registered_themselves_and_how_agents_are_known_stay(
    tmp_path: Path, sign_in: Sign, dial_new: DialNew, join: Joined
) -> None:
    config = tmp_path / "relay-config.json"
    config.write_text(json.dumps({"port": 8765, "registered_instances": ALL}), encoding="utf-8")
    doors = {"agentlink": Settings(config=str(config), self_register=True)}
    restarting = Restarting(tmp_path / "data")
    restarting.wall.now = time.time()
    try:
        relay = await restarting.begin(doors=doors)
        status, lab = await relay.post("/api/v1/register", {"instance_id": "lab"})
        assert status == 200, lab
        ann, c = await join(relay, "a"), await sign_in(relay, "c", "carol")
        await ann.send("ann", "c/carol", "I am ann")
        await ann.next("queued")
        for client in (ann, c):
            await client.socket.close()
        restarting.wall.now += 5
        relay = await restarting.begin(doors=doors)
        ada = await dial_new(relay, "lab", secret=lab["secret"])
        assert (await ada.join("ada", at=restarting.wall.now))["agent"] == "lab/ada"
        other = await join(relay, "a", at=restarting.wall.now)  # of another agent of that machine
        queued = await ada.write("a/ann", "for ann", at=restarting.wall.now)
        assert (await other.next("message"))["message"] == "for ann"
        await reads(other)
        ann = await join(relay, "a", at=restarting.wall.now)
        assert (await ann.next("message"))["message_id"] == queued["message_id"], "it waits for her"
        for client in (ada, other, ann):
            await client.socket.close()
    finally:
        await restarting.end()
