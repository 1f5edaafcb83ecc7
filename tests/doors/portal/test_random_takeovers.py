"""The relays of a portal are killed and stopped at random moments: nothing is lost, nothing doubled, all in order."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.doors.portal.conftest import Bridges, Own, Portals
from tests.doors.portal.several import LEASE, Nodes
from tests.doors.portal.test_files import B_KEY, PART, give
from tests.doors.portal.test_forwarded_tasks import heard
from tests.doors.portal.test_several_relays import front, nodes
from tests.effort import size
from tests.valkey import program
from tests.waiting import eventually, until

__all__ = ["front", "nodes"]

ROUNDS = size(1, 6, 40)


@pytest.mark.storm
@pytest.mark.skipif(program() is None, reason="there is no server for --store")
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
async def test_relays_killed_or_stopped_at_random_moments_lose_and_double_nothing(
    nodes: Nodes, portals: Portals, bridges: Bridges, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    for _ in range(2):
        nodes.begin("--blobs", str(tmp_path / "blobs"))
    own, contact = nodes.own, await portals(key=B_KEY)
    key = await own.befriend(contact.url, agent_name="B-bot")
    await contact.well("POST", "/api/contacts", {"portal_url": own.url, "agent_name": "A-bot", "SHARED_KEY": key})

    async def asked(method: str, path: str, body: Any) -> Any:
        """Ask until a relay has taken it; the key makes a repeat harmless."""

        async def once() -> Any:
            with contextlib.suppress(aiohttp.ClientError):
                status, answer = await own.ask(method, path, body)
                assert status in (200, 503), (seed, status, answer)
                return answer if status == 200 else None

        return await eventually(once)

    async def disturb() -> None:
        await asyncio.sleep(rng.uniform(0, 0.3))
        victim = rng.randrange(2)
        process = nodes.processes[victim].process
        if rng.random() < 0.5:
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(rng.uniform(LEASE / 2, 2 * LEASE))
            process.send_signal(signal.SIGCONT)
        else:
            nodes.processes[victim].stop(signal.SIGKILL)
            nodes.begin_again(victim)

    texts: list[str] = []
    for number in range(ROUNDS):
        for name in ("x", "y"):
            texts.append(f"{number}{name}")
            ask = {"to": contact.url, "content": texts[-1], "idempotency_key": texts[-1]}
            await asked("POST", "/api/portal/send", ask)
            there = {"to": own.url, "content": texts[-1], "idempotency_key": texts[-1]}
            await contact.well("POST", "/api/portal/send", there)
        given = {"to": "B-bot", "task": f"task {number}", "idempotency_key": f"task {number}"}
        await asked("POST", "/api/portal/delegate", given)
        await give(contact, own.url, f"{number}.bin", bytes([number]) * (2 * PART))
        await disturb()

    async def is_there() -> bool:
        return bool((await own.ask("GET", "/api/contacts"))[0] == 200)

    await eventually(is_there)
    bridge = await bridges(contact)
    here = await bridges(Own(own.relay))
    for number in range(ROUNDS):
        await heard(bridge, f": task {number}\nAnswer it")

    async def came() -> bool:
        status, told = await own.ask("GET", "/api/portal/files")
        return status == 200 and [one["status"] for one in told["files"]] == ["completed"] * ROUNDS

    await eventually(came)
    for one in (bridge, here):
        await until(lambda one=one: len(said_in(one)) == len(texts))  # type: ignore[misc]
        assert said_in(one) == texts, (seed, "each once, and in their order")
    files = (await own.well("GET", "/api/portal/files"))["files"]
    assert sorted(one["filename"] for one in files) == sorted(f"{number}.bin" for number in range(ROUNDS)), seed


def said_in(bridge: Any) -> list[str]:
    """Return the messages that a bridge has read."""
    return [frame["content"] for frame in bridge.frames if frame["type"] == "new_message"]
